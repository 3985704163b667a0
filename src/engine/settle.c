/*
 * settle.c
 *		End leases: acknowledge, fail, reject, expire; and their functions.
 *
 * Settling brings the lease to SETTLING, checks that the message is still
 * where the lease says, and changes the tables in the current transaction;
 * the lease ends with its commit (lease.c).
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/relation.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "duration.h"
#include "engine/claim.h"
#include "engine/dead_letter.h"
#include "engine/deferred.h"
#include "engine/frontier.h"
#include "engine/guard.h"
#include "engine/place.h"
#include "engine/registry.h"
#include "engine/segment.h"
#include "engine/settle.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "stop_point.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
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

PG_FUNCTION_INFO_V1(queue_ack);
PG_FUNCTION_INFO_V1(queue_ack_batch);
PG_FUNCTION_INFO_V1(queue_nack);
PG_FUNCTION_INFO_V1(queue_nack_batch);
PG_FUNCTION_INFO_V1(queue_reject);
PG_FUNCTION_INFO_V1(queue_extend);
PG_FUNCTION_INFO_V1(queue_extend_batch);
PG_FUNCTION_INFO_V1(queue_release);

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

/* A table of messages kept open over several leases. */
typedef struct Cached
{
	Relation	rel;
} Cached;

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

static void
close_cached(Cached *cached)
{
	if (cached->rel != NULL)
		relation_close(cached->rel, NoLock);
	cached->rel = NULL;
}

/*
 * Open the table a lease points into, the queue's own being locked before, in
 * the order of who purges or drops it.  NULL if it is gone or, which *locked
 * says, we are not to wait for it and would have to.
 */
static Relation
open_leased(const Lease *lease, bool wait, Cached *cached, bool *locked)
{
	Oid			relid = lease->place.relid;

	*locked = false;
	if (cached->rel != NULL && RelationGetRelid(cached->rel) == relid)
		return cached->rel;
	close_cached(cached);
	if (!lock_table(lease->q->relid, wait) || !lock_table(relid, wait))
	{
		*locked = true;
		return NULL;
	}
	cached->rel = try_relation_open(relid, NoLock);
	if (cached->rel != NULL && lease->place.segment != LEASE_IN_DEFERRED &&
		!segment_check(lease->q, cached->rel))
		close_cached(cached);
	return cached->rel;
}

static bool
ack(LeaseRef ref, Cached *cached)
{
	Lease		lease;
	Relation	rel;
	bool		locked;

	if (!lease_begin_settle(ref, &lease))
		return false;
	STOP_POINT("settle-begun");
	rel = open_leased(&lease, true, cached, &locked);
	if (rel != NULL && place_delete(rel, &lease, true, NULL) == TM_Ok)
		return true;
	lease_mark(ref, LEASE_GONE);
	return false;
}

bool
settle_ack(int64 receipt)
{
	Cached		cached = {0};
	bool		result = ack(lease_of_receipt(receipt), &cached);

	close_cached(&cached);
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

/* How the delivery of a message failed, and what is to become of it. */
typedef struct Failure
{
	int64		delay;			/* -1: back off */
	int			attempts;		/* 0: the lease's */
	int			max_attempts;	/* 0: the queue's */
	bool		dead;			/* whatever the attempts */
	bool		wait;			/* for a lock on the row or a table */
	TimestampTz expired_by;		/* the lease ended by then; 0: it did not */
	const char *reason;
	const char *error;
} Failure;

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
fail(LeaseRef ref, const Failure *failure, Cached *cached, Failed *failed)
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
		!lock_table(extension_relation("dead_letter"), failure->wait))
		return FAILURE_LOCKED;
	if (!(failure->expired_by != 0 ? lease_begin_expire(ref, failure->expired_by, &lease) :
		  lease_begin_settle(ref, &lease)))
		return FAILURE_ENDED;
	STOP_POINT("settle-begun");
	lease_mark(ref, LEASE_GONE);

	rel = open_leased(&lease, failure->wait, cached, &locked);
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
	unreadable = claim_read(tuple, RelationGetDescr(rel),
							lease.place.segment == LEASE_IN_DEFERRED, message);
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

