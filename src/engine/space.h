/*
 * space.h
 *		Room for new tuples at the end of a segment.
 */
#ifndef QUEUE_ENGINE_SPACE_H
#define QUEUE_ENGINE_SPACE_H

#include "access/htup.h"
#include "engine/shmem.h"
#include "utils/rel.h"

/* Bytes of a block that tuples and their line pointers can take. */
#define ROOM_BLOCK	(BLCKSZ - SizeOfPageHeaderData)

/*
 * Bytes of a block to reserve for a tuple: what it takes at most once it is
 * toasted, or all of a block.
 */
extern uint32 room_needed(Relation rel, HeapTuple tuple);

/* Reserve as many bytes in the block all senders share. */
extern BlockNumber room_reserve(QueueShared *q, int segno, Relation rel, uint32 bytes);

/*
 * Take all that is left of that block, or a new one if that is less than at
 * least; *bytes says how much it is.
 */
extern BlockNumber room_take(QueueShared *q, int segno, Relation rel, uint32 least,
							 uint32 *bytes);

/* Let all senders have what is left of a block from room_take. */
extern void room_offer(QueueShared *q, int segno, BlockNumber block, uint32 bytes);

/*
 * A tuple for which there was no room where it was reserved has come to this
 * block: what is sent from now on must not come before it.
 */
extern void room_skip(QueueShared *q, int segno, BlockNumber block);

/*
 * The table was truncated or rewritten: forget all room.  The queue's
 * extend_lock is held, or nobody else knows of the segment.
 */
extern void room_forget(SegmentShared *seg, BlockNumber nblocks);

/* Forget room that lies beyond the end of a table, which somebody has cut. */
extern void room_check(QueueShared *q, int segno, Relation rel);

#endif							/* QUEUE_ENGINE_SPACE_H */
