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
#include "catalog.h"
#include "catalog/pg_type.h"
#include "claim.h"
#include "compat.h"
#include "deferred.h"
#include "duration.h"
#include "fmgr.h"
#include "frontier.h"
#include "miscadmin.h"
#include "segment.h"
#include "settle.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "worker.h"

/* Expired leases handled in one transaction. */
#define EXPIRE_BATCH	500

/* How soon an expired lease is tried again whose row somebody has locked. */
#define LOCKED_RETRY	1000	/* milliseconds */

PG_FUNCTION_INFO_V1(queue_ack);
PG_FUNCTION_INFO_V1(queue_ack_batch);
PG_FUNCTION_INFO_V1(queue_nack);
PG_FUNCTION_INFO_V1(queue_nack_batch);
PG_FUNCTION_INFO_V1(queue_reject);
PG_FUNCTION_INFO_V1(queue_extend);
PG_FUNCTION_INFO_V1(queue_extend_batch);

/* Open the table a lease points into; NULL if it is gone. */
static Relation
open_leased(LeaseSlot *slot, Relation *cached)
{
	if (*cached != NULL && RelationGetRelid(*cached) == slot->relid)
		return *cached;
	if (*cached != NULL)
		relation_close(*cached, NoLock);
	*cached = try_relation_open(slot->relid, RowExclusiveLock);
	return *cached;
}

static void
close_leased(Relation *cached)
{
	if (*cached != NULL)
		relation_close(*cached, NoLock);
	*cached = NULL;
}

/*
 * Whether the lease's place still holds its message, by the id; the tuple may
 * be copied.  A place can be reused after TRUNCATE or VACUUM FULL.
 */
static bool
message_in_place(Relation rel, LeaseSlot *slot, HeapTuple *copy)
{
	Buffer		buffer;
	ItemId		item = frontier_lock_place(rel, &slot->tid, slot->id, &buffer);

	if (item == NULL)
		return false;
	if (copy != NULL)
		*copy = frontier_copy_place(rel, &slot->tid, item, buffer);
	UnlockReleaseBuffer(buffer);
	return true;
}

/* Delete a leased message's row, waiting for a lock on it if asked to. */
static TM_Result
delete_leased(Relation rel, LeaseSlot *slot, bool wait)
{
	TM_FailureData tmfd;

	return heap_delete(rel, &slot->tid, GetCurrentCommandId(true), InvalidSnapshot,
					   wait, &tmfd, false);
}

static bool
ack(int64 receipt, Relation *cached)
{
	LeaseSlot  *slot = lease_begin_settle(receipt);
	Relation	rel;

	if (slot == NULL)
		return false;
	rel = open_leased(slot, cached);
	if (rel != NULL && message_in_place(rel, slot, NULL) &&
		delete_leased(rel, slot, true) == TM_Ok)
		return true;
	lease_mark(slot, LEASE_GONE);
	return false;
}

