/*
 * leased_place.c
 *		Which places are leased: a hash that keeps one from being leased twice.
 *
 * Each spinlock guards the buckets whose number modulo HASH_LOCKS is its own.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "compat.h"
#include "engine/leased_place.h"
#include "engine/shared.h"
#include "guc.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "storage/shmem.h"
#include "storage/spin.h"

#define HASH_LOCKS		128

/* A lease has two entries: where its message is, and where it is moved to. */
#define NENTRIES		(2 * (Size) queue_max_leases)

typedef struct PlaceEntry
{
	LeasePlace	place;
	int64		id;				/* message id */
	int			queue;			/* element of queue_state->queues */
	int			next;			/* in the bucket, under its spinlock */
} PlaceEntry;

typedef struct PlaceShared
{
	int			nbuckets;		/* a power of two */
	slock_t		mutex[HASH_LOCKS];
	PlaceEntry	entries[FLEXIBLE_ARRAY_MEMBER];
	/* int buckets[nbuckets] follows: their first entries, or -1 */
} PlaceShared;

static PlaceShared *shared = NULL;
static int *buckets = NULL;

static int
bucket_count(void)
{
	return pg_nextpower2_32(queue_max_leases);
}

static Size
entries_size(void)
{
	return MAXALIGN(add_size(offsetof(PlaceShared, entries),
							 mul_size(NENTRIES, sizeof(PlaceEntry))));
}

Size
leased_place_shmem_size(void)
{
	return add_size(entries_size(), mul_size(bucket_count(), sizeof(int)));
}

void
leased_place_shmem_init(void)
{
	bool		found;

	shared = ShmemInitStruct("queue leased places", leased_place_shmem_size(), &found);
	buckets = (int *) ((char *) shared + entries_size());
	if (found)
		return;

	shared->nbuckets = bucket_count();
	for (int i = 0; i < HASH_LOCKS; i++)
		SpinLockInit(&shared->mutex[i]);
	for (int i = 0; i < shared->nbuckets; i++)
		buckets[i] = -1;
	memset(shared->entries, 0, NENTRIES * sizeof(PlaceEntry));
}

static int
place_bucket(int queue, const LeasePlace *place, int64 id)
{
	uint64		hash;
	uint32		offset = 0;

	if (place->segment == LEASE_IN_DEFERRED)
		hash = ((uint64) queue << 48) ^ (uint64) id ^ (uint64) place->due_at;
	else
	{
		/* What is leased together is on one page: have its buckets together. */
		hash = ((uint64) place->relid << 32) ^ ItemPointerGetBlockNumberNoCheck(&place->tid);
		offset = ItemPointerGetOffsetNumberNoCheck(&place->tid);
	}
	return (murmurhash32((uint32) (hash ^ (hash >> 32))) + offset) & (shared->nbuckets - 1);
}

int
leased_place_lock(int queue, const LeasePlace *place, int64 id)
{
	int			bucket = place_bucket(queue, place, id);

	SpinLockAcquire(&shared->mutex[bucket % HASH_LOCKS]);
	return bucket;
}

void
leased_place_unlock(int bucket)
{
	SpinLockRelease(&shared->mutex[bucket % HASH_LOCKS]);
}

/*
 * In a segment the id tells a message from one that was at the place before
 * and whose lease has not ended (TRUNCATE, VACUUM); the database, from one in
 * a copy of this database, whose tables have the same OIDs.  dboid is read
 * without a lock: an element is not given up while one of its leases has an
 * entry.
 */
int
leased_place_find(int bucket, int queue, const LeasePlace *place, int64 id)
{
	int			number = buckets[bucket];

	Assert(SPINLOCK_IS_TAKEN(&shared->mutex[bucket % HASH_LOCKS]));
	while (number >= 0)
	{
		PlaceEntry *entry = &shared->entries[number];
		LeasePlace *other = &entry->place;

		if (entry->id != id)
			;
		else if (place->segment == LEASE_IN_DEFERRED)
		{
			if (other->segment == LEASE_IN_DEFERRED && entry->queue == queue &&
				other->due_at == place->due_at)
				break;
		}
		else if (other->segment != LEASE_IN_DEFERRED && other->relid == place->relid &&
				 ItemPointerEquals(&other->tid, unconstify(ItemPointerData *, &place->tid)) &&
				 queue_state->queues[entry->queue].dboid == MyDatabaseId)
			break;
		number = entry->next;
	}
	return number;
}

void
leased_place_put(int bucket, int entry, int queue, const LeasePlace *place, int64 id)
{
	PlaceEntry *mine = &shared->entries[entry];

	Assert(SPINLOCK_IS_TAKEN(&shared->mutex[bucket % HASH_LOCKS]));
	mine->place = *place;
	mine->id = id;
	mine->queue = queue;
	mine->next = buckets[bucket];
	buckets[bucket] = entry;
}

void
leased_place_enter(int entry, int queue, const LeasePlace *place, int64 id)
{
	int			bucket = leased_place_lock(queue, place, id);

	leased_place_put(bucket, entry, queue, place, id);
	leased_place_unlock(bucket);
}

void
leased_place_remove(int entry)
{
	PlaceEntry *mine = &shared->entries[entry];
	int			bucket = leased_place_lock(mine->queue, &mine->place, mine->id);
	int		   *link = &buckets[bucket];

	while (*link >= 0 && *link != entry)
		link = &shared->entries[*link].next;
	if (*link >= 0)
		*link = mine->next;
	leased_place_unlock(bucket);
}

const LeasePlace *
leased_place_get(int entry)
{
	return &shared->entries[entry].place;
}
