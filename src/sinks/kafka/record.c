/*
 * record.c
 *		A message as a record of Kafka.
 *
 * Between encode() and publish() a record is a row of pieces: how long each is,
 * or that there is none, and its bytes.  They are the topic, the key, the value,
 * and the names and values of the headers.
 */
#include "postgres.h"

#include <limits.h>

#include "lib/stringinfo.h"
#include "message.h"
#include "sinks/cloudevents.h"
#include "sinks/content.h"
#include "sinks/kafka/record.h"
#include "sinks/text.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#define NO_PIECE		(-1)

/* What all headers of a message have at most. */
#define HEADERS_MAX		(16 * 1024 * 1024)

/* Microseconds from the Unix epoch to PostgreSQL's. */
#define EPOCH_OFFSET \
	((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY)

/* What comes before the body in the wire format of schema registries. */
#define SCHEMA_MAGIC	0
#define SCHEMA_HEADER	"schema-id"

/* What tells a message from all others of its queue */
#define ID_HEADER		"message-id"

/* What a record begins with. */
typedef struct RecordHead
{
	int64		timestamp;		/* milliseconds from the Unix epoch */
	int			nheaders;
} RecordHead;

/*
 * Encode
 */

/* A piece, with a NUL behind it that is not of it. */
static void
put_piece(StringInfo out, const char *data, int length)
{
	char	   *to;

	enlargeStringInfo(out, sizeof(length) + Max(length, 0) + 1);
	to = out->data + out->len;
	memcpy(to, &length, sizeof(length));
	to += sizeof(length);
	if (length != NO_PIECE)
	{
		memcpy(to, data, length);
		to += length;
		*to++ = '\0';
	}
	out->len = to - out->data;
}

static void
put_header(StringInfo out, RecordHead *head, const char *name, const char *value)
{
	put_piece(out, name, strlen(name));
	put_piece(out, value, strlen(value));
	head->nheaders++;
}

/* What the header of an event's attribute is called. */
static const char *
event_header(const CloudEventsAttribute *attribute)
{
	return psprintf("ce_%s", attribute->name);
}

/* The value of a header of the message: text as it is, all else as JSON. */
static bool
put_value(StringInfo out, const JsonbValue *v, char *error)
{
	StringInfoData json;
	const char *text;
	int			length;

	if (v->type == jbvString)
	{
		length = v->val.string.len;
		text = text_utf8(v->val.string.val, &length);
		put_piece(out, text, length);
		return true;
	}
	if (v->type == jbvNull)
	{
		put_piece(out, NULL, NO_PIECE);
		return true;
	}
	initStringInfo(&json);
	if (v->type == jbvBinary)
	{
		if (!text_json(&json, v->val.binary.data, HEADERS_MAX))
			return sink_too_large(error);
	}
	else if (v->type == jbvBool)
		appendStringInfoString(&json, v->val.boolean ? "true" : "false");
	else
		appendStringInfoString(&json, numeric_normalize(v->val.numeric));
	length = json.len;
	text = text_utf8(json.data, &length);
	put_piece(out, text, length);
	pfree(json.data);
	return true;
}

/* The headers of the message itself, but for those that are told otherwise. */
static bool
put_headers(const KafkaOptions *options, const Message *message, const CloudEvent *event,
			StringInfo out, RecordHead *head, char *error)
{
	const Jsonb *headers = content_headers(message);
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	int			start = out->len;

	if (headers == NULL)
		return true;
	if (!JB_ROOT_IS_OBJECT(headers))
	{
		strlcpy(error, "headers are not an object", SINK_ERROR_SIZE);
		return false;
	}
	headers = content_headers_without(headers, ID_HEADER);
	if (options->format == KAFKA_CONFLUENT)
		headers = content_headers_without(headers, SCHEMA_HEADER);
	for (int i = 0; i < event->n; i++)
		headers = content_headers_without(headers, event_header(&event->attributes[i]));
	it = JsonbIteratorInit(unconstify(JsonbContainer *, &headers->root));
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			int			length = v.val.string.len;
			const char *name = text_utf8(v.val.string.val, &length);

			put_piece(out, name, length);
			head->nheaders++;
		}
		else if (token == WJB_VALUE && !put_value(out, &v, error))
			return false;
		if (out->len - start > HEADERS_MAX)
			return sink_too_large(error);
	}
	return true;
}

/* The id of the schema that a message names; -1, with the reason, if it names none. */
static int64
schema_id(const Message *message, char *error)
{
	JsonbValue	name = {.type = jbvString};
	JsonbValue *v = NULL;
	char	   *text = NULL;
	char	   *end;
	long		id;

	name.val.string.val = SCHEMA_HEADER;
	name.val.string.len = strlen(SCHEMA_HEADER);
	if (message->headers)
		v = findJsonbValueFromContainer(&((Jsonb *) message->headers)->root, JB_FOBJECT, &name);
	if (v && v->type == jbvString)
		text = pnstrdup(v->val.string.val, v->val.string.len);
	else if (v && v->type == jbvNumeric)
		text = numeric_normalize(v->val.numeric);
	if (text == NULL)
	{
		strlcpy(error, "message has no header \"" SCHEMA_HEADER "\" for the wire format", SINK_ERROR_SIZE);
		return -1;
	}
	errno = 0;
	id = strtol(text, &end, 10);
	if (errno == 0 && end != text && *end == '\0' && id >= 0 && id <= INT_MAX)
		return id;
	strlcpy(error, "header \"" SCHEMA_HEADER "\" is not an integer from 0 to 2147483647", SINK_ERROR_SIZE);
	return -1;
}

