/*
 * amqp_link.c
 *		An AMQP 0-9-1 connection with one channel in confirm mode.
 *
 * librabbitmq encodes and decodes; the bytes come and go by amqp_wire.c.
 */
#include "postgres.h"

#include "amqp_link.h"
#include "network.h"
#include "port/pg_bswap.h"
#include "storage/latch.h"
#include "utils/timestamp.h"

/* To connect, log in and open the channel. */
#define CONNECT_WITHIN	(10 * USECS_PER_SEC)

/* What we ask for; the broker may want less. */
#define FRAME_MAX		131072
#define HEARTBEAT		20		/* seconds */

/* A frame's type, channel and size before its payload, and the end after. */
#define FRAME_HEADER	7
#define FRAME_FOOTER	1

/* librabbitmq's type of a frame that is a broker's answer to another version. */
#define PROTOCOL_HEADER 'A'

/* Room for any method we send: its longest arguments are short strings. */
#define METHOD_MAX		4096

/*
 * Frames out
 */

/* Begin a frame with room for a payload; returns where it starts. */
static int
begin_frame(Link *link, uint8 type, amqp_channel_t channel, int payload)
{
	StringInfo	out = wire_output(link->wire);
	int			start = out->len;

	enlargeStringInfo(out, FRAME_HEADER + payload + FRAME_FOOTER);
	out->data[out->len++] = type;
	out->data[out->len++] = channel >> 8;
	out->data[out->len++] = channel & 0xFF;
	out->len += 4;				/* the size, when it is known */
	return start;
}

static void
end_frame(Link *link, int start)
{
	StringInfo	out = wire_output(link->wire);
	uint32		size = pg_hton32((uint32) (out->len - start - FRAME_HEADER));

	memcpy(out->data + start + 3, &size, sizeof(size));
	out->data[out->len++] = (char) AMQP_FRAME_END;
	out->data[out->len] = '\0';
}

void
link_put_method(Link *link, amqp_channel_t channel, amqp_method_number_t id, void *method)
{
	StringInfo	out = wire_output(link->wire);
	int			start = begin_frame(link, AMQP_FRAME_METHOD, channel, METHOD_MAX);
	uint32		number = pg_hton32((uint32) id);
	amqp_bytes_t room;
	int			n;

	memcpy(out->data + out->len, &number, sizeof(number));
	out->len += sizeof(number);
	room.bytes = out->data + out->len;
	room.len = METHOD_MAX - sizeof(number);
	n = amqp_encode_method(id, method, room);
	if (n < 0)
		elog(ERROR, "could not encode AMQP method %x: %s", (unsigned int) id, amqp_error_string2(n));
	out->len += n;
	end_frame(link, start);
}

bool
link_put_header(Link *link, uint64 body_size, amqp_basic_properties_t *properties)
{
	StringInfo	out = wire_output(link->wire);
	int			room_max = link->frame_max - FRAME_HEADER - FRAME_FOOTER;
	int			start = begin_frame(link, AMQP_FRAME_HEADER, LINK_CHANNEL, room_max);
	uint16		class_id = pg_hton16(AMQP_BASIC_CLASS);
	uint64		size = pg_hton64(body_size);
	amqp_bytes_t room;
	int			n;

	memcpy(out->data + out->len, &class_id, sizeof(class_id));
	memset(out->data + out->len + 2, 0, 2); /* the weight, unused */
	memcpy(out->data + out->len + 4, &size, sizeof(size));
	out->len += 12;
	room.bytes = out->data + out->len;
	room.len = room_max - 12;
	n = amqp_encode_properties(AMQP_BASIC_CLASS, properties, room);
	if (n < 0)
	{
		link_unput(link, start);
		return false;
	}
	out->len += n;
	end_frame(link, start);
	return true;
}

void
link_put_body(Link *link, const char *data, Size size)
{
	Size		most = link->frame_max - FRAME_HEADER - FRAME_FOOTER;

	while (size > 0)
	{
		Size		n = Min(size, most);
		int			start = begin_frame(link, AMQP_FRAME_BODY, LINK_CHANNEL, n);

		appendBinaryStringInfo(wire_output(link->wire), data, n);
		end_frame(link, start);
		data += n;
		size -= n;
	}
}

