/*
 * amqp.c
 *		Sink that publishes to RabbitMQ and other AMQP 0-9-1 brokers.
 *
 * Messages are numbered by the channel (delivery tags), and the broker
 * confirms or refuses them by these numbers.  What it could not route it
 * returns, by basic.return, before it confirms it.
 *
 * Some messages make the broker close the channel, without a word about which
 * it was.  After that as many as were in flight are published singly, so that
 * the culprit is alone when it happens again.
 */
#include "postgres.h"

#include "amqp_link.h"
#include "fmgr.h"
#include "sink.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

PG_MODULE_MAGIC;

/* Output waiting at which no more is taken. */
#define OUTPUT_MAX		(1024 * 1024)

/* Longest name or key in AMQP. */
#define SHORT_STRING	255

/* The seconds from the Unix epoch to PostgreSQL's. */
#define EPOCH_OFFSET \
	((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY)

/* A message in flight, at its tag modulo the window. */
typedef struct Slot
{
	SinkItem   *item;			/* NULL: settled */
	char	   *returned;		/* why the broker returned it, or NULL */
} Slot;

typedef struct AmqpSink
{
	Sink		base;
	Link	   *link;
	MemoryContext context;		/* of one message's encoding */
	const char *exchange;
	const char *routing_key;	/* with {key} and {header:NAME} */
	bool		mandatory;
	bool		persistent;
	bool		blocked;		/* the broker reads nothing for now */
	Slot	   *slots;			/* window of them */
	uint64		first_tag;		/* the oldest that may be in flight */
	uint64		next_tag;
	int			nflight;
	/* A returned message comes as three or more frames. */
	bool		in_return;
	char		return_words[SINK_ERROR_SIZE];
} AmqpSink;

/* So many more are to be published singly; outlives a connection. */
static int	suspects = 0;

PGDLLEXPORT const SinkRoutine *queue_sink(void);

static bool
bool_option(List *options, const char *name, bool by_default)
{
	bool		value = by_default;

	(void) parse_bool(sink_option(options, name, by_default ? "true" : "false"), &value);
	return value;
}

static Sink *
amqp_open(const SinkConfig *config, char *error)
{
	const char *exchange = sink_option(config->options, "exchange", "");
	Link	   *link = link_open(config, exchange, error);
	AmqpSink   *sink;

	if (link == NULL)
		return NULL;
	sink = palloc0(sizeof(AmqpSink));
	sink->base.config = config;
	sink->link = link;
	sink->exchange = exchange;
	sink->routing_key = sink_option(config->options, "routing_key", "");
	sink->mandatory = bool_option(config->options, "mandatory", true);
	sink->persistent = bool_option(config->options, "persistent", true);
	sink->slots = palloc0(config->window * sizeof(Slot));
	sink->first_tag = sink->next_tag = 1;
	sink->context = AllocSetContextCreate(CurrentMemoryContext, "queue amqp sink",
										  ALLOCSET_DEFAULT_SIZES);
	return &sink->base;
}

/*
 * A message's headers as an AMQP table
 */

static amqp_bytes_t
bytes_of(const char *data, int length)
{
	amqp_bytes_t bytes;

	bytes.bytes = unconstify(char *, data);
	bytes.len = length;
	return bytes;
}

/* A JSON scalar as a field's value. */
static void
scalar_field(const JsonbValue *v, amqp_field_value_t *field)
{
	char	   *text;
	char	   *end;

	switch (v->type)
	{
		case jbvString:
			field->kind = AMQP_FIELD_KIND_UTF8;
			field->value.bytes = bytes_of(v->val.string.val, v->val.string.len);
			break;
		case jbvBool:
			field->kind = AMQP_FIELD_KIND_BOOLEAN;
			field->value.boolean = v->val.boolean;
			break;
		case jbvNumeric:
			text = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(v->val.numeric)));
			field->kind = AMQP_FIELD_KIND_I64;
			errno = 0;
			field->value.i64 = strtoll(text, &end, 10);
			if (errno != 0 || *end != '\0')
			{
				field->kind = AMQP_FIELD_KIND_F64;
				field->value.f64 = strtod(text, NULL);
			}
			break;
		default:
			field->kind = AMQP_FIELD_KIND_VOID;
			break;
	}
}

