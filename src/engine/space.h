/*
 * space.h
 *		Space for new tuples at the end of a segment.
 */
#ifndef QUEUE_ENGINE_SPACE_H
#define QUEUE_ENGINE_SPACE_H

#include "access/htup.h"
#include "port/atomics.h"
#include "storage/block.h"
#include "storage/lwlock.h"
#include "utils/relcache.h"

typedef struct Space
{
	LWLock		lock;			/* guards empty blocks, and which is shared */

	/*
	 * Number of blocks that tuples have been put in.  Raised by
	 * compare-and-swap without a lock; set under the lock when the table is
	 * another.
	 */
	pg_atomic_uint32 nblocks;

	/*
	 * The block all senders fill, and the bytes of it that are not reserved.
	 * Senders take bytes by compare-and-swap without a lock; another block is
	 * put there, or bytes added, under the lock only.
	 */
	pg_atomic_uint64 shared;

	/*
	 * Empty blocks kept ahead: from next up to, but not including, end.  Both
	 * under the lock; extend reads end without.
	 */
	BlockNumber next;
	BlockNumber end;
	BlockNumber extend_at;		/* the sender that takes this one adds more */
} Space;

extern void space_init(Space *space, int lwlock_tranche);

/*
 * Bytes of a block to reserve for a tuple: what it takes at most once it is
 * toasted, line pointer included, or all of a block.
 */
extern uint32 space_needed(Relation rel, HeapTuple tuple);

/*
 * Reserve as many bytes in the shared block; returns the block.  The caller
 * has the table locked, and does not hold the queue's lock, as this can wait
 * for the extension lock.
 */
extern BlockNumber space_reserve(Space *space, Relation rel, uint32 bytes);

/*
 * Take all bytes left of the shared block, or a new block if those are fewer
 * than least; *bytes says how many.  Returns the block.  Locks as above.
 */
extern BlockNumber space_take(Space *space, Relation rel, uint32 least, uint32 *bytes);

/* Let all senders have what is left of a block from space_take. */
extern void space_offer(Space *space, BlockNumber block, uint32 bytes);

/* Leave what there is left of a block to nobody. */
extern void space_give_up(Space *space, BlockNumber block);

/*
 * A tuple has come to this block because there was no space where it was
 * reserved: later messages must not lie before it.
 */
extern void space_skip(Space *space, BlockNumber block);

/*
 * The table is another, was emptied or rewritten: forget all space.  It has as
 * many blocks as now, or nblocks of them.  The caller holds the queue's lock.
 */
extern void space_restart(Space *space, Relation rel);
extern void space_forget(Space *space, BlockNumber nblocks);

/* Number of blocks that tuples have been put in; and raise it to nblocks at least. */
static inline BlockNumber
space_blocks(Space *space)
{
	return pg_atomic_read_u32(&space->nblocks);
}

extern void space_raise_blocks(Space *space, BlockNumber nblocks);

/* Forget space beyond the end of a table that was truncated. */
extern void space_check(Space *space, Relation rel);

#endif							/* QUEUE_ENGINE_SPACE_H */
