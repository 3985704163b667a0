/*
 * frame.c
 *		Frames of AMQP 0-9-1: written, and taken apart.
 */
#include "postgres.h"

#include "port/pg_bswap.h"
#include "relay/sink.h"
#include "sinks/amqp/frame.h"
#include "sinks/text.h"

/* Bits of the flags in a content header, up to the message's id. */
#define HAS_CONTENT_TYPE	(1 << 15)
#define HAS_ENCODING		(1 << 14)
#define HAS_HEADERS			(1 << 13)
#define HAS_DELIVERY_MODE	(1 << 12)
#define HAS_PRIORITY		(1 << 11)
#define HAS_CORRELATION_ID	(1 << 10)
#define HAS_REPLY_TO		(1 << 9)
#define HAS_EXPIRATION		(1 << 8)
#define HAS_MESSAGE_ID		(1 << 7)

/*
 * Frames in
 */

/* What is left of a payload; once it is short all that is read is zero. */
typedef struct Reader
{
	const char *data;
	uint32		left;
	bool		is_short;
} Reader;

/* Bytes passed over; NULL if there are not that many. */
static const char *
skip(Reader *reader, uint32 n)
{
	const char *start = reader->data;

	if (reader->is_short || n > reader->left)
	{
		reader->is_short = true;
		return NULL;
	}
	reader->data += n;
	reader->left -= n;
	return start;
}

static uint64
number(Reader *reader, int bytes)
{
	const char *data = skip(reader, bytes);
	uint64		value = 0;

	for (int i = 0; data != NULL && i < bytes; i++)
		value = value << 8 | (unsigned char) data[i];
	return value;
}

static Words
short_string(Reader *reader)
{
	int			length = (int) number(reader, 1);
	const char *data = skip(reader, length);
	Words		words = {data, data ? length : 0};

	return words;
}

static void
table(Reader *reader)
{
	(void) skip(reader, (uint32) number(reader, 4));
}

/* Take a method's arguments; false if it is none we may be sent. */
static bool
read_method(Reader *reader, Frame *frame)
{
	bool		on_connection = true;

	frame->method = (uint32) number(reader, 4);
	switch (frame->method)
	{
		case AMQP_CONNECTION_START_METHOD:	/* whatever it can do */
		case AMQP_CONNECTION_OPEN_OK_METHOD:
		case AMQP_CONNECTION_CLOSE_OK_METHOD:
		case AMQP_CONNECTION_UNBLOCKED_METHOD:
			break;
		case AMQP_CONNECTION_TUNE_METHOD:
			(void) number(reader, 2);	/* channels: we need one */
			frame->frame_max = (uint32) number(reader, 4);
			frame->heartbeat = (int) number(reader, 2);
			break;
		case AMQP_CONNECTION_BLOCKED_METHOD:
			frame->text = short_string(reader);
			break;
		case AMQP_CONNECTION_CLOSE_METHOD:
			frame->code = (int) number(reader, 2);
			frame->text = short_string(reader);
			break;
		default:
			on_connection = false;
			break;
	}
	if (on_connection)
		return frame->channel == 0;

	switch (frame->method)
	{
		case AMQP_CHANNEL_OPEN_OK_METHOD:
		case AMQP_CONFIRM_SELECT_OK_METHOD:
		case AMQP_EXCHANGE_DECLARE_OK_METHOD:
			break;
		case AMQP_CHANNEL_CLOSE_METHOD:
			frame->code = (int) number(reader, 2);
			frame->text = short_string(reader);
			break;
		case AMQP_CHANNEL_FLOW_METHOD:
			frame->flag = number(reader, 1) & 1;
			break;
		case AMQP_BASIC_ACK_METHOD:
		case AMQP_BASIC_NACK_METHOD:
			frame->tag = number(reader, 8);
			frame->flag = number(reader, 1) & 1;
			break;
		case AMQP_BASIC_RETURN_METHOD:
			frame->code = (int) number(reader, 2);
			frame->text = short_string(reader);
			frame->exchange = short_string(reader);
			frame->routing_key = short_string(reader);
			break;
		default:
			return false;
	}
	return frame->channel == PUBLISH_CHANNEL;
}

/* Take a content header, up to the message's id. */
static bool
read_header(Reader *reader, Frame *frame)
{
	uint16		flags;

	if (number(reader, 2) != AMQP_BASIC_CLASS)
		return false;
	(void) number(reader, 2);
	frame->body_size = number(reader, 8);
	flags = (uint16) number(reader, 2);
	if (flags & 1)
		return false;			/* more flags than the class has */
	if (flags & HAS_CONTENT_TYPE)
		(void) short_string(reader);
	if (flags & HAS_ENCODING)
		(void) short_string(reader);
	if (flags & HAS_HEADERS)
		table(reader);
	if (flags & HAS_DELIVERY_MODE)
		(void) number(reader, 1);
	if (flags & HAS_PRIORITY)
		(void) number(reader, 1);
	if (flags & HAS_CORRELATION_ID)
		(void) short_string(reader);
	if (flags & HAS_REPLY_TO)
		(void) short_string(reader);
	if (flags & HAS_EXPIRATION)
		(void) short_string(reader);
	if (flags & HAS_MESSAGE_ID)
		frame->message_id = short_string(reader);
	return frame->channel == PUBLISH_CHANNEL;
}

