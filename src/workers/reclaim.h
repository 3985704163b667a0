/*
 * reclaim.h
 *		Getting a queue's space back, and finding what came past the engine.
 *
 * What the maintenance worker does for a queue, in transactions of their own:
 * call these outside one.  A table that is locked is left for the next time;
 * the work is done for all others, and then 55P03 raised.
 */
#ifndef QUEUE_WORKERS_RECLAIM_H
#define QUEUE_WORKERS_RECLAIM_H

#include "engine/registry.h"
#include "storage/lockdefs.h"

typedef struct ReclaimRound
{
	Oid			relid;			/* the queue's table */
	bool		left;			/* out: segments with messages are left */
	TimestampTz next_sweep;		/* out: when one is due */
	Oid			locked;			/* a table passed over as it was locked */
	bool		attached;		/* the buckets of dedup keys go with the queue */
} ReclaimRound;

/*
 * For each task: begin a transaction; NULL (and none begun) if there is no
 * such queue, or it is locked, as other queues must not wait.  Lock a table;
 * if the lock is not free, false, and round->locked is set.  In the end, raise
 * 55P03 if a table was locked and passed over.
 */
extern Queue *reclaim_begin(ReclaimRound *round);
extern bool reclaim_try_lock(ReclaimRound *round, Oid relid, LOCKMODE lockmode);
extern void reclaim_finish(ReclaimRound *round);

/* Load what is known of a queue; NULL if it is gone. */
extern QueueShared *reclaim_open(ReclaimRound *round, uint32 *generation);

/* Give drained segments new, empty files. */
extern void reclaim_segments(ReclaimRound *round);

/* Have an empty segment ready to rotate into. */
extern void reclaim_provide(ReclaimRound *round);

/* Look for rows that came by other ways, if it is time. */
extern void reclaim_sweep(ReclaimRound *round);

/* Move the last messages of segments that are otherwise drained. */
extern void reclaim_stragglers(ReclaimRound *round);

#endif							/* QUEUE_WORKERS_RECLAIM_H */
