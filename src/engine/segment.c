/*
 * segment.c
 *		Segments: the append-only tables messages are sent to.
 *
 * A queue's table queues.<name> is the inheritance parent of its segments
 * and is itself one of them, number 0, the home of rows inserted by plain
 * SQL.  Messages are sent to the tail segment; when that has grown to
 * queue.segment_size the tail moves to a pooled, empty one.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "compat.h"
#include "engine/constrained.h"
#include "engine/frontier.h"
#include "engine/ids.h"
#include "engine/segment.h"
#include "engine/space.h"
#include "engine/wake.h"
#include "executor/tuptable.h"
#include "guc.h"
#include "miscadmin.h"
#include "stop_point.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "workers/worker.h"

/* Rows handed to heap_multi_insert at once; each has a slot that is kept. */
#define BATCH_SLOTS		1000

/* Pages looked at to estimate how many messages a loaded segment holds. */
#define SAMPLE_PAGES	64

/* What segment_load finds out about a table before it takes a lock. */
typedef struct SegmentInfo
{
	Oid			relid;
	uint32		filenumber;
	BlockNumber nblocks;
	bool		is_parent;
	int64		first_id;		/* PG_INT64_MAX if it holds no tuple */
	TimestampTz first_at;		/* when that was sent */
	int64		live;			/* estimated */
} SegmentInfo;

/* Note the first message of a table, unless it is none of ours. */
static void
sample_first(HeapTupleHeader tuple, SegmentInfo *info)
{
	char	   *columns = (char *) tuple + tuple->t_hoff;

	if (HeapTupleHeaderGetNatts(tuple) < Anum_message_enqueued_at ||
		((tuple->t_infomask & HEAP_HASNULL) != 0 &&
		 (att_isnull(Anum_message_id - 1, tuple->t_bits) ||
		  att_isnull(Anum_message_enqueued_at - 1, tuple->t_bits))))
		return;
	info->first_id = ((int64 *) columns)[Anum_message_id - 1];
	info->first_at = ((TimestampTz *) columns)[Anum_message_enqueued_at - 1];
}

/* The first message in a table, and an estimate of how many are live. */
static void
sample_segment(Relation rel, SegmentInfo *info)
{
	BlockNumber step = Max(info->nblocks / SAMPLE_PAGES, 1);
	int64		pages = 0;
	int64		live = 0;

	for (BlockNumber block = 0; block < info->nblocks;
		 block += (info->first_id == PG_INT64_MAX) ? 1 : step)
	{
		Buffer		buffer = ReadBuffer(rel, block);
		Page		page;

		CHECK_FOR_INTERRUPTS();
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		page = BufferGetPage(buffer);
		pages++;
		for (OffsetNumber off = FirstOffsetNumber;
			 off <= (PageIsNew(page) ? 0 : PageGetMaxOffsetNumber(page)); off++)
		{
			ItemId		item = PageGetItemId(page, off);
			HeapTupleHeader tuple;

			if (!ItemIdIsNormal(item))
				continue;
			tuple = (HeapTupleHeader) PageGetItem(page, item);
			if (info->first_id == PG_INT64_MAX)
				sample_first(tuple, info);
			if (tuple->t_infomask & HEAP_XMAX_INVALID)
				live++;
		}
		UnlockReleaseBuffer(buffer);
	}
	info->live = pages ? live * (int64) info->nblocks / pages : 0;
}

/*
 * By the time at which the first message was sent: a segment's messages got
 * theirs after it had become the tail (insert_message), while one that was a
 * dead letter keeps its id.
 */
static int
compare_age(const void *a, const void *b)
{
	const SegmentInfo *x = a;
	const SegmentInfo *y = b;

	if (x->is_parent != y->is_parent)
		return x->is_parent ? -1 : 1;
	if (x->first_at != y->first_at)
		return x->first_at < y->first_at ? -1 : 1;
	if (x->first_id != y->first_id)
		return x->first_id < y->first_id ? -1 : 1;
	return x->relid < y->relid ? -1 : 1;
}

