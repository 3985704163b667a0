/*
 * cloudevents.c
 *		Messages as CloudEvents 1.0.
 *
 * id and source together name an event for good, so that a duplicate is known
 * by them: id is "<queue>/<id>".
 */
#include "postgres.h"

#include "catalog/pg_type_d.h"
#include "compat.h"
#include "mb/pg_wchar.h"
#include "message.h"
#include "sinks/cloudevents.h"
#include "sinks/text.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/timestamp.h"

/* Whether a code point is a control character or what Unicode calls a noncharacter. */
static bool
is_forbidden(pg_wchar c)
{
	return c < 0x20 || (c >= 0x7F && c < 0xA0) || (c >= 0xFDD0 && c <= 0xFDEF) ||
		(c & 0xFFFE) == 0xFFFE;
}

/* Whether the specification lets a text, which is UTF-8, be an attribute. */
static bool
is_attribute(const char *text, int length)
{
	for (int i = 0; i < length;)
	{
		int			bytes = pg_utf_mblen((const unsigned char *) text + i);

		if (bytes > length - i || is_forbidden(utf8_to_unicode((const unsigned char *) text + i)))
			return false;
		i += bytes;
	}
	return length > 0;
}

/* Add an attribute; false, with the reason, if it is none. */
static bool
add(CloudEvent *event, const char *name, const char *value, int length, char *error)
{
	CloudEventsAttribute *attribute = &event->attributes[event->n];

	Assert(event->n < lengthof(event->attributes));
	if (!is_attribute(value, length))
	{
		text_say(error, length == 0 ? "CloudEvents attribute \"%s\" is empty" :
				 "CloudEvents attribute \"%s\" has control characters", name);
		return false;
	}
	attribute->name = name;
	attribute->value = value;
	attribute->length = length;
	event->n++;
	return true;
}

static bool
add_text(CloudEvent *event, const char *name, const char *value, char *error)
{
	return add(event, name, value, strlen(value), error);
}

/* Add one by its template; what is filled in a source must suit a URI. */
static bool
add_template(CloudEvent *event, const char *name, const Template *template, bool url,
			 const Message *message, char *error)
{
	int			length;
	char		what[64];
	const char *value;

	/* A row that was not made by create_relay() need not have one. */
	if (template == NULL)
	{
		text_say(error, "option \"ce_%s\" is missing", name);
		return false;
	}
	snprintf(what, sizeof(what), "CloudEvents attribute \"%s\"", name);
	value = url ?
		template_fill_url(template, message, CLOUDEVENTS_TEXT, what, &length, error) :
		template_fill(template, message, CLOUDEVENTS_TEXT, what, &length, error);
	return value && add(event, name, value, length, error);
}

static bool
add_source(CloudEvent *event, const Template *template, const char *queue,
		   const Message *message, char *error)
{
	StringInfoData source;

	if (template)
		return add_template(event, "source", template, true, message, error);
	initStringInfo(&source);
	appendStringInfoChar(&source, '/');
	text_url(&source, queue, strlen(queue));
	return add_text(event, "source", source.data, error);
}

static bool
add_time(CloudEvent *event, const Message *message, char *error)
{
	char		time[MAXDATELEN + 1];
	int			utc = 0;

	JsonEncodeDateTime(time, TimestampTzGetDatum(message->enqueued_at), TIMESTAMPTZOID, &utc);

	/* RFC 3339 has years of four digits, and nothing that is infinite. */
	if (time[4] != '-' || strstr(time, "BC") != NULL)
		return true;
	return add_text(event, "time", pstrdup(time), error);
}

/* The key is what partitions are made by; an empty one could not be said. */
static bool
add_key(CloudEvent *event, const Message *message, char *error)
{
	const char *key;
	int			length = message->key ? VARSIZE_ANY_EXHDR(message->key) : 0;

	if (length == 0)
		return true;
	key = pnstrdup(VARDATA_ANY(message->key), length);
	key = text_utf8(key, &length);
	return add(event, "partitionkey", key, length, error);
}

/* Whether a content type is JSON: of a subtype json, or one with that suffix. */
static bool
is_json(const char *type)
{
	int			length = strcspn(type, "; ");

	return length > 5 && (type[length - 5] == '/' || type[length - 5] == '+') &&
		pg_strncasecmp(type + length - 4, "json", 4) == 0;
}

/* Put attributes and body together; false, with the reason, if it is too large. */
static bool
make_envelope(const CloudEvent *event, const Message *message, Content *content, char *error)
{
	StringInfoData out;

	initStringInfo(&out);
	for (int i = 0; i < event->n; i++)
	{
		const CloudEventsAttribute *attribute = &event->attributes[i];

		appendStringInfo(&out, "%c\"%s\":", i == 0 ? '{' : ',', attribute->name);
		if (!text_json_string(&out, attribute->value, attribute->length, SINK_MAX_MESSAGE))
			return sink_too_large(error);
	}
	if (message->payload || message->body)
	{
		appendStringInfoString(&out, ",\"datacontenttype\":");
		(void) text_json_string(&out, content->type, strlen(content->type), SINK_MAX_MESSAGE);

		/* Bytes that are said to be JSON need not be. */
		if (message->payload && is_json(content->type))
		{
			appendStringInfoString(&out, ",\"data\":");
			appendBinaryStringInfo(&out, content->data, content->length);
		}
		else
		{
			appendStringInfoString(&out, ",\"data_base64\":\"");
			if (!text_base64(&out, content->data, content->length))
				return sink_too_large(error);
			appendStringInfoChar(&out, '"');
		}
	}
	appendStringInfoChar(&out, '}');
	if (out.len > SINK_MAX_MESSAGE)
		return sink_too_large(error);
	content->data = out.data;
	content->length = out.len;
	content->type = "application/cloudevents+json";
	return true;
}

bool
cloudevents_make(const CloudEventsOptions *options, const char *queue, const Message *message,
				 Content *content, CloudEvent *event, char *error)
{
	event->n = 0;
	if (options->mode == CLOUDEVENTS_OFF)
		return true;
	if (!add_text(event, "specversion", "1.0", error) ||
		!add_text(event, "id", content_name(queue, message), error) ||
		!add_source(event, options->source, queue, message, error) ||
		!add_template(event, "type", options->type, false, message, error) ||
		(options->subject &&
		 !add_template(event, "subject", options->subject, false, message, error)) ||
		!add_time(event, message, error) ||
		!add_key(event, message, error))
		return false;
	if (options->mode == CLOUDEVENTS_BINARY)
		return true;
	if (!make_envelope(event, message, content, error))
		return false;
	event->n = 0;
	return true;
}
