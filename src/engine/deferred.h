/*
 * deferred.h
 *		Messages with a due time: queue.deferred.
 */
#ifndef QUEUE_ENGINE_DEFERRED_H
#define QUEUE_ENGINE_DEFERRED_H

#include "engine/shared.h"
#include "message.h"
#include "utils/relcache.h"

/* Columns of queue.deferred, in this order. */
enum
{
	Anum_deferred_id = 1,
	Anum_deferred_due_at,
	Anum_deferred_enqueued_at,
	Anum_deferred_expires_at,
	Anum_deferred_relid,
	Anum_deferred_attempts,
	Anum_deferred_priority,
	Anum_deferred_key,
	Anum_deferred_headers,
	Anum_deferred_payload,
	Anum_deferred_body,
	Anum_deferred_error,
	Natts_deferred = Anum_deferred_error
};

extern const MessageColumns deferred_columns;

/*
 * Insert a message in queue.deferred, due at a time, with the number of
 * attempts so far and the error of the last one, or NULL.  *tid is where it
 * lies, unless NULL.
 */
extern void deferred_insert(QueueShared *q, const Message *message, TimestampTz due_at,
							int attempts, const char *error, ItemPointer tid);

/* Whether a row of queue.deferred, whose page is locked, is this one. */
extern bool deferred_is(Relation rel, HeapTuple tuple, Oid relid, TimestampTz due_at, int64 id);

/* The attempts so far of a message in queue.deferred. */
extern int	deferred_attempts(Relation rel, HeapTuple tuple);

/* Find a row by its key, wherever it lies by now; false if there is none. */
extern bool deferred_find(Relation rel, Oid relid, TimestampTz due_at, int64 id, ItemPointer tid);

/* Delete everything deferred of a queue. */
extern void deferred_delete_all(Oid relid);

#endif							/* QUEUE_ENGINE_DEFERRED_H */
