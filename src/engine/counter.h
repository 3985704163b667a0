/*
 * counter.h
 *		What is counted of a queue, for queue.stats.
 *
 * Any process counts, without a lock and in no order with anything else.  The
 * gauges, which go down too, can be below zero for a moment; READY is set to 0
 * by a claim that has found everything.
 */
#ifndef QUEUE_ENGINE_COUNTER_H
#define QUEUE_ENGINE_COUNTER_H

#include "port/atomics.h"

/* In the order of the columns of queue.stats. */
typedef enum QueueCounter
{
	COUNTER_READY,				/* gauge: visible and not leased, about */
	COUNTER_LEASED,				/* gauge; exact, see limit.h */
	COUNTER_DEFERRED,			/* gauge: rows in queue.deferred */
	COUNTER_DEAD,				/* gauge: dead letters */
	COUNTER_SENT,
	COUNTER_RECEIVED,
	COUNTER_ACKED,
	COUNTER_FAILED,
	COUNTER_EXPIRED,
	NCOUNTERS
} QueueCounter;

typedef struct QueueCounters
{
	pg_atomic_uint64 values[NCOUNTERS]; /* int64s */
} QueueCounters;

static inline void
counters_init(QueueCounters *counters)
{
	for (int i = 0; i < NCOUNTERS; i++)
		pg_atomic_init_u64(&counters->values[i], 0);
}

static inline void
counters_reset(QueueCounters *counters)
{
	for (int i = 0; i < NCOUNTERS; i++)
		pg_atomic_write_u64(&counters->values[i], 0);
}

static inline int64
counter_read(QueueCounters *counters, QueueCounter which)
{
	return (int64) pg_atomic_read_u64(&counters->values[which]);
}

static inline void
counter_write(QueueCounters *counters, QueueCounter which, int64 n)
{
	pg_atomic_write_u64(&counters->values[which], (uint64) n);
}

/* Count n more, or fewer; returns the new value. */
static inline int64
counter_add(QueueCounters *counters, QueueCounter which, int64 n)
{
	return (int64) pg_atomic_add_fetch_u64(&counters->values[which], n);
}

/* Count one more, unless that is more than most; false then. */
static inline bool
counter_add_up_to(QueueCounters *counters, QueueCounter which, int64 most)
{
	uint64		n = pg_atomic_read_u64(&counters->values[which]);

	do
	{
		if ((int64) n >= most)
			return false;
	} while (!pg_atomic_compare_exchange_u64(&counters->values[which], &n, n + 1));
	return true;
}

/* Set a gauge to what has been counted, unless it has changed since. */
static inline bool
counter_correct(QueueCounters *counters, QueueCounter which, int64 since, int64 n)
{
	uint64		expected = (uint64) since;

	return pg_atomic_compare_exchange_u64(&counters->values[which], &expected, (uint64) n);
}

#endif							/* QUEUE_ENGINE_COUNTER_H */
