/*
 * segment.h
 *		Segments: the append-only tables messages are sent to.
 */
#ifndef QUEUE_SEGMENT_H
#define QUEUE_SEGMENT_H

#include "access/htup.h"
#include "catalog.h"
#include "utils/rel.h"

/* Fill in the queue's shared element from its tables. */
extern void segment_load(Queue *queue);

/*
 * Open the tail for insertion, or any segment by number for reading, and
 * bring what is known of it up to date if the table was rewritten or cut.
 * NULL from segment_open if the table is gone.
 */
extern Relation segment_open_tail(Queue *queue, int *segment);
extern Relation segment_open(QueueShared *q, int segment, LOCKMODE lockmode);

/* Insert in the tail and tell the frontier. */
extern void segment_insert(Queue *queue, HeapTuple tuple);
extern void segment_insert_batch(Queue *queue, HeapTuple *tuples, int ntuples);

/* Number of the segment with this table, -1 if there is none. */
extern int	segment_number(QueueShared *q, Oid relid);

/* Tell the frontier of tuples inserted at these places of a segment. */
extern void segment_appended(QueueShared *q, int segment, SegmentPlace first,
							 SegmentPlace last, int64 first_id, int ntuples);

/* DDL: add an empty segment to a queue; in the current transaction. */
extern void segment_create(Oid parent);

/*
 * Maintenance of one queue, in transactions of its own: truncate drained
 * segments, make sure there is one to rotate into, sweep for rows that came
 * by other ways, move stragglers.
 */
extern void segment_maintain(Oid relid);

#endif							/* QUEUE_SEGMENT_H */