/*
 * Use an array element for a table, one of a segment that is gone or a new
 * one; -1 if there is none.  The lists are up to the caller.
 */
static int
add_segment(QueueShared *q, Oid relid, uint32 filenumber, BlockNumber nblocks)
{
	SegmentShared *seg;
	int			segno;

	for (segno = 0; segno < q->nsegments; segno++)
	{
		if (pg_atomic_read_u32(&q->segments[segno].state) == SEGMENT_UNUSED &&
			pg_atomic_read_u32(&q->segments[segno].leases) == 0)
			break;
	}
	if (segno == QUEUE_MAX_SEGMENTS)
		return -1;
	q->nsegments = Max(q->nsegments, segno + 1);
	seg = &q->segments[segno];
	seg->relid = relid;
	seg->filenumber = filenumber;
	seg->scanned = 0;
	seg->drained = 0;
	seg->sealed_at = 0;
	seg->idle_since = 0;
	pg_atomic_write_u32(&seg->state, SEGMENT_POOLED);
	pg_atomic_write_u32(&seg->nblocks, nblocks);
	room_forget(seg, nblocks);
	pg_atomic_write_u64(&seg->cursor, MakePlace(0, FirstOffsetNumber));
	pg_atomic_write_u64(&seg->appended, nblocks > 0 ? 1 : 0);
	pg_atomic_write_u32(&seg->leases, 0);
	return segno;
}

static void
activate_segment(QueueShared *q, int segno)
{
	pg_atomic_write_u32(&q->segments[segno].state, SEGMENT_ACTIVE);
	q->scan_order[q->nscan++] = segno;
}

/* Take a segment off the scan order; lock held by caller. */
static void
unlist_segment(QueueShared *q, int segno)
{
	int			kept = 0;

	for (int i = 0; i < q->nscan; i++)
	{
		if (q->scan_order[i] != segno)
			q->scan_order[kept++] = q->scan_order[i];
	}
	q->nscan = kept;
}

/*
 * A segment's table was dropped, or is none of the queue's any more.  Should
 * that not have been the last word, segment_refresh finds it again.
 */
static void
forget_segment(QueueShared *q, int segno, Oid relid)
{
	SegmentShared *seg = &q->segments[segno];

	LWLockAcquire(&q->lock, LW_EXCLUSIVE);
	if (seg->relid == relid && relid != q->relid &&
		pg_atomic_read_u32(&seg->state) != SEGMENT_UNUSED)
	{
		frontier_forget_segment(q, segno);
		unlist_segment(q, segno);
		pg_atomic_write_u32(&seg->state, SEGMENT_UNUSED);

		/* The queue's own table is always there. */
		if (pg_atomic_read_u32(&q->tail) == segno && !segment_rotate(q))
			pg_atomic_write_u32(&q->tail, 0);
	}
	LWLockRelease(&q->lock);
}

/*
 * Open a table; NULL if it is gone.  The maintenance worker must not wait for
 * somebody who has it locked, and goes without it for now.
 */
static Relation
open_table(Oid relid, LOCKMODE lockmode)
{
	Relation	rel;

	if (!catalog_nowait)
		return try_relation_open(relid, lockmode);
	if (!ConditionalLockRelationOid(relid, lockmode))
		return NULL;
	rel = try_relation_open(relid, NoLock);
	if (rel == NULL)
		UnlockRelationOid(relid, lockmode);
	return rel;
}

/*
 * Nothing about segments is written down anywhere: which are older follows
 * from the messages in them.  Whoever comes first gathers that without a lock and
 * installs it; until then nobody has sent or received through the engine.  On
 * a standby segments change without our doing, so there it is not for good.
 */