int
frame_read(const char *data, int length, uint32 frame_max, Frame *frame, char *error)
{
	Reader		reader = {data, length, false};
	bool		good;

	memset(frame, 0, sizeof(Frame));
	if (length < FRAME_HEADER)
		return 0;
	if (memcmp(data, "AMQP", 4) == 0)
	{
		strlcpy(error, "the broker does not speak AMQP 0-9-1", SINK_ERROR_SIZE);
		return -1;
	}
	frame->type = (int) number(&reader, 1);
	frame->channel = (int) number(&reader, 2);
	frame->size = (uint32) number(&reader, 4);
	if (frame->size > frame_max - FRAME_HEADER - FRAME_FOOTER)
	{
		text_say(error, "the broker sent a frame of %u bytes, more than was agreed on", frame->size);
		return -1;
	}
	if (reader.left < frame->size + FRAME_FOOTER)
		return 0;

	good = (unsigned char) reader.data[frame->size] == AMQP_FRAME_END;
	reader.left = frame->size;
	switch (frame->type)
	{
		case AMQP_FRAME_METHOD:
			good = good && read_method(&reader, frame);
			break;
		case AMQP_FRAME_HEADER:
			good = good && read_header(&reader, frame);
			break;
		case AMQP_FRAME_BODY:
			good = good && frame->channel == PUBLISH_CHANNEL;
			break;
		case AMQP_FRAME_HEARTBEAT:
			good = good && frame->channel == 0 && frame->size == 0;
			break;
		default:
			good = false;
			break;
	}
	if (!good || reader.is_short)
	{
		text_say(error, "the broker sent something unexpected (frame of type %d, channel %d, method %u.%u)",
				 frame->type, frame->channel, frame->method >> 16, frame->method & 0xFFFF);
		return -1;
	}
	return FRAME_HEADER + frame->size + FRAME_FOOTER;
}

/*
 * Frames out
 */

/* Begin a frame with space for a payload; returns where it starts. */
static int
begin_frame(StringInfo out, uint8 type, amqp_channel_t channel, int payload)
{
	int			start = out->len;

	enlargeStringInfo(out, FRAME_HEADER + payload + FRAME_FOOTER);
	out->data[out->len++] = type;
	out->data[out->len++] = channel >> 8;
	out->data[out->len++] = channel & 0xFF;
	out->len += 4;				/* the size, when it is known */
	return start;
}

static void
end_frame(StringInfo out, int start)
{
	uint32		size = pg_hton32((uint32) (out->len - start - FRAME_HEADER));

	memcpy(out->data + start + 3, &size, sizeof(size));
	out->data[out->len++] = (char) AMQP_FRAME_END;
	out->data[out->len] = '\0';
}

void
frame_put_heartbeat(StringInfo out)
{
	end_frame(out, begin_frame(out, AMQP_FRAME_HEARTBEAT, 0, 0));
}

void
frame_put_method(StringInfo out, amqp_channel_t channel, amqp_method_number_t id, void *method)
{
	int			start = begin_frame(out, AMQP_FRAME_METHOD, channel, METHOD_MAX);
	uint32		number = pg_hton32((uint32) id);
	amqp_bytes_t space;
	int			n;

	memcpy(out->data + out->len, &number, sizeof(number));
	out->len += sizeof(number);
	space.bytes = out->data + out->len;
	space.len = METHOD_MAX - sizeof(number);
	n = amqp_encode_method(id, method, space);
	if (n < 0)
		elog(ERROR, "could not encode AMQP method %x: %s", (unsigned int) id, amqp_error_string2(n));
	out->len += n;
	end_frame(out, start);
}

bool
frame_put_header(StringInfo out, uint32 frame_max, uint64 body_size,
				 amqp_basic_properties_t *properties)
{
	int			most = (int) frame_max - FRAME_HEADER - FRAME_FOOTER;
	int			start = begin_frame(out, AMQP_FRAME_HEADER, PUBLISH_CHANNEL, most);
	uint16		class_id = pg_hton16(AMQP_BASIC_CLASS);
	uint64		size = pg_hton64(body_size);
	amqp_bytes_t space;
	int			n;

	memcpy(out->data + out->len, &class_id, sizeof(class_id));
	memset(out->data + out->len + 2, 0, 2); /* the weight, unused */
	memcpy(out->data + out->len + 4, &size, sizeof(size));
	out->len += 12;
	space.bytes = out->data + out->len;
	space.len = most - 12;
	n = amqp_encode_properties(AMQP_BASIC_CLASS, properties, space);
	if (n < 0)
	{
		out->len = start;
		out->data[start] = '\0';
		return false;
	}
	out->len += n;
	end_frame(out, start);
	return true;
}

void
frame_put_body(StringInfo out, uint32 frame_max, const char *data, Size size)
{
	Size		most = frame_max - FRAME_HEADER - FRAME_FOOTER;

	while (size > 0)
	{
		Size		n = Min(size, most);
		int			start = begin_frame(out, AMQP_FRAME_BODY, PUBLISH_CHANNEL, n);

		appendBinaryStringInfo(out, data, n);
		end_frame(out, start);
		data += n;
		size -= n;
	}
}
