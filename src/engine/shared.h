/*
 * shared.h
 *		What the processes share of each queue in use.
 *
 * All of it is a cache of who is working on what.  The heap decides which
 * messages exist; losing this memory costs redeliveries, never messages.
 *
 * A queue has segments; a lane is a line of segments that messages are sent
 * to, and a reader is who goes through them.  Leases lie elsewhere (lease.h).
 */
#ifndef QUEUE_ENGINE_SHARED_H
#define QUEUE_ENGINE_SHARED_H

#include "engine/bound.h"
#include "engine/counter.h"
#include "engine/ids.h"
#include "engine/notes.h"
#include "engine/place.h"
#include "engine/space.h"
#include "engine/wait.h"
#include "storage/lwlock.h"

/*
 * Segments of one queue at most, its own table included.  The size at which
 * the tail is switched doubles as their number grows, so this is no limit on
 * the backlog.
 */
#define QUEUE_MAX_SEGMENTS	128

typedef enum SegmentState
{
	SEGMENT_UNUSED = 0,			/* array element not in use */
	SEGMENT_POOLED,				/* empty, may become the tail */
	SEGMENT_ACTIVE				/* may hold messages; in scan order */
} SegmentState;

/* One table of messages. */
typedef struct Segment
{
	/*
	 * Under the queue's lock; read without by who has the table locked and
	 * asks again under the lock before acting on a difference.
	 */
	Oid			relid;
	uint32		filenumber;		/* changes when the table is rewritten */

	/* SegmentState.  Under the queue's lock; read without as a hint. */
	pg_atomic_uint32 state;

	Space		space;			/* see there */

	/*
	 * Counts insertions.  Counted up by anybody without a lock, after the
	 * number of blocks and before the lane's count.
	 */
	pg_atomic_uint64 appended;

	/* Under the queue's lock; read by maintenance without. */
	TimestampTz sealed_at;		/* when it stopped being the tail */

	/* The maintenance worker's; drained is read by others as a hint. */
	BlockNumber drained;		/* no live tuple before this */
	uint64		idle_appended;	/* appended when last seen, */
	TimestampTz idle_since;		/* and since when it has been that */
} Segment;

/* A line of segments that messages are sent to. */
typedef struct Lane
{
	/* Under the queue's lock; the number is read without as a hint. */
	int			nscan;
	uint8		scan_order[QUEUE_MAX_SEGMENTS]; /* oldest first */

	/*
	 * The segment messages are sent to.  Under the queue's lock; read without
	 * by senders, who look at its state once they have the table locked.
	 */
	pg_atomic_uint32 tail;

	/* Counts insertions in any of its segments, as Segment.appended does. */
	pg_atomic_uint64 appended;
} Lane;

/* Who goes through the segments: where it is in each. */
typedef struct ReaderSegment
{
	/*
	 * SegmentPlace of the next tuple to judge.  Under the queue's lock, and
	 * the page's when it is moved past its tuples; read without by senders
	 * once they have inserted.
	 */
	pg_atomic_uint64 cursor;

	/* The segment's appended when last scanned to its end; under the queue's lock. */
	uint64		scanned;
} ReaderSegment;

typedef struct Reader
{
	ReaderSegment segments[QUEUE_MAX_SEGMENTS];
	uint64		scanned;		/* the lane's appended, when last scanned to the end */
	pg_atomic_uint32 turn;		/* counts claims, by anybody; see scan_forward */
	Notes		notes;			/* under the queue's lock */
	pg_atomic_uint64 time;		/* enqueued_at last met, for queue.stats; by anybody */
} Reader;

typedef struct QueueShared
{
	/*
	 * Whose element this is.  Changes under QueueState.registry_lock only.
	 * The generation differs for each use of the element; it is compared with
	 * one that was learned under that lock.  That it is the same is certain
	 * only under the queue's lock, or with the queue's table locked.
	 */
	Oid			dboid;
	Oid			relid;
	Oid			owner;			/* of the table, when last looked up */
	bool		owner_is_superuser;
	pg_atomic_uint32 generation;

	/* Whether the segments are filled in; see queue_loaded. */
	pg_atomic_uint32 loaded;

	LWLock		lock;			/* the queue's lock */
	int			nsegments;		/* under lock; only grows while the queue lives */
	Segment		segments[QUEUE_MAX_SEGMENTS];
	Lane		lane;
	Reader		reader;

	IdRange		ids;
	WaitList	waiters;
	QueueCounters counters;

	/* When the first deferred message is due that nobody has leased. */
	TimeBound	next_due;

	/* Set by senders that find no pooled segment to go on to; cleared by maintenance. */
	pg_atomic_uint32 wants_segment;

	/* Set by who may have left messages where only a sweep finds them; likewise. */
	pg_atomic_uint32 wants_sweep;

	/* The maintenance worker's. */
	TimestampTz swept_at;
	bool		counted;		/* COUNTER_DEFERRED and COUNTER_DEAD did not start from zero */
} QueueShared;

typedef struct QueueState
{
	LWLock		registry_lock;	/* which element is which queue's */
	int			lwlock_tranche;
	pg_atomic_uint32 queue_generation;
	QueueShared queues[FLEXIBLE_ARRAY_MEMBER];
} QueueState;

extern QueueState *queue_state;

extern Size shared_size(void);
extern void shared_init(void);

/* Make a freed element as good as new; its lock is held. */
extern void shared_reset(QueueShared *q);

/* Raises 55000 unless the library was preloaded. */
extern void shmem_require(void);

#define QueueIndex(q) ((int) ((q) - queue_state->queues))

/* Pairs with the write barrier in segment_load: what it has filled in can be read. */
static inline bool
queue_loaded(QueueShared *q)
{
	bool		loaded = pg_atomic_read_u32(&q->loaded) != 0;

	pg_read_barrier();
	return loaded;
}

#endif							/* QUEUE_ENGINE_SHARED_H */
