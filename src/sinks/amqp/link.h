/*
 * link.h
 *		An AMQP 0-9-1 connection with one channel in confirm mode.
 */
#ifndef QUEUE_SINKS_AMQP_LINK_H
#define QUEUE_SINKS_AMQP_LINK_H

#include "relay/sink.h"
#include "sinks/amqp/frame.h"
#include "sinks/net/wire.h"
#include "sinks/options/amqp.h"

typedef struct Link
{
	Wire	   *wire;
	uint32		frame_max;
	int64		heartbeat;		/* microseconds, 0: none */
	TimestampTz sent_at;
	TimestampTz received_at;
	bool		open;			/* logged in: a goodbye is in order */
	bool		lost;			/* nothing more can be said */
	int			close_code;		/* the broker's, when it closed the connection */
	int			input_len;		/* bytes read, and those of them dealt with */
	int			input_pos;
	char		input[FRAME_MAX];
} Link;

/* What one call of link_next() found. */
typedef enum LinkEvent
{
	LINK_FRAME,
	LINK_NOTHING,
	LINK_LOST
} LinkEvent;

/*
 * Connect, log in, open a channel in confirm mode, and see that the exchange
 * exists.  NULL when that fails, with the reason in error.
 */
extern Link *link_open(const AmqpOptions *options, const char *exchange, char *error);

/*
 * The next frame, heartbeats included, valid until the call after.  The end
 * of the connection is dealt with here.
 */
extern LinkEvent link_next(Link *link, Frame *frame, char *error);

/* Send what there is, and a heartbeat if one is due.  False if lost. */
extern bool link_flush(Link *link, char *error);

/* When link_flush() is due to be called at the latest. */
extern TimestampTz link_due(Link *link);

/* Put a method into what is to be sent. */
extern void link_put_method(Link *link, amqp_channel_t channel,
							amqp_method_number_t id, void *method);

/* Say goodbye, if that goes without waiting. */
extern void link_close(Link *link);

#endif							/* QUEUE_SINKS_AMQP_LINK_H */
