/*
 * segment.h
 *		Segments: the append-only tables messages are sent to.
 */
#ifndef QUEUE_ENGINE_SEGMENT_H
#define QUEUE_ENGINE_SEGMENT_H

#include "engine/shared.h"
#include "storage/lockdefs.h"
#include "utils/relcache.h"

/*
 * Fill in a queue's shared element from its tables; false if the element is
 * not the queue's any more, as its generation is another.
 */
extern bool segment_load(QueueShared *q, uint32 generation, Oid queue, const char *name);

/*
 * Open a segment and bring what is known of it up to date, should the table
 * have been rewritten or cut short.  NULL if the table is gone, or is none of
 * the queue's any more; then it is forgotten, and the tail is another.  NULL
 * also in the maintenance worker if the lock is not free.  The caller does not
 * hold the queue's lock.
 */
extern Relation segment_open(QueueShared *q, int segno, LOCKMODE lockmode);

/* Number of the segment with this table, -1 if there is none; a hint without the queue's lock. */
extern int	segment_number(QueueShared *q, Oid relid);

/* Blocks at which the tail is switched. */
extern BlockNumber segment_limit(QueueShared *q);

/*
 * Move the tail to a pooled segment; false if there is none.  The caller holds
 * the queue's lock.
 */
extern bool segment_rotate(QueueShared *q);

/* The tail, segno, is full: move it on, or ask for a segment to move it to. */
extern void segment_switch_tail(QueueShared *q, int segno);

/*
 * Put an empty segment in the pool, if its table can be locked exclusively
 * without waiting; that lock is kept until the transaction ends.
 */
extern void segment_pool(QueueShared *q, int segno);

/* Find segments that were made, filled or dropped by others than the engine. */
extern void segment_refresh(QueueShared *q, Oid queue);

#endif							/* QUEUE_ENGINE_SEGMENT_H */
