/*
 * amqp.c
 *		Sink that publishes to RabbitMQ and other AMQP 0-9-1 brokers.
 *
 * Messages are numbered by the channel (delivery tags), and the broker
 * confirms or refuses them by these numbers.  What it could not route it
 * returns, by basic.return, before it confirms it.
 *
 * Some messages make the broker close the channel or the connection, without
 * a word about which it was.  If only a message can have been the cause, and
 * one was alone in flight, it is refused; if several were, all are doubted.
 */
#include "postgres.h"

#include <math.h>

#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "relay/sink.h"
#include "sinks/amqp/link.h"
#include "sinks/text.h"
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

/* Frames dealt with before others have their turn. */
#define FRAMES_MAX		1000

/* Objects and arrays within each other in headers. */
#define DEPTH_MAX		100

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
	const char *exchange;		/* in UTF-8, like all that leaves */
	const char *routing_key;	/* with {key} and {header:NAME}, and not yet */
	const char *queue;
	bool		mandatory;
	bool		persistent;
	bool		more;			/* not all that came has been read */
	Slot	   *slots;			/* window of them */
	uint64		first_tag;		/* the oldest that may be in flight */
	uint64		next_tag;
	int			nflight;
	/* A returned message comes as a method, a header and its body. */
	bool		header_due;
	uint64		body_due;
	char		return_words[SINK_ERROR_SIZE];
} AmqpSink;

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
	int			exchange_length = strlen(exchange);
	int			queue_length = strlen(config->queue);
	Link	   *link;
	AmqpSink   *sink;

	exchange = text_utf8(exchange, &exchange_length);
	if (exchange_length > SHORT_STRING)
	{
		text_say(error, "name of the exchange has more than %d bytes", SHORT_STRING);
		return NULL;
	}
	link = link_open(config, exchange, error);
	if (link == NULL)
		return NULL;
	sink = palloc0(sizeof(AmqpSink));
	sink->base.config = config;
	sink->link = link;
	sink->exchange = exchange;
	sink->routing_key = sink_option(config->options, "routing_key", "");
	sink->queue = text_utf8(config->queue, &queue_length);
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

/* What is to become of a message while it is encoded. */
typedef struct Encoding
{
	const Message *message;
	int			room;			/* bytes of headers a frame has left */
	char	   *error;			/* why it cannot be published */
} Encoding;

/* Text as it leaves, of which there is room for so much only. */
static bool
put_text(Encoding *encoding, const char *data, int length, amqp_bytes_t *bytes)
{
	/* Not even looked at if it is too long as it is. */
	if (length <= encoding->room)
	{
		bytes->bytes = unconstify(char *, text_utf8(data, &length));
		bytes->len = length;
		encoding->room -= length;
		if (encoding->room >= 0)
			return true;
	}
	strlcpy(encoding->error, "headers are too large for a frame of the broker", SINK_ERROR_SIZE);
	return false;
}

