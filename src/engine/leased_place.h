/*
 * leased_place.h
 *		Which places are leased: a hash that keeps one from being leased twice.
 *
 * An entry is of a lease; which lease that is, is up to lease.c.  Its place,
 * id and queue are written, and read, under the bucket's spinlock, or by who
 * owns the lease.
 */
#ifndef QUEUE_ENGINE_LEASED_PLACE_H
#define QUEUE_ENGINE_LEASED_PLACE_H

#include "datatype/timestamp.h"
#include "storage/itemptr.h"

/* LeasePlace.segment of a message in queue.deferred. */
#define LEASE_IN_DEFERRED	(-1)

/*
 * Where a message lies.  In queue.deferred it is known by its queue, id and
 * due_at, as rows of that table can be moved by VACUUM FULL; tid is where it
 * was then.
 */
typedef struct LeasePlace
{
	Oid			relid;
	ItemPointerData tid;
	int16		segment;		/* element of segments, or LEASE_IN_DEFERRED */
	TimestampTz due_at;			/* in queue.deferred */
} LeasePlace;

/* Memory for so many entries. */
extern Size leased_place_shmem_size(void);
extern void leased_place_shmem_init(void);

/*
 * Lock the bucket of a place, by a spinlock: between these two do no more than
 * a few instructions.  The message's id tells a place from what it was before.
 */
extern int	leased_place_lock(int queue, const LeasePlace *place, int64 id);
extern void leased_place_unlock(int bucket);

/* The entry of a message at a place of a locked bucket, -1 if there is none. */
extern int	leased_place_find(int bucket, int queue, const LeasePlace *place, int64 id);

/* Put an entry in a locked bucket. */
extern void leased_place_put(int bucket, int entry, int queue, const LeasePlace *place, int64 id);

/* Enter a place, or remove one. */
extern void leased_place_enter(int entry, int queue, const LeasePlace *place, int64 id);
extern void leased_place_remove(int entry);

/* The place of an entry of who owns its lease. */
extern const LeasePlace *leased_place_get(int entry);

#endif							/* QUEUE_ENGINE_LEASED_PLACE_H */
