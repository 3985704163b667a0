/*
 * input.c
 *		What an AMQP 0-9-1 broker sends, taken apart.
 */
#include "postgres.h"

#include "sinks/amqp/link.h"
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
	return frame->channel == LINK_CHANNEL;
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
	return frame->channel == LINK_CHANNEL;
}

int
input_frame(const char *data, int length, uint32 frame_max, Frame *frame, char *error)
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
			good = good && frame->channel == LINK_CHANNEL;
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
