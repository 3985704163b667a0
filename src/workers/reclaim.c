/*
 * reclaim.c
 *		Getting a queue's space back, and finding what came past the engine.
 *
 * A segment that is not the tail, has been scanned to its end and holds no
 * tuple but deleted ones is emptied, whatever old snapshots there are:
 * acknowledged messages need not be readable.  The exclusive lock for it is
 * only taken if it is free, and everything is checked again under it, as no
 * other transaction has the segment open then.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "compat.h"
#include "engine/claim.h"
#include "engine/creation.h"
#include "engine/dead_letter.h"
#include "engine/deferred.h"
#include "engine/extension.h"
#include "engine/frontier.h"
#include "engine/keys.h"
#include "engine/lease_account.h"
#include "engine/leased.h"
#include "engine/reader.h"
#include "engine/segment.h"
#include "engine/tables.h"
#include "engine/tuple.h"
#include "guc.h"
#include "miscadmin.h"
#include "stop_point.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "workers/empty.h"
#include "workers/reclaim.h"
#include "workers/transaction.h"

/* Blocks of the tail, or of the queue's own table, worth a truncation. */
#define IDLE_TAIL_BLOCKS	64

/* How long the tail must have been idle for that. */
#define IDLE_TAIL_MS		5000

/* The gauges of so many stored messages are counted afresh at each sweep. */
#define RECOUNT_ROWS		10000

/* Parked keys that are given a turn by each sweep, should one have been missed. */
#define UNPARKED_KEYS	100

/* Messages moved out of a segment in one transaction. */
#define STRAGGLER_BATCH		500

bool
reclaim_try_lock(ReclaimRound *round, Oid relid, LOCKMODE lockmode)
{
	if (worker_try_lock(relid, lockmode))
		return true;
	round->locked = relid;
	return false;
}

/* Lock a queue's segments, so that nothing that opens them waits. */
static bool
try_lock_segments(ReclaimRound *round)
{
	List	   *children = table_children(round->relid, NoLock);
	ListCell   *lc;

	foreach(lc, children)
	{
		if (!reclaim_try_lock(round, lfirst_oid(lc), AccessShareLock))
			return false;
	}
	return true;
}

Queue *
reclaim_begin(ReclaimRound *round)
{
	Queue	   *queue = NULL;

	worker_begin();
	if (reclaim_try_lock(round, extension_relation("queue_definition"), AccessShareLock) &&
		reclaim_try_lock(round, round->relid, AccessShareLock))
	{
		QueueShared *q = queue_find_shared(round->relid);

		if ((q != NULL && queue_loaded(q)) || try_lock_segments(round))
			queue = queue_by_relid(round->relid);
	}
	if (queue == NULL)
		worker_end();
	return queue;
}

void
reclaim_finish(ReclaimRound *round)
{
	Oid			locked = round->locked;

	round->locked = InvalidOid;
	if (!OidIsValid(locked))
		return;
	worker_begin();
	worker_report_locked(locked);
}

QueueShared *
reclaim_open(ReclaimRound *round, uint32 *generation)
{
	Queue	   *queue = reclaim_begin(round);
	QueueShared *q = NULL;

	if (queue != NULL)
	{
		q = queue->shared;
		*generation = queue->generation;
		worker_end();
	}
	reclaim_finish(round);
	return q;
}