void
link_unput(Link *link, int length)
{
	StringInfo	out = wire_output(link->wire);

	out->len = length;
	out->data[length] = '\0';
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
			end_frame(link, begin_frame(link, AMQP_FRAME_HEARTBEAT, 0, 0));
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
broker_words(int code, amqp_bytes_t text, char *error)
{
	snprintf(error, SINK_ERROR_SIZE, "broker closed the connection: %d %.*s",
			 code, (int) text.len, (char *) text.bytes);
}

/* Decode the next frame from what has been read; false if there is none. */
static bool
decode(Link *link, amqp_frame_t *frame, char *error)
{
	amqp_maybe_release_buffers(link->codec);
	while (link->input_pos < link->input_len)
	{
		amqp_bytes_t data;
		int			n;

		data.bytes = link->input + link->input_pos;
		data.len = link->input_len - link->input_pos;
		n = amqp_handle_input(link->codec, data, frame);
		if (n < 0)
		{
			snprintf(error, SINK_ERROR_SIZE, "could not understand the broker: %s", amqp_error_string2(n));
			link->lost = true;
			return false;
		}
		link->input_pos += n;
		if (frame->frame_type != 0)
			return true;
	}
	return false;
}

LinkEvent
link_next(Link *link, amqp_frame_t *frame, char *error)
{
	while (!link->lost)
	{
		int			n;

		if (decode(link, frame, error))
		{
			if (frame->frame_type == AMQP_FRAME_HEARTBEAT)
				continue;
			if (frame->frame_type == AMQP_FRAME_METHOD &&
				frame->payload.method.id == AMQP_CONNECTION_CLOSE_METHOD)
			{
				amqp_connection_close_t *close = frame->payload.method.decoded;
				amqp_connection_close_ok_t ok = {0};
				char		ignored[SINK_ERROR_SIZE];

				broker_words(close->reply_code, close->reply_text, error);
				link_put_method(link, 0, AMQP_CONNECTION_CLOSE_OK_METHOD, &ok);
				(void) wire_flush(link->wire, ignored);
				link->lost = true;
				break;
			}
			return LINK_FRAME;
		}
		if (link->lost)
			break;

		n = wire_read(link->wire, link->input, sizeof(link->input), error);
		if (n == 0)
			return LINK_NOTHING;
		if (n < 0)
		{
			link->lost = true;
			break;
		}
		link->input_pos = 0;
		link->input_len = n;
		link->received_at = GetCurrentTimestamp();
	}
	return LINK_LOST;
}

/*
 * The way in
 */

/* Send what was put and wait for a method in answer to it; NULL if lost. */
static void *
expect(Link *link, amqp_method_number_t id, TimestampTz deadline, char *error)
{
	amqp_frame_t frame;

	if (!link_flush(link, error))
		return NULL;
	for (;;)
	{
		int			events;
		pgsocket	socket;

		switch (link_next(link, &frame, error))
		{
			case LINK_FRAME:
				if (frame.frame_type == AMQP_FRAME_METHOD && frame.payload.method.id == id)
					return frame.payload.method.decoded;
				if (frame.frame_type == AMQP_FRAME_METHOD &&
					frame.payload.method.id == AMQP_CHANNEL_CLOSE_METHOD)
				{
					amqp_channel_close_t *close = frame.payload.method.decoded;

					broker_words(close->reply_code, close->reply_text, error);
				}
				else if (frame.frame_type == PROTOCOL_HEADER)
					strlcpy(error, "the broker does not speak AMQP 0-9-1", SINK_ERROR_SIZE);
				else
					strlcpy(error, "the broker sent something unexpected", SINK_ERROR_SIZE);
				return NULL;
			case LINK_LOST:
				return NULL;
			case LINK_NOTHING:
				break;
		}
		if (!link_flush(link, error))
			return NULL;
		socket = wire_socket(link->wire, &events);
		if (!network_wait(socket, events, deadline))
		{
			strlcpy(error, "the broker did not answer in time", SINK_ERROR_SIZE);
			return NULL;
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

/* Log in and open the virtual host. */
static bool
log_in(Link *link, const SinkConfig *config, TimestampTz deadline, char *error)
{
	const char *user = sink_option(config->mapping, "username", "guest");
	const char *password = sink_option(config->mapping, "password", "guest");
	amqp_connection_tune_t *tune;
	amqp_connection_tune_ok_t tune_ok = {0};
	amqp_connection_open_t open = {0};

	/* As one method's arguments they have to fit. */
	if (strlen(user) + strlen(password) > METHOD_MAX / 2)
	{
		strlcpy(error, "user name and password are too long", SINK_ERROR_SIZE);
		return false;
	}

	appendBinaryStringInfo(wire_output(link->wire), "AMQP\0\0\011\001", 8);
	if (!expect(link, AMQP_CONNECTION_START_METHOD, deadline, error))
		return false;
	put_start_ok(link, user, password);
	tune = expect(link, AMQP_CONNECTION_TUNE_METHOD, deadline, error);
	if (tune == NULL)
		return false;

	/* Zero is the broker's way to have no opinion. */
	link->frame_max = tune->frame_max == 0 ? FRAME_MAX : Min(tune->frame_max, FRAME_MAX);
	tune_ok.channel_max = LINK_CHANNEL;
	tune_ok.frame_max = link->frame_max;
	tune_ok.heartbeat = tune->heartbeat == 0 ? HEARTBEAT : Min(tune->heartbeat, HEARTBEAT);
	link->heartbeat = tune_ok.heartbeat * USECS_PER_SEC;
	amqp_tune_connection(link->codec, LINK_CHANNEL, link->frame_max, 0);
	link_put_method(link, 0, AMQP_CONNECTION_TUNE_OK_METHOD, &tune_ok);

	open.virtual_host = amqp_cstring_bytes(sink_option(config->server, "vhost", "/"));
	link_put_method(link, 0, AMQP_CONNECTION_OPEN_METHOD, &open);
	return expect(link, AMQP_CONNECTION_OPEN_OK_METHOD, deadline, error) != NULL;
}

/* Open the channel. */
static bool
open_channel(Link *link, const char *exchange, TimestampTz deadline, char *error)
{
	amqp_channel_open_t open = {0};
	amqp_confirm_select_t select = {0};
	amqp_exchange_declare_t declare = {0};

	link_put_method(link, LINK_CHANNEL, AMQP_CHANNEL_OPEN_METHOD, &open);
	if (!expect(link, AMQP_CHANNEL_OPEN_OK_METHOD, deadline, error))
		return false;
	link_put_method(link, LINK_CHANNEL, AMQP_CONFIRM_SELECT_METHOD, &select);
	if (!expect(link, AMQP_CONFIRM_SELECT_OK_METHOD, deadline, error))
		return false;

	/* The default exchange always exists and must not be declared. */
	if (exchange[0] == '\0')
		return true;
	declare.exchange = amqp_cstring_bytes(exchange);
	declare.type = amqp_cstring_bytes("direct");
	declare.passive = true;
	link_put_method(link, LINK_CHANNEL, AMQP_EXCHANGE_DECLARE_METHOD, &declare);
	return expect(link, AMQP_EXCHANGE_DECLARE_OK_METHOD, deadline, error) != NULL;
}

/* The option sslmode. */
static WireSecurity
security_of(const char *sslmode)
{
	if (strcmp(sslmode, "verify-full") == 0)
		return WIRE_VERIFY_FULL;
	if (strcmp(sslmode, "verify-ca") == 0)
		return WIRE_VERIFY_CA;
	if (strcmp(sslmode, "require") == 0)
		return WIRE_ENCRYPTED;
	return WIRE_PLAIN;
}

Link *
link_open(const SinkConfig *config, const char *exchange, char *error)
{
	TimestampTz deadline = GetCurrentTimestamp() + CONNECT_WITHIN;
	WireSecurity security = security_of(sink_option(config->server, "sslmode", "disable"));
	Link	   *link;
	Wire	   *wire;

	wire = wire_open(sink_option(config->server, "host", "localhost"),
					 atoi(sink_option(config->server, "port", security == WIRE_PLAIN ? "5672" : "5671")),
					 security, sink_option(config->server, "sslrootcert", NULL), deadline, error);
	if (wire == NULL)
		return NULL;

	link = palloc0(sizeof(Link));
	link->wire = wire;
	link->codec = amqp_new_connection();
	link->sent_at = link->received_at = GetCurrentTimestamp();
	if (link->codec == NULL)
	{
		strlcpy(error, "out of memory", SINK_ERROR_SIZE);
		link->lost = true;
	}
	if (link->lost ||
		!log_in(link, config, deadline, error) ||
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
	if (!link->lost && link->frame_max > 0 && wire_unsent(link->wire) == 0)
	{
		amqp_connection_close_t close = {.reply_code = AMQP_REPLY_SUCCESS};

		link_put_method(link, 0, AMQP_CONNECTION_CLOSE_METHOD, &close);
		(void) wire_flush(link->wire, ignored);
	}
	wire_close(link->wire);
	if (link->codec)
		amqp_destroy_connection(link->codec);
	pfree(link);
}
