/*
 * connection.h
 *		What goes through a relay's sink, and when it is connected.
 *
 * A relay has one connection, which is open or waited for.
 */
#ifndef QUEUE_RELAY_CONNECTION_H
#define QUEUE_RELAY_CONNECTION_H

#include "relay/configuration.h"
#include "relay/hand.h"
#include "relay/sink.h"
#include "relay/supervision.h"

/*
 * To be called once, with what is published: connections are opened with this
 * config, of which the callbacks are set here.
 */
extern void connection_init(RelaySlot *slot, const RelayConfig *relay, Hand *hand,
							SinkConfig *config, int64 confirm_timeout);

extern bool connection_is_open(void);

/* When to try to open it again, of one that is not. */
extern TimestampTz connection_due(void);

/*
 * Try to open it: forget what the last one left, and return the memory context
 * for what the config is to refer to; then open, or, with the reason, do not.
 */
extern MemoryContext connection_prepare(void);
extern void connection_open(const SinkRoutine *routine);
extern void connection_failed(const char *error);

/*
 * Publish what is pending and may go now.  Returns whether that was all, as
 * opposed to there being no space in flight, or no connection any more.
 */
extern bool connection_publish(void);

/* Refuse a message that is pending, for its own sake. */
extern void connection_refuse(HandItem *item, const char *text);

/* Collect what became of what is in flight. */
extern void connection_poll(void);

/* Whether it is open and gives no reason to doubt that messages get through. */
extern bool connection_is_well(void);

/* We were busy with other things for so long: the other side is not to blame. */
extern void connection_excuse(int64 usecs);

/* Sleep until something happens, or until a time. */
extern void connection_sleep(TimestampTz until);

/* Hang up, if it is open; it may be opened again at once. */
extern void connection_hang_up(void);

#endif							/* QUEUE_RELAY_CONNECTION_H */
