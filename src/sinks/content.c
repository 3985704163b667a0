/*
 * content.c
 *		A message's body and name, as they leave.
 */
#include "postgres.h"

#include "message.h"
#include "sinks/content.h"
#include "sinks/text.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"

/* The header that is not one, but a property of the body. */
#define TYPE_HEADER		"content-type"

/* Longest content type; RFC 6838 has names of 127 bytes at most in it. */
#define TYPE_LENGTH		255

static const JsonbValue *
find_header(const Jsonb *headers, const char *name)
{
	JsonbValue	key;

	if (headers == NULL || !JB_ROOT_IS_OBJECT(headers))
		return NULL;
	key.type = jbvString;
	key.val.string.val = unconstify(char *, name);
	key.val.string.len = strlen(name);
	return findJsonbValueFromContainer(unconstify(JsonbContainer *, &headers->root), JB_FOBJECT, &key);
}

/* Type, slash, subtype and parameters, in ASCII: safe in a header of any protocol. */
static bool
is_type(const char *text, int length)
{
	for (int i = 0; i < length; i++)
	{
		if (text[i] < ' ' || text[i] > '~')
			return false;
	}
	return length <= TYPE_LENGTH && length >= 3 && text[0] != '/' &&
		memchr(text, '/', length - 1) != NULL;
}

const char *
content_type(const Message *message, char *error)
{
	const JsonbValue *v = find_header((Jsonb *) message->headers, TYPE_HEADER);

	if (v == NULL || v->type == jbvNull)
		return message->payload ? "application/json" : "application/octet-stream";
	if (v->type == jbvString && is_type(v->val.string.val, v->val.string.len))
		return pnstrdup(v->val.string.val, v->val.string.len);
	strlcpy(error, "header \"" TYPE_HEADER "\" is not a content type", SINK_ERROR_SIZE);
	return NULL;
}

const Jsonb *
content_headers_without(const Jsonb *headers, const char *name)
{
	if (find_header(headers, name) == NULL)
		return headers;
	return DatumGetJsonbP(DirectFunctionCall2(jsonb_delete, JsonbPGetDatum(headers),
											  PointerGetDatum(cstring_to_text(name))));
}

const Jsonb *
content_headers(const Message *message)
{
	return content_headers_without((Jsonb *) message->headers, TYPE_HEADER);
}

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
	content->type = content_type(message, error);
	if (content->type == NULL)
		return false;
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
	int			length = strlen(queue);
	char	   *name = palloc(length + 1 + MAXINT8LEN + 1);

	memcpy(name, queue, length);
	name[length] = '/';
	(void) pg_lltoa(message->id, name + length + 1);
	return name;
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
