/*
 * encode.c
 *		A message as a command of Redis.
 */
#include "postgres.h"

#include "message.h"
#include "sinks/content.h"
#include "sinks/envelope.h"
#include "sinks/redis/cluster.h"
#include "sinks/redis/encode.h"
#include "sinks/redis/protocol.h"
#include "sinks/text.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

/* A field's name and value, palloc'd or not. */
static void
add_field(Command *command, const char *name, const char *data, Size length)
{
	command_add_text(command, name);
	command_add(command, data, length);
}

/* Jsonb as text in UTF-8; NULL if it is too long. */
static const char *
json_text(JsonbContainer *container, int *length)
{
	StringInfoData json;

	initStringInfo(&json);
	if (!text_json(&json, container, SINK_MAX_MESSAGE))
		return NULL;
	*length = json.len;
	return text_utf8(json.data, length);
}

/* A header's value as a field has it: text as it is, all else as JSON. */
static const char *
header_text(const JsonbValue *v, int *length)
{
	const char *text;

	switch (v->type)
	{
		case jbvString:
			*length = v->val.string.len;
			return text_utf8(v->val.string.val, length);
		case jbvBinary:
			return json_text(v->val.binary.data, length);
		case jbvNumeric:
			text = DatumGetCString(DirectFunctionCall1(numeric_out,
													   NumericGetDatum(v->val.numeric)));
			break;
		case jbvBool:
			text = v->val.boolean ? "true" : "false";
			break;
		default:
			text = "null";
			break;
	}
	*length = strlen(text);
	return text;
}

/* A field for each header. */
static bool
add_header_fields(Command *command, const Jsonb *headers, char *error)
{
	JsonbIterator *it = JsonbIteratorInit(unconstify(JsonbContainer *, &headers->root));
	JsonbIteratorToken token;
	JsonbValue	v;

	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		const char *text;
		int			length;

		if (token == WJB_KEY)
		{
			length = v.val.string.len;
			text = text_utf8(v.val.string.val, &length);
			text = psprintf("header:%.*s", length, text);
			command_add_text(command, text);
		}
		if (token != WJB_VALUE)
			continue;
		text = header_text(&v, &length);
		if (text == NULL || command->size > SINK_MAX_MESSAGE)
			return sink_too_large(error);
		command_add(command, text, length);
	}
	return true;
}

static bool
add_headers(Command *command, const RedisOptions *options, const Jsonb *headers, char *error)
{
	const char *text;
	int			length;

	if (!JB_ROOT_IS_OBJECT(headers))
	{
		strlcpy(error, "headers are not an object", SINK_ERROR_SIZE);
		return false;
	}
	if (options->headers == REDIS_HEADERS_FIELDS)
		return add_header_fields(command, headers, error);
	text = json_text(unconstify(JsonbContainer *, &headers->root), &length);
	if (text == NULL)
		return sink_too_large(error);
	add_field(command, "headers", text, length);
	return true;
}

/* The body, and what there is to say of it as a CloudEvent. */
static bool
make_content(const Publication *publication, const Message *message, Content *content,
			 CloudEvent *event, char *error)
{
	return content_body(message, content, error) &&
		cloudevents_make(&publication->options->cloudevents, publication->queue, message,
						 content, event, error);
}

/* The entry of a stream. */
static bool
add_entry(Command *command, const Publication *publication, const Message *message, char *error)
{
	const RedisOptions *options = publication->options;
	const Jsonb *headers = content_headers(message);
	Content		content;
	CloudEvent	event;

	if (!make_content(publication, message, &content, &event, error))
		return false;
	if (options->maxlen > 0)
	{
		command_add_text(command, "MAXLEN");
		command_add_text(command, "~");
		command_add_text(command, psprintf("%d", options->maxlen));
	}
	command_add_text(command, "*");
	add_field(command, publication->payload_field, content.data, content.length);
	command_add_text(command, "message-id");
	command_add_text(command, content_name(publication->queue, message));
	command_add_text(command, "content-type");
	command_add_text(command, content.type);
	if (message->key)
	{
		int			length = VARSIZE_ANY_EXHDR(message->key);
		const char *key = text_utf8(VARDATA_ANY(message->key), &length);

		add_field(command, "key", key, length);
	}
	for (int i = 0; i < event.n; i++)
	{
		command_add_text(command, psprintf("ce_%s", event.attributes[i].name));
		command_add(command, event.attributes[i].value, event.attributes[i].length);
	}
	return headers == NULL || add_headers(command, options, headers, error);
}

/* What a list or a channel gets. */
static bool
add_element(Command *command, const Publication *publication, const Message *message, char *error)
{
	Content		content;
	CloudEvent	event;
	StringInfoData envelope;

	if (publication->options->envelope)
	{
		initStringInfo(&envelope);
		if (!envelope_json(&envelope, message, error))
			return false;
		content.data = envelope.data;
		content.length = envelope.len;
	}
	else if (!make_content(publication, message, &content, &event, error))
		return false;
	command_add(command, content.data, content.length);
	return true;
}

const char *
encode_command(RedisCommand command)
{
	static const char *const names[] = {"XADD", "PUBLISH", "LPUSH", "RPUSH"};

	return names[command];
}

bool
encode_message(const Publication *publication, const Message *message, StringInfo out, char *error)
{
	const RedisOptions *options = publication->options;
	const char *target = publication->queue;
	int			length = strlen(target);
	EncodedHead head;
	Command		command;

	if (options->target)
	{
		target = template_fill(options->target, message, REDIS_TARGET, "target", &length, error);
		if (target == NULL)
			return false;
	}
	command_begin(&command);
	command_add_text(&command, encode_command(options->command));
	command_add(&command, target, length);
	if (!(options->command == REDIS_XADD ?
		  add_entry(&command, publication, message, error) :
		  add_element(&command, publication, message, error)))
		return false;
	if (command.size > SINK_MAX_MESSAGE)
		return sink_too_large(error);

	/* Any node takes what is for a channel. */
	head.slot = options->command == REDIS_PUBLISH ? 0 : cluster_slot(target, length);
	appendBinaryStringInfo(out, (char *) &head, sizeof(head));
	command_end(&command, out);
	return true;
}