bool
segment_load(Queue *queue)
{
	QueueShared *q = queue->shared;
	List	   *relids = lcons_oid(queue->relid, segment_children(queue->relid, NoLock));
	SegmentInfo *infos = palloc0(sizeof(SegmentInfo) * list_length(relids));
	int			ninfos = 0;
	int64		live = 0;
	bool		for_good = !RecoveryInProgress();
	bool		same;
	ListCell   *lc;

	foreach(lc, relids)
	{
		Relation	rel = open_table(lfirst_oid(lc), AccessShareLock);
		SegmentInfo *info = &infos[ninfos];

		if (rel == NULL)
		{
			if (catalog_nowait && SearchSysCacheExists1(RELOID, ObjectIdGetDatum(lfirst_oid(lc))))
				ereport(ERROR,
						(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
						 errmsg("could not obtain lock on table \"%s\"", get_rel_name(lfirst_oid(lc)))));
			continue;
		}
		if (RelationGetRelid(rel) != queue->relid && !segment_belongs(rel, queue->relid))
		{
			relation_close(rel, AccessShareLock);
			continue;
		}
		info->relid = RelationGetRelid(rel);
		info->is_parent = (info->relid == queue->relid);
		info->filenumber = RELATION_FILE_NUMBER(rel);
		info->nblocks = RelationGetNumberOfBlocks(rel);
		info->first_id = PG_INT64_MAX;
		info->first_at = DT_NOEND;

		/* One with other columns is refused when it is used. */
		if (segment_columns_valid(rel))
			sample_segment(rel, info);
		live += info->live;
		relation_close(rel, AccessShareLock);
		ninfos++;
	}
	if (ninfos > QUEUE_MAX_SEGMENTS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("queue \"%s\" has too many segments", NameStr(queue->name)),
				 errdetail("It has %d tables; at most %d are supported.",
						   ninfos, QUEUE_MAX_SEGMENTS)));
	qsort(infos, ninfos, sizeof(SegmentInfo), compare_age);

	STOP_POINT("load-gathered");

	/* Without its own table, or its element, the queue has been dropped. */
	LWLockAcquire(&q->lock, LW_EXCLUSIVE);
	same = ninfos > 0 && infos[0].is_parent &&
		pg_atomic_read_u32(&q->generation) == queue->generation;
	if (same && pg_atomic_read_u32(&q->loaded) == 0)
	{
		int			tail = 0;

		q->nsegments = q->nscan = 0;
		for (int i = 0; i < ninfos; i++)
		{
			(void) add_segment(q, infos[i].relid, infos[i].filenumber, infos[i].nblocks);
			if (infos[i].is_parent || infos[i].nblocks > 0)
				activate_segment(q, i);
			if (infos[i].nblocks > 0 || tail == 0)
				tail = i;
		}
		if (pg_atomic_read_u32(&q->segments[tail].state) != SEGMENT_ACTIVE)
			activate_segment(q, tail);
		pg_atomic_write_u32(&q->tail, tail);
		pg_atomic_write_u64(&q->ready, live);
		pg_atomic_write_u64(&q->appended, 1);
		q->scanned = 0;

		/* Zero is always due: the first look finds out when the next one is. */
		pg_atomic_write_u64(&q->next_due, 0);
		pg_write_barrier();
		pg_atomic_write_u32(&q->loaded, for_good ? 1 : 0);
	}
	LWLockRelease(&q->lock);

	pfree(infos);
	list_free(relids);
	return same;
}

/*
 * The table has another file than we knew (TRUNCATE, VACUUM FULL), or fewer
 * blocks: forget where we were and scan it from its start.  Messages still
 * on lease are known by their place or, if that moved, delivered again.
 * Others may have done so since we found out, and gone on from there.
 */
static void
reset_segment(QueueShared *q, int segno, Relation rel)
{
	SegmentShared *seg = &q->segments[segno];
	BlockNumber nblocks;

	STOP_POINT("segment-changed");
	LWLockAcquire(&q->lock, LW_EXCLUSIVE);
	LWLockAcquire(&q->extend_lock, LW_EXCLUSIVE);
	nblocks = RelationGetNumberOfBlocks(rel);
	if (seg->relid == RelationGetRelid(rel) &&
		(seg->filenumber != RELATION_FILE_NUMBER(rel) || pg_atomic_read_u32(&seg->nblocks) > nblocks))
	{
		seg->filenumber = RELATION_FILE_NUMBER(rel);
		seg->drained = 0;
		pg_atomic_write_u32(&seg->nblocks, nblocks);
		room_forget(seg, nblocks);
		pg_atomic_write_u64(&seg->cursor, MakePlace(0, FirstOffsetNumber));
		frontier_forget_segment(q, segno);
		pg_atomic_fetch_add_u64(&seg->appended, 1);
		pg_atomic_fetch_add_u64(&q->appended, 1);
	}
	LWLockRelease(&q->extend_lock);
	LWLockRelease(&q->lock);
}

