/*
 * segment.h
 *		Segments: the append-only tables messages are sent to.
 */
#ifndef QUEUE_ENGINE_SEGMENT_H
#define QUEUE_ENGINE_SEGMENT_H

#include "engine/registry.h"
#include "message.h"
#include "storage/lockdefs.h"
#include "utils/rel.h"

/*
 * The engine reads and forms tuples by column number, so it must not touch a
 * table whose owner has made the columns others: whether it can, or an error.
 */
extern bool segment_columns_valid(Relation rel);
extern void segment_check_columns(Relation rel);

/*
 * Whether an open table is a segment of the table parent: it inherits from
 * that one and no other, and has the same owner, schema and persistence.
 */
extern bool segment_belongs(Relation rel, Oid parent);

/* The only table this one inherits from; InvalidOid if there are more or none. */
extern Oid	segment_parent(Oid relid);

/*
 * Whether an open table is to be used as a segment of this queue; an error if
 * it is and has other columns.
 */
extern bool segment_check(QueueShared *q, Relation rel);

/* The tables that inherit from one, which may be gone already. */
extern List *segment_children(Oid parent, LOCKMODE lockmode);

/* The segments of a table but itself, locked. */
extern List *segment_list(Oid parent, LOCKMODE lockmode);

/*
 * Fill in the queue's shared element from its tables; false if it is the
 * queue's no more.
 */
extern bool segment_load(Queue *queue);

/*
 * Open a segment and bring what is known of it up to date, should the table
 * have been rewritten or cut short.  NULL if the table is gone, or is none of
 * the queue's any more; then it is forgotten, and the tail is another.  NULL
 * also in the maintenance worker if somebody has the table locked.
 */
extern Relation segment_open(QueueShared *q, int segno, LOCKMODE lockmode);

/*
 * Insert messages at the tail, and tell the frontier and, at commit, those
 * who wait.  The time of sending is filled in, and what the queue's owner has
 * set as defaults.  Values of the messages may be toasted.
 */
extern void segment_insert(Queue *queue, Message *message);
extern void segment_insert_batch(Queue *queue, int n, Message *messages);

/*
 * See to it that messages which are not inserted now, but deferred, hold to
 * what the queue's owner demands, and give them the defaults he set.
 */
extern void segment_check_messages(Queue *queue, int n, Message *messages);

/* Number of the segment with this table, -1 if there is none. */
extern int	segment_number(QueueShared *q, Oid relid);

/*
 * Tell the frontier of tuples this transaction inserted in a segment, from
 * place first to place last.
 */
extern void segment_appended(QueueShared *q, int segno, SegmentPlace first,
							 SegmentPlace last, int64 first_id);

/*
 * DDL: add an empty segment to a queue, in the current transaction.  False if
 * the queue is gone or, unless we wait, locked.
 */
extern bool segment_create(Oid parent, bool wait);

/*
 * A name for a table or an index: base, mark and the lowest number that is
 * free, also of what others are about to make, so that we need not wait.
 */
extern char *segment_free_name(const char *base, char mark, Oid namespace);

/* Blocks at which the tail is switched. */
extern BlockNumber segment_limit(QueueShared *q);

/*
 * Put an empty segment in the pool, if nobody has it open; the lock for that
 * is kept until the transaction ends.
 */
extern void segment_pool(QueueShared *q, int segno);

/* Have the cursor look for tuples up to this place. */
extern void segment_found(QueueShared *q, int segno, SegmentPlace place);

/* Take note of segments that were made, or filled, without our doing. */
extern void segment_refresh(Queue *queue);

/* Move the tail to a pooled segment, if there is one; lock held by caller. */
extern bool segment_rotate(QueueShared *q);

#endif							/* QUEUE_ENGINE_SEGMENT_H */
