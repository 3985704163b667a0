/*
 * deferred.c
 *		Messages with a due time: queue.deferred.
 *
 * It is an ordinary table with an index, written past the executor because
 * the caller has no rights on it.  QueueShared.next_due is a lower bound of
 * the due times of all deferred messages nobody has leased, so that a look
 * into the index starts where there is something to find, however many dead
 * entries lie before.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "compat.h"
#include "engine/deferred.h"
#include "engine/place.h"
#include "engine/segment.h"
#include "engine/wake.h"
#include "miscadmin.h"
#include "stop_point.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

const MessageColumns deferred_columns = {
	.id = Anum_deferred_id,
	.enqueued_at = Anum_deferred_enqueued_at,
	.expires_at = Anum_deferred_expires_at,
	.priority = Anum_deferred_priority,
	.key = Anum_deferred_key,
	.headers = Anum_deferred_headers,
	.payload = Anum_deferred_payload,
	.body = Anum_deferred_body
};

void
deferred_insert(Queue *queue, const Message *message, TimestampTz due_at, int attempts,
				const char *error, ItemPointer tid)
{
	Relation	rel = table_open(extension_relation("deferred"), RowExclusiveLock);
	Datum		values[Natts_deferred] = {0};
	bool		isnull[Natts_deferred] = {false};
	HeapTuple	tuple;

	message_fill(&deferred_columns, message, values, isnull);
	values[Anum_deferred_due_at - 1] = TimestampTzGetDatum(due_at);
	values[Anum_deferred_relid - 1] = ObjectIdGetDatum(queue->relid);
	values[Anum_deferred_attempts - 1] = Int32GetDatum(attempts);
	isnull[Anum_deferred_error - 1] = (error == NULL);
	if (error != NULL)
		values[Anum_deferred_error - 1] = CStringGetTextDatum(error);
	tuple = heap_form_tuple(RelationGetDescr(rel), values, isnull);
	CatalogTupleInsert(rel, tuple);
	if (tid != NULL)
		*tid = tuple->t_self;
	heap_freetuple(tuple);
	table_close(rel, NoLock);
	wake_due_at_commit(queue->shared, due_at);
}

bool
deferred_is(Relation rel, HeapTuple tuple, Oid relid, TimestampTz due_at, int64 id)
{
	TupleDesc	desc = RelationGetDescr(rel);
	bool		isnull;

	return frontier_tuple_id(tuple->t_data) == id &&
		DatumGetObjectId(heap_getattr(tuple, Anum_deferred_relid, desc, &isnull)) == relid &&
		DatumGetTimestampTz(heap_getattr(tuple, Anum_deferred_due_at, desc, &isnull)) == due_at;
}

int
deferred_attempts(Relation rel, HeapTuple tuple)
{
	bool		isnull;

	return DatumGetInt32(heap_getattr(tuple, Anum_deferred_attempts, RelationGetDescr(rel), &isnull));
}

bool
deferred_find(Relation rel, Oid relid, TimestampTz due_at, int64 id, ItemPointer tid)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ScanKeyData keys[3];
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found;

	ScanKeyInit(&keys[0], Anum_deferred_relid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	ScanKeyInit(&keys[1], Anum_deferred_due_at, BTEqualStrategyNumber, F_TIMESTAMPTZ_EQ,
				TimestampTzGetDatum(due_at));
	ScanKeyInit(&keys[2], Anum_deferred_id, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(id));
	scan = systable_beginscan(rel, extension_relation("deferred_due"), true, snapshot, 3, keys);
	tuple = systable_getnext(scan);
	found = HeapTupleIsValid(tuple);
	if (found)
		*tid = tuple->t_self;
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	return found;
}

static void
lower_next_due(QueueShared *q, TimestampTz due_at)
{
	uint64		old = pg_atomic_read_u64(&q->next_due);

	while ((int64) old > due_at &&
		   !pg_atomic_compare_exchange_u64(&q->next_due, &old, (uint64) due_at))
		;
}

/* Lease a row, if the queue is still the one we look for. */
static LeaseTaking
take_due(ClaimScan *scan, Lease *lease)
{
	QueueShared *q = scan->q;
	LeaseTaking result = LEASE_TAKEN_ALREADY;

	LWLockAcquire(&q->lock, LW_SHARED);
	if (pg_atomic_read_u32(&q->generation) == scan->generation)
		result = lease_take(q, &lease->place, lease->id, lease->attempts, scan->kind,
							scan->now, scan->expires_at, &lease->ref);
	LWLockRelease(&q->lock);
	return result;
}

/*
 * Lease what is due from a time on.  Returns a lower bound of the due times
 * of what is left.
 */
