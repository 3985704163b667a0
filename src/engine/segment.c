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

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xlog.h"
#include "compat.h"
#include "engine/lease_account.h"
#include "engine/reader.h"
#include "engine/round.h"
#include "engine/segment.h"
#include "engine/tables.h"
#include "guc.h"
#include "message.h"
#include "miscadmin.h"
#include "stop_point.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/* Pages read to estimate how many messages a loaded segment holds. */
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

/* Record the first message of a table, unless the tuple lacks the columns. */
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
 * Order segments by when their first message was sent: messages get that time
 * after the segment has become the tail (insert_one).  Ids do not say as much,
 * as dead letters that are sent again keep theirs.
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
 * one; returns its number, -1 if there is none.  The segment is pooled, so
 * that no other process uses it yet.
 */
static int
add_segment(QueueShared *q, Oid relid, uint32 filenumber, BlockNumber nblocks)
{
	Segment    *seg;
	int			segno;

	Assert(LWLockHeldByMeInMode(&q->lock, LW_EXCLUSIVE));
	for (segno = 0; segno < q->nsegments; segno++)
	{
		/* Leases on the segment that is gone still count by its number. */
		if (pg_atomic_read_u32(&q->segments[segno].state) == SEGMENT_UNUSED &&
			lease_count_in_segment(q, segno) == 0)
			break;
	}
	if (segno == QUEUE_MAX_SEGMENTS)
		return -1;
	q->nsegments = Max(q->nsegments, segno + 1);
	seg = &q->segments[segno];
	seg->relid = relid;
	seg->filenumber = filenumber;
	seg->drained = 0;
	seg->sealed_at = 0;
	seg->idle_since = 0;
	pg_atomic_write_u32(&seg->state, SEGMENT_POOLED);
	space_forget(&seg->space, nblocks);
	pg_atomic_write_u64(&seg->appended, nblocks > 0 ? 1 : 0);
	reader_restart_segment(q, segno);
	q->reader.segments[segno].scanned = 0;
	return segno;
}

static void
activate_segment(QueueShared *q, int segno)
{
	Assert(LWLockHeldByMeInMode(&q->lock, LW_EXCLUSIVE));
	pg_atomic_write_u32(&q->segments[segno].state, SEGMENT_ACTIVE);
	q->segments[segno].sequence = ++q->lane.sequences;
	q->lane.scan_order[q->lane.nscan++] = segno;
}

/* Take a segment off the scan order. */
static void
unlist_segment(QueueShared *q, int segno)
{
	int			kept = 0;

	Assert(LWLockHeldByMeInMode(&q->lock, LW_EXCLUSIVE));
	for (int i = 0; i < q->lane.nscan; i++)
	{
		if (q->lane.scan_order[i] != segno)
			q->lane.scan_order[kept++] = q->lane.scan_order[i];
	}
	q->lane.nscan = kept;
}

/*
 * A segment's table was dropped, or is none of the queue's any more.  If it is
 * one again later, segment_refresh finds it.  Compared again under the lock,
 * as the element may have another table by now.
 */
static void
forget_segment(QueueShared *q, int segno, Oid relid)
{
	Segment    *seg = &q->segments[segno];

	LWLockAcquire(&q->lock, LW_EXCLUSIVE);
	if (seg->relid == relid && relid != q->relid &&
		pg_atomic_read_u32(&seg->state) != SEGMENT_UNUSED)
	{
		notes_forget_segment(&q->reader.notes, segno);
		unlist_segment(q, segno);
		pg_atomic_write_u32(&seg->state, SEGMENT_UNUSED);

		/* The queue's own table is always there. */
		if (pg_atomic_read_u32(&q->lane.tail) == segno && !segment_rotate(q))
			pg_atomic_write_u32(&q->lane.tail, 0);
	}
	LWLockRelease(&q->lock);
}

/*
 * Which segments are older is not stored, but follows from the messages in
 * them.  The first process that uses the queue gathers it without a lock and
 * installs it under the queue's lock; until then no process has sent or
 * received through the engine.  On a standby replay changes segments, so there
 * it is gathered at each use.
 */