Relation
segment_open(QueueShared *q, int segno, LOCKMODE lockmode)
{
	SegmentShared *seg = &q->segments[segno];
	Oid			relid = seg->relid;
	Relation	rel = open_table(relid, lockmode);
	uint32		known;
	BlockNumber nblocks;

	if (unlikely(rel == NULL || !segment_check(q, rel)))
	{
		if (rel == NULL && catalog_nowait)
			return NULL;		/* segment_refresh finds out why */
		if (rel != NULL)
			relation_close(rel, lockmode);
		forget_segment(q, segno, relid);
		return NULL;
	}

	/*
	 * A table that is cut short or rewritten makes us forget the block we
	 * aimed at last (RelationSetTargetBlock), so only then we need ask how
	 * long it is.
	 */
	if (RelationGetTargetBlock(rel) != InvalidBlockNumber &&
		likely(RELATION_FILE_NUMBER(rel) == seg->filenumber))
		return rel;

	/* What senders have published can only be less than what there is. */
	known = pg_atomic_read_u32(&seg->nblocks);
	nblocks = RelationGetNumberOfBlocks(rel);
	if (unlikely(RELATION_FILE_NUMBER(rel) != seg->filenumber || nblocks < known))
		reset_segment(q, segno, rel);
	else if (known > 0)
		RelationSetTargetBlock(rel, known - 1);

	/* Blocks kept ahead can be gone though no message was in them. */
	room_check(q, segno, rel);
	return rel;
}

int
segment_number(QueueShared *q, Oid relid)
{
	for (int i = 0; i < q->nsegments; i++)
	{
		if (q->segments[i].relid == relid &&
			pg_atomic_read_u32(&q->segments[i].state) != SEGMENT_UNUSED)
			return i;
	}
	return -1;
}

/* Blocks at which the tail is switched: doubled with every 16 segments. */
BlockNumber
segment_limit(QueueShared *q)
{
	uint64		blocks = (uint64) queue_segment_size * (1024 * 1024 / BLCKSZ);

	return (BlockNumber) Min(blocks << (q->nscan / 16), MaxBlockNumber / 2);
}

bool
segment_rotate(QueueShared *q)
{
	for (int i = 0; i < q->nsegments; i++)
	{
		if (pg_atomic_read_u32(&q->segments[i].state) != SEGMENT_POOLED)
			continue;
		q->segments[pg_atomic_read_u32(&q->tail)].sealed_at = GetCurrentTimestamp();
		activate_segment(q, i);
		pg_atomic_write_u32(&q->tail, i);
		return true;
	}
	return false;
}

/* The tail is full; move on, or ask for a segment to move to. */
static void
switch_tail(QueueShared *q, int segno)
{
	bool		wanting = false;

	LWLockAcquire(&q->lock, LW_EXCLUSIVE);
	if (pg_atomic_read_u32(&q->tail) == segno && !segment_rotate(q))
		wanting = true;
	LWLockRelease(&q->lock);

	if (wanting && pg_atomic_exchange_u32(&q->wants_segment, 1) == 0)
		maintenance_wake(MyDatabaseId);
}

/*
 * Open the tail for insertion.  The queue's own table is locked first, as by
 * everybody who locks both.  Once the segment's lock is ours it cannot be
 * truncated, but it may have been before: one from the pool is nobody's to
 * insert in, as the frontier does not look there.
 */
