/*
 * expiry.c
 *		Failing the leases that have expired.
 */
#include "postgres.h"

#include "background.h"
#include "engine/overdue.h"
#include "engine/problem.h"
#include "engine/settle.h"
#include "miscadmin.h"
#include "stop_point.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "workers/expiry.h"
#include "workers/transaction.h"

/* Expired leases handled in one transaction: at most so many, and for so long. */
#define EXPIRE_BATCH	500
#define EXPIRE_MS		200

/*
 * Fail expired leases in one transaction.  An error is reported, and false
 * returned.  *done is how many it was within EXPIRE_MS, as large messages take
 * long and other work must not wait.
 */
static bool
expire(const Lease *leases, int n, TimestampTz now, int *done)
{
	const Failure failure = {.delay = -1,.expired_by = now,.error = overdue_error};
	MemoryContext context = CurrentMemoryContext;
	volatile bool ok = true;

	*done = 0;
	PG_TRY();
	{
		TimestampTz start = GetCurrentTimestamp();
		MemoryContext each;
		SettleTable table = {0};

		worker_begin();
		each = AllocSetContextCreate(CurrentMemoryContext, "queue expiry", ALLOCSET_DEFAULT_SIZES);
		MemoryContextSwitchTo(each);
		while (*done < n)
		{
			LeaseRef	ref = leases[(*done)++].ref;
			Failed		failed;

			CHECK_FOR_INTERRUPTS();
			if (settle_failed(ref, &failure, &table, &failed) == FAILURE_LOCKED)
				lease_retry_expiry(ref, TimestampTzPlusMilliseconds(now, SETTLE_RETRY_MS));
			MemoryContextReset(each);
			if (TimestampDifferenceExceeds(start, GetCurrentTimestamp(), EXPIRE_MS))
				break;
		}
		settle_close(&table);
		worker_end();
		for (int i = 0; i < *done; i++)
		{
			if (leases[i].retries > 0)
				problem_solved(leases[i].q->relid, overdue_activity);
		}
	}
	PG_CATCH();
	{
		ErrorData  *error = background_failed(context, false);

		if (n == 1)
			overdue_report_trouble(leases, error);
		FreeErrorData(error);
		ok = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	return ok;
}

/* The first of a run of a key that was received together comes first: the others end with it. */
static int
compare_leases(const void *a, const void *b)
{
	int64		x = ((const Lease *) a)->id;
	int64		y = ((const Lease *) b)->id;

	return (x > y) - (x < y);
}

TimestampTz
expire_leases(void)
{
	static Lease *expired = NULL;
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz next;
	int			n;
	int			done = 0;

	if (expired == NULL)
		expired = MemoryContextAlloc(TopMemoryContext, sizeof(Lease) * EXPIRE_BATCH);
	n = lease_expired(now, expired, EXPIRE_BATCH, &next);
	if (n > 0)
		STOP_POINT("expiry-found");
	qsort(expired, n, sizeof(Lease), compare_leases);

	/* Together, or if that fails one by one, so that each has its own error. */
	if (n > 0 && !expire(expired, n, now, &done))
	{
		TimestampTz start = GetCurrentTimestamp();
		int			one;

		for (done = 0; done < n; done++)
		{
			if (done > 0 && TimestampDifferenceExceeds(start, GetCurrentTimestamp(), EXPIRE_MS))
				break;
			(void) expire(&expired[done], 1, now, &one);
		}
	}
	if (n == EXPIRE_BATCH || done < n)
		return now;
	return n > 0 ? Min(next, TimestampTzPlusMilliseconds(now, SETTLE_RETRY_MS)) : next;
}