static TimestampTz
claim_due(ClaimScan *scan, Oid relid, TimestampTz from, Snapshot snapshot)
{
	Relation	rel = table_open(extension_relation("deferred"), AccessShareLock);
	Relation	index = index_open(extension_relation("deferred_due"), AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	TimestampTz left = DT_NOEND;
	ScanKeyData keys[2];
	SysScanDesc sysscan;
	HeapTuple	tuple;

	ScanKeyInit(&keys[0], Anum_deferred_relid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	ScanKeyInit(&keys[1], Anum_deferred_due_at, BTGreaterEqualStrategyNumber,
				F_TIMESTAMPTZ_GE, TimestampTzGetDatum(from));
	sysscan = systable_beginscan_ordered(rel, index, snapshot, 2, keys);
	while ((tuple = systable_getnext_ordered(sysscan, ForwardScanDirection)) != NULL)
	{
		Lease		lease = {.q = scan->q};
		LeaseTaking taking;
		Verdict		verdict;
		HeapTuple	copy;
		bool		isnull;

		CHECK_FOR_INTERRUPTS();
		lease.id = frontier_tuple_id(tuple->t_data);
		lease.attempts = deferred_attempts(rel, tuple) + 1;
		lease.place.relid = RelationGetRelid(rel);
		lease.place.tid = tuple->t_self;
		lease.place.segment = LEASE_IN_DEFERRED;
		lease.place.due_at = DatumGetTimestampTz(heap_getattr(tuple, Anum_deferred_due_at, desc, &isnull));

		if (lease.place.due_at > scan->now || scan->nclaims >= scan->max)
		{
			left = Min(left, lease.place.due_at);
			break;
		}

		/*
		 * Lease first and look again then: who had the message before us may
		 * have acknowledged it since our snapshot.
		 */
		STOP_POINT("due-found");
		taking = take_due(scan, &lease);
		if (taking == LEASE_TAKEN_ALREADY)
			continue;
		if (taking == LEASE_NONE_FREE)
		{
			scan->out_of_leases = true;
			left = Min(left, lease.place.due_at);
			break;
		}
		verdict = place_fetch(rel, &lease, snapshot, &copy);
		if (verdict != VERDICT_LIVE)
		{
			lease_drop(lease.ref);
			if (verdict == VERDICT_WAIT)
				left = Min(left, lease.place.due_at);
			continue;
		}
		frontier_add_claim(scan, lease.ref, lease.id, lease.attempts, LEASE_IN_DEFERRED)->tuple = copy;
	}
	systable_endscan_ordered(sysscan);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
	return left;
}

/* What deferred_claim owes the queue if it does not come to its end. */
typedef struct DueDebt
{
	QueueShared *q;
	TimestampTz from;
} DueDebt;

static void
pay_due_debt(int code, Datum arg)
{
	DueDebt    *debt = (DueDebt *) DatumGetPointer(arg);

	/* Even if it is another queue's by now: then the bound was his. */
	lower_next_due(debt->q, debt->from);
}

void
deferred_claim(ClaimScan *scan, Oid relid)
{
	QueueShared *q = scan->q;
	DueDebt		debt = {.q = q};
	TimestampTz left;
	Snapshot	snapshot;

	if ((TimestampTz) pg_atomic_read_u64(&q->next_due) > scan->now || scan->nclaims >= scan->max)
		return;

	/*
	 * Reset the bound before the snapshot is taken: what commits later lowers
	 * it again, what committed earlier the snapshot shows.  It is put back
	 * should anything, the end of the process included, keep us from the end.
	 */
	debt.from = (TimestampTz) pg_atomic_exchange_u64(&q->next_due, (uint64) DT_NOEND);
	PG_ENSURE_ERROR_CLEANUP(pay_due_debt, PointerGetDatum(&debt));
	{
		STOP_POINT("due-raised");
		snapshot = RegisterSnapshot(GetLatestSnapshot());
		STOP_POINT("due-snapshot");
		left = claim_due(scan, relid, debt.from, snapshot);
		UnregisterSnapshot(snapshot);

		/* Dropped, and another queue's by now: the bound we reset was his. */
		if (pg_atomic_read_u32(&q->generation) != scan->generation)
			left = debt.from;
		lower_next_due(q, left);
	}
	PG_END_ENSURE_ERROR_CLEANUP(pay_due_debt, PointerGetDatum(&debt));

	if (left <= scan->now && scan->nclaims >= scan->max)
		wake_waiters(q, 1);
}

/* Delete a row others may be deleting too; false if they were first. */
static bool
delete_row(Relation rel, ItemPointer tid)
{
	TM_FailureData tmfd;

	return heap_delete(rel, tid, GetCurrentCommandId(true), InvalidSnapshot,
					   true, &tmfd, false) == TM_Ok;
}

void
deferred_delete_all(Oid relid)
{
	Relation	rel = table_open(extension_relation("deferred"), RowExclusiveLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_deferred_relid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	scan = systable_beginscan(rel, extension_relation("deferred_due"), true, snapshot, 1, &key);
	while ((tuple = systable_getnext(scan)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		(void) delete_row(rel, &tuple->t_self);
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, NoLock);
}
