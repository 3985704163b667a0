/*
 * room.c
 *		Room for new tuples at the end of a segment.
 *
 * All senders fill one block, so that tuples lie in the order they were sent,
 * and reserve bytes of it beforehand, so that nobody finds it full with his
 * tuple in hand: then all would extend the table at once.  The table is
 * extended some blocks ahead, by one sender while the others go on.
 */
#include "postgres.h"

#include "access/heaptoast.h"
#include "miscadmin.h"
#include "room.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"
#include "storage/lmgr.h"

/* Blocks a table is extended by: an eighth of it, within these bounds. */
#define MIN_EXTEND	4
#define MAX_EXTEND	32

uint32
room_needed(uint32 len)
{
	return MAXALIGN(Min(len, TOAST_TUPLE_TARGET)) + sizeof(ItemIdData);
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
#if PG_VERSION_NUM >= 160000
	Buffer		buffers[MAX_EXTEND];
	uint32		added = 0;

	for (int done = 0; done < n; done += added)
	{
		(void) ExtendBufferedRelBy(BMR_REL(rel), MAIN_FORKNUM, NULL, EB_SKIP_EXTENSION_LOCK,
								   n - done, buffers, &added);
		for (int i = 0; i < added; i++)
			ReleaseBuffer(buffers[i]);
	}
#else
	for (int i = 0; i < n; i++)
		ReleaseBuffer(ReadBufferExtended(rel, MAIN_FORKNUM, P_NEW, RBM_NORMAL, NULL));
#endif
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
			pg_atomic_write_u64(&seg->room, share ? MakeRoom(block, ROOM_BLOCK - bytes) : 0);
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
	*bytes = ROOM_BLOCK;
	return new_block(q, seg, rel, ROOM_BLOCK, false);
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
