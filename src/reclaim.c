/*
 * reclaim.c
 *		Getting a queue's space back, and finding what came past the engine.
 *
 * A segment that is not the tail, has been scanned to its end and holds no
 * tuple but deleted ones is truncated, whatever old snapshots there are:
 * acknowledged messages are nobody's to read.  The lock for it is only taken
 * if it is free, and everything is checked again once we have it: who had
 * the segment open before has let go of it by then, and nobody can insert.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/relation.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "claim.h"
#include "compat.h"
#include "deferred.h"
#include "executor/spi.h"
#include "frontier.h"
#include "guc.h"
#include "miscadmin.h"
#include "reclaim.h"
#include "segment.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* Blocks of the tail, or of the queue's own table, worth a truncation. */
#define IDLE_TAIL_BLOCKS	64

/* How long the tail must have been idle for that. */
#define IDLE_TAIL_MS		5000

/* Time between rounds while there is something to truncate. */
#define ROUND_MS			2000

/* The gauges of so many stored messages are counted afresh at each sweep. */
#define RECOUNT_ROWS		10000

/* Messages moved out of a segment in one transaction. */
#define STRAGGLER_BATCH		500

/*
 * Begin a transaction of maintenance; NULL (and none begun) if there is no
 * such queue, or somebody has locked it: other queues shall not wait for him.
 */
static Queue *
begin(Oid relid)
{
	Queue	   *queue = NULL;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (ConditionalLockRelationOid(relid, AccessShareLock))
		queue = queue_by_relid(relid);
	if (queue == NULL)
	{
		PopActiveSnapshot();
		CommitTransactionCommand();
	}
	return queue;
}

static void
finish(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/* Whether a page holds nothing but tuples that are dead to all but the past. */
static bool
page_drained(Relation rel, BlockNumber block, Snapshot snapshot)
{
	Buffer		buffer = ReadBuffer(rel, block);
	bool		drained = true;
	Page		page;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buffer);
	for (OffsetNumber off = FirstOffsetNumber;
		 drained && off <= (PageIsNew(page) ? 0 : PageGetMaxOffsetNumber(page)); off++)
	{
		ItemId		item = PageGetItemId(page, off);
		TransactionId xid;

		if (ItemIdIsNormal(item))
			drained = frontier_judge((HeapTupleHeader) PageGetItem(page, item),
									 snapshot, buffer, &xid) == VERDICT_DEAD;
	}
	UnlockReleaseBuffer(buffer);
	return drained;
}

/* First block from one on that is not drained, or the number of blocks. */
static BlockNumber
drained_up_to(Relation rel, BlockNumber block)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	BlockNumber nblocks = RelationGetNumberOfBlocks(rel);

	for (; block < nblocks; block++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!page_drained(rel, block, snapshot))
			break;
	}
	UnregisterSnapshot(snapshot);
	return block;
}

/* A tail that has been idle for a while may be truncated like any other. */
static bool
leave_idle_tail(QueueShared *q, int segno)
{
	SegmentShared *seg = &q->segments[segno];
	TimestampTz now = GetCurrentTimestamp();
	bool		left;

	if (seg->idle_since == 0 || seg->idle_appended != pg_atomic_read_u64(&seg->appended))
	{
		seg->idle_appended = pg_atomic_read_u64(&seg->appended);
		seg->idle_since = now;
		return false;
	}
	if (!TimestampDifferenceExceeds(seg->idle_since, now, IDLE_TAIL_MS))
		return false;

	LWLockAcquire(&q->lock, LW_EXCLUSIVE);
	left = pg_atomic_read_u32(&q->tail) == segno && segment_rotate(q);
	LWLockRelease(&q->lock);
	return left;
}

/*
 * Truncate a segment if it is drained.  Everything is checked again under the
 * lock, as a sender that had opened it while it was the tail can have put its
 * message there at any time before.
 */
