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
	LWLock		lock;			/* guards the empty blocks */

	/*
	 * Blocks that tuples have been put in.  Raised by compare-and-swap without
	 * a lock; set under the lock where the table is another.
	 */
	pg_atomic_uint32 nblocks;

	/*
	 * The block all senders fill, and the bytes of it that nobody has reserved
	 * yet.  Senders take from it by compare-and-swap without a lock; another
	 * block, or none, is put there under the lock only.
	 */
	pg_atomic_uint64 shared;

	/* Empty blocks kept ahead: from next up to, but not including, end. */
	BlockNumber next;
	BlockNumber end;
	BlockNumber extend_at;		/* who takes this one adds more */
} Space;

extern void space_init(Space *space, int lwlock_tranche);

/*
 * Bytes of a block to reserve for a tuple: what it takes at most once it is
 * toasted, or all of a block.
 */
extern uint32 space_needed(Relation rel, HeapTuple tuple);

/* Reserve as many bytes in the block all senders share. */
extern BlockNumber space_reserve(Space *space, Relation rel, uint32 bytes);

/*
 * Take all that is left of that block, or a new one if that is less than at
 * least; *bytes says how much it is.
 */
extern BlockNumber space_take(Space *space, Relation rel, uint32 least, uint32 *bytes);

/* Let all senders have what is left of a block from space_take. */
extern void space_offer(Space *space, BlockNumber block, uint32 bytes);

/*
 * A tuple for which there was no space where it was reserved has come to this
 * block: what is sent from now on must not come before it.
 */
extern void space_skip(Space *space, BlockNumber block);

/*
 * The table is another, was emptied or rewritten: forget all space, with the
 * blocks it has now, or with so many.
 */
extern void space_restart(Space *space, Relation rel);
extern void space_forget(Space *space, BlockNumber nblocks);

/* Blocks that tuples have been put in; and that it is at least so many. */
static inline BlockNumber
space_blocks(Space *space)
{
	return pg_atomic_read_u32(&space->nblocks);
}

extern void space_raise_blocks(Space *space, BlockNumber nblocks);

/* Forget space that lies beyond the end of a table, which somebody has cut. */
extern void space_check(Space *space, Relation rel);

#endif							/* QUEUE_ENGINE_SPACE_H */
