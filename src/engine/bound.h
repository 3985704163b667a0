/*
 * bound.h
 *		Times that bound from below when something is due.
 *
 * Any process lowers such a bound, without a lock, by compare-and-swap.  A
 * process that searches for what is due raises the bound, then searches, and
 * lowers the bound to the time of what it leaves.  What becomes due meanwhile
 * it sees, or the bound is lowered after it was raised: the exchange that
 * raises is a full barrier, and a process that lowers has one between
 * publishing what is due and reading the bound.
 */
#ifndef QUEUE_ENGINE_BOUND_H
#define QUEUE_ENGINE_BOUND_H

#include "port/atomics.h"
#include "utils/timestamp.h"

typedef struct TimeBound
{
	pg_atomic_uint64 time;		/* a TimestampTz; DT_NOBEGIN: always due */
} TimeBound;

static inline void
bound_init(TimeBound *bound, TimestampTz when)
{
	pg_atomic_init_u64(&bound->time, (uint64) when);
}

static inline TimestampTz
bound_read(TimeBound *bound)
{
	return (TimestampTz) pg_atomic_read_u64(&bound->time);
}

/* Set the bound, with no barrier: to always due, or while nothing searches. */
static inline void
bound_write(TimeBound *bound, TimestampTz when)
{
	pg_atomic_write_u64(&bound->time, (uint64) when);
}

/* Raise the bound to "nothing is due", a full barrier.  Returns what it was. */
static inline TimestampTz
bound_raise(TimeBound *bound)
{
	return (TimestampTz) pg_atomic_exchange_u64(&bound->time, (uint64) DT_NOEND);
}

/* Lower the bound to a time.  False if it was no later already. */
static inline bool
bound_lower(TimeBound *bound, TimestampTz when)
{
	uint64		old = pg_atomic_read_u64(&bound->time);

	do
	{
		if ((TimestampTz) old <= when)
			return false;
	} while (!pg_atomic_compare_exchange_u64(&bound->time, &old, (uint64) when));
	return true;
}

#endif							/* QUEUE_ENGINE_BOUND_H */
