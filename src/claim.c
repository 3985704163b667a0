/*
 * claim.c
 *		Take messages from a queue: what receive, pop and the relays share.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "catalog.h"
#include "claim.h"
#include "deferred.h"
#include "frontier.h"
#include "guc.h"
#include "miscadmin.h"
#include "segment.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "worker.h"

/* While a transaction holds messages up, look whether it has let go of them. */
#define LOOK_INTERVAL_MS	100

/* A varlena in full; what was stored plain stays in its tuple. */
static void *
detoasted(Datum value, bool isnull)
{
	if (isnull)
		return NULL;
	return PG_DETOAST_DATUM(value);
}

void
claim_deform(HeapTuple tuple, TupleDesc desc, bool deferred, Message *message)
{
	Datum		values[MaxHeapAttributeNumber];
	bool		isnull[MaxHeapAttributeNumber];

	heap_deform_tuple(tuple, desc, values, isnull);

#define VALUE(column)	(values[(deferred ? Anum_deferred_##column : Anum_message_##column) - 1])
#define ISNULL(column)	(isnull[(deferred ? Anum_deferred_##column : Anum_message_##column) - 1])
	memset(message, 0, sizeof(Message));
	message->id = DatumGetInt64(VALUE(id));
	message->attempts = deferred ? DatumGetInt32(values[Anum_deferred_attempts - 1]) + 1 : 1;
	message->has_priority = !ISNULL(priority);
	if (message->has_priority)
		message->priority = DatumGetInt16(VALUE(priority));
	message->enqueued_at = DatumGetTimestampTz(VALUE(enqueued_at));
	message->key = detoasted(VALUE(key), ISNULL(key));
	message->headers = detoasted(VALUE(headers), ISNULL(headers));
	message->payload = detoasted(VALUE(payload), ISNULL(payload));
	message->body = detoasted(VALUE(body), ISNULL(body));
	message->xmin = HeapTupleHeaderXminFrozen(tuple->t_data) ?
		FrozenTransactionId : HeapTupleHeaderGetRawXmin(tuple->t_data);
#undef VALUE
#undef ISNULL
}

/*
 * Lease again what was given back, if its message is still there.  Each
 * slot on the list is looked at once: those that must wait go to its end.
 */
static void
claim_returned(ClaimScan *scan)
{
	QueueShared *q = scan->q;
	int			n = pg_atomic_read_u32(&q->nreturned);

	for (; n > 0 && scan->nclaims < scan->max &&
		 pg_atomic_read_u32(&q->generation) == scan->generation; n--)
	{
		int			slotno = lease_take_returned(q);
		LeaseSlot  *slot;
		Relation	rel;
		HeapTuple	tuple;
		Verdict		verdict = VERDICT_DEAD;
		bool		deferred;

		if (slotno < 0)
			break;
		slot = lease_slot(slotno);
		deferred = (slot->segment == LEASE_IN_DEFERRED);
		rel = deferred ? try_relation_open(slot->relid, AccessShareLock) :
			frontier_open(scan, slot->segment);
		if (rel != NULL)
			verdict = frontier_fetch(rel, &slot->tid, slot->id, scan->snapshot, &tuple);
		if (rel != NULL && deferred)
			relation_close(rel, AccessShareLock);
		if (verdict == VERDICT_LIVE)
		{
			Claim	   *claim = &scan->claims[scan->nclaims++];

			lease_renew(slotno, scan->kind, scan->now, scan->expires_at);
			claim->slotno = slotno;
			claim->id = slot->id;
			claim->segment = slot->segment;
			claim->tuple = tuple;
			if (pg_atomic_read_u64(&q->ready) > 0)
				pg_atomic_fetch_sub_u64(&q->ready, 1);
		}
		else if (verdict == VERDICT_WAIT)
			lease_put_back(slotno);
		else
			lease_drop(slotno);
	}
}

static int
compare_claims(const void *a, const void *b)
{
	int64		x = ((const Claim *) a)->id;
	int64		y = ((const Claim *) b)->id;

	return (x > y) - (x < y);
}

/* Make messages of the claimed tuples. */
static Message *
build_messages(ClaimScan *scan)
{
	Message    *messages = palloc(sizeof(Message) * Max(scan->nclaims, 1));
	Relation	deferred = NULL;

	for (int i = 0; i < scan->nclaims; i++)
	{
		Claim	   *claim = &scan->claims[i];
		bool		is_deferred = (claim->segment == LEASE_IN_DEFERRED);

		if (is_deferred && deferred == NULL)
			deferred = table_open(extension_relation("deferred"), AccessShareLock);
		claim_deform(claim->tuple,
					 RelationGetDescr(is_deferred ? deferred : scan->rels[claim->segment]),
					 is_deferred, &messages[i]);
		lease_slot(claim->slotno)->attempts = messages[i].attempts;
		messages[i].receipt = lease_receipt(claim->slotno);
	}
	if (deferred != NULL)
		table_close(deferred, AccessShareLock);
	return messages;
}

int
claim_messages(Queue *queue, LeaseKind kind, int64 lease, int max, Message **messages)
{
	QueueShared *q = queue->shared;
	ClaimScan	scan;

	/* A snapshot is needed at all times to fetch toasted values. */
	Assert(ActiveSnapshotSet());

	memset(&scan, 0, sizeof(scan));
	scan.q = q;
	scan.generation = queue->generation;
	scan.kind = kind;
	scan.now = GetCurrentTimestamp();
	scan.expires_at = (kind == LEASE_TIMED) ? scan.now + lease : DT_NOEND;
	scan.max = Min(max, queue_max_leases);
	scan.claims = palloc(sizeof(Claim) * scan.max);
	lease_reserve(scan.max + 1);

	/*
	 * Not the caller's snapshot, which in REPEATABLE READ is too old to see
	 * what was sent since.
	 */
	scan.snapshot = RegisterSnapshot(GetLatestSnapshot());
	claim_returned(&scan);
	deferred_claim(&scan, queue->relid);
	if (scan.nclaims < scan.max)
	{
		int			before = scan.nclaims;
		int64		ready;

		frontier_claim(&scan);
		ready = (int64) pg_atomic_sub_fetch_u64(&q->ready, scan.nclaims - before);
		if (ready < 0)
			pg_atomic_write_u64(&q->ready, 0);
	}
	UnregisterSnapshot(scan.snapshot);

	if (scan.nclaims == 0 && scan.out_of_leases)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("all %d leases are in use", queue_max_leases),
				 errhint("Increase queue.max_leases, or acknowledge messages sooner.")));

	if (scan.nclaims > 1)
		qsort(scan.claims, scan.nclaims, sizeof(Claim), compare_claims);
	*messages = build_messages(&scan);
	frontier_close(&scan);

	if (scan.nclaims > 0)
	{
		pg_atomic_write_u64(&q->frontier_time, (*messages)[scan.nclaims - 1].enqueued_at);
		pg_atomic_fetch_add_u64(&q->received, scan.nclaims);
		if (kind == LEASE_TIMED)
			maintenance_wake_by(MyDatabaseId, scan.expires_at);
	}
	return scan.nclaims;
}

TimestampTz
claim_next_look(QueueShared *q)
{
	TimestampTz next = (TimestampTz) pg_atomic_read_u64(&q->next_due);
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz look = TimestampTzPlusMilliseconds(now, LOOK_INTERVAL_MS);

	/* What is due and was not to be had is held up by a transaction, too. */
	if (next <= now)
		return look;
	if (pg_atomic_read_u32(&q->nlooks) > 0 || pg_atomic_read_u32(&q->nreturned) > 0)
		return Min(next, look);
	return next;
}
