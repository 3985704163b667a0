/*
 * leased_place.h
 *		Which places are leased: a hash that keeps one from being leased twice.
 *
 * Entries are numbered by lease.c, which has two for each slot.  An entry's
 * place, id and queue are written under its bucket's spinlock, while it is in
 * no bucket yet.  They are read under the spinlock, by the process that owns
 * the slot, or by lease_get, which checks the slot's word before and after.
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
 * was when it was leased.
 */
typedef struct LeasePlace
{
	Oid			relid;
	ItemPointerData tid;
	int16		segment;		/* element of segments, or LEASE_IN_DEFERRED */
	TimestampTz due_at;			/* in queue.deferred */
} LeasePlace;

extern Size leased_place_shmem_size(void);
extern void leased_place_shmem_init(void);

/*
 * Lock the bucket of a place by a spinlock, for no more than a few
 * instructions; returns its number.  queue is the number of the element, id
 * the message's.
 */
extern int	leased_place_lock(int queue, const LeasePlace *place, int64 id);
extern void leased_place_unlock(int bucket);

/* The entry of a message at a place of a locked bucket, -1 if there is none. */
extern int	leased_place_find(int bucket, int queue, const LeasePlace *place, int64 id);

/* Put an entry in a locked bucket. */
extern void leased_place_put(int bucket, int entry, int queue, const LeasePlace *place, int64 id);

/* Put an entry in its bucket, which is locked meanwhile, or remove one. */
extern void leased_place_enter(int entry, int queue, const LeasePlace *place, int64 id);
extern void leased_place_remove(int entry);

/* The place of an entry whose slot this process owns; see lease_get for others. */
extern const LeasePlace *leased_place_get(int entry);

#endif							/* QUEUE_ENGINE_LEASED_PLACE_H */
