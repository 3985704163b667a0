/*
 * amqp.c
 *		Sink that publishes to RabbitMQ and other AMQP 0-9-1 brokers.
 *
 * Messages are numbered by the channel (delivery tags), and the broker
 * confirms or refuses them by these numbers.  What it could not route it
 * returns, by basic.return, before it confirms it.
 *
 * Some messages make the broker close the channel or the connection, without
 * a word about which it was.  If only a message can have been the cause, one
 * of those in flight is to blame (SINK_BLAMED).
 */
#include "postgres.h"

#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "message.h"
#include "relay/sink.h"
#include "sinks/amqp/encode.h"
#include "sinks/amqp/link.h"
#include "sinks/content.h"
#include "sinks/flight.h"
#include "sinks/text.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

PG_MODULE_MAGIC;

/* Output waiting at which no more is taken. */
#define OUTPUT_MAX		(1024 * 1024)

/* Frames dealt with before others have their turn. */
#define FRAMES_MAX		1000

typedef struct AmqpSink
{
	Sink		base;
	Link	   *link;
	Publication publication;
	bool		blocked;		/* the broker takes nothing for now */
	bool		more;			/* not all that came has been read */
	Flight		flight;			/* by delivery tag */
	char	  **returned;		/* why the broker returned one, or NULL, like
								 * the items */
	/* A returned message comes as a method, a header and its body. */
	bool		header_due;
	uint64		body_due;
	char		return_words[SINK_ERROR_SIZE];
} AmqpSink;

PGDLLEXPORT const SinkRoutine *queue_sink(void);

static Sink *
amqp_open(const SinkConfig *config, char *error)
{
	const AmqpOptions *options = config->options;
	const char *exchange = options->exchange ? options->exchange : "";
	int			exchange_length = strlen(exchange);
	int			queue_length = strlen(config->queue);
	Link	   *link;
	AmqpSink   *sink;

	exchange = text_utf8(exchange, &exchange_length);
	if (exchange_length > AMQP_SHORT_STRING)
	{
		text_say(error, "name of the exchange has more than %d bytes", AMQP_SHORT_STRING);
		return NULL;
	}
	link = link_open(options, exchange, error);
	if (link == NULL)
		return NULL;
	sink = palloc0(sizeof(AmqpSink));
	sink->base.config = config;
	sink->link = link;
	sink->publication.exchange = exchange;
	sink->publication.options = options;
	sink->publication.queue = text_utf8(config->queue, &queue_length);
	sink->publication.frame_max = link->frame_max;
	sink->base.call_items = 1;
	flight_init(&sink->flight, config->window);
	sink->returned = palloc0(config->window * sizeof(char *));
	return &sink->base;
}

static bool
amqp_encode(Sink *base, const SinkItem *item, StringInfo out, char *error)
{
	AmqpSink   *sink = (AmqpSink *) base;

	return encode_message(&sink->publication, item->message, out, error);
}

/* Whether it takes another message. */
static SinkState
say_state(const AmqpSink *sink)
{
	if (sink->blocked)
		return SINK_BLOCKED;
	return flight_space(&sink->flight) == 0 || wire_unsent(sink->link->wire) > OUTPUT_MAX ?
		SINK_FULL : SINK_READY;
}

static SinkState
amqp_publish(Sink *base, SinkItem **items, int n, char *error)
{
	AmqpSink   *sink = (AmqpSink *) base;

	for (int i = 0; i < n; i++)
	{
		appendBinaryStringInfo(wire_output(sink->link->wire), items[i]->data, items[i]->size);
		flight_add(&sink->flight, items[i]);
		sink->returned[items[i]->tag % sink->flight.window] = NULL;
	}
	return say_state(sink);
}

/*
 * What the broker says
 */

/* Settle a message in flight. */
static void
settle_tag(AmqpSink *sink, uint64 tag, bool confirmed)
{
	char	   *returned = sink->returned[tag % sink->flight.window];
	SinkItem   *item = flight_land(&sink->flight, tag);

	if (item == NULL)
		return;
	sink->returned[tag % sink->flight.window] = NULL;
	sink->base.config->verdict(&item, 1, returned || !confirmed ? SINK_REFUSED : SINK_CONFIRMED,
							   returned ? returned : "broker refused the message (basic.nack)");
	if (returned)
		pfree(returned);
}

/* False if the broker speaks of what was never published. */
static bool
settle_tags(AmqpSink *sink, const Frame *frame, char *error)
{
	bool		confirmed = frame->method == AMQP_BASIC_ACK_METHOD;

	if (frame->tag >= sink->flight.next)
	{
		text_say(error, "the broker confirmed message " UINT64_FORMAT " of " UINT64_FORMAT,
				 frame->tag, sink->flight.next - 1);
		return false;
	}
	if (frame->flag)
	{
		for (uint64 each = sink->flight.first; each <= frame->tag; each++)
			settle_tag(sink, each, confirmed);
	}
	else
		settle_tag(sink, frame->tag, confirmed);
	return true;
}

