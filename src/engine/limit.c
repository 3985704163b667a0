/*
 * limit.c
 *		How many messages of a queue may be in flight, and how fast they are handed out.
 *
 * Both limits are checked as a lease is taken, by compare-and-swap, so that
 * claims at the same time do not pass them together.
 *
 * max_in_flight: a claim that finds the queue full sets flight_was_full.  From
 * then on whoever ends a lease wakes a waiter, for the place that is free.  The
 * next claim that finds the queue without such a limit clears it, and wakes all.
 *
 * rate: arrival is when the next message is expected if they are handed out
 * evenly, a period after the last.  One may go as early as burst before that;
 * it moves arrival on by a period, from now if that is later.  So in any time t
 * no more are handed out than fit in burst + t, and an idle queue saves nothing
 * up beyond burst.
 */
#include "postgres.h"

#include "engine/limit.h"
#include "utils/timestamp.h"

/* Ticks of the rate's clock in a microsecond. */
#define TICKS	1024

/* A burst is what is handed out evenly in this part of an interval. */
#define BURST_PART	10

void
limit_begin(QueueShared *q, const QueueSettings *settings, Limits *limits)
{
	memset(limits, 0, sizeof(Limits));
	limits->next_token = DT_NOEND;
	limits->max_in_flight = settings->max_in_flight;
	if (settings->rate > 0)
	{
		/* Rounded up; at most ten years of ticks, and as many of those fit. */
		limits->period = (settings->rate_interval * TICKS + settings->rate - 1) / settings->rate;
		if (settings->rate / BURST_PART > 1)
			limits->burst = limits->period * (settings->rate / BURST_PART - 1);
	}

	/*
	 * Cleared, then all are woken: a process that is refused by a limit it
	 * has read before sets it again, or waits already.
	 */
	if (unlikely(pg_atomic_read_u32(&q->flight_was_full) != 0) && limits->max_in_flight == 0 &&
		pg_atomic_exchange_u32(&q->flight_was_full, 0) != 0)
		wake_waiters(&q->waiters, INT_MAX);
}

/*
 * In flight
 */

static bool
flight_is_full(QueueShared *q, Limits *limits)
{
	if (counter_read(&q->counters, COUNTER_LEASED) < limits->max_in_flight)
		return false;

	/*
	 * Pairs with limit_leave: the place that becomes free is seen here, or
	 * the flag is seen there and this process is woken, if it waits.
	 */
	pg_atomic_write_u32(&q->flight_was_full, 1);
	pg_memory_barrier();
	return counter_read(&q->counters, COUNTER_LEASED) >= limits->max_in_flight;
}

bool
limit_flight_stops(QueueShared *q, Limits *limits)
{
	if (limits->max_in_flight > 0 && flight_is_full(q, limits))
		limits->stopped = true;
	return limits->stopped;
}

void
limit_wake(QueueShared *q)
{
	wake_waiters(&q->waiters, 1);
}

/*
 * The rate
 */

/*
 * When the next message may go, in ticks, and what arrival counts as, as of
 * now.  arrival is read before the clock: then it can be beyond what this rate
 * allows only if it was made by another rate or the clock was set back, and
 * nothing is to wait for longer than a period because of that.
 */
static int64
token_time(const Limits *limits, int64 now, int64 *arrival)
{
	*arrival = Min(*arrival, now + limits->burst + limits->period);
	*arrival = Max(*arrival, now);
	return *arrival - limits->burst;
}

static void
stop_until(Limits *limits, int64 time)
{
	limits->stopped = true;
	limits->next_token = (time + TICKS - 1) / TICKS;
}

bool
limit_rate_stops(QueueShared *q, Limits *limits)
{
	int64		arrival;
	int64		now;
	int64		time;

	if (limits->period == 0)
		return false;
	arrival = (int64) pg_atomic_read_u64(&q->rate_arrival);
	pg_read_barrier();
	now = GetCurrentTimestamp() * TICKS;
	time = token_time(limits, now, &arrival);
	if (time > now)
		stop_until(limits, time);
	return limits->stopped;
}

static bool
take_token(QueueShared *q, Limits *limits)
{
	uint64		old = pg_atomic_read_u64(&q->rate_arrival);

	for (;;)
	{
		int64		arrival = (int64) old;
		int64		now;
		int64		time;

		pg_read_barrier();
		now = GetCurrentTimestamp() * TICKS;
		time = token_time(limits, now, &arrival);
		if (time > now)
		{
			stop_until(limits, time);
			return false;
		}
		if (pg_atomic_compare_exchange_u64(&q->rate_arrival, &old,
										   (uint64) (arrival + limits->period)))
		{
			limits->ntaken++;
			return true;
		}
	}
}

/* Give back tokens that were taken in vain. */
static void
return_tokens(QueueShared *q, Limits *limits, int n)
{
	pg_atomic_fetch_sub_u64(&q->rate_arrival, (uint64) (limits->period * n));
	limits->ntaken -= n;
}

void
limit_end(QueueShared *q, Limits *limits, int n)
{
	if (limits->ntaken > n)
		return_tokens(q, limits, limits->ntaken - n);
}

void
limit_forget(QueueShared *q)
{
	pg_atomic_write_u64(&q->rate_arrival, 0);
}

/*
 * Both
 */

bool
limit_enter_limited(QueueShared *q, Limits *limits)
{
	/* Tokens first: given back they wake nobody. */
	if (limits->period > 0 && !take_token(q, limits))
		return false;
	if (limits->max_in_flight == 0)
	{
		counter_add(&q->counters, COUNTER_LEASED, 1);
		return true;
	}
	while (!counter_add_up_to(&q->counters, COUNTER_LEASED, limits->max_in_flight))
	{
		if (!flight_is_full(q, limits))
			continue;
		if (limits->period > 0)
			return_tokens(q, limits, 1);
		limits->stopped = true;
		return false;
	}
	return true;
}