static Relation
open_tail(Queue *queue, int *segno)
{
	QueueShared *q = queue->shared;

	LockRelationOid(queue->relid, RowExclusiveLock);
	for (;;)
	{
		int			tail = pg_atomic_read_u32(&q->tail);
		SegmentShared *seg = &q->segments[tail];
		Relation	rel;

		STOP_POINT("send-tail");

		/* While we waited for the table the queue can have been dropped. */
		if (pg_atomic_read_u32(&q->generation) != queue->generation)
			queue_missing(NameStr(queue->name));
		rel = segment_open(q, tail, RowExclusiveLock);
		if (rel == NULL)
		{
			/* Dropped, and another segment is the tail; or all was. */
			if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(queue->relid)))
				queue_missing(NameStr(queue->name));
		}
		else if (pg_atomic_read_u32(&seg->state) == SEGMENT_ACTIVE)
		{
			if (tail == 0 || pg_atomic_read_u32(&seg->nblocks) >= segment_limit(q))
				switch_tail(q, tail);
			*segno = tail;
			return rel;
		}
		else
			relation_close(rel, RowExclusiveLock);
		CHECK_FOR_INTERRUPTS();
	}
}

/* Raise the number of blocks that others may be raising too. */
static void
raise_nblocks(SegmentShared *seg, BlockNumber nblocks)
{
	uint32		old = pg_atomic_read_u32(&seg->nblocks);

	while (old < nblocks && !pg_atomic_compare_exchange_u32(&seg->nblocks, &old, nblocks))
		;
}

void
segment_found(QueueShared *q, int segno, SegmentPlace place)
{
	SegmentShared *seg = &q->segments[segno];

	raise_nblocks(seg, PlaceBlock(place) + 1);
	pg_atomic_fetch_add_u64(&seg->appended, 1);
	pg_atomic_fetch_add_u64(&q->appended, 1);
}

void
segment_appended(QueueShared *q, int segno, SegmentPlace first, SegmentPlace last,
				 int64 first_id)
{
	SegmentShared *seg = &q->segments[segno];

	/*
	 * The tuples are in the table by now.  A claimer that reads a page later
	 * sees them there; one that read it earlier published its cursor before
	 * it let go of the page, so that we see here that it has passed us.
	 */
	segment_found(q, segno, last);
	if (first < pg_atomic_read_u64(&seg->cursor))
		frontier_remember(q, segno, first, last, first_id, GetTopTransactionId());
}

/* Put a tuple where room is reserved for it. */
static void
put_tuple(QueueShared *q, int segno, Relation rel, HeapTuple tuple, int64 id)
{
	BlockNumber block = room_reserve(q, segno, rel, room_needed(rel, tuple));
	SegmentPlace place;

	STOP_POINT("send-reserved");
	RelationSetTargetBlock(rel, block);
	heap_insert(rel, tuple, GetCurrentCommandId(true), HEAP_INSERT_SKIP_FSM, NULL);
	STOP_POINT("send-inserted");
	place = MakePlace(ItemPointerGetBlockNumber(&tuple->t_self),
					  ItemPointerGetOffsetNumber(&tuple->t_self));
	if (unlikely(PlaceBlock(place) != block))
		room_skip(q, segno, PlaceBlock(place));
	segment_appended(q, segno, place, place, id);
}

/*
 * A message's time is that of its insertion, not before the tail has become
 * what it is: segment_load goes by it.
 */
static void
insert_message(QueueShared *q, int segno, Relation rel, Constrained *constrained,
			   Message *message)
{
	HeapTuple	tuple;

	message->enqueued_at = GetCurrentTimestamp();
	if (unlikely(constrained != NULL))
		tuple = constrained_form(constrained, message);
	else
		tuple = message_form(RelationGetDescr(rel), message);
	put_tuple(q, segno, rel, tuple, message->id);
	if (unlikely(constrained != NULL))
		constrained_index(constrained, tuple);
	heap_freetuple(tuple);
}

void
segment_insert(Queue *queue, Message *message)
{
	QueueShared *q = queue->shared;
	Constrained *constrained = NULL;
	int			segno;
	Relation	rel = open_tail(queue, &segno);

	if (unlikely(constrained_needed(rel)))
		constrained = constrained_begin(rel, queue->relid);
	insert_message(q, segno, rel, constrained, message);
	if (unlikely(constrained != NULL))
		constrained_end(constrained);
	relation_close(rel, NoLock);
	wake_at_commit(q, 1);
}

