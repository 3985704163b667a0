/*
 * settle.c
 *		End leases: acknowledge, fail, reject, expire.
 *
 * Settling brings the lease to SETTLING, checks that the message is still
 * where the lease says, and changes the tables in the current transaction;
 * the lease ends with its commit (lease.c).
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/relation.h"
#include "access/xact.h"
#include "compat.h"
#include "engine/claim.h"
#include "engine/dead_letter.h"
#include "engine/deferred.h"
#include "engine/frontier.h"
#include "guard.h"
#include "engine/place.h"
#include "engine/registry.h"
#include "engine/segment.h"
#include "engine/settle.h"
#include "miscadmin.h"
#include "stop_point.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "workers/problem.h"
#include "workers/transaction.h"
#include "workers/worker.h"

/* Expired leases handled in one transaction: so many, or for so long. */
#define EXPIRE_BATCH	500
#define EXPIRE_MS		200

/* How soon an expired lease is tried again whose row somebody has locked. */
#define LOCKED_RETRY	1000	/* milliseconds */

/* The same after an error: from this to that. */
#define TROUBLE_FIRST	5000
#define TROUBLE_LAST	300000

/* What queue.maintenance calls it. */
static const char expiry_activity[] = "settling expired leases";

/* An expired lease cannot be settled: let it be tried again, later each time. */
static void
report_trouble(const Lease *lease, const ErrorData *error)
{
	int64		delay = TROUBLE_FIRST;
	TimestampTz retry_at;
	Lease		now;

	for (int i = 0; i < lease->retries && delay < TROUBLE_LAST; i++)
		delay *= 2;
	retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), Min(delay, TROUBLE_LAST));

	/* It has another receipt since the attempt was undone. */
	if (lease_find(lease->q, lease->id, &now))
		lease_retry_expiry(now.ref, retry_at);
	problem_report(lease->q->relid, expiry_activity, error->sqlerrcode, error->message, retry_at);
	if (lease->retries == 0)
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("could not settle the expired lease of message " INT64_FORMAT " in table %u: %s",
						lease->id, lease->place.relid, error->message)));
}

/*
 * Lock a table for writing; false if it is gone, or we are not to wait and
 * would have to.
 */
static bool
lock_table(Oid relid, bool wait)
{
	if (!wait)
		return ConditionalLockRelationOid(relid, RowExclusiveLock);
	LockRelationOid(relid, RowExclusiveLock);
	return true;
}

void
settle_close(SettleTable *table)
{
	if (table->rel != NULL)
		relation_close(table->rel, NoLock);
	table->rel = NULL;
}

/*
 * Open the table a lease points into, the queue's own being locked before, in
 * the order of who purges or drops it.  NULL if it is gone or, which *locked
 * says, we are not to wait for it and would have to.
 */
static Relation
open_leased(const Lease *lease, bool wait, SettleTable *table, bool *locked)
{
	Oid			relid = lease->place.relid;

	*locked = false;
	if (table->rel != NULL && RelationGetRelid(table->rel) == relid)
		return table->rel;
	settle_close(table);
	if (!lock_table(lease->q->relid, wait) || !lock_table(relid, wait))
	{
		*locked = true;
		return NULL;
	}
	table->rel = try_relation_open(relid, NoLock);
	if (table->rel != NULL && lease->place.segment != LEASE_IN_DEFERRED &&
		!segment_check(lease->q, table->rel))
		settle_close(table);
	return table->rel;
}

bool
settle_ack_lease(LeaseRef ref, SettleTable *table)
{
	Lease		lease;
	Relation	rel;
	bool		locked;

	if (!lease_begin_settle(ref, &lease))
		return false;
	STOP_POINT("settle-begun");
	rel = open_leased(&lease, true, table, &locked);
	if (rel != NULL && place_delete(rel, &lease, true, NULL) == TM_Ok)
		return true;
	lease_mark(ref, LEASE_GONE);
	return false;
}

bool
settle_ack(int64 receipt)
{
	SettleTable table = {0};
	bool		result = settle_ack_lease(lease_of_receipt(receipt), &table);

	settle_close(&table);
	return result;
}

/* The back-off after this many failed attempts. */
static int64
backoff(Queue *queue, int attempts)
{
	int64		delay = queue->backoff;

	for (int i = 1; i < attempts && delay < queue->backoff_max; i++)
		delay *= 2;
	return Min(delay, queue->backoff_max);
}

typedef enum FailureResult
{
	FAILURE_ENDED,				/* the lease had, or the message */
	FAILURE_LOCKED,				/* somebody has a lock, and we did not wait */
	FAILURE_DEFERRED,
	FAILURE_DEAD
} FailureResult;

