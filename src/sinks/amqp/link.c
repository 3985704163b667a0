/*
 * link.c
 *		An AMQP 0-9-1 connection with one channel in confirm mode.
 *
 * The bytes come and go by sinks/net/wire.c.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "sinks/amqp/link.h"
#include "sinks/net/wait.h"
#include "sinks/text.h"
#include "storage/latch.h"
#include "utils/timestamp.h"

/* To connect, log in and open the channel. */
#define CONNECT_WITHIN	(10 * USECS_PER_SEC)

/* Our wish for heartbeats, in seconds; the broker may want them sooner. */
#define HEARTBEAT		20

/*
 * Bytes out
 */

void
link_put_method(Link *link, amqp_channel_t channel, amqp_method_number_t id, void *method)
{
	frame_put_method(wire_output(link->wire), channel, id, method);
}

bool
link_flush(Link *link, char *error)
{
	TimestampTz now = GetCurrentTimestamp();

	if (link->heartbeat > 0)
	{
		if (now - link->received_at > 2 * link->heartbeat)
		{
			strlcpy(error, "the broker sends no heartbeats any more", SINK_ERROR_SIZE);
			link->lost = true;
			return false;
		}
		if (now - link->sent_at >= link->heartbeat / 2 && wire_unsent(link->wire) == 0)
			frame_put_heartbeat(wire_output(link->wire));
	}
	if (wire_unsent(link->wire) == 0)
		return true;
	link->sent_at = now;
	if (wire_flush(link->wire, error))
		return true;
	link->lost = true;
	return false;
}

TimestampTz
link_due(Link *link)
{
	if (link->heartbeat == 0)
		return DT_NOEND;
	return Min(link->sent_at + link->heartbeat / 2, link->received_at + 2 * link->heartbeat + 1);
}

/*
 * Frames in
 */

/* The broker closes the connection or the channel: say why. */
static void
broker_words(const Frame *frame, char *error)
{
	char		words[SINK_ERROR_SIZE];

	text_clean(words, sizeof(words), frame->text.data, frame->text.length, PG_UTF8);
	text_say(error, "broker closed the %s: %d %s",
			 frame->method == AMQP_CHANNEL_CLOSE_METHOD ? "channel" : "connection", frame->code, words);
}

/* The broker says goodbye: say why, and answer if that goes without waiting. */
static void
answer_close(Link *link, const Frame *frame, char *error)
{
	amqp_connection_close_ok_t ok = {0};
	char		ignored[SINK_ERROR_SIZE];

	broker_words(frame, error);
	link->close_code = frame->code;
	link_put_method(link, 0, AMQP_CONNECTION_CLOSE_OK_METHOD, &ok);
	(void) wire_flush(link->wire, ignored);
}

LinkEvent
link_next(Link *link, Frame *frame, char *error)
{
	while (!link->lost)
	{
		int			n = frame_read(link->input + link->input_pos, link->input_len - link->input_pos,
								   link->frame_max, frame, error);

		if (n < 0)
			break;
		if (n > 0)
		{
			link->input_pos += n;
			if (frame->type != AMQP_FRAME_METHOD || frame->method != AMQP_CONNECTION_CLOSE_METHOD)
				return LINK_FRAME;
			answer_close(link, frame, error);
			break;
		}

		/* There is space, as no frame is longer than the buffer. */
		link->input_len -= link->input_pos;
		memmove(link->input, link->input + link->input_pos, link->input_len);
		link->input_pos = 0;
		n = wire_read(link->wire, link->input + link->input_len,
					  sizeof(link->input) - link->input_len, error);
		if (n == 0)
			return LINK_NOTHING;
		if (n < 0)
			break;
		link->input_len += n;
		link->received_at = GetCurrentTimestamp();
	}
	link->lost = true;
	return LINK_LOST;
}

/*
 * The way in
 */