void
segment_check_messages(Queue *queue, int n, Message *messages)
{
	int			segno;
	Relation	rel = open_tail(queue, &segno);

	if (constrained_needed(rel))
	{
		Constrained *constrained = constrained_begin(rel, queue->relid);

		for (int i = 0; i < n; i++)
			heap_freetuple(constrained_form(constrained, &messages[i]));
		constrained_end(constrained);
	}
	relation_close(rel, NoLock);
}

/* n slots for tuples of this shape, made once and kept. */
static TupleTableSlot **
batch_slots(TupleDesc shape, int n)
{
	static TupleTableSlot *slots[BATCH_SLOTS];
	static int	nslots = 0;
	static TupleDesc desc = NULL;
	MemoryContext old;

	/* Somebody may have added columns to the queue. */
	if (desc != NULL && desc->natts != shape->natts)
	{
		while (nslots > 0)
			ExecDropSingleTupleTableSlot(slots[--nslots]);
		FreeTupleDesc(desc);
		desc = NULL;
	}

	old = MemoryContextSwitchTo(TopMemoryContext);
	if (desc == NULL)
		desc = CreateTupleDescCopy(shape);
	while (nslots < n)
	{
		slots[nslots] = MakeSingleTupleTableSlot(desc, &TTSOpsHeapTuple);
		nslots++;
	}
	MemoryContextSwitchTo(old);
	return slots;
}

/*
 * Insert the tuples in these slots, a block of them at a time.  A segment
 * once begun is filled beyond its limit if need be.
 */
static void
insert_slots(QueueShared *q, int segno, Relation rel, TupleTableSlot **slots, int n,
			 const Message *messages)
{
	int			done = 0;

	while (done < n)
	{
		uint32		need = room_needed(rel, ((HeapTupleTableSlot *) slots[done])->tuple);
		uint32		bytes;
		BlockNumber block = room_take(q, segno, rel, need, &bytes);
		int			part = 0;
		ItemPointer first = &slots[done]->tts_tid;
		ItemPointer last;

		CHECK_FOR_INTERRUPTS();
		do
		{
			bytes -= need;
			part++;
			if (done + part < n)
				need = room_needed(rel, ((HeapTupleTableSlot *) slots[done + part])->tuple);
		} while (done + part < n && bytes >= need);

		RelationSetTargetBlock(rel, block);
		heap_multi_insert(rel, slots + done, part, GetCurrentCommandId(true),
						  HEAP_INSERT_SKIP_FSM, NULL);
		last = &slots[done + part - 1]->tts_tid;
		if (unlikely(ItemPointerGetBlockNumber(last) != block))
			room_skip(q, segno, ItemPointerGetBlockNumber(last));
		segment_appended(q, segno,
						 MakePlace(ItemPointerGetBlockNumber(first), ItemPointerGetOffsetNumber(first)),
						 MakePlace(ItemPointerGetBlockNumber(last), ItemPointerGetOffsetNumber(last)),
						 messages[done].id);
		done += part;
		if (done == n)
			room_offer(q, segno, block, bytes);
	}
}

/* Insert some messages, BATCH_SLOTS at most, block by block. */
static void
insert_part(QueueShared *q, int segno, Relation rel, int n, Message *messages)
{
	TupleDesc	desc = RelationGetDescr(rel);
	TupleTableSlot **slots = batch_slots(desc, n);
	HeapTuple	tuples[BATCH_SLOTS];
	TimestampTz now = GetCurrentTimestamp();

	for (int i = 0; i < n; i++)
	{
		messages[i].enqueued_at = now;
		tuples[i] = message_form(desc, &messages[i]);
	}
	for (int i = 0; i < n; i++)
		ExecStoreHeapTuple(tuples[i], slots[i], true);

	/* The slots outlive an error; what they hold does not. */
	PG_TRY();
	{
		insert_slots(q, segno, rel, slots, n, messages);
	}
	PG_FINALLY();
	{
		for (int i = 0; i < n; i++)
			ExecClearTuple(slots[i]);
	}
	PG_END_TRY();
}