/* The same for callers who want no more than to know whether it was done. */
static bool
fail_one(LeaseRef ref, const Failure *failure)
{
	Cached		cached = {0};
	Failed		failed;
	FailureResult result = fail(ref, failure, &cached, &failed);

	close_cached(&cached);
	return result >= FAILURE_DEFERRED;
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
	Cached		cached = {0};
	LeaseRef	ref;
	int			pending = lease_pending();
	FailureResult result = fail(this->ref, &failure, &cached, failed);

	close_cached(&cached);
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
		Cached		cached = {0};

		worker_begin();
		each = AllocSetContextCreate(CurrentMemoryContext, "queue expiry", ALLOCSET_DEFAULT_SIZES);
		MemoryContextSwitchTo(each);
		while (*done < n)
		{
			LeaseRef	ref = leases[(*done)++].ref;
			Failed		failed;

			CHECK_FOR_INTERRUPTS();
			if (fail(ref, &failure, &cached, &failed) == FAILURE_LOCKED)
				lease_retry_expiry(ref, TimestampTzPlusMilliseconds(now, LOCKED_RETRY));
			MemoryContextReset(each);
			if (TimestampDifferenceExceeds(start, GetCurrentTimestamp(), EXPIRE_MS))
				break;
		}
		close_cached(&cached);
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

/*
 * The rights of the caller on a receipt's queue.  False if the lease has
 * ended: that is no error, and tells nothing about the queue.
 */
static bool
check_receipt(LeaseRef ref, Oid *checked)
{
	Oid			relid = lease_queue(ref);

	if (!OidIsValid(relid))
		return false;
	if (relid != *checked && !queue_rights_known(relid, ACL_DELETE))
	{
		Queue	   *queue = queue_by_relid(relid);

		if (queue == NULL)
			return false;
		queue_check_rights(relid, NameStr(queue->name), ACL_DELETE);
	}
	*checked = relid;
	return true;
}

/* Raise an error where the transaction may not write. */
static void
check_writable(const char *function)
{
	PreventCommandIfReadOnly(function);
	PreventCommandIfParallelMode(function);
}

Datum
queue_ack(PG_FUNCTION_ARGS)
{
	LeaseRef	ref = lease_of_receipt(PG_GETARG_INT64(0));
	Oid			checked = InvalidOid;
	Cached		cached = {0};
	bool		acked;

	check_writable("queue.ack()");
	acked = check_receipt(ref, &checked) && ack(ref, &cached);
	close_cached(&cached);
	PG_RETURN_BOOL(acked);
}

/* The leases of an array argument of receipts, NULLs left out. */
static LeaseRef *
receipt_array(ArrayType *array, int *n)
{
	Datum	   *values;
	bool	   *isnull;
	int			nvalues;
	LeaseRef   *refs;

	deconstruct_array(array, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE,
					  &values, &isnull, &nvalues);
	refs = palloc(sizeof(LeaseRef) * Max(nvalues, 1));
	*n = 0;
	for (int i = 0; i < nvalues; i++)
	{
		if (!isnull[i])
			refs[(*n)++] = lease_of_receipt(DatumGetInt64(values[i]));
	}
	return refs;
}

Datum
queue_ack_batch(PG_FUNCTION_ARGS)
{
	int			n;
	LeaseRef   *refs = receipt_array(PG_GETARG_ARRAYTYPE_P(0), &n);
	Oid			checked = InvalidOid;
	Cached		cached = {0};
	int			acked = 0;

	check_writable("queue.ack_batch()");
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (check_receipt(refs[i], &checked) && ack(refs[i], &cached))
			acked++;
	}
	close_cached(&cached);
	PG_RETURN_INT32(acked);
}

/* The arguments delay and error of nack. */
static void
nack_arguments(FunctionCallInfo fcinfo, Failure *failure)
{
	memset(failure, 0, sizeof(Failure));
	failure->wait = true;
	failure->delay = PG_ARGISNULL(1) ? -1 :
		duration_microseconds("delay", PG_GETARG_INTERVAL_P(1), 0);
	if (!PG_ARGISNULL(2))
		failure->error = text_to_cstring(PG_GETARG_TEXT_PP(2));
}