/* Where a failed message went. */
typedef struct Failed
{
	Message		message;
	LeasePlace	place;			/* if deferred */
} Failed;

/*
 * Move a leased message to where it is tried again, or to the dead letters.
 * Locked, with no wait, leaves the lease held, to be looked at again soon.
 */
static FailureResult
fail(LeaseRef ref, const Failure *failure, SettleTable *table, Failed *failed)
{
	Oid			relid = lease_queue(ref);
	Queue	   *queue;
	Lease		lease;
	Relation	rel;
	HeapTuple	tuple;
	Message	   *message = &failed->message;
	const char *unreadable;
	TM_Result	result;
	bool		locked;

	if (!OidIsValid(relid) || (queue = queue_by_relid(relid)) == NULL)
		return FAILURE_ENDED;

	/* The queue too, or it may be dropped before our row can be seen. */
	if (!lock_table(relid, failure->wait) ||
		!lock_table(extension_relation("deferred"), failure->wait) ||
		!lock_table(extension_relation("dead"), failure->wait))
		return FAILURE_LOCKED;
	if (!(failure->expired_by != 0 ? lease_begin_expire(ref, failure->expired_by, &lease) :
		  lease_begin_settle(ref, &lease)))
		return FAILURE_ENDED;
	STOP_POINT("settle-begun");
	lease_mark(ref, LEASE_GONE);

	rel = open_leased(&lease, failure->wait, table, &locked);
	if (rel == NULL)
	{
		if (!locked)
			return FAILURE_ENDED;
		lease_cancel_settle(ref, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LOCKED_RETRY));
		return FAILURE_LOCKED;
	}
	result = place_delete(rel, &lease, failure->wait, &tuple);
	if (result == TM_BeingModified)
	{
		lease_cancel_settle(ref, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LOCKED_RETRY));
		return FAILURE_LOCKED;
	}
	if (result != TM_Ok)
		return FAILURE_ENDED;

	/* Deleted by us, so that its toasted values are there. */
	unreadable = message_deform(lease.place.segment == LEASE_IN_DEFERRED ?
								&deferred_columns : &message_columns,
								tuple, RelationGetDescr(rel), message);
	message->attempts = failure->attempts > 0 ? failure->attempts : lease.attempts;
	lease_mark(ref, failure->expired_by != 0 ? LEASE_EXPIRED : LEASE_FAILED);

	if (unreadable != NULL)
		dead_letter_insert(queue, message, "unreadable", unreadable);
	else if (failure->dead)
		dead_letter_insert(queue, message, failure->reason, failure->error);
	else if (message->attempts >= (failure->max_attempts > 0 ? failure->max_attempts : queue->max_attempts))
		dead_letter_insert(queue, message, "max_attempts", failure->error);
	else
	{
		int64		delay = failure->delay >= 0 ? failure->delay : backoff(queue, message->attempts);

		failed->place.relid = extension_relation("deferred");
		failed->place.segment = LEASE_IN_DEFERRED;
		failed->place.due_at = GetCurrentTimestamp() + delay;
		deferred_insert(queue, message, failed->place.due_at, message->attempts,
						failure->error, &failed->place.tid);
		return FAILURE_DEFERRED;
	}
	return FAILURE_DEAD;
}

bool
settle_fail_lease(LeaseRef ref, const Failure *failure, SettleTable *table)
{
	Failed		failed;

	return fail(ref, failure, table, &failed) >= FAILURE_DEFERRED;
}

static bool
fail_one(LeaseRef ref, const Failure *failure)
{
	SettleTable table = {0};
	bool		result = settle_fail_lease(ref, failure, &table);

	settle_close(&table);
	return result;
}

bool
settle_fail(int64 receipt, int64 delay, const char *error, int attempts, int max_attempts)
{
	const Failure failure = {
		.delay = delay,.attempts = attempts,.max_attempts = max_attempts,.wait = true,.error = error
	};

	return fail_one(lease_of_receipt(receipt), &failure);
}

bool
settle_unreadable(LeaseRef ref, const char *error)
{
	const Failure failure = {.dead = true,.reason = "unreadable",.error = error};

	return fail_one(ref, &failure);
}

/*
 * Leases that have ended
 */

static const char lease_expired_error[] = "lease expired";

/* When a lease's message would be due again, had its expiry been noticed at once. */
static TimestampTz
overdue_at(const Lease *lease, void *arg)
{
	Queue	   *queue = arg;

	if (lease->attempts >= queue->max_attempts)
		return lease->expires_at;
	return lease->expires_at + backoff(queue, lease->attempts);
}

