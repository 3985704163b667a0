/*
 * space.c
 *		Space for new tuples at the end of a segment.
 *
 * All senders fill one block, so that tuples lie in the order they were sent,
 * and reserve bytes of it before they insert.  Otherwise many would find it
 * full at the same time, and each would extend the table.  The table is
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

/* Bytes of a block that tuples and their line pointers can take. */
#define BLOCK_SPACE			(BLCKSZ - SizeOfPageHeaderData)

/* The value of Space.shared. */
#define SHARED(block, bytes)	(((uint64) (block) << 32) | (bytes))
#define SHARED_BLOCK(shared)	((BlockNumber) ((shared) >> 32))
#define SHARED_BYTES(shared)	((uint32) (shared))

/* A varlena is not toasted unless it is longer than this, alignment included. */
#define SHORTEST_TOASTED	32

/* Blocks a table is extended by: an eighth of it, within these bounds. */
#define MIN_EXTEND	4
#define MAX_EXTEND	32

/* Bytes of a block that tuples can take within the table's fillfactor. */
static uint32
block_space(Relation rel)
{
	return BLOCK_SPACE - RelationGetTargetPageFreeSpace(rel, HEAP_DEFAULT_FILLFACTOR);
}

/* Length of a tuple at most once it is toasted. */
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
space_needed(Relation rel, HeapTuple tuple)
{
	uint32		len = tuple->t_len;
	uint32		block = block_space(rel);

	/*
	 * A value stored out of line is fetched when the tuple is inserted, so
	 * the greatest length after toasting counts.
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
space_init(Space *space, int lwlock_tranche)
{
	LWLockInitialize(&space->lock, lwlock_tranche);
	pg_atomic_init_u32(&space->nblocks, 0);
	pg_atomic_init_u64(&space->shared, 0);
	space->next = space->end = 0;
	space->extend_at = InvalidBlockNumber;
}

/* Forget the space of a table of nblocks blocks; the lock is held. */
static void
forget_ahead(Space *space, BlockNumber nblocks)
{
	Assert(LWLockHeldByMeInMode(&space->lock, LW_EXCLUSIVE));
	pg_atomic_write_u64(&space->shared, 0);
	space->next = space->end = nblocks;
	space->extend_at = InvalidBlockNumber;
}

/* The same, and set the number of blocks in use. */
static void
forget(Space *space, BlockNumber nblocks)
{
	forget_ahead(space, nblocks);
	pg_atomic_write_u32(&space->nblocks, nblocks);
}

void
space_restart(Space *space, Relation rel)
{
	/* A sender that gets a block after this raises the number again. */
	LWLockAcquire(&space->lock, LW_EXCLUSIVE);
	forget(space, RelationGetNumberOfBlocks(rel));
	LWLockRelease(&space->lock);
}

void
space_forget(Space *space, BlockNumber nblocks)
{
	LWLockAcquire(&space->lock, LW_EXCLUSIVE);
	forget(space, nblocks);
	LWLockRelease(&space->lock);
}

void
space_raise_blocks(Space *space, BlockNumber nblocks)
{
	uint32		old = pg_atomic_read_u32(&space->nblocks);

	while (old < nblocks && !pg_atomic_compare_exchange_u32(&space->nblocks, &old, nblocks))
		;
}

/* Add n empty blocks to a table; the extension lock is held. */
static void
add_blocks(Relation rel, int n)
{
	Buffer		buffers[MAX_EXTEND];
	uint32		added = 0;

	Assert(EXTENSION_IS_LOCKED(rel));
	for (int done = 0; done < n; done += added)
	{
		(void) EXTEND_TABLE(rel, n - done, buffers, &added);
		for (int i = 0; i < added; i++)
			ReleaseBuffer(buffers[i]);
	}
}

/* Extend the table, unless another sender has since the caller found no space. */
static void
extend(Space *space, Relation rel)
{
	BlockNumber known = space->end;
	BlockNumber nblocks;
	int			n;

	/* end is read without the lock: if it changes, there is space again. */
	LockRelationForExtension(rel, ExclusiveLock);
	if (space->end == known)
	{
		nblocks = RelationGetNumberOfBlocks(rel);
		n = Min(Max(nblocks / 8, MIN_EXTEND), MAX_EXTEND);
		add_blocks(rel, n);

		LWLockAcquire(&space->lock, LW_EXCLUSIVE);
		/* Blocks that other processes added before this are left to them. */
		if (nblocks != space->end)
			space->next = nblocks;
		space->end = nblocks + n;
		space->extend_at = nblocks + n / 2;
		LWLockRelease(&space->lock);
	}
	UnlockRelationForExtension(rel, ExclusiveLock);
}

/*
 * Take a new block, of which the caller keeps this many bytes.  With share,
 * the rest is for all senders; and if there is space again by now, no block is
 * taken and InvalidBlockNumber returned.
 */
static BlockNumber
new_block(Space *space, Relation rel, uint32 bytes, bool share)
{
	for (;;)
	{
		BlockNumber block = InvalidBlockNumber;
		bool		low;

		LWLockAcquire(&space->lock, LW_EXCLUSIVE);

		/*
		 * Bytes are added under the lock only, so another sender has done it.
		 * They can be gone again by the time the caller tries.
		 */
		if (share && SHARED_BYTES(pg_atomic_read_u64(&space->shared)) >= bytes)
		{
			LWLockRelease(&space->lock);
			return InvalidBlockNumber;
		}
		if (space->next < space->end)
		{
			block = space->next++;

			/*
			 * What is left of the block before is given up: see space_offer.
			 * A compare-and-swap of another sender comes before this, and has
			 * its bytes, or fails.
			 */
			pg_atomic_write_u64(&space->shared, share ? SHARED(block, block_space(rel) - bytes) : 0);
		}
		low = (block == space->extend_at || block == InvalidBlockNumber);
		LWLockRelease(&space->lock);

		/* One sender adds blocks while the others use up those left. */
		if (low)
			extend(space, rel);
		if (block != InvalidBlockNumber)
			return block;
		CHECK_FOR_INTERRUPTS();
	}
}

BlockNumber
space_reserve(Space *space, Relation rel, uint32 bytes)
{
	uint64		shared = pg_atomic_read_u64(&space->shared);

	for (;;)
	{
		if (SHARED_BYTES(shared) < bytes)
		{
			BlockNumber block = new_block(space, rel, bytes, true);

			if (block != InvalidBlockNumber)
				return block;
			shared = pg_atomic_read_u64(&space->shared);
		}
		else if (pg_atomic_compare_exchange_u64(&space->shared, &shared, shared - bytes))
			return SHARED_BLOCK(shared);
	}
}

BlockNumber
space_take(Space *space, Relation rel, uint32 least, uint32 *bytes)
{
	uint64		shared = pg_atomic_read_u64(&space->shared);

	while (SHARED_BYTES(shared) >= least)
	{
		if (pg_atomic_compare_exchange_u64(&space->shared, &shared, 0))
		{
			*bytes = SHARED_BYTES(shared);
			return SHARED_BLOCK(shared);
		}
	}
	*bytes = block_space(rel);
	return new_block(space, rel, *bytes, false);
}

void
space_offer(Space *space, BlockNumber block, uint32 bytes)
{
	/*
	 * Only the newest block: in an older one, later messages would lie before
	 * earlier ones.
	 */
	LWLockAcquire(&space->lock, LW_EXCLUSIVE);
	if (block + 1 == space->next)
		pg_atomic_write_u64(&space->shared, SHARED(block, bytes));
	LWLockRelease(&space->lock);
}

void
space_give_up(Space *space, BlockNumber block)
{
	LWLockAcquire(&space->lock, LW_EXCLUSIVE);
	if (SHARED_BLOCK(pg_atomic_read_u64(&space->shared)) == block)
		pg_atomic_write_u64(&space->shared, 0);
	LWLockRelease(&space->lock);
}

void
space_skip(Space *space, BlockNumber block)
{
	LWLockAcquire(&space->lock, LW_EXCLUSIVE);
	if (space->next <= block)
	{
		space->next = block + 1;
		if (space->end <= block)
			space->end = block + 1;
		pg_atomic_write_u64(&space->shared, 0);
	}
	LWLockRelease(&space->lock);
}

void
space_check(Space *space, Relation rel)
{
	LWLockAcquire(&space->lock, LW_EXCLUSIVE);
	if (space->end > 0)
	{
		BlockNumber nblocks = RelationGetNumberOfBlocks(rel);

		if (nblocks < space->end)
			forget_ahead(space, nblocks);
	}
	LWLockRelease(&space->lock);
}