/* Find the message a content header belongs to, and note its return. */
static void
note_return(AmqpSink *sink, const Words *name)
{
	int64		id = content_id(sink->publication.queue, name->data, name->length);

	for (uint64 tag = sink->flight.first; tag < sink->flight.next && id >= 0; tag++)
	{
		SinkItem   *item = flight_find(&sink->flight, tag);
		char	  **returned = &sink->returned[tag % sink->flight.window];

		if (item && item->message->id == id && *returned == NULL)
		{
			*returned = MemoryContextStrdup(sink->base.context, sink->return_words);
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

	if (sink->blocked == blocked)
		return;
	sink->blocked = blocked;
	if (!blocked)
		return;
	text_say(text, "broker takes no messages for now: %s",
			 why ? words(why, reason) : "it has stopped the flow");
	sink->base.config->complain(text);
}

static bool
is_messages_fault(const Frame *frame)
{
	static const char topic[] = "ACCESS_REFUSED - access to topic";

	return frame->code == AMQP_PRECONDITION_FAILED || frame->code == AMQP_CONTENT_TOO_LARGE ||
		(frame->text.length > strlen(topic) && memcmp(frame->text.data, topic, strlen(topic)) == 0);
}

/* Deal with a method. */
static SinkState
handle_method(AmqpSink *sink, const Frame *frame, char *error)
{
	switch (frame->method)
	{
		case AMQP_BASIC_ACK_METHOD:
		case AMQP_BASIC_NACK_METHOD:
			return settle_tags(sink, frame, error) ? SINK_READY : SINK_LOST;
		case AMQP_BASIC_RETURN_METHOD:
			begin_return(sink, frame);
			return SINK_READY;
		case AMQP_CONNECTION_BLOCKED_METHOD:
			set_blocked(sink, true, &frame->text);
			return SINK_READY;
		case AMQP_CONNECTION_UNBLOCKED_METHOD:
			set_blocked(sink, false, NULL);
			return SINK_READY;
		case AMQP_CHANNEL_FLOW_METHOD:
			{
				amqp_channel_flow_ok_t ok = {.active = frame->flag};

				set_blocked(sink, !frame->flag, NULL);
				link_put_method(sink->link, PUBLISH_CHANNEL, AMQP_CHANNEL_FLOW_OK_METHOD, &ok);
				return SINK_READY;
			}
		case AMQP_CHANNEL_CLOSE_METHOD:
			{
				char		text[SINK_ERROR_SIZE];

				text_say(error, "broker closed the channel: %d %s", frame->code,
						 words(&frame->text, text));
				return is_messages_fault(frame) ? SINK_BLAMED : SINK_LOST;
			}
		default:
			strlcpy(error, "the broker sent something unexpected", SINK_ERROR_SIZE);
			return SINK_LOST;
	}
}

/* Deal with a frame; SINK_READY if that is all. */
static SinkState
handle_frame(AmqpSink *sink, const Frame *frame, char *error)
{
	bool		returning = sink->header_due || sink->body_due > 0;

	if (frame->type == AMQP_FRAME_HEARTBEAT)
		return SINK_READY;
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
		return SINK_READY;
	}
	else if (frame->type == AMQP_FRAME_BODY && !sink->header_due && frame->size <= sink->body_due)
	{
		sink->body_due -= frame->size;
		return SINK_READY;
	}
	strlcpy(error, "the broker sent a frame out of turn", SINK_ERROR_SIZE);
	return SINK_LOST;
}

/* What the end of the connection was due to. */
static SinkState
end_state(const Link *link)
{
	switch (link->close_code)
	{
		case AMQP_CONNECTION_FORCED:
			return SINK_ENDED;	/* an operator's doing, and no message's */
		case AMQP_FRAME_ERROR:
		case AMQP_SYNTAX_ERROR:
			return SINK_BLAMED;
		default:
			return SINK_LOST;
	}
}

static SinkState
amqp_poll(Sink *base, char *error)
{
	AmqpSink   *sink = (AmqpSink *) base;
	Frame		frame;

	sink->more = false;
	if (!link_flush(sink->link, error))
		return SINK_LOST;
	for (int i = 0; i < FRAMES_MAX; i++)
	{
		SinkState	state;

		switch (link_next(sink->link, &frame, error))
		{
			case LINK_LOST:
				return end_state(sink->link);
			case LINK_NOTHING:
				return say_state(sink);
			case LINK_FRAME:
				state = handle_frame(sink, &frame, error);
				if (state != SINK_READY)
					return state;
				break;
		}
	}
	sink->more = true;
	return say_state(sink);
}

static void
amqp_wait(Sink *base, SinkWait *wait)
{
	AmqpSink   *sink = (AmqpSink *) base;
	int			events;
	pgsocket	socket = wire_socket(sink->link->wire, &events);

	wait->until = sink->more ? DT_NOBEGIN : link_due(sink->link);
	sink_wait_for(wait, socket, events);
}

static void
amqp_close(Sink *base)
{
	AmqpSink   *sink = (AmqpSink *) base;

	link_close(sink->link);
}

static const SinkRoutine amqp_sink = {
	.magic = SINK_MAGIC,
	.version = SINK_VERSION,
	.order = SINK_ORDER_NONE,
	.open = amqp_open,
	.encode = amqp_encode,
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