static bool
truncate_if_drained(QueueShared *q, int segno)
{
	SegmentShared *seg = &q->segments[segno];
	Relation	rel;
	bool		drained;
	char	   *name;
	Oid			owner;
	Oid			user;
	int			context;

	rel = segment_open(q, segno, AccessShareLock);
	if (rel == NULL)
		return false;
	seg->drained = drained_up_to(rel, seg->drained);
	drained = seg->drained >= RelationGetNumberOfBlocks(rel);
	relation_close(rel, AccessShareLock);

	if (!drained ||
		(pg_atomic_read_u32(&q->tail) == segno && !leave_idle_tail(q, segno)) ||
		!ConditionalLockRelationOid(seg->relid, AccessExclusiveLock))
		return false;
	rel = try_relation_open(seg->relid, NoLock);
	if (rel == NULL)
		return false;
	drained = pg_atomic_read_u32(&q->tail) != segno &&
		drained_up_to(rel, 0) >= RelationGetNumberOfBlocks(rel);
	name = quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
									  RelationGetRelationName(rel));
	owner = rel->rd_rel->relowner;
	relation_close(rel, NoLock);
	if (!drained)
		return false;

	/* As its owner: there can be triggers of his on the table. */
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(owner, context | SECURITY_RESTRICTED_OPERATION);
	SPI_connect();
	if (SPI_execute(psprintf("TRUNCATE ONLY %s", name), false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not truncate %s", name);
	SPI_finish();
	SetUserIdAndSecContext(user, context);

	/*
	 * While we have the lock: a sender that waits for it finds the segment
	 * pooled, and goes elsewhere.  Should the commit fail, there are none but
	 * deleted tuples in it.
	 */
	segment_pool(q, segno);
	return true;
}

/* The tail and the queue's own table are soon filled again: not if small. */
static bool
worth_truncating(QueueShared *q, int segno)
{
	return (segno != 0 && pg_atomic_read_u32(&q->tail) != segno) ||
		pg_atomic_read_u32(&q->segments[segno].nblocks) >= IDLE_TAIL_BLOCKS;
}

/* Truncate what is drained.  True if segments with messages in them are left. */
static bool
reclaim_segments(Oid relid)
{
	bool		left = false;
	Queue	   *queue = begin(relid);
	int			nsegments = queue ? queue->shared->nsegments : 0;

	if (queue != NULL)
		finish();
	for (int segno = 0; segno < nsegments; segno++)
	{
		QueueShared *q;
		SegmentShared *seg;
		bool		empty;

		if ((queue = begin(relid)) == NULL)
			return false;
		q = queue->shared;
		seg = &q->segments[segno];
		empty = (pg_atomic_read_u32(&seg->nblocks) == 0);
		if (pg_atomic_read_u32(&seg->state) != SEGMENT_ACTIVE ||
			(empty && (segno == 0 || pg_atomic_read_u32(&q->tail) == segno)))
		{
			finish();
			continue;
		}
		if (empty)
			segment_pool(q, segno);
		else if (worth_truncating(q, segno) && pg_atomic_read_u32(&seg->leases) == 0)
			empty = truncate_if_drained(q, segno);
		finish();
		left |= !empty && worth_truncating(q, segno);
	}
	return left;
}

/* Leave a tail that grew beyond its size while there was nothing to leave it for. */
static void
leave_full_tail(QueueShared *q)
{
	LWLockAcquire(&q->lock, LW_EXCLUSIVE);
	if (pg_atomic_read_u32(&q->segments[pg_atomic_read_u32(&q->tail)].nblocks) >= segment_limit(q))
		(void) segment_rotate(q);
	LWLockRelease(&q->lock);
}

/*
 * Have an empty segment ready to rotate into.  Nobody may send any more, so
 * the tail that waited for it is left at once, or it would keep its size for
 * the sake of a single message.
 */
static void
provide_segment(Oid relid)
{
	Queue	   *queue = begin(relid);
	bool		pooled = false;

	if (queue == NULL)
		return;
	leave_full_tail(queue->shared);
	for (int i = 0; i < queue->shared->nsegments; i++)
		pooled |= pg_atomic_read_u32(&queue->shared->segments[i].state) == SEGMENT_POOLED;
	if (!pooled && queue->shared->nsegments < QUEUE_MAX_SEGMENTS)
		segment_create(relid);
	finish();

	if (!pooled && (queue = begin(relid)) != NULL)
	{
		segment_refresh(queue);
		leave_full_tail(queue->shared);
		finish();
	}
}

/* Make a message known that lies where nobody will look. */
static void
note_found(QueueShared *q, int segno, SegmentPlace place, int64 id)
{
	SegmentShared *seg = &q->segments[segno];
	bool		before;
	bool		known;

	LWLockAcquire(&q->lock, LW_SHARED);
	before = place < pg_atomic_read_u64(&seg->cursor);
	known = before ? frontier_noted(q, segno, place) :
		seg->scanned != pg_atomic_read_u64(&seg->appended) &&
		PlaceBlock(place) < pg_atomic_read_u32(&seg->nblocks);
	LWLockRelease(&q->lock);

	if (known)
		return;
	if (before)
		frontier_remember(q, segno, place, place, id, InvalidTransactionId);
	else
		segment_found(q, segno, place);
}

/*
 * Go through the blocks before the cursor and, if claimers believe that they
 * have seen everything, those after it.
 */
static void
sweep_segment(QueueShared *q, int segno)
{
	SegmentShared *seg = &q->segments[segno];
	Relation	rel = segment_open(q, segno, AccessShareLock);
	bool		to_end = (seg->scanned == pg_atomic_read_u64(&seg->appended));
	BlockNumber end = PlaceBlock(pg_atomic_read_u64(&seg->cursor));
	Snapshot	snapshot;
	MemoryContext context;
	MemoryContext old;

	if (rel == NULL)
		return;
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	context = AllocSetContextCreate(CurrentMemoryContext, "queue sweep", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	for (BlockNumber block = 0;
		 (to_end || block <= end) && block < RelationGetNumberOfBlocks(rel); block++)
	{
		HeapTuple	tuples[MaxHeapTuplesPerPage];
		int			n = frontier_page_tuples(rel, block, snapshot, false, tuples);

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < n; i++)
			note_found(q, segno,
					   MakePlace(block, ItemPointerGetOffsetNumber(&tuples[i]->t_self)),
					   frontier_tuple_id(tuples[i]->t_data));
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	UnregisterSnapshot(snapshot);
	relation_close(rel, AccessShareLock);
}

/* Rows a statement counts; $1 is the queue's table, $2 its name. */
static int64
count_rows(const char *sql, Queue *queue)
{
	Oid			types[2] = {OIDOID, TEXTOID};
	Datum		values[2] = {ObjectIdGetDatum(queue->relid), CStringGetTextDatum(NameStr(queue->name))};
	int64		n;
	bool		isnull;

	if (SPI_execute_with_args(sql, 2, types, values, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not execute \"%s\"", sql);
	n = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	return n;
}

/* Set a gauge to what was counted, unless it has changed meanwhile. */
static bool
set_gauge(pg_atomic_uint64 *gauge, uint64 before, int64 n)
{
	return pg_atomic_compare_exchange_u64(gauge, &before, (uint64) n);
}

/*
 * The gauges of deferred messages and dead letters start from zero with
 * shared memory, and miss what SQL does to these tables: count once, and
 * again while that is cheap.
 */
static void
count_stored(Queue *queue)
{
	QueueShared *q = queue->shared;
	uint64		deferred = pg_atomic_read_u64(&q->deferred);
	uint64		dead = pg_atomic_read_u64(&q->dead);
	bool		good = true;

	if (q->counted && (int64) (deferred + dead) > RECOUNT_ROWS)
		return;
	SPI_connect();
	good &= set_gauge(&q->deferred, deferred,
					  count_rows("SELECT count(*) FROM queue.deferred WHERE relid = $1 AND $2 IS NOT NULL", queue));
	good &= set_gauge(&q->dead, dead,
					  count_rows("SELECT count(*) FROM queue.dead_letters WHERE queue = $2 AND $1 IS NOT NULL", queue));
	SPI_finish();
	q->counted |= good;
}

/* Look for rows that came by restore, logical replication or raw SQL. */
static void
sweep(Oid relid)
{
	Queue	   *queue = begin(relid);
	QueueShared *q;

	if (queue == NULL)
		return;
	q = queue->shared;
	segment_refresh(queue);
	for (int segno = 0; segno < q->nsegments; segno++)
	{
		if (pg_atomic_read_u32(&q->segments[segno].state) == SEGMENT_ACTIVE)
			sweep_segment(q, segno);
	}
	count_stored(queue);
	q->swept_at = GetCurrentTimestamp();
	finish();
}

/*
 * Move a leased message to queue.deferred, its lease with it, or one that was
 * given back, which becomes due there.
 */
static void
move_message(Queue *queue, Relation rel, int slotno, bool held)
{
	LeaseSlot  *slot = lease_slot(slotno);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ItemPointerData tid = slot->tid;
	HeapTuple	tuple;
	Message		message;
	TM_FailureData tmfd;
	Verdict		verdict;

	verdict = frontier_fetch(rel, &tid, slot->id, snapshot, &tuple);
	if (verdict == VERDICT_DEAD)
		lease_drop(slotno);		/* deleted by SQL, or by who had prepared to */
	else if (verdict == VERDICT_LIVE)
	{
		claim_deform(tuple, RelationGetDescr(rel), false, &message);
		if (heap_delete(rel, &tid, GetCurrentCommandId(true), InvalidSnapshot, false,
						&tmfd, false) == TM_Ok)
		{
			deferred_insert(queue, &message, GetCurrentTimestamp(),
							held ? slot->attempts - 1 : 0, NULL, &tid);
			if (held)
				lease_move(slotno, extension_relation("deferred"), &tid);
			else
				lease_remove_returned(slotno);
		}
	}
	UnregisterSnapshot(snapshot);
}

/* Whether there are messages from a block on that no lease points to. */
static bool
has_unleased(Relation rel, BlockNumber block)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	HeapTuple	tuples[MaxHeapTuplesPerPage];
	bool		found = false;

	for (; !found && block < RelationGetNumberOfBlocks(rel); block++)
	{
		CHECK_FOR_INTERRUPTS();
		found = frontier_page_tuples(rel, block, snapshot, false, tuples) > 0;
	}
	UnregisterSnapshot(snapshot);
	return found;
}

/* Move the last messages of a segment that has been sealed for long enough. */
static void
move_stragglers(Oid relid, int segno)
{
	Queue	   *queue = begin(relid);
	QueueShared *q;
	SegmentShared *seg;
	int			slots[STRAGGLER_BATCH];
	int			n;
	Relation	rel;

	if (queue == NULL)
		return;
	q = queue->shared;
	seg = &q->segments[segno];
	if (pg_atomic_read_u32(&q->tail) == segno ||
		pg_atomic_read_u32(&seg->state) != SEGMENT_ACTIVE ||
		pg_atomic_read_u32(&seg->leases) == 0 ||
		pg_atomic_read_u32(&seg->leases) > STRAGGLER_BATCH ||
		!TimestampDifferenceExceeds(seg->sealed_at, GetCurrentTimestamp(), queue_straggler_age * 1000) ||
		(rel = segment_open(q, segno, RowExclusiveLock)) == NULL)
	{
		finish();
		return;
	}

	/* As long as there are others to be received, these are not the last. */
	if (has_unleased(rel, seg->drained))
	{
		relation_close(rel, RowExclusiveLock);
		finish();
		return;
	}

	n = lease_in_segment(q, segno, slots, STRAGGLER_BATCH);
	for (int i = 0; i < n; i++)
	{
		if (lease_begin_move(slots[i]))
			move_message(queue, rel, slots[i], true);
	}
	lease_reserve(pg_atomic_read_u32(&q->nreturned) + 1);
	for (n = pg_atomic_read_u32(&q->nreturned); n > 0; n--)
	{
		int			slotno = lease_take_returned(q);

		if (slotno < 0)
			break;
		if (lease_slot(slotno)->segment == segno)
			move_message(queue, rel, slotno, false);
		else
			lease_put_back(slotno);
	}
	relation_close(rel, NoLock);
	finish();
}

TimestampTz
reclaim_queue(Oid relid)
{
	bool		left = reclaim_segments(relid);
	Queue	   *queue;
	TimestampTz swept_at;
	TimestampTz now;
	int			nsegments;

	provide_segment(relid);

	if ((queue = begin(relid)) == NULL)
		return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ROUND_MS);
	swept_at = queue->shared->swept_at;
	nsegments = queue->shared->nsegments;
	finish();

	now = GetCurrentTimestamp();
	if (swept_at == 0 || TimestampDifferenceExceeds(swept_at, now, queue_sweep_interval * 1000))
	{
		sweep(relid);
		swept_at = now;
	}
	for (int segno = 1; left && segno < nsegments; segno++)
		move_stragglers(relid, segno);

	return Min(TimestampTzPlusMilliseconds(swept_at, queue_sweep_interval * INT64CONST(1000)),
			   left ? TimestampTzPlusMilliseconds(now, ROUND_MS) : DT_NOEND);
}