bool
segment_load(QueueShared *q, uint32 generation, Oid queue, const char *name)
{
	List	   *relids = lcons_oid(queue, table_children(queue, NoLock));
	SegmentInfo *infos = palloc0(sizeof(SegmentInfo) * list_length(relids));
	int			ninfos = 0;
	int64		live = 0;
	bool		for_good = !RecoveryInProgress();
	bool		same;
	ListCell   *lc;

	foreach(lc, relids)
	{
		Relation	rel = table_open_if_any(lfirst_oid(lc), AccessShareLock);
		SegmentInfo *info = &infos[ninfos];

		if (rel == NULL)
		{
			if (tables_nowait && SearchSysCacheExists1(RELOID, ObjectIdGetDatum(lfirst_oid(lc))))
				ereport(ERROR,
						(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
						 errmsg("could not obtain lock on table \"%s\"", get_rel_name(lfirst_oid(lc)))));
			continue;
		}
		if (RelationGetRelid(rel) != queue && !table_belongs(rel, queue))
		{
			relation_close(rel, AccessShareLock);
			continue;
		}
		info->relid = RelationGetRelid(rel);
		info->is_parent = (info->relid == queue);
		info->filenumber = RELATION_FILE_NUMBER(rel);
		info->nblocks = RelationGetNumberOfBlocks(rel);
		info->first_id = PG_INT64_MAX;
		info->first_at = DT_NOEND;

		/* One with other columns is refused when it is used. */
		if (table_columns_valid(rel))
			sample_segment(rel, info);
		live += info->live;
		relation_close(rel, AccessShareLock);
		ninfos++;
	}
	if (ninfos > QUEUE_MAX_SEGMENTS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("queue \"%s\" has too many segments", name),
				 errdetail("It has %d tables; at most %d are supported.",
						   ninfos, QUEUE_MAX_SEGMENTS)));
	qsort(infos, ninfos, sizeof(SegmentInfo), compare_age);

	STOP_POINT("load-gathered");

	/* Without its own table, or its element, the queue has been dropped. */
	LWLockAcquire(&q->lock, LW_EXCLUSIVE);
	same = ninfos > 0 && infos[0].is_parent &&
		pg_atomic_read_u32(&q->generation) == generation;
	if (same && pg_atomic_read_u32(&q->loaded) == 0)
	{
		int			tail = 0;

		q->nsegments = q->lane.nscan = 0;
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
		pg_atomic_write_u32(&q->lane.tail, tail);
		counter_write(&q->counters, COUNTER_READY, live);
		pg_atomic_write_u64(&q->lane.appended, 1);
		q->reader.scanned = 0;

		/* Always due: the first search finds out when the next message is. */
		bound_write(&q->next_due, DT_NOBEGIN);

		/*
		 * Pairs with the read barrier in queue_loaded: a process that sees
		 * loaded set sees the above.
		 */
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
 * blocks: forget space and cursor and scan it from its start.  Leases are
 * still known by their places; messages that have moved are delivered again.
 * Compared again under the lock, as another process may have done this
 * meanwhile, and gone on.
 */
static void
reset_segment(QueueShared *q, int segno, Relation rel)
{
	Segment    *seg = &q->segments[segno];
	BlockNumber known;

	STOP_POINT("segment-changed");
	LWLockAcquire(&q->lock, LW_EXCLUSIVE);

	/* In this order: the table grows before its blocks are counted. */
	known = space_blocks(&seg->space);
	if (seg->relid == RelationGetRelid(rel) &&
		(seg->filenumber != RELATION_FILE_NUMBER(rel) || known > RelationGetNumberOfBlocks(rel)))
	{
		seg->filenumber = RELATION_FILE_NUMBER(rel);
		seg->drained = 0;
		space_restart(&seg->space, rel);
		reader_restart_segment(q, segno);
		pg_atomic_fetch_add_u64(&seg->appended, 1);
		pg_atomic_fetch_add_u64(&q->lane.appended, 1);
	}
	LWLockRelease(&q->lock);
}

Relation
segment_open(QueueShared *q, int segno, LOCKMODE lockmode)
{
	Segment    *seg = &q->segments[segno];
	Oid			relid = seg->relid;
	Relation	rel;
	uint32		known;
	BlockNumber nblocks;

	/* The queue's lock must not be held while we wait for a table's. */
	Assert(!LWLockHeldByMe(&q->lock));
	rel = table_open_if_any(relid, lockmode);
	if (unlikely(rel == NULL || !table_check(q->relid, rel)))
	{
		if (rel == NULL && tables_nowait)
			return NULL;		/* segment_refresh finds out why */
		if (rel != NULL)
			relation_close(rel, lockmode);
		forget_segment(q, segno, relid);
		return NULL;
	}

	/*
	 * A table that is truncated or rewritten loses its target block
	 * (RelationSetTargetBlock) in every backend, so with one its length need
	 * not be asked for.  filenumber is read without the queue's lock;
	 * reset_segment compares again.
	 */
	if (RelationGetTargetBlock(rel) != InvalidBlockNumber &&
		likely(RELATION_FILE_NUMBER(rel) == seg->filenumber))
		return rel;

	/* In this order: the table grows before its blocks are counted. */
	known = space_blocks(&seg->space);
	nblocks = RelationGetNumberOfBlocks(rel);
	if (unlikely(RELATION_FILE_NUMBER(rel) != seg->filenumber || nblocks < known))
		reset_segment(q, segno, rel);
	else if (known > 0)
		RelationSetTargetBlock(rel, known - 1);

	/* Empty blocks kept ahead can have been truncated. */
	space_check(&seg->space, rel);
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

	return (BlockNumber) Min(blocks << (q->lane.nscan / 16), MaxBlockNumber / 2);
}

bool
segment_rotate(QueueShared *q)
{
	Assert(LWLockHeldByMeInMode(&q->lock, LW_EXCLUSIVE));
	for (int i = 0; i < q->nsegments; i++)
	{
		if (pg_atomic_read_u32(&q->segments[i].state) != SEGMENT_POOLED)
			continue;
		q->segments[pg_atomic_read_u32(&q->lane.tail)].sealed_at = GetCurrentTimestamp();
		activate_segment(q, i);
		pg_atomic_write_u32(&q->lane.tail, i);
		return true;
	}
	return false;
}

void
segment_switch_tail(QueueShared *q, int segno)
{
	bool		wanting = false;

	LWLockAcquire(&q->lock, LW_EXCLUSIVE);
	if (pg_atomic_read_u32(&q->lane.tail) == segno && !segment_rotate(q))
		wanting = true;
	LWLockRelease(&q->lock);

	/* Only the first wakes the worker; maintenance_wake has a barrier. */
	if (wanting && pg_atomic_exchange_u32(&q->wants_segment, 1) == 0)
		maintenance_wake(MyDatabaseId);
}

void
segment_pool(QueueShared *q, int segno)
{
	Segment    *seg = &q->segments[segno];
	Relation	rel;

	/* A sender that took it for the tail may have it locked. */
	if (!ConditionalLockRelationOid(seg->relid, AccessExclusiveLock))
		return;
	rel = try_relation_open(seg->relid, NoLock);
	if (rel == NULL)
		return;

	LWLockAcquire(&q->lock, LW_EXCLUSIVE);
	if (pg_atomic_read_u32(&q->lane.tail) != segno && RelationGetNumberOfBlocks(rel) == 0)
	{
		seg->filenumber = RELATION_FILE_NUMBER(rel);
		seg->drained = 0;
		seg->idle_since = 0;
		space_restart(&seg->space, rel);
		reader_skip_segment(q, segno);

		/* The queue's own table stays: rows can be inserted there any time. */
		if (segno != 0)
		{
			unlist_segment(q, segno);
			pg_atomic_write_u32(&seg->state, SEGMENT_POOLED);
		}
	}
	LWLockRelease(&q->lock);
	relation_close(rel, NoLock);
}

void
segment_refresh(QueueShared *q, Oid queue)
{
	List	   *relids = lcons_oid(queue, table_children(queue, NoLock));
	ListCell   *lc;

	for (int i = 1; i < q->nsegments; i++)
	{
		Oid			relid = q->segments[i].relid;

		if (!list_member_oid(relids, relid))
			forget_segment(q, i, relid);
	}

	foreach(lc, relids)
	{
		Relation	rel = table_open_if_any(lfirst_oid(lc), AccessShareLock);
		BlockNumber nblocks;
		int			segno;

		if (rel == NULL)
			continue;
		if (RelationGetRelid(rel) != queue && !table_belongs(rel, queue))
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
			pg_atomic_fetch_add_u64(&q->lane.appended, 1);
		}
		LWLockRelease(&q->lock);
		relation_close(rel, AccessShareLock);
	}
	pg_atomic_write_u32(&q->wants_segment, 0);
	list_free(relids);
}
