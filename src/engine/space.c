/*
 * space.c
 *		Room for new tuples at the end of a segment.
 *
 * All senders fill one block, so that tuples lie in the order they were sent,
 * and reserve bytes of it beforehand, so that nobody finds it full with his
 * tuple in hand: then all would extend the table at once.  The table is
 * extended some blocks ahead, by one sender while the others go on.
 */
#include "postgres.h"

#include "access/heaptoast.h"
#include "access/htup_details.h"
#include "compat.h"
#include "engine/space.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"
#include "storage/lmgr.h"

/* A varlena is not toasted unless it is longer than this, alignment included. */
#define SHORTEST_TOASTED	32

/* Blocks a table is extended by: an eighth of it, within these bounds. */
#define MIN_EXTEND	4
#define MAX_EXTEND	32

/* Bytes of a block that tuples can take as its owner wants it filled. */
static uint32
room_block(Relation rel)
{
	return ROOM_BLOCK - RelationGetTargetPageFreeSpace(rel, HEAP_DEFAULT_FILLFACTOR);
}

/* Length of a tuple at most when the toaster is done with it. */
static uint32
longest_toasted(Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);
	uint32		least = MAXALIGN(SizeofHeapTupleHeader + BITMAPLEN(desc->natts));
	uint32		target = RelationGetToastTupleTarget(rel, TOAST_TUPLE_TARGET);

	if (!OidIsValid(rel->rd_rel->reltoastrelid))
		return MaxHeapTupleSize;
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->attlen > 0)
			least += MAXALIGN(att->attlen);
		else if (att->attlen == -1 && (att->attstorage == TYPSTORAGE_EXTENDED ||
									   att->attstorage == TYPSTORAGE_EXTERNAL))
			least += SHORTEST_TOASTED;
		else
			return MaxHeapTupleSize;
	}
	return Min(Max(least, Max(target, TOAST_TUPLE_THRESHOLD)), MaxHeapTupleSize);
}

uint32
room_needed(Relation rel, HeapTuple tuple)
{
	uint32		len = tuple->t_len;
	uint32		block = room_block(rel);

	/*
	 * A value that is stored elsewhere is brought back in, to be as long as
	 * any: what counts is what the toaster makes of it.
	 */
	if (unlikely(HeapTupleHasExternal(tuple)))
		len = longest_toasted(rel);
	else if (unlikely(len > TOAST_TUPLE_THRESHOLD))
	{
		uint32		longest = longest_toasted(rel);

		len = Min(len, longest);
	}
	len = MAXALIGN(len) + sizeof(ItemIdData);
	return Min(len, block);
}

void
room_forget(SegmentShared *seg, BlockNumber nblocks)
{
	pg_atomic_write_u64(&seg->room, 0);
	seg->next_block = seg->extended = nblocks;
	seg->extend_at = InvalidBlockNumber;
}

/* Add n empty blocks to a table; the extension lock is held. */
static void
add_blocks(Relation rel, int n)
{
	Buffer		buffers[MAX_EXTEND];
	uint32		added = 0;

	for (int done = 0; done < n; done += added)
	{
		(void) ExtendBufferedRelBy(BMR_REL(rel), MAIN_FORKNUM, NULL, EB_SKIP_EXTENSION_LOCK,
								   n - done, buffers, &added);
		for (int i = 0; i < added; i++)
			ReleaseBuffer(buffers[i]);
	}
}

/* Extend the table unless somebody has just done so. */
static void
extend(QueueShared *q, SegmentShared *seg, Relation rel)
{
	BlockNumber known = seg->extended;
	BlockNumber nblocks;
	int			n;

	LockRelationForExtension(rel, ExclusiveLock);
	if (seg->extended == known)
	{
		nblocks = RelationGetNumberOfBlocks(rel);
		n = Min(Max(nblocks / 8, MIN_EXTEND), MAX_EXTEND);
		add_blocks(rel, n);

		LWLockAcquire(&q->extend_lock, LW_EXCLUSIVE);
		/* Blocks others have added meanwhile are theirs. */
		if (nblocks != seg->extended)
			seg->next_block = nblocks;
		seg->extended = nblocks + n;
		seg->extend_at = nblocks + n / 2;
		LWLockRelease(&q->extend_lock);
	}
	UnlockRelationForExtension(rel, ExclusiveLock);
}

