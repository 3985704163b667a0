/*
 * content.c
 *		A message's body and name, as they leave.
 */
#include "postgres.h"

#include "message.h"
#include "sinks/content.h"
#include "sinks/text.h"
#include "utils/jsonb.h"

bool
content_is_one(const Message *message, char *error)
{
	if (message->payload == NULL || message->body == NULL)
		return true;
	strlcpy(error, "message has both a payload and a body", SINK_ERROR_SIZE);
	return false;
}

bool
content_body(const Message *message, Content *content, char *error)
{
	StringInfoData json;

	if (!content_is_one(message, error))
		return false;
	content->data = "";
	content->length = 0;
	content->type = message->payload ? "application/json" : "application/octet-stream";
	if (message->payload)
	{
		initStringInfo(&json);
		if (!text_json(&json, &((Jsonb *) message->payload)->root, SINK_MAX_MESSAGE))
			return sink_too_large(error);
		content->length = json.len;
		content->data = text_utf8(json.data, &content->length);
	}
	else if (message->body)
	{
		content->length = VARSIZE_ANY_EXHDR(message->body);
		content->data = VARDATA_ANY(message->body);
	}
	return content->length <= SINK_MAX_MESSAGE || sink_too_large(error);
}

char *
content_name(const char *queue, const Message *message)
{
	return psprintf("%s/" INT64_FORMAT, queue, message->id);
}

int64
content_id(const char *queue, const char *name, int length)
{
	int			prefix = strlen(queue) + 1;
	char		digits[32];
	char	   *end;
	int64		id;

	if (length <= prefix || length - prefix >= sizeof(digits))
		return -1;
	memcpy(digits, name + prefix, length - prefix);
	digits[length - prefix] = '\0';
	errno = 0;
	id = strtoll(digits, &end, 10);
	return errno == 0 && *end == '\0' ? id : -1;
}