/* Send what was put and wait for a method in answer to it; false if lost. */
static bool
expect(Link *link, uint32 method, Frame *frame, TimestampTz deadline, char *error)
{
	if (!link_flush(link, error))
		return false;
	for (;;)
	{
		int			events;
		pgsocket	socket;
		LinkEvent	event = link_next(link, frame, error);

		CHECK_FOR_INTERRUPTS();
		if (event == LINK_LOST)
			return false;
		if (event == LINK_FRAME && frame->type == AMQP_FRAME_METHOD)
		{
			if (frame->method == method)
				return true;
			if (frame->method == AMQP_CHANNEL_CLOSE_METHOD)
				broker_words(frame, error);
			else
				strlcpy(error, "the broker sent something unexpected", SINK_ERROR_SIZE);
			return false;
		}
		if (event == LINK_FRAME && frame->type != AMQP_FRAME_HEARTBEAT)
		{
			strlcpy(error, "the broker sent something unexpected", SINK_ERROR_SIZE);
			return false;
		}
		if (!link_flush(link, error))
			return false;
		socket = wire_socket(link->wire, &events);

		/* A flood of heartbeats does not put the end off. */
		if (event == LINK_FRAME ? GetCurrentTimestamp() >= deadline :
			!net_wait(socket, events, deadline))
		{
			strlcpy(error, "the broker did not answer in time", SINK_ERROR_SIZE);
			return false;
		}
	}
}

static amqp_table_entry_t
table_entry(const char *key, uint8 kind)
{
	amqp_table_entry_t entry;

	memset(&entry, 0, sizeof(entry));
	entry.key = amqp_cstring_bytes(key);
	entry.value.kind = kind;
	return entry;
}

/* Answer connection.start. */
static void
put_start_ok(Link *link, const char *user, const char *password)
{
	static const char *const capability_names[] = {
		"publisher_confirms", "basic.nack", "connection.blocked", "authentication_failure_close"
	};
	amqp_table_entry_t capabilities[lengthof(capability_names)];
	amqp_table_entry_t properties[2];
	amqp_connection_start_ok_t ok = {0};
	char	   *response = palloc(strlen(user) + strlen(password) + 3);

	for (int i = 0; i < lengthof(capabilities); i++)
	{
		capabilities[i] = table_entry(capability_names[i], AMQP_FIELD_KIND_BOOLEAN);
		capabilities[i].value.value.boolean = true;
	}
	properties[0] = table_entry("product", AMQP_FIELD_KIND_UTF8);
	properties[0].value.value.bytes = amqp_cstring_bytes("queue for PostgreSQL");
	properties[1] = table_entry("capabilities", AMQP_FIELD_KIND_TABLE);
	properties[1].value.value.table.num_entries = lengthof(capabilities);
	properties[1].value.value.table.entries = capabilities;

	ok.client_properties.num_entries = lengthof(properties);
	ok.client_properties.entries = properties;
	ok.mechanism = amqp_cstring_bytes("PLAIN");
	ok.locale = amqp_cstring_bytes("en_US");
	response[0] = '\0';
	strcpy(response + 1, user);
	strcpy(response + 2 + strlen(user), password);
	ok.response.bytes = response;
	ok.response.len = strlen(user) + strlen(password) + 2;
	link_put_method(link, 0, AMQP_CONNECTION_START_OK_METHOD, &ok);
	pfree(response);
}

/* An option's value as it leaves. */
static const char *
utf8(const char *value)
{
	int			length = strlen(value);

	return text_utf8(value, &length);
}

/* Who we are there; false, with the reason, if that cannot be said. */
static bool
credentials(const AmqpOptions *options, const char **user, const char **password, char *error)
{
	*user = options->username ? utf8(options->username) : "guest";
	*password = options->password ? utf8(options->password) : "guest";

	/* As one method's arguments they have to fit. */
	if (strlen(*user) + strlen(*password) <= METHOD_MAX / 2)
		return true;
	strlcpy(error, "user name and password are too long", SINK_ERROR_SIZE);
	return false;
}

/* Agree on what the broker wants; false if that cannot be. */
static bool
tune(Link *link, const Frame *frame, char *error)
{
	amqp_connection_tune_ok_t ok = {0};

	/* Zero is the broker's way to have no opinion. */
	if (frame->frame_max > 0 && frame->frame_max < FRAME_MIN)
	{
		text_say(error, "the broker wants frames of at most %u bytes, and the protocol allows for no less than %d",
				 frame->frame_max, FRAME_MIN);
		return false;
	}
	if (frame->frame_max > 0 && frame->frame_max < FRAME_MAX)
		link->frame_max = frame->frame_max;
	ok.channel_max = PUBLISH_CHANNEL;
	ok.frame_max = link->frame_max;
	ok.heartbeat = frame->heartbeat == 0 ? HEARTBEAT : Min(frame->heartbeat, HEARTBEAT);
	link->heartbeat = ok.heartbeat * USECS_PER_SEC;
	link_put_method(link, 0, AMQP_CONNECTION_TUNE_OK_METHOD, &ok);
	return true;
}

