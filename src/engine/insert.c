/*
 * insert.c
 *		Insertion of messages at the tail of a queue.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "engine/commit.h"
#include "engine/constrained.h"
#include "engine/insert.h"
#include "engine/reader.h"
#include "engine/segment.h"
#include "engine/tables.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "stop_point.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/* Rows given to heap_multi_insert at once; each has a slot that is kept. */
#define BATCH_SLOTS		1000

/*
 * Open the tail for insertion.  The queue's own table is locked first, as the
 * lock order says.  tail is read without the queue's lock: once its table is
 * locked the segment cannot be emptied, but it can have been before.  Then it
 * is pooled and claimers do not scan it, so that tail is read again.
 */
static Relation
open_tail(Queue *queue, int *segno)
{
	QueueShared *q = queue->shared;

	LockRelationOid(queue->relid, RowExclusiveLock);
	for (;;)
	{
		int			tail = pg_atomic_read_u32(&q->lane.tail);
		Segment    *seg = &q->segments[tail];
		Relation	rel;

		STOP_POINT("send-tail");

		/* While we waited for the table the queue can have been dropped. */
		if (pg_atomic_read_u32(&q->generation) != queue->generation)
			queue_missing(NameStr(queue->name));
		rel = segment_open(q, tail, RowExclusiveLock);
		if (rel == NULL)
		{
			/* The segment was dropped, or the whole queue. */
			if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(queue->relid)))
				queue_missing(NameStr(queue->name));
		}
		else if (pg_atomic_read_u32(&seg->state) == SEGMENT_ACTIVE)
		{
			if (tail == 0 || space_blocks(&seg->space) >= segment_limit(q))
				segment_switch_tail(q, tail);
			*segno = tail;
			return rel;
		}
		else
			relation_close(rel, RowExclusiveLock);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * Pin a block whose next tuple comes to lie behind those that are in it;
 * InvalidBuffer if it may not, as VACUUM has freed line pointers of it, which
 * are used again.  VACUUM frees those of the tuples it removes while nobody
 * else has the page pinned; but where there are indexes those that are dead
 * already it frees in any case.
 */
static Buffer
pin_without_gaps(Relation rel, BlockNumber block)
{
	Buffer		buffer = ReadBuffer(rel, block);
	Page		page = BufferGetPage(buffer);
	bool		gaps = PageHasFreeLinePointers(page);

	if (unlikely(rel->rd_rel->relhasindex) && !gaps)
	{
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		for (OffsetNumber off = FirstOffsetNumber;
			 !gaps && off <= (PageIsNew(page) ? 0 : PageGetMaxOffsetNumber(page)); off++)
			gaps = !ItemIdIsNormal(PageGetItemId(page, off));
		LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
	}
	if (likely(!gaps))
		return buffer;
	ReleaseBuffer(buffer);
	return InvalidBuffer;
}

/*
 * Put a tuple where space is reserved for it; in_order: behind all that were
 * put there before.
 */
static void
put_tuple(QueueShared *q, int segno, Relation rel, HeapTuple tuple, int64 id, bool in_order)
{
	Space	   *space = &q->segments[segno].space;
	uint32		bytes = space_needed(rel, tuple);
	BlockNumber block = space_reserve(space, rel, bytes);
	Buffer		buffer = InvalidBuffer;
	SegmentPlace place;

	Assert(CheckRelationLockedByMe(rel, RowExclusiveLock, true));
	while (in_order && (buffer = pin_without_gaps(rel, block)) == InvalidBuffer)
	{
		space_give_up(space, block);
		block = space_reserve(space, rel, bytes);
	}
	STOP_POINT("send-reserved");
	RelationSetTargetBlock(rel, block);
	heap_insert(rel, tuple, GetCurrentCommandId(true), HEAP_INSERT_SKIP_FSM, NULL);
	STOP_POINT("send-inserted");
	place = place_of_tid(&tuple->t_self);
	if (unlikely(PlaceBlock(place) != block))
		space_skip(space, PlaceBlock(place));
	reader_appended(q, segno, place, place, id);
	if (in_order)
		ReleaseBuffer(buffer);
}

/*
 * A message gets its time here, after its segment has become the tail:
 * segment_load puts segments in order by it.
 */
static void
insert_one(QueueShared *q, int segno, Relation rel, Constrained *constrained,
		   Message *message)
{
	HeapTuple	tuple;

	message->enqueued_at = GetCurrentTimestamp();
	if (unlikely(constrained != NULL))
		tuple = constrained_form(constrained, message);
	else
		tuple = message_form(RelationGetDescr(rel), message);
	put_tuple(q, segno, rel, tuple, message->id, message->key != NULL);
	if (unlikely(constrained != NULL))
		constrained_index(constrained, tuple);
	heap_freetuple(tuple);
}

