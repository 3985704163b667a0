/*
 * deferred.h
 *		Messages with a due time: queue.deferred.
 */
#ifndef QUEUE_ENGINE_DEFERRED_H
#define QUEUE_ENGINE_DEFERRED_H

#include "access/genam.h"
#include "engine/registry.h"
#include "message.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

/* Columns of queue.deferred, in this order. */
enum
{
	Anum_deferred_id = 1,
	Anum_deferred_due_at,
	Anum_deferred_enqueued_at,
	Anum_deferred_expires_at,
	Anum_deferred_deferred_at,
	Anum_deferred_key_hash,
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
extern void deferred_insert(Queue *queue, const Message *message, TimestampTz due_at, int attempts,
							const char *error, ItemPointer tid);

/* Whether a row of queue.deferred, whose page is locked, is this one. */
extern bool deferred_is(Relation rel, HeapTuple tuple, Oid relid, TimestampTz due_at, int64 id);

/* The attempts so far of a message in queue.deferred. */
extern int	deferred_attempts(Relation rel, HeapTuple tuple);

/* Find a row by its key, wherever it lies by now; false if there is none. */
extern bool deferred_find(Relation rel, Oid relid, TimestampTz due_at, int64 id, ItemPointer tid);

/*
 * Go through the deferred messages of a key of a queue that limits keys, by
 * ascending id, as a snapshot shows them.  row is what was found; false at the
 * end.
 */
typedef struct DeferredScan
{
	Relation	rel;
	Relation	index;
	SysScanDesc scan;
} DeferredScan;

typedef struct DeferredRow
{
	int64		id;
	TimestampTz due_at;
	int			attempts;		/* so far */
	ItemPointerData tid;
} DeferredRow;

extern void deferred_begin_key(DeferredScan *scan, Oid relid, int64 hash, Snapshot snapshot);
extern bool deferred_next_of_key(DeferredScan *scan, DeferredRow *row);
extern void deferred_end_key(DeferredScan *scan);

/* Enter the key's hash in the rows of a queue that begins to limit keys. */
extern void deferred_hash_keys(Oid relid);

/* Delete everything deferred of a queue. */
extern void deferred_delete_all(Oid relid);

#endif							/* QUEUE_ENGINE_DEFERRED_H */
