/*
 * room.h
 *		Room for new tuples at the end of a segment.
 */
#ifndef QUEUE_ROOM_H
#define QUEUE_ROOM_H

#include "shmem.h"
#include "utils/rel.h"

/* Bytes of a block that can be reserved. */
#define ROOM_BLOCK	(BLCKSZ - SizeOfPageHeaderData)

/* Bytes a tuple of this length takes; what is longer is toasted to less. */
extern uint32 room_needed(uint32 len);

/* Reserve bytes, ROOM_BLOCK at most, in the block all senders share. */
extern BlockNumber room_reserve(QueueShared *q, int segno, Relation rel, uint32 bytes);

/*
 * Take all that is left of that block, or a new one if that is less than at
 * least; *bytes says how much it is.
 */
extern BlockNumber room_take(QueueShared *q, int segno, Relation rel, uint32 least,
							 uint32 *bytes);

/* Let all senders have what is left of a block from room_take. */
extern void room_offer(QueueShared *q, int segno, BlockNumber block, uint32 bytes);

/* Forget all room: the table was truncated or rewritten. */
extern void room_forget(SegmentShared *seg, BlockNumber nblocks);

#endif							/* QUEUE_ROOM_H */
