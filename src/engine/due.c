/*
 * due.c
 *		Claims of deferred messages that are due.
 *
 * QueueShared.next_due is a lower bound of the due times of all deferred
 * messages that are not leased.  A search of the index starts there, however
 * many dead entries lie before.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "engine/deferred.h"
#include "engine/due.h"
#include "engine/extension.h"
#include "engine/keys.h"
#include "engine/leased.h"
#include "miscadmin.h"
#include "stop_point.h"
#include "storage/ipc.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* Keys that one search gives a turn, if a claim asks for fewer messages. */
#define LEAST_TURNS	16

/*
 * Lease a row, unless the element is another queue's by now: under the queue's
 * lock that is certain.
 */
static LeaseTaking
take_due(ClaimScan *scan, Lease *lease)
{
	QueueShared *q = scan->q;
	LeaseTaking result = LEASE_TAKEN_ALREADY;

	lease_reserve();
	LWLockAcquire(&q->lock, LW_SHARED);
	if (pg_atomic_read_u32(&q->generation) == scan->generation)
		result = lease_take(q, &lease->place, lease->id, lease->attempts, scan->kind,
							scan->now, scan->expires_at, -1, &scan->limits, &lease->ref);
	LWLockRelease(&q->lock);
	return result;
}

/*
 * Have the key of a row take its turn; false if there is no space to remember
 * that.
 */
static bool
have_turn(ClaimScan *scan, text *key)
{
	QueueShared *q = scan->q;
	bool		remembered = true;

	LWLockAcquire(&q->lock, LW_SHARED);
	if (pg_atomic_read_u32(&q->generation) == scan->generation)
		remembered = key_wait(q, message_key_hash(key), NULL, true);
	LWLockRelease(&q->lock);
	return remembered;
}

/*
 * Lease what is due from a time on.  Returns a lower bound of the due times
 * of what is left.
 */
static TimestampTz
claim_due(ClaimScan *scan, TimestampTz from, Snapshot snapshot)
{
	Relation	rel = table_open(extension_relation("deferred"), AccessShareLock);
	Relation	index = index_open(extension_relation("deferred_due"), AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	TimestampTz left = DT_NOEND;
	int			turns = 0;
	ScanKeyData keys[2];
	SysScanDesc sysscan;
	HeapTuple	tuple;

	ScanKeyInit(&keys[0], Anum_deferred_relid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(scan->relid));
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
		Datum		key;

		CHECK_FOR_INTERRUPTS();
		lease.id = tuple_message_id(tuple->t_data);
		lease.attempts = deferred_attempts(rel, tuple) + 1;
		lease.place.relid = RelationGetRelid(rel);
		lease.place.tid = tuple->t_self;
		lease.place.segment = LEASE_IN_DEFERRED;
		lease.place.due_at = DatumGetTimestampTz(heap_getattr(tuple, Anum_deferred_due_at, desc, &isnull));

		if (lease.place.due_at > scan->now || scan->nclaims >= scan->max ||
			turns >= Max(scan->max, LEAST_TURNS))
		{
			left = Min(left, lease.place.due_at);
			break;
		}

		/* The search goes on beyond a row that waits for its key's turn. */
		key = scan->keyed ? heap_getattr(tuple, Anum_deferred_key, desc, &isnull) : (Datum) 0;
		if (scan->keyed && !isnull)
		{
			if (!have_turn(scan, DatumGetTextPP(key)))
			{
				scan->out_of_keys = true;
				left = Min(left, lease.place.due_at);
				break;
			}
			turns++;
			continue;
		}

		/*
		 * Lease first, then judge again: the receiver that had the message
		 * before may have acknowledged it since the snapshot.
		 */
		STOP_POINT("due-found");
		taking = take_due(scan, &lease);
		if (taking == LEASE_TAKEN_ALREADY)
			continue;
		if (taking == LEASE_NONE_FREE || taking == LEASE_LIMITED)
		{
			scan->out_of_leases = (taking == LEASE_NONE_FREE);
			left = Min(left, lease.place.due_at);
			break;
		}
		verdict = leased_fetch(rel, &lease, snapshot, &copy);
		if (verdict != VERDICT_LIVE)
		{
			lease_drop(lease.ref);
			if (verdict == VERDICT_WAIT)
				left = Min(left, lease.place.due_at);
			continue;
		}
		scan_add_claim(scan, lease.ref, lease.id, lease.attempts, LEASE_IN_DEFERRED)->tuple = copy;
	}
	systable_endscan_ordered(sysscan);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
	return left;
}

/* The bound that due_claim has raised, to be restored if it ends early. */
typedef struct DueDebt
{
	QueueShared *q;
	TimestampTz from;
} DueDebt;

static void
pay_due_debt(int code, Datum arg)
{
	DueDebt    *debt = (DueDebt *) DatumGetPointer(arg);

	/*
	 * Even if the element is another queue's by now, as the bound that was
	 * raised may be that queue's.
	 */
	(void) bound_lower(&debt->q->next_due, debt->from);
}

void
due_claim(ClaimScan *scan)
{
	QueueShared *q = scan->q;
	DueDebt		debt = {.q = q};
	TimestampTz left;
	Snapshot	snapshot;

	if (bound_read(&q->next_due) > scan->now || scan_full(scan))
		return;

	/*
	 * Raise the bound, then take the snapshot.  Pairs with tell (commit.c):
	 * the snapshot shows what committed before, and a transaction that
	 * commits later lowers the bound again.  If an error or the end of the
	 * process keeps us from lowering it, the old bound is restored.
	 */
	debt.from = bound_raise(&q->next_due);
	PG_ENSURE_ERROR_CLEANUP(pay_due_debt, PointerGetDatum(&debt));
	{
		STOP_POINT("due-raised");
		snapshot = RegisterSnapshot(GetLatestSnapshot());
		STOP_POINT("due-snapshot");
		left = claim_due(scan, debt.from, snapshot);
		UnregisterSnapshot(snapshot);

		/*
		 * If the element is another queue's by now, the bound that was raised
		 * may be that queue's, so restore it.
		 */
		if (pg_atomic_read_u32(&q->generation) != scan->generation)
			left = debt.from;
		(void) bound_lower(&q->next_due, left);
	}
	PG_END_ENSURE_ERROR_CLEANUP(pay_due_debt, PointerGetDatum(&debt));

	/* More is due than we have taken, and was out of sight meanwhile. */
	if (left <= scan->now && (scan->nclaims >= scan->max || scan->limits.stopped))
		wake_waiters(&q->waiters, 1);
}