/* Fail one message, or several, as the caller may. */
static int
nack(const LeaseRef *refs, int n, const Failure *failure)
{
	Oid			checked = InvalidOid;
	Cached		cached = {0};
	int			nfailed = 0;

	for (int i = 0; i < n; i++)
	{
		Failed		failed;

		CHECK_FOR_INTERRUPTS();
		if (check_receipt(refs[i], &checked) &&
			fail(refs[i], failure, &cached, &failed) >= FAILURE_DEFERRED)
			nfailed++;
	}
	close_cached(&cached);
	return nfailed;
}

Datum
queue_nack(PG_FUNCTION_ARGS)
{
	Failure		failure;
	LeaseRef	ref;

	check_writable("queue.nack()");
	nack_arguments(fcinfo, &failure);
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	ref = lease_of_receipt(PG_GETARG_INT64(0));
	PG_RETURN_BOOL(nack(&ref, 1, &failure) == 1);
}

Datum
queue_nack_batch(PG_FUNCTION_ARGS)
{
	Failure		failure;
	LeaseRef   *refs;
	int			n;

	check_writable("queue.nack_batch()");
	nack_arguments(fcinfo, &failure);
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	refs = receipt_array(PG_GETARG_ARRAYTYPE_P(0), &n);
	PG_RETURN_INT32(nack(refs, n, &failure));
}

Datum
queue_reject(PG_FUNCTION_ARGS)
{
	Failure		failure = {.dead = true,.wait = true,.reason = "rejected"};
	LeaseRef	ref;

	check_writable("queue.reject()");
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	if (!PG_ARGISNULL(1))
		failure.reason = text_to_cstring(PG_GETARG_TEXT_PP(1));
	ref = lease_of_receipt(PG_GETARG_INT64(0));
	PG_RETURN_BOOL(nack(&ref, 1, &failure) == 1);
}

/* Extend one lease, or several, as the caller may. */
static int
extend(FunctionCallInfo fcinfo, const LeaseRef *refs, int n)
{
	Oid			checked = InvalidOid;
	int64		lease = -1;
	int			extended = 0;

	if (!PG_ARGISNULL(1))
		lease = duration_microseconds("lease", PG_GETARG_INTERVAL_P(1), 1);
	for (int i = 0; i < n; i++)
	{
		Queue	   *queue;
		TimestampTz expires_at;

		if (!check_receipt(refs[i], &checked) || (queue = queue_by_relid(checked)) == NULL)
			continue;
		expires_at = GetCurrentTimestamp() + (lease > 0 ? lease : queue->lease);
		if (lease_extend(refs[i], expires_at))
			extended++;
	}
	return extended;
}

Datum
queue_extend(PG_FUNCTION_ARGS)
{
	LeaseRef	ref;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	ref = lease_of_receipt(PG_GETARG_INT64(0));
	PG_RETURN_BOOL(extend(fcinfo, &ref, 1) == 1);
}

Datum
queue_extend_batch(PG_FUNCTION_ARGS)
{
	LeaseRef   *refs;
	int			n;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	refs = receipt_array(PG_GETARG_ARRAYTYPE_P(0), &n);
	PG_RETURN_INT32(extend(fcinfo, refs, n));
}

/* queue.release: (queue, id).  For its owner, when a consumer has it for too long. */
Datum
queue_release(PG_FUNCTION_ARGS)
{
	char	   *name;
	Queue	   *queue;
	Lease		lease;

	PreventCommandDuringRecovery("queue.release()");
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", PG_ARGISNULL(0) ? "queue" : "id")));
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	queue = queue_by_name(PG_GETARG_TEXT_PP(0), ACL_NO_RIGHTS);
	queue_check_owner(queue->relid, name);

	if (!lease_find(queue->shared, PG_GETARG_INT64(1), &lease))
		PG_RETURN_BOOL(false);
	if (lease.kind == LEASE_PROCESS)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("message " INT64_FORMAT " of queue \"%s\" is in the hands of a relay", lease.id, name),
				 errhint("Pause the relay with queue.pause_relay().")));
	PG_RETURN_BOOL(lease.kind == LEASE_TIMED && lease_release(lease.ref));
}