/* Whether all tuples of a page are dead as of a fresh snapshot, whatever older ones see. */
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
			drained = tuple_judge((HeapTupleHeader) PageGetItem(page, item),
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

/* Switch a tail that has been idle for a while, so that it can be emptied; true if done. */
static bool
leave_idle_tail(QueueShared *q, int segno)
{
	Segment    *seg = &q->segments[segno];
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
	left = pg_atomic_read_u32(&q->lane.tail) == segno && segment_rotate(q);
	LWLockRelease(&q->lock);
	return left;
}

/*
 * Empty a segment if it is drained.  Everything is checked again under the
 * exclusive lock: a sender that read it as the tail, and had it locked, has
 * ended by then and its message is seen.
 */
static bool
truncate_if_drained(ReclaimRound *round, QueueShared *q, int segno)
{
	Segment    *seg = &q->segments[segno];
	Relation	rel;
	bool		drained;

	if (!reclaim_try_lock(round, seg->relid, AccessShareLock) ||
		(rel = segment_open(q, segno, AccessShareLock)) == NULL)
		return false;
	seg->drained = drained_up_to(rel, seg->drained);
	drained = seg->drained >= RelationGetNumberOfBlocks(rel);
	relation_close(rel, AccessShareLock);
	if (drained)
		STOP_POINT("reclaim-drained");

	if (!drained ||
		(pg_atomic_read_u32(&q->lane.tail) == segno && !leave_idle_tail(q, segno)) ||
		!reclaim_try_lock(round, seg->relid, AccessExclusiveLock))
		return false;
	rel = try_relation_open(seg->relid, NoLock);
	if (rel == NULL)
		return false;
	drained = pg_atomic_read_u32(&q->lane.tail) != segno && table_columns_valid(rel) &&
		drained_up_to(rel, 0) >= RelationGetNumberOfBlocks(rel);
	if (drained)
		empty_table(rel);
	relation_close(rel, NoLock);
	STOP_POINT("reclaim-decided");

	/*
	 * While the table is locked: a sender that waits for it finds the segment
	 * pooled, and reads the tail again (open_tail).  If the commit fails, the
	 * segment still holds only deleted tuples.
	 */
	if (drained)
		segment_pool(q, segno);
	return drained;
}

/* Whether to empty a segment: the tail and the queue's own table only if large. */
static bool
worth_truncating(QueueShared *q, int segno)
{
	return (segno != 0 && pg_atomic_read_u32(&q->lane.tail) != segno) ||
		space_blocks(&q->segments[segno].space) >= IDLE_TAIL_BLOCKS;
}

void
reclaim_segments(ReclaimRound *round)
{
	Queue	   *queue = reclaim_begin(round);
	int			nsegments = queue ? queue->shared->nsegments : 0;

	round->left = false;
	if (queue != NULL)
		worker_end();
	for (int segno = 0; segno < nsegments; segno++)
	{
		QueueShared *q;
		Segment    *seg;
		bool		empty;

		if ((queue = reclaim_begin(round)) == NULL)
			break;
		q = queue->shared;
		seg = &q->segments[segno];
		empty = (space_blocks(&seg->space) == 0);
		if (pg_atomic_read_u32(&seg->state) != SEGMENT_ACTIVE ||
			(empty && (segno == 0 || pg_atomic_read_u32(&q->lane.tail) == segno)))
		{
			worker_end();
			continue;
		}
		if (empty)
			segment_pool(q, segno);
		else if (worth_truncating(q, segno) && lease_count_in_segment(q, segno) == 0)
			empty = truncate_if_drained(round, q, segno);
		worker_end();
		round->left |= !empty && worth_truncating(q, segno);
	}
	reclaim_finish(round);
}

/* Switch a tail that grew beyond its size while no segment was pooled. */
static void
leave_full_tail(QueueShared *q)
{
	LWLockAcquire(&q->lock, LW_EXCLUSIVE);
	if (space_blocks(&q->segments[pg_atomic_read_u32(&q->lane.tail)].space) >= segment_limit(q))
		(void) segment_rotate(q);
	LWLockRelease(&q->lock);
}

/*
 * A full tail that waited for an empty segment is switched here, as no sender
 * may come to do so: one message would keep it from being emptied.
 */
void
reclaim_provide(ReclaimRound *round)
{
	Queue	   *queue = reclaim_begin(round);
	bool		pooled = false;

	if (queue != NULL)
	{
		leave_full_tail(queue->shared);
		for (int i = 0; i < queue->shared->nsegments; i++)
			pooled |= pg_atomic_read_u32(&queue->shared->segments[i].state) == SEGMENT_POOLED;
		if (!pooled && queue->shared->nsegments < QUEUE_MAX_SEGMENTS &&
			reclaim_try_lock(round, round->relid, ShareUpdateExclusiveLock))
			(void) segment_create(round->relid, false);
		if (pooled)
			pg_atomic_write_u32(&queue->shared->wants_segment, 0);
		worker_end();

		if (!pooled && (queue = reclaim_begin(round)) != NULL)
		{
			if (try_lock_segments(round))
			{
				segment_refresh(queue->shared, queue->relid);
				leave_full_tail(queue->shared);
			}
			worker_end();
		}
	}
	reclaim_finish(round);
}

/*
 * Have a message that was passed wait for its key's turn, if it does not yet.
 * False if it has no key, or there is no space to remember it.
 */
static bool
wait_for_turn(QueueShared *q, int segno, const HeapTuple tuple)
{
	KeyPlace	place = key_place(q, segno, place_of_tid(&tuple->t_self));
	int64		hash;

	if (!tuple_key_hash(tuple->t_data, &hash))
		return false;
	if (key_knows(q, hash, &place))
		return true;
	if (!key_wait(q, hash, &place, true))
		return false;
	wake_waiters(&q->waiters, 1);
	return true;
}

/*
 * Make a message known that lies where no claim would find it.  What the
 * caller read without the lock is checked again under it.
 */
static void
note_found(QueueShared *q, int segno, const HeapTuple tuple, bool keyed)
{
	SegmentPlace place = place_of_tid(&tuple->t_self);
	int64		id = tuple_message_id(tuple->t_data);
	Segment    *seg = &q->segments[segno];
	ReaderSegment *mine = &q->reader.segments[segno];
	bool		before;
	bool		known;

	LWLockAcquire(&q->lock, LW_SHARED);
	before = place < pg_atomic_read_u64(&mine->cursor);
	known = before ? notes_contain(&q->reader.notes, segno, place) :
		mine->scanned != pg_atomic_read_u64(&seg->appended) &&
		PlaceBlock(place) < space_blocks(&seg->space);
	LWLockRelease(&q->lock);

	if (known || (before && keyed && wait_for_turn(q, segno, tuple)))
		return;
	if (before)
		reader_note(q, segno, place, place, id, InvalidTransactionId, false);
	else
		reader_found(q, segno, place);
}

/*
 * Search the blocks that claims will not come to: those before the cursor,
 * those after the known number of blocks and, if the segment counts as scanned
 * to its end, all after the cursor.  Cursor and counts are read without the
 * queue's lock, as a hint.
 */
static void
sweep_segment(QueueShared *q, int segno, bool keyed)
{
	Segment    *seg = &q->segments[segno];
	ReaderSegment *mine = &q->reader.segments[segno];
	Relation	rel = segment_open(q, segno, AccessShareLock);
	bool		to_end = (mine->scanned == pg_atomic_read_u64(&seg->appended));
	BlockNumber end = PlaceBlock(pg_atomic_read_u64(&mine->cursor));
	BlockNumber known = space_blocks(&seg->space);
	BlockNumber nblocks;
	Snapshot	snapshot;
	MemoryContext context;
	MemoryContext old;

	if (rel == NULL)
		return;
	nblocks = RelationGetNumberOfBlocks(rel);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	context = AllocSetContextCreate(CurrentMemoryContext, "queue sweep", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	for (BlockNumber block = 0; block < nblocks; block++)
	{
		HeapTuple	tuples[MaxHeapTuplesPerPage];
		int			n;

		CHECK_FOR_INTERRUPTS();
		if (!to_end && block > end && block < known)
			continue;
		n = frontier_page_tuples(rel, block, snapshot, false, tuples);
		for (int i = 0; i < n; i++)
			note_found(q, segno, tuples[i], keyed);
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	UnregisterSnapshot(snapshot);
	relation_close(rel, AccessShareLock);
}

/* The rows of one of the extension's tables with a value in their index's first column. */
static int64
count_rows(const char *table, const char *index, AttrNumber column, Oid relid, Snapshot snapshot)
{
	Relation	rel = table_open(extension_relation(table), AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	int64		n = 0;

	ScanKeyInit(&key, column, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(rel, extension_relation(index), true, snapshot, 1, &key);
	while (systable_getnext(scan) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		n++;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return n;
}

/*
 * The gauges of deferred messages and dead letters start from zero with
 * shared memory, and miss what SQL does to these tables: count once, and
 * again while that is cheap.
 *
 * The snapshot is taken after the gauges were read: what they had then, it
 * shows; what they get later fails the correction.  Only who is between its
 * commit and its count meanwhile is counted twice, until the next sweep.
 */
static void
count_stored(ReclaimRound *round, Queue *queue)
{
	QueueShared *q = queue->shared;
	int64		deferred = counter_read(&q->counters, COUNTER_DEFERRED);
	int64		dead = counter_read(&q->counters, COUNTER_DEAD);
	bool		good = true;
	Snapshot	snapshot;

	if (q->counted && deferred + dead > RECOUNT_ROWS)
		return;
	if (!reclaim_try_lock(round, extension_relation("deferred"), AccessShareLock) ||
		!reclaim_try_lock(round, extension_relation("dead"), AccessShareLock))
		return;
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	good &= counter_correct(&q->counters, COUNTER_DEFERRED, deferred,
							count_rows("deferred", "deferred_due", Anum_deferred_relid, queue->relid, snapshot));
	good &= counter_correct(&q->counters, COUNTER_DEAD, dead,
							count_rows("dead", "dead_pkey", Anum_dead_relid, queue->relid, snapshot));
	UnregisterSnapshot(snapshot);
	q->counted |= good;
}

/*
 * Reset what is derived from the tables, so that nothing that a process left
 * wrong lasts.  The next searches find out anew what is due.
 */
static void
reset_derived(QueueShared *q)
{
	bound_write(&q->next_due, DT_NOBEGIN);
	lease_look_now(q);
	reader_refresh_notes(q);
	lease_sweep();
	keys_sweep();
	keys_unpark(q, &q->unparked, UNPARKED_KEYS, 0);
	if (q->unparked >= queue_max_keys)
		q->unparked = 0;
}

/* Look for rows that came by restore, logical replication or raw SQL. */
static void
sweep(ReclaimRound *round)
{
	Queue	   *queue = reclaim_begin(round);
	TimestampTz started_at = GetCurrentTimestamp();
	int			nsegments;

	if (queue == NULL)
		return;
	STOP_POINT("sweep-begun");
	reset_derived(queue->shared);
	if (try_lock_segments(round))
		segment_refresh(queue->shared, queue->relid);
	count_stored(round, queue);
	nsegments = queue->shared->nsegments;
	worker_end();

	for (int segno = 0; segno < nsegments; segno++)
	{
		if ((queue = reclaim_begin(round)) == NULL)
			return;
		if (pg_atomic_read_u32(&queue->shared->segments[segno].state) == SEGMENT_ACTIVE &&
			reclaim_try_lock(round, queue->shared->segments[segno].relid, AccessShareLock))
			sweep_segment(queue->shared, segno, settings_limit_keys(&queue->settings));
		if (segno == nsegments - 1 && !OidIsValid(round->locked))
			queue->shared->swept_at = started_at;
		worker_end();
	}
}

void
reclaim_sweep(ReclaimRound *round)
{
	Queue	   *queue = reclaim_begin(round);
	TimestampTz now = GetCurrentTimestamp();
	int64		interval = queue_sweep_interval * INT64CONST(1000);

	round->next_sweep = TimestampTzPlusMilliseconds(now, interval);
	if (queue != NULL)
	{
		QueueShared *q = queue->shared;
		TimestampTz due;

		/*
		 * Cleared before the sweep, so that a request meanwhile is not lost;
		 * swept_at keeps it due until a sweep has come to its end.
		 */
		if (pg_atomic_exchange_u32(&q->wants_sweep, 0) != 0)
			q->swept_at = 0;
		due = q->swept_at == 0 ? now : TimestampTzPlusMilliseconds(q->swept_at, interval);
		worker_end();

		if (now >= due)
			sweep(round);
		else
			round->next_sweep = due;
	}
	reclaim_finish(round);
}

/* Move the message of a lease to queue.deferred, due now; *place is where it is then. */
static TM_Result
defer_message(Queue *queue, Relation rel, Lease *lease, LeasePlace *place)
{
	HeapTuple	tuple;
	Message		message;
	TM_Result	result = leased_delete(rel, lease, false, &tuple);

	if (result != TM_Ok)
		return result;
	if (message_deform(&message_columns, tuple, RelationGetDescr(rel), &message) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("message " INT64_FORMAT " cannot be read", lease->id)));
	place->relid = extension_relation("deferred");
	place->segment = LEASE_IN_DEFERRED;
	place->due_at = GetCurrentTimestamp();
	deferred_insert(queue, &message, place->due_at, lease->attempts - 1, NULL, &place->tid);
	return result;
}

/*
 * Move a leased message, its lease with it, or one that was returned, which
 * becomes due there.  False if its row is locked.
 */
static bool
move_message(Queue *queue, Relation rel, Lease *lease)
{
	bool		returned = (lease->state == LEASE_CHECKING);
	LeasePlace	place;
	TM_Result	result = defer_message(queue, rel, lease, &place);

	/* Locked by another transaction, perhaps a prepared one: not now. */
	if (result == TM_BeingModified)
		return false;

	/*
	 * Otherwise deleted by SQL, or by a prepared transaction that has
	 * committed.
	 */
	if (result != TM_Ok)
		lease_drop(lease->ref);
	else if (returned)
		lease_remove_returned(lease->ref);
	else
		lease_move(lease->ref, &place);
	return true;
}

/*
 * List the messages from a block on that no lease points to: false if there
 * are more than max, or one that claims have still to come to.
 */
static bool
list_waiting(QueueShared *q, int segno, Relation rel, BlockNumber block, HeapTuple *waiting, int max,
			 int *nwaiting)
{
	SegmentPlace cursor = pg_atomic_read_u64(&q->reader.segments[segno].cursor);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	bool		listed = true;

	*nwaiting = 0;
	for (; listed && block < RelationGetNumberOfBlocks(rel); block++)
	{
		HeapTuple	tuples[MaxHeapTuplesPerPage];
		int			n = frontier_page_tuples(rel, block, snapshot, false, tuples);

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < n && listed; i++)
		{
			int64		hash;

			listed = *nwaiting < max && tuple_key_hash(tuples[i]->t_data, &hash) &&
				place_of_tid(&tuples[i]->t_self) < cursor;
			if (listed)
				waiting[(*nwaiting)++] = tuples[i];
		}
	}
	UnregisterSnapshot(snapshot);
	return listed;
}

/*
 * Move a message that waits for its key's turn, unless that has come: leased
 * meanwhile, it is handed out to nobody.
 */
static void
move_waiting(Queue *queue, Relation rel, int segno, HeapTuple tuple)
{
	QueueShared *q = queue->shared;
	LeasePlace	place = {.relid = RelationGetRelid(rel),.tid = tuple->t_self,.segment = segno};
	int64		id = tuple_message_id(tuple->t_data);
	Lease		lease = {.q = q,.id = id,.attempts = 1,.place = place};
	TimestampTz now = GetCurrentTimestamp();
	Limits		unlimited = {0};
	TM_Result	result;
	int64		hash;
	int			keyno;

	lease_reserve();
	if (!tuple_key_hash(tuple->t_data, &hash) || !key_join(q, hash, &keyno))
		return;
	if (lease_take(q, &place, id, 1, LEASE_TRANSACTION, now, DT_NOEND, keyno, &unlimited,
				   &lease.ref) != LEASE_TAKEN)
	{
		key_leave(keyno, -1);
		return;
	}
	result = defer_message(queue, rel, &lease, &place);
	if (result == TM_BeingModified)
		lease_give_back(lease.ref);
	else if (result != TM_Ok)
		lease_drop(lease.ref);
	else if (lease_begin_settle(lease.ref, &lease))
		lease_mark(lease.ref, LEASE_GONE);
	else
		elog(ERROR, "the lease of message " INT64_FORMAT " has ended", id);
}

/*
 * Have a returned lease whose delivery is over end by expiry, or as its message
 * is gone.  False if that is not decided.
 */
static bool
expire_returned(Relation rel, Lease *lease)
{
	Snapshot	latest = RegisterSnapshot(GetLatestSnapshot());
	HeapTuple	tuple;
	Verdict		verdict = leased_fetch(rel, lease, latest, &tuple);

	UnregisterSnapshot(latest);
	if (verdict == VERDICT_LIVE)
		lease_expire_returned(lease->ref);
	else if (verdict == VERDICT_DEAD)
		lease_drop(lease->ref);
	return verdict != VERDICT_WAIT;
}

/*
 * Move the messages of a segment whose leases have been returned.  Leases that
 * are left are put back in the end: they would be the first again.
 */
static void
move_returned(Queue *queue, Relation rel, int segno)
{
	int			n = lease_count_returned(queue->shared);
	LeaseRef   *others = MemoryContextAllocHuge(CurrentMemoryContext,
												sizeof(LeaseRef) * (Size) Max(n, 1));
	int			nothers = 0;
	Lease		lease;

	for (; n > 0; n--)
	{
		lease_reserve();
		if (!lease_take_returned(queue->shared, &lease))
			break;
		if (lease.place.segment != segno ||
			!(lease.over ? expire_returned(rel, &lease) : move_message(queue, rel, &lease)))
			others[nothers++] = lease.ref;
	}
	while (nothers > 0)
		lease_put_back(others[--nothers]);
	pfree(others);
}

/* Move the last messages of a segment that has been sealed for long enough. */
static void
move_stragglers(ReclaimRound *round, int segno)
{
	Queue	   *queue = reclaim_begin(round);
	QueueShared *q;
	Segment    *seg;
	LeaseRef	refs[STRAGGLER_BATCH];
	HeapTuple	waiting[STRAGGLER_BATCH];
	Lease		lease;
	int			n;
	int			nwaiting;
	Relation	rel;

	if (queue == NULL)
		return;
	q = queue->shared;
	seg = &q->segments[segno];
	if (pg_atomic_read_u32(&q->lane.tail) == segno ||
		pg_atomic_read_u32(&seg->state) != SEGMENT_ACTIVE ||
		(lease_count_in_segment(q, segno) == 0 && !settings_limit_keys(&queue->settings)) ||
		lease_count_in_segment(q, segno) > STRAGGLER_BATCH ||
		!TimestampDifferenceExceeds(seg->sealed_at, GetCurrentTimestamp(), queue_straggler_age * 1000) ||
		!reclaim_try_lock(round, seg->relid, RowExclusiveLock) ||
		!reclaim_try_lock(round, extension_relation("deferred"), RowExclusiveLock) ||
		(rel = segment_open(q, segno, RowExclusiveLock)) == NULL)
	{
		worker_end();
		return;
	}

	/*
	 * While there are messages without a lease, these are not the last, but
	 * for some that wait for others of their key.
	 */
	if (!list_waiting(q, segno, rel, seg->drained, waiting,
					  settings_limit_keys(&queue->settings) ? STRAGGLER_BATCH : 0, &nwaiting))
	{
		relation_close(rel, RowExclusiveLock);
		worker_end();
		return;
	}

	n = lease_in_segment(q, segno, refs, STRAGGLER_BATCH);
	for (int i = 0; i < n; i++)
	{
		if (!lease_begin_move(refs[i], &lease))
			continue;
		STOP_POINT("move-begun");
		(void) move_message(queue, rel, &lease);
	}

	for (int i = 0; i < nwaiting; i++)
		move_waiting(queue, rel, segno, waiting[i]);

	/* Then the returned leases; later ones are left for the next time. */
	move_returned(queue, rel, segno);
	relation_close(rel, NoLock);
	worker_end();
}

void
reclaim_stragglers(ReclaimRound *round)
{
	Queue	   *queue = reclaim_begin(round);
	int			nsegments = queue ? queue->shared->nsegments : 0;

	if (queue != NULL)
		worker_end();
	for (int segno = 1; segno < nsegments; segno++)
		move_stragglers(round, segno);
	reclaim_finish(round);
}
