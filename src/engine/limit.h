/*
 * limit.h
 *		How many messages of a queue may be in flight, and how fast they are handed out.
 *
 * A message is in flight while a consumer has it: from the moment it is leased
 * until the lease is settled for good, or returned.  COUNTER_LEASED counts them.
 */
#ifndef QUEUE_ENGINE_LIMIT_H
#define QUEUE_ENGINE_LIMIT_H

#include "engine/settings.h"
#include "engine/shared.h"

/* The limits that one search for messages heeds, and what it has met of them. */
typedef struct Limits
{
	int			max_in_flight;	/* 0: any number */
	int64		period;			/* from message to message, in ticks; 0: none */
	int64		burst;			/* how many ticks they may be ahead of that */
	int			ntaken;			/* tokens taken */
	bool		stopped;		/* by a limit */
	TimestampTz next_token;		/* when stopped by the rate; else DT_NOEND */
} Limits;

/* Begin a search in a queue that is set so. */
extern void limit_begin(QueueShared *q, const QueueSettings *settings, Limits *limits);

/*
 * Whether the queue's rate, or what is in flight, keeps anything from being
 * handed out now: a hint, to spare the search.  Then the search is stopped.
 */
extern bool limit_rate_stops(QueueShared *q, Limits *limits);
extern bool limit_flight_stops(QueueShared *q, Limits *limits);

/* End a search that has handed out n messages: other tokens go back. */
extern void limit_end(QueueShared *q, Limits *limits, int n);

/* For a queue whose rate is set anew: forget what was handed out before. */
extern void limit_forget(QueueShared *q);

/* For limit_enter and limit_leave. */
extern bool limit_enter_limited(QueueShared *q, Limits *limits);
extern void limit_wake(QueueShared *q);

/*
 * For lease.c: another message is in flight; false if a limit forbids that,
 * and the search is stopped.  Wakes nobody, may be called with a spinlock held.
 */
static inline bool
limit_enter(QueueShared *q, Limits *limits)
{
	if (unlikely(limits->max_in_flight > 0 || limits->period > 0))
		return limit_enter_limited(q, limits);
	counter_add(&q->counters, COUNTER_LEASED, 1);
	return true;
}

/*
 * For lease.c: a message is no longer in flight.  True if limit_wake is to be
 * called for the place, once others can have what this process still holds.
 */
static inline bool
limit_leave(QueueShared *q)
{
	/* A full barrier; pairs with the one in flight_is_full. */
	counter_add(&q->counters, COUNTER_LEASED, -1);
	return pg_atomic_read_u32(&q->flight_was_full) != 0;
}

#endif							/* QUEUE_ENGINE_LIMIT_H */
