/*
 * shared.h
 *		What the processes share of each queue in use.
 *
 * All of it is a cache: which process works on what.  The heap decides which
 * messages exist; losing this memory costs redeliveries, never messages.
 *
 * A queue has segments; a lane is a line of segments that messages are sent
 * to, and a reader goes through them.  Leases are kept elsewhere (lease.h).
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
	 * Under the queue's lock; read without it by a process that has the table
	 * locked, and compares again under the lock before it acts on a
	 * difference (reset_segment, forget_segment).
	 */
	Oid			relid;
	uint32		filenumber;		/* changes when the table is rewritten */

	/*
	 * SegmentState.  Under the queue's lock; read without it by senders once
	 * they have the table locked (open_tail), otherwise as a hint.
	 */
	pg_atomic_uint32 state;

	Space		space;			/* has its own lock, see space.h */

	/*
	 * Counts insertions.  Counted up by any process without a lock, after the
	 * number of blocks and before the lane's count (reader_found); set only
	 * while the segment is not in use.
	 */
	pg_atomic_uint64 appended;

	/* Under the queue's lock; read without it by the maintenance worker. */
	TimestampTz sealed_at;		/* when it stopped being the tail */

	/*
	 * Ascends in the order in which segments are read.  Under the queue's
	 * lock; read without it by a process that has the table locked, or a
	 * lease that points into it, while it is in use.
	 */
	uint64		sequence;

	/*
	 * Written by the maintenance worker, and reset under the queue's lock;
	 * drained is read by others as a hint.
	 */
	BlockNumber drained;		/* no live tuple before this */
	uint64		idle_appended;	/* appended when last seen, */
	TimestampTz idle_since;		/* and since when it has been that */
} Segment;

/* A line of segments that messages are sent to. */
typedef struct Lane
{
	/* Under the queue's lock; read without it as a hint (open_ahead). */
	int			nscan;
	uint64		sequences;		/* given out so far */
	uint8		scan_order[QUEUE_MAX_SEGMENTS]; /* oldest first */

	/*
	 * The segment messages are sent to.  Under the queue's lock; read without
	 * it by senders, which check the segment's state once they have its table
	 * locked.
	 */
	pg_atomic_uint32 tail;

	/* Counts insertions in any of its segments, as Segment.appended does. */
	pg_atomic_uint64 appended;
} Lane;

/* Where a reader is in one segment. */
typedef struct ReaderSegment
{
	/*
	 * SegmentPlace of the next tuple to judge.  Under the queue's lock, and
	 * the page's too when it is moved past its tuples (scan_page); read
	 * without either by senders once they have inserted (reader_appended).
	 */
	pg_atomic_uint64 cursor;

	/*
	 * The segment's appended when last scanned to its end.  Under the queue's
	 * lock; read without it as a hint, which a torn read spoils at worst.
	 */
	uint64		scanned;
} ReaderSegment;

typedef struct Reader
{
	ReaderSegment segments[QUEUE_MAX_SEGMENTS];
	uint64		scanned;		/* the lane's appended likewise */
	pg_atomic_uint32 turn;		/* counted by any claimer, see scan_forward */
	Notes		notes;			/* under the queue's lock */

	/* enqueued_at of what was claimed last, for queue.stats; by any claimer. */
	pg_atomic_uint64 last_enqueued_at;
} Reader;

typedef struct QueueShared
{
	/*
	 * The queue whose element this is.  Written under
	 * QueueState.registry_lock; read without it through a lease, which keeps
	 * the element, or as a hint (lease_allowance).
	 *
	 * generation differs for each use of the element, and is compared without
	 * a lock with one that was learned under registry_lock.  If it differs,
	 * the element is another queue's or none's by now.  That it is the same
	 * is certain only under the queue's lock, or with the queue's table
	 * locked.
	 */
	Oid			dboid;
	Oid			relid;
	Oid			owner;			/* of the table, when last looked up */
	bool		owner_is_superuser;
	pg_atomic_uint32 generation;

	/*
	 * Whether the segments are filled in.  Under the queue's lock; read
	 * without, see queue_loaded.
	 */
	pg_atomic_uint32 loaded;

	LWLock		lock;			/* the queue's lock */
	int			nsegments;		/* under lock; grows until given up */
	Segment		segments[QUEUE_MAX_SEGMENTS];
	Lane		lane;
	Reader		reader;

	IdRange		ids;
	WaitList	waiters;
	QueueCounters counters;

	/* Lower bound of when an unleased deferred message is due: see due.c. */
	TimeBound	next_due;

	/*
	 * Whether max_in_flight has stopped a claim, so that a free place is news
	 * for those who wait; and when the rate expects the next message, an
	 * int64.  By any process without a lock, see limit.c.
	 */
	pg_atomic_uint32 flight_was_full;
	pg_atomic_uint64 rate_arrival;

	/*
	 * Set by senders that find no pooled segment, and cleared by the
	 * maintenance worker, without a lock.
	 */
	pg_atomic_uint32 wants_segment;

	/* Set where only a sweep finds messages that are back (ddl.c); likewise. */
	pg_atomic_uint32 wants_sweep;

	/* The maintenance worker's, and reset with the element. */
	TimestampTz swept_at;
	bool		counted;		/* stored messages' gauges were counted */
	int			unparked;		/* slot of a key with which the next sweep
								 * begins */
} QueueShared;

typedef struct QueueState
{
	LWLock		registry_lock;	/* which element is which queue's */
	int			lwlock_tranche;
	pg_atomic_uint32 queue_generation;	/* the last one given out */
	QueueShared queues[FLEXIBLE_ARRAY_MEMBER];
} QueueState;

extern QueueState *queue_state;

extern Size shared_shmem_size(void);
extern void shared_shmem_init(void);

/* Reset an element that is given up; the caller holds its lock exclusively. */
extern void shared_reset(QueueShared *q);

/* Raises 55000 unless the library was preloaded. */
extern void shmem_require(void);

#define QueueIndex(q) ((int) ((q) - queue_state->queues))

/*
 * Whether the segments can be used without the queue's lock.  The read barrier
 * pairs with the write barrier in segment_load: a process that sees loaded set
 * sees them filled in.
 */
static inline bool
queue_loaded(QueueShared *q)
{
	bool		loaded = pg_atomic_read_u32(&q->loaded) != 0;

	pg_read_barrier();
	return loaded;
}

#endif							/* QUEUE_ENGINE_SHARED_H */