/*
 * A new block, of which the caller keeps this many bytes and the others get
 * the rest; unless, for those who share, there is room again by now.
 */
static BlockNumber
new_block(QueueShared *q, SegmentShared *seg, Relation rel, uint32 bytes, bool share)
{
	for (;;)
	{
		BlockNumber block = InvalidBlockNumber;
		bool		low;

		LWLockAcquire(&q->extend_lock, LW_EXCLUSIVE);
		if (share && RoomBytes(pg_atomic_read_u64(&seg->room)) >= bytes)
		{
			LWLockRelease(&q->extend_lock);
			return InvalidBlockNumber;
		}
		if (seg->next_block < seg->extended)
		{
			block = seg->next_block++;
			/* What is left of the block before is given up: see room_offer. */
			pg_atomic_write_u64(&seg->room, share ? MakeRoom(block, room_block(rel) - bytes) : 0);
		}
		low = (block == seg->extend_at || block == InvalidBlockNumber);
		LWLockRelease(&q->extend_lock);

		/* One sender sees to more while the others use up what there is. */
		if (low)
			extend(q, seg, rel);
		if (block != InvalidBlockNumber)
			return block;
		CHECK_FOR_INTERRUPTS();
	}
}

BlockNumber
room_reserve(QueueShared *q, int segno, Relation rel, uint32 bytes)
{
	SegmentShared *seg = &q->segments[segno];
	SegmentRoom room = pg_atomic_read_u64(&seg->room);

	for (;;)
	{
		if (RoomBytes(room) < bytes)
		{
			BlockNumber block = new_block(q, seg, rel, bytes, true);

			if (block != InvalidBlockNumber)
				return block;
			room = pg_atomic_read_u64(&seg->room);
		}
		else if (pg_atomic_compare_exchange_u64(&seg->room, &room, room - bytes))
			return RoomBlock(room);
	}
}

BlockNumber
room_take(QueueShared *q, int segno, Relation rel, uint32 least, uint32 *bytes)
{
	SegmentShared *seg = &q->segments[segno];
	SegmentRoom room = pg_atomic_read_u64(&seg->room);

	while (RoomBytes(room) >= least)
	{
		if (pg_atomic_compare_exchange_u64(&seg->room, &room, 0))
		{
			*bytes = RoomBytes(room);
			return RoomBlock(room);
		}
	}
	*bytes = room_block(rel);
	return new_block(q, seg, rel, *bytes, false);
}

void
room_offer(QueueShared *q, int segno, BlockNumber block, uint32 bytes)
{
	SegmentShared *seg = &q->segments[segno];

	/*
	 * Only the newest block: in an older one, later messages would come
	 * before earlier ones.
	 */
	LWLockAcquire(&q->extend_lock, LW_EXCLUSIVE);
	if (block + 1 == seg->next_block)
		pg_atomic_write_u64(&seg->room, MakeRoom(block, bytes));
	LWLockRelease(&q->extend_lock);
}

void
room_skip(QueueShared *q, int segno, BlockNumber block)
{
	SegmentShared *seg = &q->segments[segno];

	LWLockAcquire(&q->extend_lock, LW_EXCLUSIVE);
	if (seg->next_block <= block)
	{
		seg->next_block = block + 1;
		if (seg->extended <= block)
			seg->extended = block + 1;
		pg_atomic_write_u64(&seg->room, 0);
	}
	LWLockRelease(&q->extend_lock);
}

void
room_check(QueueShared *q, int segno, Relation rel)
{
	SegmentShared *seg = &q->segments[segno];

	LWLockAcquire(&q->extend_lock, LW_EXCLUSIVE);
	if (seg->extended > 0)
	{
		BlockNumber nblocks = RelationGetNumberOfBlocks(rel);

		if (nblocks < seg->extended)
			room_forget(seg, nblocks);
	}
	LWLockRelease(&q->extend_lock);
}
