/*
 * encode.c
 *		A message as frames of AMQP 0-9-1.
 */
#include "postgres.h"

#include <math.h>

#include "mb/pg_wchar.h"
#include "message.h"
#include "relay/sink.h"
#include "sinks/amqp/encode.h"
#include "sinks/amqp/frame.h"
#include "sinks/cloudevents.h"
#include "sinks/content.h"
#include "sinks/text.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

/* Objects and arrays within each other in headers. */
#define DEPTH_MAX		100

/* The seconds from the Unix epoch to PostgreSQL's. */
#define EPOCH_OFFSET \
	((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY)

/*
 * A message's headers as an AMQP table
 */

/* What is to become of a message while it is encoded. */
typedef struct Encoding
{
	const Message *message;
	int			space;			/* bytes of headers a frame has left */
	char	   *error;			/* why it cannot be published */
} Encoding;

/* Text as it leaves, of which there is space for so much only. */
static bool
put_text(Encoding *encoding, const char *data, int length, amqp_bytes_t *bytes)
{
	/* Not even looked at if it is too long as it is. */
	if (length <= encoding->space)
	{
		bytes->bytes = unconstify(char *, text_utf8(data, &length));
		bytes->len = length;
		encoding->space -= length;
		if (encoding->space >= 0)
			return true;
	}
	strlcpy(encoding->error, "headers are too large for a frame of the broker", SINK_ERROR_SIZE);
	return false;
}

/* The name of a header. */
static bool
put_name(Encoding *encoding, const char *data, int length, amqp_bytes_t *bytes)
{
	if (length <= AMQP_SHORT_STRING && !put_text(encoding, data, length, bytes))
		return false;
	if (length <= AMQP_SHORT_STRING && bytes->len <= AMQP_SHORT_STRING)
		return true;
	text_say(encoding->error, "name of a header has more than %d bytes", AMQP_SHORT_STRING);
	return false;
}

/* A number: exact if it fits into 64 bits, else a double, else its digits. */
static bool
put_number(Encoding *encoding, Numeric number, amqp_field_value_t *field)
{
	char	   *text = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(number)));
	char	   *end;

	field->kind = AMQP_FIELD_KIND_I64;
	errno = 0;
	field->value.i64 = strtoll(text, &end, 10);
	if (errno == 0 && *end == '\0')
	{
		pfree(text);
		return true;
	}
	field->kind = AMQP_FIELD_KIND_F64;
	field->value.f64 = strtod(text, NULL);
	if (!isinf(field->value.f64))
	{
		pfree(text);
		return true;
	}

	/* Brokers close the connection at the sight of an infinite number. */
	field->kind = AMQP_FIELD_KIND_UTF8;
	return put_text(encoding, text, strlen(text), &field->value.bytes);
}

static bool
put_scalar(Encoding *encoding, const JsonbValue *v, amqp_field_value_t *field)
{
	switch (v->type)
	{
		case jbvString:
			field->kind = AMQP_FIELD_KIND_UTF8;
			return put_text(encoding, v->val.string.val, v->val.string.len, &field->value.bytes);
		case jbvBool:
			field->kind = AMQP_FIELD_KIND_BOOLEAN;
			field->value.boolean = v->val.boolean;
			return true;
		case jbvNumeric:
			return put_number(encoding, v->val.numeric, field);
		default:
			field->kind = AMQP_FIELD_KIND_VOID;
			return true;
	}
}

/* A JSON object or array as a field's value. */
static bool
put_container(Encoding *encoding, JsonbContainer *container, int depth, amqp_field_value_t *field)
{
	bool		is_object = JsonContainerIsObject(container);
	int			n = JsonContainerSize(container);
	amqp_table_entry_t *entries = NULL;
	amqp_field_value_t *values = NULL;
	JsonbIterator *it = JsonbIteratorInit(container);
	JsonbIteratorToken token;
	JsonbValue	v;
	int			i = 0;

	if (depth > DEPTH_MAX)
	{
		text_say(encoding->error, "headers are nested more than %d deep", DEPTH_MAX);
		return false;
	}

	/* Each member has a byte or more. */
	encoding->space -= n;
	if (encoding->space < 0)
	{
		strlcpy(encoding->error, "headers are too large for a frame of the broker", SINK_ERROR_SIZE);
		return false;
	}
	if (is_object)
		entries = palloc0(sizeof(amqp_table_entry_t) * Max(n, 1));
	else
		values = palloc0(sizeof(amqp_field_value_t) * Max(n, 1));

	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		amqp_field_value_t *value = is_object ? &entries[i].value : &values[i];

		if (token == WJB_KEY &&
			!put_name(encoding, v.val.string.val, v.val.string.len, &entries[i].key))
			return false;
		if (token != WJB_VALUE && token != WJB_ELEM)
			continue;
		if (v.type == jbvBinary ?
			!put_container(encoding, v.val.binary.data, depth + 1, value) :
			!put_scalar(encoding, &v, value))
			return false;
		i++;
	}

	if (is_object)
	{
		field->kind = AMQP_FIELD_KIND_TABLE;
		field->value.table.num_entries = n;
		field->value.table.entries = entries;
	}
	else
	{
		field->kind = AMQP_FIELD_KIND_ARRAY;
		field->value.array.num_entries = n;
		field->value.array.entries = values;
	}
	return true;
}