/* Whether the message is to be none to whoever keeps the last of each key. */
static bool
is_tombstone(const KafkaOptions *options, const Message *message)
{
	JsonbValue	v;

	if (!options->tombstone)
		return false;
	if (message->payload == NULL)
		return message->body == NULL || VARSIZE_ANY_EXHDR(message->body) == 0;
	return message->body == NULL &&
		JsonbExtractScalar(&((Jsonb *) message->payload)->root, &v) && v.type == jbvNull;
}

/* The body, with what the wire format puts before it. */
static bool
put_body(const KafkaOptions *options, const Message *message, const Content *content,
		 StringInfo out, char *error)
{
	bool		framed = options->format == KAFKA_CONFLUENT;
	int64		id = framed ? schema_id(message, error) : 0;
	int			prefix = framed ? 5 : 0;
	int			length = content->length + prefix;

	if (id < 0)
		return false;
	appendBinaryStringInfo(out, (char *) &length, sizeof(length));
	if (framed)
	{
		appendStringInfoChar(out, SCHEMA_MAGIC);
		for (int shift = 24; shift >= 0; shift -= 8)
			appendStringInfoChar(out, (char) (id >> shift));
	}
	appendBinaryStringInfo(out, content->data, content->length);
	appendStringInfoChar(out, '\0');
	return true;
}

static bool
put_key(const KafkaOptions *options, const Message *message, StringInfo out, char *error)
{
	const char *text = NULL;
	int			length = NO_PIECE;

	if (options->key)
	{
		text = template_fill(options->key, message, KAFKA_KEY_LENGTH, "key", &length, error);
		if (text == NULL)
			return false;
	}
	else if (message->key)
	{
		length = VARSIZE_ANY_EXHDR(message->key);
		text = text_utf8(VARDATA_ANY(message->key), &length);
	}
	put_piece(out, text, length);
	return true;
}

static bool
put_topic(const KafkaOptions *options, const Message *message, StringInfo out, char *error)
{
	int			length;
	const char *text = template_fill(options->topic, message, KAFKA_TOPIC_LENGTH, "topic", &length,
									 error);

	if (text == NULL)
		return false;
	if (length == 0)
	{
		strlcpy(error, "topic is empty", SINK_ERROR_SIZE);
		return false;
	}
	put_piece(out, text, length);
	return true;
}

bool
record_encode(const KafkaOptions *options, const char *queue, const Message *message,
			  StringInfo out, char *error)
{
	int			start = out->len;
	bool		tombstone = is_tombstone(options, message);
	RecordHead	head = {.timestamp = (message->enqueued_at + EPOCH_OFFSET) / 1000};
	Content		content;
	CloudEvent	event = {0};

	appendBinaryStringInfo(out, (char *) &head, sizeof(head));
	if (!put_topic(options, message, out, error) || !put_key(options, message, out, error) ||
		!content_body(message, &content, error))
		return false;

	/* What has no body is in no envelope. */
	if (!(tombstone && options->cloudevents.mode == CLOUDEVENTS_STRUCTURED) &&
		!cloudevents_make(&options->cloudevents, queue, message, &content, &event, error))
		return false;
	if (tombstone)
		put_piece(out, NULL, NO_PIECE);
	else if (!put_body(options, message, &content, out, error))
		return false;

	if (!put_headers(options, message, &event, out, &head, error))
		return false;
	for (int i = 0; i < event.n; i++)
		put_header(out, &head, event_header(&event.attributes[i]), event.attributes[i].value);
	put_header(out, &head, ID_HEADER, content_name(queue, message));
	if (!tombstone)
		put_header(out, &head, "content-type", content.type);
	memcpy(out->data + start, &head, sizeof(head));
	return true;
}

/*
 * Produce
 */

/* Take the next piece; NULL if there is none, and its length is 0. */
static const char *
take_piece(const char **data, int *length)
{
	const char *piece;

	memcpy(length, *data, sizeof(*length));
	*data += sizeof(*length);
	if (*length == NO_PIECE)
	{
		*length = 0;
		return NULL;
	}
	piece = *data;
	*data += *length + 1;
	return piece;
}

rd_kafka_resp_err_t
record_produce(rd_kafka_t *handle, const char *data, Size size, uint64 tag)
{
	const char *end PG_USED_FOR_ASSERTS_ONLY = data + size;
	RecordHead	head;
	rd_kafka_headers_t *headers;
	rd_kafka_resp_err_t code;
	int			topic_length;
	int			key_length;
	int			value_length;
	const char *topic;
	const char *key;
	const char *value;

	memcpy(&head, data, sizeof(head));
	data += sizeof(head);
	topic = take_piece(&data, &topic_length);
	key = take_piece(&data, &key_length);
	value = take_piece(&data, &value_length);
	headers = rd_kafka_headers_new(head.nheaders);
	for (int i = 0; i < head.nheaders; i++)
	{
		int			name_length;
		int			length;
		const char *name = take_piece(&data, &name_length);
		const char *text = take_piece(&data, &length);

		rd_kafka_header_add(headers, name, name_length, text, length);
	}
	Assert(data == end);
	code = rd_kafka_producev(handle,
							 RD_KAFKA_V_TOPIC(topic),
							 RD_KAFKA_V_KEY(key, key_length),
							 RD_KAFKA_V_VALUE(unconstify(char *, value), value_length),
							 RD_KAFKA_V_TIMESTAMP(head.timestamp),
							 RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
							 RD_KAFKA_V_OPAQUE((void *) (uintptr_t) tag),
							 RD_KAFKA_V_HEADERS(headers),
							 RD_KAFKA_V_END);
	if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
		rd_kafka_headers_destroy(headers);
	return code;
}