typedef struct TakeOver
{
	ClaimScan  *scan;
	LeaseRef	ref;
	bool		nothing;		/* was done, */
	bool		locked;			/* as somebody has a lock */
} TakeOver;

/* Count a lease's end as a failure, and lease its message to the scan's caller. */
static void
take_over(void *arg)
{
	TakeOver   *this = arg;
	ClaimScan  *scan = this->scan;
	const Failure failure = {.expired_by = scan->now,.error = lease_expired_error};
	Failed	   *failed = palloc0(sizeof(Failed));
	SettleTable table = {0};
	LeaseRef	ref;
	int			pending = lease_pending();
	FailureResult result = fail(this->ref, &failure, &table, failed);

	settle_close(&table);
	this->nothing = (lease_pending() == pending);
	this->locked = (result == FAILURE_LOCKED);

	/*
	 * If nothing was done, for a lock or because somebody else was first, an
	 * error gives up the locks we did get: who waits is in nobody's way.
	 */
	if (this->nothing)
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("could not obtain lock on the message")));
	if (result != FAILURE_DEFERRED)
		return;

	/* Its own command, so that this transaction can acknowledge it. */
	CommandCounterIncrement();
	if (lease_take(scan->q, &failed->place, failed->message.id, failed->message.attempts + 1,
				   scan->kind, scan->now, scan->expires_at, &ref) == LEASE_TAKEN)
	{
		Claim	   *claim = frontier_add_claim(scan, ref, failed->message.id,
											   failed->message.attempts + 1, LEASE_IN_DEFERRED);

		claim->message = &failed->message;
		claim->message->attempts++;
	}
}

static int
compare_leases(const void *a, const void *b)
{
	int64		x = ((const Lease *) a)->id;
	int64		y = ((const Lease *) b)->id;

	return (x > y) - (x < y);
}

void
settle_overdue(Queue *queue, ClaimScan *scan)
{
	QueueShared *q = scan->q;
	Lease	   *overdue;
	int			n;

	if ((TimestampTz) pg_atomic_read_u64(&q->next_expiry) > scan->now ||
		XactReadOnly || IsInParallelMode() || scan->nclaims >= scan->max)
		return;

	overdue = palloc(sizeof(Lease) * EXPIRE_BATCH);
	n = lease_overdue(q, scan->now, overdue_at, queue, overdue, EXPIRE_BATCH);
	STOP_POINT("expiry-found");
	qsort(overdue, n, sizeof(Lease), compare_leases);
	lease_reserve(2 * n + scan->max + 1);
	for (int i = 0; i < n; i++)
	{
		TakeOver	this = {.scan = scan,.ref = overdue[i].ref};
		ErrorData  *error;

		CHECK_FOR_INTERRUPTS();
		if (scan->nclaims >= scan->max)
			break;				/* the rest is for the next receiver */
		if (lease_queue(this.ref) != queue->relid || guard_run(take_over, &this, &error))
			continue;
		if (this.locked)
			lease_retry_expiry(this.ref, TimestampTzPlusMilliseconds(scan->now, LOCKED_RETRY));
		else if (!this.nothing)
			report_trouble(&overdue[i], error);
	}
	pfree(overdue);
}

/*
 * Fail expired leases in one transaction.  An error is reported, and false
 * returned.  *done says how many it was, as large messages take their time,
 * and others wait.
 */
static bool
expire(const Lease *leases, int n, TimestampTz now, int *done)
{
	const Failure failure = {.delay = -1,.expired_by = now,.error = lease_expired_error};
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
			if (fail(ref, &failure, &table, &failed) == FAILURE_LOCKED)
				lease_retry_expiry(ref, TimestampTzPlusMilliseconds(now, LOCKED_RETRY));
			MemoryContextReset(each);
			if (TimestampDifferenceExceeds(start, GetCurrentTimestamp(), EXPIRE_MS))
				break;
		}
		settle_close(&table);
		worker_end();
		for (int i = 0; i < *done; i++)
		{
			if (leases[i].retries > 0)
				problem_solved(leases[i].q->relid, expiry_activity);
		}
	}
	PG_CATCH();
	{
		ErrorData  *error;

		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		LWLockReleaseAll();
		AbortOutOfAnyTransaction();
		FlushErrorState();
		MemoryContextSwitchTo(context);
		if (n == 1)
			report_trouble(leases, error);
		FreeErrorData(error);
		RESUME_INTERRUPTS();
		ok = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	return ok;
}

TimestampTz
settle_expired(void)
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

	/* Together if that goes; or one by one, so that each has its own error. */
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
	return n > 0 ? Min(next, TimestampTzPlusMilliseconds(now, LOCKED_RETRY)) : next;
}
