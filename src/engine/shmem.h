/*
 * shmem.h
 *		Shared memory: what each live queue's structures look like.
 *
 * All of it is a cache of who is working on what.  The heap decides which
 * messages exist; losing this memory costs redeliveries, never messages.
 */
#ifndef QUEUE_ENGINE_SHMEM_H
#define QUEUE_ENGINE_SHMEM_H

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/block.h"
#include "storage/lwlock.h"
#include "storage/off.h"
#include "storage/s_lock.h"

/*
 * Segments of one queue at most, its own table included.  The size at which
 * the tail is switched doubles as their number grows, so this is no limit on
 * the backlog.
 */
#define QUEUE_MAX_SEGMENTS	128

/* Places to look at again at most; when they are used up the cursor stops. */
#define QUEUE_MAX_LOOKS		512

/* A place in a segment, ordered as its tuples are. */
typedef uint64 SegmentPlace;

#define MakePlace(block, offset) (((SegmentPlace) (block) << 16) | (offset))
#define PlaceBlock(place)	((BlockNumber) ((place) >> 16))
#define PlaceOffset(place)	((OffsetNumber) ((place) & 0xFFFF))

/*
 * Where senders put their tuples: a block, and the bytes of it that nobody
 * has reserved yet.
 */
typedef uint64 SegmentRoom;

#define MakeRoom(block, bytes)	(((SegmentRoom) (block) << 32) | (bytes))
#define RoomBlock(room)		((BlockNumber) ((room) >> 32))
#define RoomBytes(room)		((uint32) (room))

typedef enum SegmentState
{
	SEGMENT_UNUSED = 0,			/* array element not in use */
	SEGMENT_POOLED,				/* empty, may become the tail */
	SEGMENT_ACTIVE				/* may hold messages; in scan order */
} SegmentState;

typedef struct SegmentShared
{
	Oid			relid;
	uint32		filenumber;		/* changes when the table is rewritten */
	pg_atomic_uint32 state;		/* SegmentState; under the queue's lock */
	pg_atomic_uint32 nblocks;	/* blocks senders have put tuples in */
	pg_atomic_uint64 room;		/* SegmentRoom that senders share */
	BlockNumber next_block;		/* first empty block kept ahead; extend_lock */
	BlockNumber extended;		/* end of those blocks */
	BlockNumber extend_at;		/* who takes this one adds more */
	pg_atomic_uint64 cursor;	/* SegmentPlace of the next tuple to judge */
	pg_atomic_uint64 appended;	/* counts insertions */
	uint64		scanned;		/* appended, when last scanned to its end */
	pg_atomic_uint32 leases;	/* lease slots that point into it */
	BlockNumber drained;		/* maintenance: no live tuple before this */
	TimestampTz sealed_at;		/* when it stopped being the tail */
	uint64		idle_appended;	/* maintenance: appended when last seen, */
	TimestampTz idle_since;		/* and since when it has been that */
} SegmentShared;

/*
 * A range of tuples the cursor has passed without a verdict, because the
 * transaction xid had not ended.  With an invalid xid the range is due for
 * another look once not_before has come.
 */
typedef struct LookAgain
{
	SegmentPlace first;
	SegmentPlace last;			/* inclusive */
	int64		first_id;		/* message id at first, for ordering */
	TimestampTz not_before;
	TransactionId xid;
	int			segment;
} LookAgain;

typedef struct QueueShared
{
	/* Identity; changes under QueueState.registry_lock only. */
	Oid			dboid;
	Oid			relid;
	Oid			owner;			/* of the table, when last looked up */
	bool		owner_is_superuser;
	pg_atomic_uint32 generation;	/* differs for each use of this element */
	pg_atomic_uint32 loaded;

	/* The frontier and the set of segments. */
	LWLock		lock;
	int			nsegments;
	SegmentShared segments[QUEUE_MAX_SEGMENTS];
	int			nscan;
	uint8		scan_order[QUEUE_MAX_SEGMENTS]; /* oldest first */
	pg_atomic_uint32 tail;		/* element of segments */
	LWLock		extend_lock;	/* guards the tail's empty blocks */
	pg_atomic_uint64 appended;	/* counts insertions in any segment */
	uint64		scanned;		/* appended, when last scanned to the end */
	pg_atomic_uint32 turn;		/* counts claims, see scan_forward */
	pg_atomic_uint32 nlooks;
	LookAgain	looks[QUEUE_MAX_LOOKS + 1]; /* one to spare, see scan_looks */

	/* Ids: [next_id, id_limit) is reserved. */
	slock_t		id_mutex;
	int64		next_id;
	int64		id_limit;

	/* Leases given back, oldest first, linked through their slots. */
	slock_t		returned_mutex;
	int			returned_head;
	int			returned_tail;
	pg_atomic_uint32 nreturned;

	/* When the first deferred message is due; see deferred.c. */
	pg_atomic_uint64 next_due;

	/* When the next lease may be taken over; see lease_search.c. */
	pg_atomic_uint64 next_expiry;

	/* Lease slots in use, those given back included. */
	pg_atomic_uint32 slots_used;

	/* Processes waiting for a message, linked through their wait slots. */
	slock_t		wait_mutex;
	int			wait_head;
	int			wait_tail;
	pg_atomic_uint32 nwaiting;

	/* Set by senders that find no pooled segment to rotate into. */
	pg_atomic_uint32 wants_segment;

	/* Set by those who may have left messages where only a sweep finds them. */
	pg_atomic_uint32 wants_sweep;

	TimestampTz swept_at;		/* maintenance: last sweep */

	/* Statistics. */
	pg_atomic_uint64 ready;		/* an int64: visible and not leased, about */
	pg_atomic_uint64 leased;
	pg_atomic_uint64 deferred;	/* an int64: rows in queue.deferred */
	pg_atomic_uint64 dead;		/* an int64: dead letters */
	bool		counted;		/* the last two did not start from zero */
	pg_atomic_uint64 sent;
	pg_atomic_uint64 received;
	pg_atomic_uint64 acked;
	pg_atomic_uint64 failed;
	pg_atomic_uint64 expired;
	pg_atomic_uint64 frontier_time; /* enqueued_at last met by the cursor */
} QueueShared;

typedef struct QueueState
{
	LWLock		registry_lock;	/* which element is which queue's */
	int			lwlock_tranche;
	pg_atomic_uint32 queue_generation;
	QueueShared queues[FLEXIBLE_ARRAY_MEMBER];
} QueueState;

extern QueueState *queue_state;

extern void shmem_init(void);

/* Raises 55000 unless the library was preloaded. */
extern void shmem_require(void);

#define QueueIndex(q) ((int) ((q) - queue_state->queues))

#endif							/* QUEUE_ENGINE_SHMEM_H */