bool
settle_ack(int64 receipt)
{
	Relation	cached = NULL;
	bool		result = ack(receipt, &cached);

	close_leased(&cached);
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

/* What becomes of a message whose delivery failed. */
typedef struct Failure
{
	int64		delay;			/* -1: back off */
	int			max_attempts;	/* 0: the queue's */
	bool		dead;			/* whatever the attempts */
	bool		wait;			/* for a lock on the row */
	const char *reason;
	const char *error;
} Failure;

/* Lock a table for writing; false if we are not to wait and would have to. */
static bool
lock_table(Oid relid, bool wait)
{
	if (!wait)
		return ConditionalLockRelationOid(relid, RowExclusiveLock);
	LockRelationOid(relid, RowExclusiveLock);
	return true;
}

/*
 * Move a leased message to where it is tried again, or to the dead letters.
 * If its row or a table is locked and we are not to wait, *locked is set and
 * the lease left settling.
 */
static bool
fail(int64 receipt, const Failure *failure, Relation *cached, bool *locked)
{
	LeaseSlot  *slot;
	Queue	   *queue;
	Relation	rel;
	HeapTuple	tuple;
	Message		message;
	Oid			relid = lease_queue(receipt);
	TM_Result	result;

	if (!OidIsValid(relid) || (queue = queue_by_relid(relid)) == NULL ||
		(slot = lease_begin_settle(receipt)) == NULL)
		return false;
	lease_mark(slot, LEASE_GONE);

	/* The queue too, or it may be dropped before our row can be seen. */
	if (!lock_table(relid, failure->wait) || !lock_table(slot->relid, failure->wait))
	{
		*locked = true;
		return false;
	}
	rel = open_leased(slot, cached);
	if (rel == NULL || !message_in_place(rel, slot, &tuple))
		return false;

	/* No error: it would keep the others from expiring. */
	if (slot->segment != LEASE_IN_DEFERRED && !segment_columns_valid(rel))
		return false;

	/* Fetch toasted values while they are there. */
	claim_deform(tuple, RelationGetDescr(rel), slot->segment == LEASE_IN_DEFERRED, &message);
	message.attempts = slot->attempts;
	result = delete_leased(rel, slot, failure->wait);
	if (result == TM_BeingModified && locked != NULL)
		*locked = true;
	if (result != TM_Ok)
		return false;

	if (failure->dead)
		dead_letter_insert(queue, &message, failure->reason, failure->error);
	else if (message.attempts >= (failure->max_attempts > 0 ? failure->max_attempts : queue->max_attempts))
		dead_letter_insert(queue, &message, "max_attempts", failure->error);
	else
		deferred_insert(queue, &message,
						GetCurrentTimestamp() +
						(failure->delay >= 0 ? failure->delay : backoff(queue, message.attempts)),
						message.attempts, failure->error, NULL);
	lease_mark(slot, LEASE_FAILED);
	return true;
}

bool
settle_fail(int64 receipt, int64 delay, const char *error, int max_attempts)
{
	Failure		failure = {.delay = delay,.max_attempts = max_attempts,.wait = true,.error = error};
	Relation	cached = NULL;
	bool		result = fail(receipt, &failure, &cached, NULL);

	close_leased(&cached);
	return result;
}

bool
settle_reject(int64 receipt, const char *reason, const char *error)
{
	Failure		failure = {.dead = true,.wait = true,.reason = reason,.error = error};
	Relation	cached = NULL;
	bool		result = fail(receipt, &failure, &cached, NULL);

	close_leased(&cached);
	return result;
}

TimestampTz
settle_expired(void)
{
	const Failure failure = {.delay = -1,.error = "lease expired"};
	int64		receipts[EXPIRE_BATCH];
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz next;
	Relation	cached = NULL;
	MemoryContext context;
	MemoryContext old;
	int			n = lease_expired(now, receipts, EXPIRE_BATCH, &next);

	if (n == 0)
		return next;

	context = AllocSetContextCreate(CurrentMemoryContext, "queue expiry", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	for (int i = 0; i < n; i++)
	{
		bool		locked = false;
		Oid			relid = lease_queue(receipts[i]);

		CHECK_FOR_INTERRUPTS();
		if (fail(receipts[i], &failure, &cached, &locked))
		{
			Queue	   *queue = queue_by_relid(relid);

			if (queue != NULL)
				pg_atomic_fetch_add_u64(&queue->shared->expired, 1);
		}
		else if (locked)
			lease_cancel_settle(lease_slot(receipts[i] & ((1 << LEASE_SLOT_BITS) - 1)),
								TimestampTzPlusMilliseconds(now, LOCKED_RETRY));
		MemoryContextReset(context);
	}
	close_leased(&cached);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);

	/* There may be more that have expired. */
	return n == EXPIRE_BATCH ? now : Min(next, TimestampTzPlusMilliseconds(now, LOCKED_RETRY));
}

/*
 * The rights of the caller on a receipt's queue.  False if the lease has
 * ended: that is no error, and tells nothing about the queue.
 */
static bool
check_receipt(int64 receipt, Oid *checked)
{
	Oid			relid = lease_queue(receipt);

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
	int64		receipt = PG_GETARG_INT64(0);
	Oid			checked = InvalidOid;

	check_writable("queue.ack()");
	PG_RETURN_BOOL(check_receipt(receipt, &checked) && settle_ack(receipt));
}

/* The receipts of an array argument, NULLs left out. */
static int64 *
receipt_array(ArrayType *array, int *n)
{
	Datum	   *values;
	bool	   *isnull;
	int			nvalues;
	int64	   *receipts;

	deconstruct_array(array, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE,
					  &values, &isnull, &nvalues);
	receipts = palloc(sizeof(int64) * Max(nvalues, 1));
	*n = 0;
	for (int i = 0; i < nvalues; i++)
	{
		if (!isnull[i])
			receipts[(*n)++] = DatumGetInt64(values[i]);
	}
	return receipts;
}

Datum
queue_ack_batch(PG_FUNCTION_ARGS)
{
	int			n;
	int64	   *receipts = receipt_array(PG_GETARG_ARRAYTYPE_P(0), &n);
	Oid			checked = InvalidOid;
	Relation	cached = NULL;
	int			acked = 0;

	check_writable("queue.ack_batch()");
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (check_receipt(receipts[i], &checked) && ack(receipts[i], &cached))
			acked++;
	}
	close_leased(&cached);
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
nack(int64 *receipts, int n, const Failure *failure)
{
	Oid			checked = InvalidOid;
	Relation	cached = NULL;
	int			failed = 0;

	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (check_receipt(receipts[i], &checked) && fail(receipts[i], failure, &cached, NULL))
			failed++;
	}
	close_leased(&cached);
	return failed;
}