/* The name of a header. */
static bool
put_name(Encoding *encoding, const char *data, int length, amqp_bytes_t *bytes)
{
	if (length <= SHORT_STRING && !put_text(encoding, data, length, bytes))
		return false;
	if (length <= SHORT_STRING && bytes->len <= SHORT_STRING)
		return true;
	text_say(encoding->error, "name of a header has more than %d bytes", SHORT_STRING);
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
	encoding->room -= n;
	if (encoding->room < 0)
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

/* The message's headers, and its key as one more. */
static bool
put_headers(Encoding *encoding, amqp_table_t *table)
{
	const Message *message = encoding->message;
	amqp_field_value_t field;
	amqp_table_entry_t *entries;
	int			n = 0;

	if (message->headers)
	{
		if (!JB_ROOT_IS_OBJECT((Jsonb *) message->headers))
		{
			strlcpy(encoding->error, "headers are not an object", SINK_ERROR_SIZE);
			return false;
		}
		if (!put_container(encoding, &((Jsonb *) message->headers)->root, 1, &field))
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
		if (!put_text(encoding, VARDATA_ANY(message->key), VARSIZE_ANY_EXHDR(message->key),
					  &entries[n].value.value.bytes))
			return false;
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
			appendBinaryStringInfo(out, v->val.string.val, Min(v->val.string.len, SHORT_STRING + 1));
			return true;
		case jbvNumeric:
			appendStringInfoString(out,
								   DatumGetCString(DirectFunctionCall1(numeric_out,
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
put_routing_key(AmqpSink *sink, Encoding *encoding, amqp_bytes_t *bytes)
{
	const Message *message = encoding->message;
	const char *text = sink->routing_key;
	StringInfoData out;
	int			length;

	initStringInfo(&out);
	for (;;)
	{
		int			plain = strcspn(text, "{");
		const char *end;

		appendBinaryStringInfo(&out, text, plain);
		text += plain;
		if (*text == '\0')
			break;
		end = strchr(text, '}');	/* the option was checked for it */
		if (end == NULL)
			break;
		if (strncmp(text, "{key}", 5) == 0)
		{
			if (message->key == NULL)
			{
				strlcpy(encoding->error, "message has no key for the routing key", SINK_ERROR_SIZE);
				return false;
			}
			length = VARSIZE_ANY_EXHDR(message->key);
			appendBinaryStringInfo(&out, VARDATA_ANY(message->key), Min(length, SHORT_STRING + 1));
		}
		else if (!append_header(&out, message, text + 8, end - text - 8))
		{
			text_say(encoding->error, "message has no header \"%.*s\" for the routing key",
					 (int) (end - text - 8), text + 8);
			return false;
		}
		text = end + 1;
	}

	length = out.len;
	if (length <= SHORT_STRING)
	{
		bytes->bytes = unconstify(char *, text_utf8(out.data, &length));
		bytes->len = length;
	}
	if (length <= SHORT_STRING)
		return true;
	text_say(encoding->error, "routing key has more than %d bytes", SHORT_STRING);
	return false;
}

/*
 * Publishing
 */

/* What is to be published of a message; false, with the reason, if nothing. */
static bool
put_content(Encoding *encoding, const char **content, int *size)
{
	const Message *message = encoding->message;

	*content = "";
	*size = 0;
	if (message->payload && message->body)
	{
		strlcpy(encoding->error, "message has both a payload and a body", SINK_ERROR_SIZE);
		return false;
	}
	if (message->payload)
	{
		StringInfoData json;

		initStringInfo(&json);
		if (text_json(&json, &((Jsonb *) message->payload)->root, SINK_MAX_MESSAGE))
		{
			*size = json.len;
			*content = text_utf8(json.data, size);
			if (*size <= SINK_MAX_MESSAGE)
				return true;
		}
	}
	else if (message->body)
	{
		*content = VARDATA_ANY(message->body);
		*size = VARSIZE_ANY_EXHDR(message->body);
		if (*size <= SINK_MAX_MESSAGE)
			return true;
	}
	else
		return true;
	strlcpy(encoding->error, "message is too large for a relay", SINK_ERROR_SIZE);
	return false;
}

/* Encode a message into the output; false, with the reason, if that cannot be. */
static bool
encode(AmqpSink *sink, const Message *message, char *error)
{
	Encoding	encoding = {.message = message,.room = (int) sink->link->frame_max,.error = error};
	StringInfo	out = wire_output(sink->link->wire);
	int			start = out->len;
	amqp_basic_publish_t publish = {0};
	amqp_basic_properties_t properties;
	const char *content;
	int			size;

	if (!put_routing_key(sink, &encoding, &publish.routing_key) ||
		!put_content(&encoding, &content, &size))
		return false;

	memset(&properties, 0, sizeof(properties));
	properties._flags = AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_DELIVERY_MODE_FLAG |
		AMQP_BASIC_MESSAGE_ID_FLAG | AMQP_BASIC_TIMESTAMP_FLAG;
	properties.content_type = amqp_cstring_bytes(message->payload ? "application/json" :
												 "application/octet-stream");
	properties.delivery_mode = sink->persistent ? 2 : 1;
	properties.message_id = amqp_cstring_bytes(psprintf("%s/" INT64_FORMAT, sink->queue, message->id));
	properties.timestamp = message->enqueued_at / USECS_PER_SEC + EPOCH_OFFSET;
	if (message->has_priority && message->priority >= 0 && message->priority <= 255)
	{
		properties._flags |= AMQP_BASIC_PRIORITY_FLAG;
		properties.priority = message->priority;
	}
	if (message->headers || message->key)
	{
		if (!put_headers(&encoding, &properties.headers))
			return false;
		properties._flags |= AMQP_BASIC_HEADERS_FLAG;
	}

	publish.exchange = amqp_cstring_bytes(sink->exchange);
	publish.mandatory = sink->mandatory;
	link_put_method(sink->link, LINK_CHANNEL, AMQP_BASIC_PUBLISH_METHOD, &publish);
	if (!link_put_header(sink->link, size, &properties))
	{
		link_unput(sink->link, start);
		strlcpy(error, "headers are too large for a frame of the broker", SINK_ERROR_SIZE);
		return false;
	}
	link_put_body(sink->link, content, size);
	return true;
}

/* The same for a message that cannot be encoded at all, as text_utf8() says. */
static bool
try_to_encode(AmqpSink *sink, const Message *message, char *error)
{
	MemoryContext caller = CurrentMemoryContext;
	int			start = wire_output(sink->link->wire)->len;
	volatile bool encoded = false;

	MemoryContextSwitchTo(sink->context);
	PG_TRY();
	{
		encoded = encode(sink, message, error);
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		if (ERRCODE_TO_CATEGORY(geterrcode()) == ERRCODE_OPERATOR_INTERVENTION)
			PG_RE_THROW();
		MemoryContextSwitchTo(sink->context);
		edata = CopyErrorData();
		FlushErrorState();
		link_unput(sink->link, start);
		text_say(error, "%s", edata->message ? edata->message : "message cannot be encoded");
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	MemoryContextReset(sink->context);
	return encoded;
}

static bool
amqp_publish(Sink *base, SinkItem *item)
{
	AmqpSink   *sink = (AmqpSink *) base;
	char		error[SINK_ERROR_SIZE];
	Slot	   *slot;

	if (base->blocked || sink->next_tag - sink->first_tag >= base->config->window ||
		wire_unsent(sink->link->wire) > OUTPUT_MAX)
		return false;

	if (!try_to_encode(sink, item->message, error))
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
	if (returned)
		sink->base.config->verdict(item, SINK_REFUSED, returned);
	else if (confirmed)
		sink->base.config->verdict(item, SINK_CONFIRMED, NULL);
	else
		sink->base.config->verdict(item, SINK_REFUSED, "broker refused the message (basic.nack)");
	if (returned)
		pfree(returned);
}

/* False if the broker speaks of what was never published. */
static bool
settle_tags(AmqpSink *sink, const Frame *frame, char *error)
{
	bool		confirmed = frame->method == AMQP_BASIC_ACK_METHOD;

	if (frame->tag >= sink->next_tag)
	{
		text_say(error, "the broker confirmed message " UINT64_FORMAT " of " UINT64_FORMAT,
				 frame->tag, sink->next_tag - 1);
		return false;
	}
	if (frame->flag)
	{
		for (uint64 each = sink->first_tag; each <= frame->tag; each++)
			settle_tag(sink, each, confirmed);
	}
	else if (frame->tag >= sink->first_tag)
		settle_tag(sink, frame->tag, confirmed);

	while (sink->first_tag < sink->next_tag &&
		   sink->slots[sink->first_tag % sink->base.config->window].item == NULL)
		sink->first_tag++;
	return true;
}

/* Find the message a content header belongs to, and note its return. */
static void
note_return(AmqpSink *sink, const Words *id)
{
	int			prefix = strlen(sink->queue) + 1;
	char		digits[32];
	int64		number;

	if (id->length <= prefix || id->length - prefix >= sizeof(digits))
		return;
	memcpy(digits, id->data + prefix, id->length - prefix);
	digits[id->length - prefix] = '\0';
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

/* Words of the broker's among ours. */
static const char *
words(const Words *from, char *buffer)
{
	text_clean(buffer, SINK_ERROR_SIZE, from->data, from->length, PG_UTF8);
	return buffer;
}

/* The broker returns a message, which follows. */
static void
begin_return(AmqpSink *sink, const Frame *frame)
{
	char		text[SINK_ERROR_SIZE];
	char		exchange[SINK_ERROR_SIZE];
	char		routing_key[SINK_ERROR_SIZE];

	sink->header_due = true;
	text_say(sink->return_words,
			 "broker returned the message: %d %s (exchange \"%s\", routing key \"%s\")",
			 frame->code, words(&frame->text, text), words(&frame->exchange, exchange),
			 words(&frame->routing_key, routing_key));
}

/* The broker lets us wait, or go on. */
static void
set_blocked(AmqpSink *sink, bool blocked, const Words *why)
{
	char		reason[SINK_ERROR_SIZE];
	char		text[SINK_ERROR_SIZE];

	if (sink->base.blocked == blocked)
		return;
	sink->base.blocked = blocked;
	if (!blocked)
		return;
	text_say(text, "broker takes no messages for now: %s",
			 why ? words(why, reason) : "it has stopped the flow");
	sink->base.config->complain(text);
}

/*
 * The connection is of no more use, and by the broker's words a message is to
 * blame: the one that was alone in flight, or one of several.
 */
static void
blame(AmqpSink *sink, const char *error)
{
	SinkVerdict verdict = sink->nflight == 1 ? SINK_REFUSED : SINK_DOUBTED;

	for (uint64 tag = sink->first_tag; tag < sink->next_tag; tag++)
	{
		Slot	   *slot = &sink->slots[tag % sink->base.config->window];
		SinkItem   *item = slot->item;

		slot->item = NULL;
		if (item)
			sink->base.config->verdict(item, verdict, error);
	}
	sink->first_tag = sink->next_tag;
	sink->nflight = 0;
}

static bool
is_messages_fault(const Frame *frame)
{
	static const char topic[] = "ACCESS_REFUSED - access to topic";

	return frame->code == AMQP_PRECONDITION_FAILED || frame->code == AMQP_CONTENT_TOO_LARGE ||
		(frame->text.length > strlen(topic) && memcmp(frame->text.data, topic, strlen(topic)) == 0);
}

/* Deal with a method; false if the connection is of no more use. */
static bool
handle_method(AmqpSink *sink, const Frame *frame, char *error)
{
	switch (frame->method)
	{
		case AMQP_BASIC_ACK_METHOD:
		case AMQP_BASIC_NACK_METHOD:
			return settle_tags(sink, frame, error);
		case AMQP_BASIC_RETURN_METHOD:
			begin_return(sink, frame);
			return true;
		case AMQP_CONNECTION_BLOCKED_METHOD:
			set_blocked(sink, true, &frame->text);
			return true;
		case AMQP_CONNECTION_UNBLOCKED_METHOD:
			set_blocked(sink, false, NULL);
			return true;
		case AMQP_CHANNEL_FLOW_METHOD:
			{
				amqp_channel_flow_ok_t ok = {.active = frame->flag};

				set_blocked(sink, !frame->flag, NULL);
				link_put_method(sink->link, LINK_CHANNEL, AMQP_CHANNEL_FLOW_OK_METHOD, &ok);
				return true;
			}
		case AMQP_CHANNEL_CLOSE_METHOD:
			{
				char		text[SINK_ERROR_SIZE];

				text_say(error, "broker closed the channel: %d %s", frame->code,
						 words(&frame->text, text));
				if (is_messages_fault(frame))
					blame(sink, error);
				return false;
			}
		default:
			strlcpy(error, "the broker sent something unexpected", SINK_ERROR_SIZE);
			return false;
	}
}

/* Deal with a frame; false if the connection is of no more use. */
static bool
handle_frame(AmqpSink *sink, const Frame *frame, char *error)
{
	bool		returning = sink->header_due || sink->body_due > 0;

	if (frame->type == AMQP_FRAME_HEARTBEAT)
		return true;
	if (frame->type == AMQP_FRAME_METHOD)
	{
		/* Those of the connection may come between a message's frames. */
		if (!returning || frame->channel == 0)
			return handle_method(sink, frame, error);
	}
	else if (frame->type == AMQP_FRAME_HEADER && sink->header_due)
	{
		note_return(sink, &frame->message_id);
		sink->header_due = false;
		sink->body_due = frame->body_size;
		return true;
	}
	else if (frame->type == AMQP_FRAME_BODY && !sink->header_due && frame->size <= sink->body_due)
	{
		sink->body_due -= frame->size;
		return true;
	}
	strlcpy(error, "the broker sent a frame out of turn", SINK_ERROR_SIZE);
	return false;
}

static bool
amqp_poll(Sink *base, char *error)
{
	AmqpSink   *sink = (AmqpSink *) base;
	Frame		frame;

	sink->more = false;
	if (!link_flush(sink->link, error))
		return false;
	for (int i = 0; i < FRAMES_MAX; i++)
	{
		switch (link_next(sink->link, &frame, error))
		{
			case LINK_LOST:
				/* An operator's doing, and no message's. */
				base->innocent = sink->link->close_code == AMQP_CONNECTION_FORCED;
				if (sink->link->close_code == AMQP_FRAME_ERROR ||
					sink->link->close_code == AMQP_SYNTAX_ERROR)
					blame(sink, error);
				return false;
			case LINK_NOTHING:
				return true;
			case LINK_FRAME:
				if (!handle_frame(sink, &frame, error))
					return false;
				break;
		}
	}
	sink->more = true;
	return true;
}

static pgsocket
amqp_wait(Sink *base, int *events, TimestampTz *until)
{
	AmqpSink   *sink = (AmqpSink *) base;

	*until = sink->more ? DT_NOBEGIN : link_due(sink->link);
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