/* Log in and open the virtual host. */
static bool
log_in(Link *link, const AmqpOptions *options, const char *user, const char *password,
	   TimestampTz deadline, char *error)
{
	const char *vhost = utf8(options->vhost);
	amqp_connection_open_t open = {0};
	Frame		frame;

	if (strlen(vhost) > AMQP_SHORT_STRING)
	{
		text_say(error, "the name of the virtual host has more than %d bytes", AMQP_SHORT_STRING);
		return false;
	}
	appendBinaryStringInfo(wire_output(link->wire), "AMQP\0\0\011\001", 8);
	if (!expect(link, AMQP_CONNECTION_START_METHOD, &frame, deadline, error))
		return false;
	put_start_ok(link, user, password);
	if (!expect(link, AMQP_CONNECTION_TUNE_METHOD, &frame, deadline, error) ||
		!tune(link, &frame, error))
		return false;

	open.virtual_host = amqp_cstring_bytes(vhost);
	link_put_method(link, 0, AMQP_CONNECTION_OPEN_METHOD, &open);
	link->open = expect(link, AMQP_CONNECTION_OPEN_OK_METHOD, &frame, deadline, error);
	return link->open;
}

/* Open the channel. */
static bool
open_channel(Link *link, const char *exchange, TimestampTz deadline, char *error)
{
	amqp_channel_open_t open = {0};
	amqp_confirm_select_t select = {0};
	amqp_exchange_declare_t declare = {0};
	Frame		frame;

	link_put_method(link, PUBLISH_CHANNEL, AMQP_CHANNEL_OPEN_METHOD, &open);
	if (!expect(link, AMQP_CHANNEL_OPEN_OK_METHOD, &frame, deadline, error))
		return false;
	link_put_method(link, PUBLISH_CHANNEL, AMQP_CONFIRM_SELECT_METHOD, &select);
	if (!expect(link, AMQP_CONFIRM_SELECT_OK_METHOD, &frame, deadline, error))
		return false;

	/* The default exchange always exists and must not be declared. */
	if (exchange[0] == '\0')
		return true;
	declare.exchange = amqp_cstring_bytes(exchange);
	declare.type = amqp_cstring_bytes("direct");
	declare.passive = true;
	link_put_method(link, PUBLISH_CHANNEL, AMQP_EXCHANGE_DECLARE_METHOD, &declare);
	return expect(link, AMQP_EXCHANGE_DECLARE_OK_METHOD, &frame, deadline, error);
}

Link *
link_open(const AmqpOptions *options, const char *exchange, char *error)
{
	TimestampTz deadline = GetCurrentTimestamp() + CONNECT_WITHIN;
	int			default_port = options->security == WIRE_PLAIN ? 5672 : 5671;
	const char *user;
	const char *password;
	Link	   *link;
	Wire	   *wire;

	if (!credentials(options, &user, &password, error))
		return NULL;
	wire = wire_open(options->host, options->port > 0 ? options->port : default_port,
					 options->security, options->rootcert, deadline, error);
	if (wire == NULL)
		return NULL;

	link = palloc0(sizeof(Link));
	link->wire = wire;
	link->frame_max = FRAME_MAX;
	link->sent_at = link->received_at = GetCurrentTimestamp();
	if (!log_in(link, options, user, password, deadline, error) ||
		!open_channel(link, exchange, deadline, error))
	{
		link_close(link);
		return NULL;
	}
	return link;
}

void
link_close(Link *link)
{
	char		ignored[SINK_ERROR_SIZE];

	/* Brokers note it in their log when somebody just leaves. */
	if (!link->lost && link->open && wire_unsent(link->wire) == 0)
	{
		amqp_connection_close_t close = {.reply_code = AMQP_REPLY_SUCCESS};

		link_put_method(link, 0, AMQP_CONNECTION_CLOSE_METHOD, &close);
		(void) wire_flush(link->wire, ignored);
	}
	wire_close(link->wire);
}