static bool container_field(JsonbContainer *container, amqp_field_value_t *field);

/*
 * A JSON object or array as a field's value.  False if a name in it is too
 * long for AMQP.
 */
static bool
container_field(JsonbContainer *container, amqp_field_value_t *field)
{
	bool		is_object = JsonContainerIsObject(container);
	int			n = JsonContainerSize(container);
	amqp_table_entry_t *entries = palloc0(sizeof(amqp_table_entry_t) * Max(n, 1));
	amqp_field_value_t *values = palloc0(sizeof(amqp_field_value_t) * Max(n, 1));
	JsonbIterator *it = JsonbIteratorInit(container);
	JsonbIteratorToken token;
	JsonbValue	v;
	int			i = 0;

	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		amqp_field_value_t *value = is_object ? &entries[i].value : &values[i];

		if (token == WJB_KEY)
		{
			if (v.val.string.len > SHORT_STRING)
				return false;
			entries[i].key = bytes_of(v.val.string.val, v.val.string.len);
		}
		if (token != WJB_VALUE && token != WJB_ELEM)
			continue;
		if (v.type != jbvBinary)
			scalar_field(&v, value);
		else if (!container_field(v.val.binary.data, value))
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

/* The message's headers, and its key as one more. */
static bool
message_headers(const Message *message, amqp_table_t *table)
{
	amqp_field_value_t field;
	amqp_table_entry_t *entries;
	int			n = 0;

	if (message->headers)
	{
		if (!container_field(&((Jsonb *) message->headers)->root, &field))
			return false;
		n = field.value.table.num_entries;
	}
	entries = palloc0(sizeof(amqp_table_entry_t) * (n + 1));
	if (n > 0)
		memcpy(entries, field.value.table.entries, sizeof(amqp_table_entry_t) * n);
	if (message->key)
	{
		entries[n].key = amqp_cstring_bytes("x-key");
		entries[n].value.kind = AMQP_FIELD_KIND_UTF8;
		entries[n].value.value.bytes = bytes_of(VARDATA_ANY(message->key), VARSIZE_ANY_EXHDR(message->key));
		n++;
	}
	table->num_entries = n;
	table->entries = entries;
	return true;
}

/*
 * The routing key
 */

/* Append the text of a header; false if there is none that is a scalar. */
static bool
append_header(StringInfo out, const Message *message, const char *name, int length)
{
	JsonbValue	key;
	JsonbValue *v = NULL;

	key.type = jbvString;
	key.val.string.val = unconstify(char *, name);
	key.val.string.len = length;
	if (message->headers)
		v = findJsonbValueFromContainer(&((Jsonb *) message->headers)->root, JB_FOBJECT, &key);
	if (v == NULL)
		return false;
	switch (v->type)
	{
		case jbvString:
			appendBinaryStringInfo(out, v->val.string.val, v->val.string.len);
			return true;
		case jbvNumeric:
			appendStringInfoString(out, DatumGetCString(DirectFunctionCall1(numeric_out,
																			NumericGetDatum(v->val.numeric))));
			return true;
		case jbvBool:
			appendStringInfoString(out, v->val.boolean ? "true" : "false");
			return true;
		default:
			return false;
	}
}

/* Make the routing key of a message, or say why there is none. */
static bool
make_routing_key(AmqpSink *sink, const Message *message, StringInfo out, char *error)
{
	const char *text = sink->routing_key;

	for (;;)
	{
		int			plain = strcspn(text, "{");
		const char *end;

		appendBinaryStringInfo(out, text, plain);
		text += plain;
		if (*text == '\0')
			break;
		end = strchr(text, '}');	/* the option was checked for it */
		if (strncmp(text, "{key}", 5) == 0)
		{
			if (message->key == NULL)
			{
				strlcpy(error, "message has no key for the routing key", SINK_ERROR_SIZE);
				return false;
			}
			appendBinaryStringInfo(out, VARDATA_ANY(message->key), VARSIZE_ANY_EXHDR(message->key));
		}
		else if (!append_header(out, message, text + 8, end - text - 8))
		{
			snprintf(error, SINK_ERROR_SIZE, "message has no header \"%.*s\" for the routing key",
					 (int) (end - text - 8), text + 8);
			return false;
		}
		text = end + 1;
	}
	if (out->len <= SHORT_STRING)
		return true;
	snprintf(error, SINK_ERROR_SIZE, "routing key has more than %d bytes", SHORT_STRING);
	return false;
}

/*
 * Publishing
 */

/* Encode a message into the output; false, with the reason, if that cannot be. */
static bool
encode(AmqpSink *sink, const Message *message, char *error)
{
	StringInfo	out = wire_output(sink->link->wire);
	int			start = out->len;
	amqp_basic_publish_t publish = {0};
	amqp_basic_properties_t properties;
	StringInfoData routing_key;
	StringInfoData json;
	const char *body = "";
	Size		size = 0;

	initStringInfo(&routing_key);
	if (!make_routing_key(sink, message, &routing_key, error))
		return false;
	if (message->payload)
	{
		if (VARSIZE(message->payload) > SINK_MAX_MESSAGE)
		{
			strlcpy(error, "message is too large for a relay", SINK_ERROR_SIZE);
			return false;
		}
		initStringInfo(&json);
		JsonbToCString(&json, &((Jsonb *) message->payload)->root, VARSIZE(message->payload));
		body = json.data;
		size = json.len;
	}
	else if (message->body)
	{
		body = VARDATA_ANY(message->body);
		size = VARSIZE_ANY_EXHDR(message->body);
	}
	if (size > SINK_MAX_MESSAGE)
	{
		strlcpy(error, "message is too large for a relay", SINK_ERROR_SIZE);
		return false;
	}

	memset(&properties, 0, sizeof(properties));
	properties._flags = AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_DELIVERY_MODE_FLAG |
		AMQP_BASIC_MESSAGE_ID_FLAG | AMQP_BASIC_TIMESTAMP_FLAG;
	properties.content_type = amqp_cstring_bytes(message->payload ? "application/json" :
												 "application/octet-stream");
	properties.delivery_mode = sink->persistent ? 2 : 1;
	properties.message_id = amqp_cstring_bytes(psprintf("%s/" INT64_FORMAT,
														sink->base.config->queue, message->id));
	properties.timestamp = message->enqueued_at / USECS_PER_SEC + EPOCH_OFFSET;
	if (message->has_priority && message->priority >= 0 && message->priority <= 255)
	{
		properties._flags |= AMQP_BASIC_PRIORITY_FLAG;
		properties.priority = message->priority;
	}
	if (message->headers || message->key)
	{
		if (!message_headers(message, &properties.headers))
		{
			snprintf(error, SINK_ERROR_SIZE, "name of a header has more than %d bytes", SHORT_STRING);
			return false;
		}
		properties._flags |= AMQP_BASIC_HEADERS_FLAG;
	}

	publish.exchange = amqp_cstring_bytes(sink->exchange);
	publish.routing_key = bytes_of(routing_key.data, routing_key.len);
	publish.mandatory = sink->mandatory;
	link_put_method(sink->link, LINK_CHANNEL, AMQP_BASIC_PUBLISH_METHOD, &publish);
	if (!link_put_header(sink->link, size, &properties))
	{
		link_unput(sink->link, start);
		strlcpy(error, "headers are too large for a frame of the broker", SINK_ERROR_SIZE);
		return false;
	}
	link_put_body(sink->link, body, size);
	return true;
}

static bool
amqp_publish(Sink *base, SinkItem *item)
{
	AmqpSink   *sink = (AmqpSink *) base;
	MemoryContext caller;
	char		error[SINK_ERROR_SIZE];
	bool		encoded;
	Slot	   *slot;

	if (sink->blocked || sink->next_tag - sink->first_tag >= base->config->window ||
		(suspects > 0 && sink->nflight > 0) ||
		wire_unsent(sink->link->wire) > OUTPUT_MAX)
		return false;

	caller = MemoryContextSwitchTo(sink->context);
	encoded = encode(sink, item->message, error);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(sink->context);
	if (!encoded)
	{
		base->config->verdict(item, SINK_REFUSED, error);
		return true;
	}

	item->tag = sink->next_tag++;
	slot = &sink->slots[item->tag % base->config->window];
	slot->item = item;
	slot->returned = NULL;
	sink->nflight++;
	return true;
}

/*
 * What the broker says
 */

/* Settle a message in flight. */
static void
settle_tag(AmqpSink *sink, uint64 tag, bool confirmed)
{
	Slot	   *slot = &sink->slots[tag % sink->base.config->window];
	SinkItem   *item = slot->item;
	char	   *returned = slot->returned;

	if (item == NULL || item->tag != tag)
		return;
	slot->item = NULL;
	slot->returned = NULL;
	sink->nflight--;
	if (suspects > 0)
		suspects--;
	if (returned)
		sink->base.config->verdict(item, SINK_REFUSED, returned);
	else if (confirmed)
		sink->base.config->verdict(item, SINK_CONFIRMED, NULL);
	else
		sink->base.config->verdict(item, SINK_REFUSED, "broker refused the message (basic.nack)");
	if (returned)
		pfree(returned);
}

static void
settle_tags(AmqpSink *sink, uint64 tag, bool multiple, bool confirmed)
{
	if (tag >= sink->next_tag)
		return;
	if (multiple)
	{
		for (uint64 each = sink->first_tag; each <= tag; each++)
			settle_tag(sink, each, confirmed);
	}
	else if (tag >= sink->first_tag)
		settle_tag(sink, tag, confirmed);

	while (sink->first_tag < sink->next_tag &&
		   sink->slots[sink->first_tag % sink->base.config->window].item == NULL)
		sink->first_tag++;
}

/* Find the message a content header belongs to, and note its return. */
static void
note_return(AmqpSink *sink, const amqp_basic_properties_t *properties)
{
	const char *id = properties->message_id.bytes;
	int			length = properties->message_id.len;
	int			prefix = strlen(sink->base.config->queue) + 1;
	char		digits[32];
	int64		number;

	if (!(properties->_flags & AMQP_BASIC_MESSAGE_ID_FLAG) ||
		length <= prefix || length - prefix >= sizeof(digits))
		return;
	memcpy(digits, id + prefix, length - prefix);
	digits[length - prefix] = '\0';
	number = strtoll(digits, NULL, 10);

	for (uint64 tag = sink->first_tag; tag < sink->next_tag; tag++)
	{
		Slot	   *slot = &sink->slots[tag % sink->base.config->window];

		if (slot->item && slot->item->message->id == number && slot->returned == NULL)
		{
			slot->returned = MemoryContextStrdup(GetMemoryChunkContext(sink), sink->return_words);
			return;
		}
	}
}

/*
 * The broker closes the channel, and so the connection is of no more use.
 * Whoever was alone in flight is at fault, if any message can be.
 */
static void
channel_closed(AmqpSink *sink, const amqp_channel_close_t *close, char *error)
{
	static const char topic[] = "ACCESS_REFUSED - access to topic";
	bool		one_is_at_fault;

	snprintf(error, SINK_ERROR_SIZE, "broker closed the channel: %d %.*s", close->reply_code,
			 (int) close->reply_text.len, (char *) close->reply_text.bytes);
	one_is_at_fault = close->reply_code == AMQP_PRECONDITION_FAILED ||
		close->reply_code == AMQP_CONTENT_TOO_LARGE ||
		(close->reply_text.len > strlen(topic) &&
		 memcmp(close->reply_text.bytes, topic, strlen(topic)) == 0);
	if (!one_is_at_fault)
		return;
	if (sink->nflight > 1)
		suspects = sink->nflight;
	else if (sink->nflight == 1)
	{
		Slot	   *slot = &sink->slots[sink->first_tag % sink->base.config->window];
		SinkItem   *item = slot->item;

		slot->item = NULL;
		sink->nflight = 0;
		if (suspects > 0)
			suspects--;
		sink->base.config->verdict(item, SINK_REFUSED, error);
	}
}

/* Deal with a method; false if the connection is of no more use. */
static bool
handle_method(AmqpSink *sink, const amqp_method_t *method, char *error)
{
	switch (method->id)
	{
		case AMQP_BASIC_ACK_METHOD:
			{
				amqp_basic_ack_t *ack = method->decoded;

				settle_tags(sink, ack->delivery_tag, ack->multiple, true);
				return true;
			}
		case AMQP_BASIC_NACK_METHOD:
			{
				amqp_basic_nack_t *nack = method->decoded;

				settle_tags(sink, nack->delivery_tag, nack->multiple, false);
				return true;
			}
		case AMQP_BASIC_RETURN_METHOD:
			{
				amqp_basic_return_t *back = method->decoded;

				sink->in_return = true;
				snprintf(sink->return_words, SINK_ERROR_SIZE,
						 "broker returned the message: %d %.*s (exchange \"%.*s\", routing key \"%.*s\")",
						 back->reply_code, (int) back->reply_text.len, (char *) back->reply_text.bytes,
						 (int) back->exchange.len, (char *) back->exchange.bytes,
						 (int) back->routing_key.len, (char *) back->routing_key.bytes);
				return true;
			}
		case AMQP_CONNECTION_BLOCKED_METHOD:
			{
				amqp_connection_blocked_t *blocked = method->decoded;
				char		text[SINK_ERROR_SIZE];

				sink->blocked = true;
				snprintf(text, SINK_ERROR_SIZE, "broker takes no messages for now: %.*s",
						 (int) blocked->reason.len, (char *) blocked->reason.bytes);
				sink->base.config->complain(text);
				return true;
			}
		case AMQP_CONNECTION_UNBLOCKED_METHOD:
			sink->blocked = false;
			return true;
		case AMQP_CHANNEL_CLOSE_METHOD:
			channel_closed(sink, method->decoded, error);
			return false;
		default:
			return true;
	}
}

static bool
amqp_poll(Sink *base, char *error)
{
	AmqpSink   *sink = (AmqpSink *) base;
	amqp_frame_t frame;

	if (!link_flush(sink->link, error))
		return false;
	for (;;)
	{
		switch (link_next(sink->link, &frame, error))
		{
			case LINK_LOST:
				return false;
			case LINK_NOTHING:
				return true;
			case LINK_FRAME:
				break;
		}
		if (frame.frame_type == AMQP_FRAME_METHOD)
		{
			if (!handle_method(sink, &frame.payload.method, error))
				return false;
		}
		else if (frame.frame_type == AMQP_FRAME_HEADER && sink->in_return)
		{
			note_return(sink, frame.payload.properties.decoded);
			sink->in_return = false;
		}
	}
}

static pgsocket
amqp_wait(Sink *base, int *events, TimestampTz *until)
{
	AmqpSink   *sink = (AmqpSink *) base;

	*until = link_due(sink->link);
	return wire_socket(sink->link->wire, events);
}

static void
amqp_close(Sink *base)
{
	AmqpSink   *sink = (AmqpSink *) base;

	link_close(sink->link);
	MemoryContextDelete(sink->context);
	pfree(sink->slots);
	pfree(sink);
}

static const SinkRoutine amqp_sink = {
	.magic = SINK_MAGIC,
	.version = SINK_VERSION,
	.open = amqp_open,
	.publish = amqp_publish,
	.poll = amqp_poll,
	.wait = amqp_wait,
	.close = amqp_close,
};

const SinkRoutine *
queue_sink(void)
{
	return &amqp_sink;
}
