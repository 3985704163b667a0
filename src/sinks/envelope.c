/*
 * envelope.c
 *		A message with all there is of it as one JSON object.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "message.h"
#include "sinks/content.h"
#include "sinks/envelope.h"
#include "sinks/text.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

bool
envelope_json(StringInfo out, const Message *message, char *error)
{
	const char *type;
	const Jsonb *headers = content_headers(message);
	StringInfoData line;
	char		time[MAXDATELEN + 1];
	int			utc = 0;
	const char *utf8;
	int			length;

	if (!content_is_one(message, error))
		return false;
	type = content_type(message, error);
	if (type == NULL)
		return false;
	initStringInfo(&line);
	JsonEncodeDateTime(time, TimestampTzGetDatum(message->enqueued_at), TIMESTAMPTZOID, &utc);
	appendStringInfo(&line, "{\"id\": " INT64_FORMAT ", \"enqueued_at\": \"%s\"", message->id, time);
	if (message->key)
	{
		appendStringInfoString(&line, ", \"key\": ");
		if (!text_json_string(&line, VARDATA_ANY(message->key), VARSIZE_ANY_EXHDR(message->key),
							  SINK_MAX_MESSAGE))
			return sink_too_large(error);
	}
	if (headers)
	{
		appendStringInfoString(&line, ", \"headers\": ");
		if (!text_json(&line, unconstify(JsonbContainer *, &headers->root), SINK_MAX_MESSAGE))
			return sink_too_large(error);
	}
	if (message->has_priority)
		appendStringInfo(&line, ", \"priority\": %d", message->priority);
	if (message->payload || message->body)
	{
		appendStringInfoString(&line, ", \"content_type\": ");
		(void) text_json_string(&line, type, strlen(type), SINK_MAX_MESSAGE);
	}
	if (message->payload)
	{
		appendStringInfoString(&line, ", \"payload\": ");
		if (!text_json(&line, &((Jsonb *) message->payload)->root, SINK_MAX_MESSAGE))
			return sink_too_large(error);
	}
	if (message->body)
	{
		appendStringInfoString(&line, ", \"body\": \"");
		if (!text_base64(&line, VARDATA_ANY(message->body), VARSIZE_ANY_EXHDR(message->body)))
			return sink_too_large(error);
		appendStringInfoChar(&line, '"');
	}
	appendStringInfoString(&line, "}");

	length = line.len;
	if (length > SINK_MAX_MESSAGE)
		return sink_too_large(error);
	utf8 = text_utf8(line.data, &length);
	if (length > SINK_MAX_MESSAGE)
		return sink_too_large(error);
	appendBinaryStringInfo(out, utf8, length);
	return true;
}