/* What the header of an event's attribute is called. */
static const char *
event_header(const CloudEventsAttribute *attribute)
{
	return psprintf("cloudEvents_%s", attribute->name);
}

/* The message's headers, its key as one more, and an event's attributes. */
static bool
put_headers(Encoding *encoding, const CloudEvent *event, amqp_table_t *table)
{
	const Message *message = encoding->message;
	const Jsonb *headers = content_headers(message);
	amqp_field_value_t field;
	amqp_table_entry_t *entries;
	int			n = 0;

	if (headers)
	{
		if (!JB_ROOT_IS_OBJECT(headers))
		{
			strlcpy(encoding->error, "headers are not an object", SINK_ERROR_SIZE);
			return false;
		}
		for (int i = 0; i < event->n; i++)
			headers = content_headers_without(headers, event_header(&event->attributes[i]));
		if (!put_container(encoding, unconstify(JsonbContainer *, &headers->root), 1, &field))
			return false;
		n = field.value.table.num_entries;
	}
	entries = palloc0(sizeof(amqp_table_entry_t) * (n + 1 + event->n));
	if (n > 0)
		memcpy(entries, field.value.table.entries, sizeof(amqp_table_entry_t) * n);
	if (message->key)
	{
		entries[n].key = amqp_cstring_bytes("x-key");
		entries[n].value.kind = AMQP_FIELD_KIND_UTF8;
		if (!put_text(encoding, VARDATA_ANY(message->key), VARSIZE_ANY_EXHDR(message->key),
					  &entries[n].value.value.bytes))
			return false;
		n++;
	}
	for (int i = 0; i < event->n; i++)
	{
		const CloudEventsAttribute *attribute = &event->attributes[i];

		/* It is in UTF-8 already. */
		entries[n].key = amqp_cstring_bytes(event_header(attribute));
		entries[n].value.kind = AMQP_FIELD_KIND_UTF8;
		entries[n].value.value.bytes.bytes = unconstify(char *, attribute->value);
		entries[n++].value.value.bytes.len = attribute->length;
	}
	table->num_entries = n;
	table->entries = entries;
	return true;
}

/* Make the routing key of a message; false, with the reason, if it has none. */
static bool
put_routing_key(const Publication *publication, Encoding *encoding, amqp_bytes_t *bytes)
{
	const Template *template = publication->options->routing_key;
	int			length = 0;
	const char *text = "";

	if (template)
		text = template_fill(template, encoding->message, AMQP_SHORT_STRING, "routing key",
							 &length, encoding->error);
	bytes->bytes = unconstify(char *, text);
	bytes->len = length;
	return text != NULL;
}

/*
 * The whole
 */

bool
encode_message(const Publication *publication, const Message *message, StringInfo out, char *error)
{
	Encoding	encoding = {.message = message,.space = (int) publication->frame_max,.error = error};
	amqp_basic_publish_t publish = {0};
	amqp_basic_properties_t properties;
	Content		content;
	CloudEvent	event;

	if (!put_routing_key(publication, &encoding, &publish.routing_key) ||
		!content_body(message, &content, error) ||
		!cloudevents_make(&publication->options->cloudevents, publication->queue, message,
						  &content, &event, error))
		return false;

	memset(&properties, 0, sizeof(properties));
	properties._flags = AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_DELIVERY_MODE_FLAG |
		AMQP_BASIC_MESSAGE_ID_FLAG | AMQP_BASIC_TIMESTAMP_FLAG;
	properties.content_type = amqp_cstring_bytes(content.type);
	properties.delivery_mode = publication->options->persistent ? 2 : 1;
	properties.message_id = amqp_cstring_bytes(content_name(publication->queue, message));
	properties.timestamp = message->enqueued_at / USECS_PER_SEC + EPOCH_OFFSET;
	if (message->has_priority && message->priority >= 0 && message->priority <= 255)
	{
		properties._flags |= AMQP_BASIC_PRIORITY_FLAG;
		properties.priority = message->priority;
	}
	if (message->headers || message->key || event.n > 0)
	{
		if (!put_headers(&encoding, &event, &properties.headers))
			return false;
		properties._flags |= AMQP_BASIC_HEADERS_FLAG;
	}

	publish.exchange = amqp_cstring_bytes(publication->exchange);
	publish.mandatory = publication->options->mandatory;
	frame_put_method(out, PUBLISH_CHANNEL, AMQP_BASIC_PUBLISH_METHOD, &publish);
	if (!frame_put_header(out, publication->frame_max, content.length, &properties))
	{
		strlcpy(error, "headers are too large for a frame of the broker", SINK_ERROR_SIZE);
		return false;
	}
	frame_put_body(out, publication->frame_max, content.data, content.length);
	return true;
}