void
segment_insert_batch(Queue *queue, int n, Message *messages)
{
	QueueShared *q = queue->shared;

	for (int done = 0; done < n;)
	{
		int			part = Min(n - done, BATCH_SLOTS);
		int			segno;
		Relation	rel = open_tail(queue, &segno);

		if (unlikely(constrained_needed(rel)))
		{
			/* One by one: code of the owner's may send a batch itself. */
			Constrained *constrained = constrained_begin(rel, queue->relid);

			for (int i = 0; i < part; i++)
			{
				CHECK_FOR_INTERRUPTS();
				insert_message(q, segno, rel, constrained, &messages[done + i]);
			}
			constrained_end(constrained);
		}
		else
			insert_part(q, segno, rel, part, messages + done);
		relation_close(rel, NoLock);
		done += part;
	}
	wake_at_commit(q, n);
}

void
segment_pool(QueueShared *q, int segno)
{
	SegmentShared *seg = &q->segments[segno];
	Relation	rel;

	/* A sender that took it for the tail may be about to insert in it. */
	if (!ConditionalLockRelationOid(seg->relid, AccessExclusiveLock))
		return;
	rel = try_relation_open(seg->relid, NoLock);
	if (rel == NULL)
		return;

	LWLockAcquire(&q->lock, LW_EXCLUSIVE);
	LWLockAcquire(&q->extend_lock, LW_EXCLUSIVE);
	if (pg_atomic_read_u32(&q->tail) != segno && RelationGetNumberOfBlocks(rel) == 0)
	{
		frontier_forget_segment(q, segno);
		seg->filenumber = RELATION_FILE_NUMBER(rel);
		seg->drained = 0;
		seg->idle_since = 0;
		seg->scanned = pg_atomic_read_u64(&seg->appended);
		pg_atomic_write_u32(&seg->nblocks, 0);
		room_forget(seg, 0);
		pg_atomic_write_u64(&seg->cursor, MakePlace(0, FirstOffsetNumber));

		/* The queue's own table stays: rows can be inserted there any time. */
		if (segno != 0)
		{
			unlist_segment(q, segno);
			pg_atomic_write_u32(&seg->state, SEGMENT_POOLED);
		}
	}
	LWLockRelease(&q->extend_lock);
	LWLockRelease(&q->lock);
	relation_close(rel, NoLock);
}

void
segment_refresh(Queue *queue)
{
	QueueShared *q = queue->shared;
	List	   *relids = lcons_oid(queue->relid, segment_children(queue->relid, NoLock));
	ListCell   *lc;

	for (int i = 1; i < q->nsegments; i++)
	{
		Oid			relid = q->segments[i].relid;

		if (!list_member_oid(relids, relid))
			forget_segment(q, i, relid);
	}

	foreach(lc, relids)
	{
		Relation	rel = open_table(lfirst_oid(lc), AccessShareLock);
		BlockNumber nblocks;
		int			segno;

		if (rel == NULL)
			continue;
		if (RelationGetRelid(rel) != queue->relid && !segment_belongs(rel, queue->relid))
		{
			relation_close(rel, AccessShareLock);
			continue;
		}
		nblocks = RelationGetNumberOfBlocks(rel);
		LWLockAcquire(&q->lock, LW_EXCLUSIVE);
		segno = segment_number(q, RelationGetRelid(rel));
		if (segno < 0)
			segno = add_segment(q, RelationGetRelid(rel), RELATION_FILE_NUMBER(rel), nblocks);
		if (segno >= 0 && nblocks > 0 &&
			pg_atomic_read_u32(&q->segments[segno].state) == SEGMENT_POOLED)
		{
			activate_segment(q, segno);
			pg_atomic_fetch_add_u64(&q->segments[segno].appended, 1);
			pg_atomic_fetch_add_u64(&q->appended, 1);
		}
		LWLockRelease(&q->lock);
		relation_close(rel, AccessShareLock);
	}
	pg_atomic_write_u32(&q->wants_segment, 0);
	list_free(relids);
}
