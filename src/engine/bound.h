/*
 * bound.h
 *		Times that bound from below when something is due.
 *
 * Everybody lowers such a bound, by compare-and-swap and without a lock.  Who
 * looks for what is due first raises it, then looks, and lowers it to what he
 * has left: what becomes due meanwhile he sees, or it lowers the bound after.
 * The exchange that raises it is a full barrier for that.
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

static inline void
bound_write(TimeBound *bound, TimestampTz when)
{
	pg_atomic_write_u64(&bound->time, (uint64) when);
}

/* Nothing is due until somebody says so.  Returns what the bound was. */
static inline TimestampTz
bound_raise(TimeBound *bound)
{
	return (TimestampTz) pg_atomic_exchange_u64(&bound->time, (uint64) DT_NOEND);
}

/* Something is due at this time.  False if the bound was no later. */
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