void
insert_message(Queue *queue, Message *message)
{
	QueueShared *q = queue->shared;
	Constrained *constrained = NULL;
	int			segno;
	Relation	rel = open_tail(queue, &segno);

	if (unlikely(constrained_needed(rel)))
		constrained = constrained_begin(rel, queue->relid);
	insert_one(q, segno, rel, constrained, message);
	if (unlikely(constrained != NULL))
		constrained_end(constrained);
	relation_close(rel, NoLock);
	commit_sent(q, 1);
}

bool
insert_lock_order(Queue *queue)
{
	if (likely(!queue->settings.ordered))
		return false;

	/* The table comes first, as the lock order says. */
	queue_lock(queue->relid, NameStr(queue->name), RowExclusiveLock);

	/*
	 * No statement locks a column this way; the queue's own lock is its
	 * table.
	 */
	LockDatabaseObject(RelationRelationId, queue->relid, 1, ExclusiveLock);
	STOP_POINT("send-ordered");
	return true;
}

void
insert_unlock_order(Queue *queue, bool locked)
{
	if (unlikely(locked))
		UnlockDatabaseObject(RelationRelationId, queue->relid, 1, ExclusiveLock);
}

void
insert_check(Queue *queue, int n, Message *messages)
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

	/* Columns may have been added to the queue. */
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

/* Whether one of some messages has a key. */
static bool
any_key(const Message *messages, int n)
{
	for (int i = 0; i < n; i++)
	{
		if (messages[i].key != NULL)
			return true;
	}
	return false;
}

/*
 * Insert the tuples in these slots, a block of them at a time.  A segment
 * once begun is filled beyond its limit if need be.
 */
static void
insert_slots(QueueShared *q, int segno, Relation rel, TupleTableSlot **slots, int n,
			 const Message *messages)
{
	Space	   *space = &q->segments[segno].space;
	bool		in_order = any_key(messages, n);
	int			done = 0;

	Assert(CheckRelationLockedByMe(rel, RowExclusiveLock, true));
	while (done < n)
	{
		uint32		need = space_needed(rel, ((HeapTupleTableSlot *) slots[done])->tuple);
		uint32		bytes;
		BlockNumber block = space_take(space, rel, need, &bytes);
		Buffer		buffer = InvalidBuffer;
		int			part = 0;
		ItemPointer first = &slots[done]->tts_tid;
		ItemPointer last;

		CHECK_FOR_INTERRUPTS();
		if (in_order && (buffer = pin_without_gaps(rel, block)) == InvalidBuffer)
			continue;
		STOP_POINT("send-reserved");
		do
		{
			bytes -= need;
			part++;
			if (done + part < n)
				need = space_needed(rel, ((HeapTupleTableSlot *) slots[done + part])->tuple);
		} while (done + part < n && bytes >= need);

		RelationSetTargetBlock(rel, block);
		heap_multi_insert(rel, slots + done, part, GetCurrentCommandId(true),
						  HEAP_INSERT_SKIP_FSM, NULL);
		last = &slots[done + part - 1]->tts_tid;
		if (unlikely(ItemPointerGetBlockNumber(last) != block))
			space_skip(space, ItemPointerGetBlockNumber(last));
		reader_appended(q, segno, place_of_tid(first), place_of_tid(last), messages[done].id);
		if (in_order)
			ReleaseBuffer(buffer);
		done += part;
		if (done == n)
			space_offer(space, block, bytes);
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

	/* The slots are kept after an error, the tuples in them are not. */
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
insert_batch(Queue *queue, int n, Message *messages)
{
	QueueShared *q = queue->shared;

	for (int done = 0; done < n;)
	{
		int			part = Min(n - done, BATCH_SLOTS);
		int			segno;
		Relation	rel = open_tail(queue, &segno);

		if (unlikely(constrained_needed(rel)))
		{
			/* One by one: the owner's code may itself use the slots. */
			Constrained *constrained = constrained_begin(rel, queue->relid);

			for (int i = 0; i < part; i++)
			{
				CHECK_FOR_INTERRUPTS();
				insert_one(q, segno, rel, constrained, &messages[done + i]);
			}
			constrained_end(constrained);
		}
		else
			insert_part(q, segno, rel, part, messages + done);
		relation_close(rel, NoLock);
		done += part;
	}
	commit_sent(q, n);
}