Datum
queue_nack(PG_FUNCTION_ARGS)
{
	Failure		failure;
	int64		receipt;

	check_writable("queue.nack()");
	nack_arguments(fcinfo, &failure);
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	receipt = PG_GETARG_INT64(0);
	PG_RETURN_BOOL(nack(&receipt, 1, &failure) == 1);
}

Datum
queue_nack_batch(PG_FUNCTION_ARGS)
{
	Failure		failure;
	int64	   *receipts;
	int			n;

	check_writable("queue.nack_batch()");
	nack_arguments(fcinfo, &failure);
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	receipts = receipt_array(PG_GETARG_ARRAYTYPE_P(0), &n);
	PG_RETURN_INT32(nack(receipts, n, &failure));
}

Datum
queue_reject(PG_FUNCTION_ARGS)
{
	Failure		failure = {.dead = true,.wait = true,.reason = "rejected"};
	int64		receipt;

	check_writable("queue.reject()");
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	if (!PG_ARGISNULL(1))
		failure.reason = text_to_cstring(PG_GETARG_TEXT_PP(1));
	receipt = PG_GETARG_INT64(0);
	PG_RETURN_BOOL(nack(&receipt, 1, &failure) == 1);
}

/* Extend one lease, or several, as the caller may. */
static int
extend(FunctionCallInfo fcinfo, int64 *receipts, int n)
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

		if (!check_receipt(receipts[i], &checked) || (queue = queue_by_relid(checked)) == NULL)
			continue;
		expires_at = GetCurrentTimestamp() + (lease > 0 ? lease : queue->lease);
		if (!lease_extend(receipts[i], expires_at))
			continue;
		maintenance_wake_by(MyDatabaseId, expires_at);
		extended++;
	}
	return extended;
}

Datum
queue_extend(PG_FUNCTION_ARGS)
{
	int64		receipt;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	receipt = PG_GETARG_INT64(0);
	PG_RETURN_BOOL(extend(fcinfo, &receipt, 1) == 1);
}

Datum
queue_extend_batch(PG_FUNCTION_ARGS)
{
	int64	   *receipts;
	int			n;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	receipts = receipt_array(PG_GETARG_ARRAYTYPE_P(0), &n);
	PG_RETURN_INT32(extend(fcinfo, receipts, n));
}
