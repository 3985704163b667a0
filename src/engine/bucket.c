/*
 * bucket.c
 *		Buckets of dedup keys: which are in use, and when one has expired.
 *
 * This part of shared memory is a cache like the rest: after a restart the
 * tables say what there is, and every key in them is remembered for a window
 * more.
 */
#include "postgres.h"

#include "access/xact.h"
#include "engine/bucket.h"
#include "engine/filter.h"
#include "engine/round.h"
#include "guc.h"
#include "miscadmin.h"
#include "stop_point.h"
#include "storage/shmem.h"
#include "utils/memutils.h"

/* Locks for keys, shared by all queues. */
#define STRIPES		128

/* The current bucket is written to for this part of the window, and at least so long. */
#define SLICES		4
#define MIN_SLICE	USECS_PER_SEC

typedef struct BucketsShared
{
	LWLock		lock;			/* guards the rest; held for some instructions */

	/*
	 * The use of the queue's element that this is about.  It is compared each
	 * time, so that an element that is given up need not be reset here.
	 */
	uint32		generation;
	int64		window;			/* as whoever wrote last knew it, for
								 * maintenance */
	Buckets		buckets;
} BucketsShared;

typedef struct BucketMemory
{
	LWLockPadded stripes[STRIPES];
	pg_atomic_uint32 loads;		/* the last number given out */
	BucketsShared queues[FLEXIBLE_ARRAY_MEMBER];
} BucketMemory;

static BucketMemory *shared = NULL;

/* A bucket that this transaction has written to, or a subtransaction of it. */
typedef struct Writing
{
	int			queue;			/* number of the element */
	uint32		load;
	int			bucket;
} Writing;

static Writing *writings = NULL;
static int	nwritings = 0;
static int	max_writings = 0;

Size
bucket_shmem_size(void)
{
	return add_size(offsetof(BucketMemory, queues),
					mul_size(queue_max_queues, sizeof(BucketsShared)));
}

void
bucket_shmem_init(void)
{
	bool		found;

	shared = ShmemInitStruct("queue dedup buckets", bucket_shmem_size(), &found);
	if (found)
		return;
	memset(shared, 0, bucket_shmem_size());
	for (int i = 0; i < STRIPES; i++)
		LWLockInitialize(&shared->stripes[i].lock, queue_state->lwlock_tranche);
	pg_atomic_init_u32(&shared->loads, 0);
	for (int i = 0; i < queue_max_queues; i++)
		LWLockInitialize(&shared->queues[i].lock, queue_state->lwlock_tranche);
}

LWLock *
bucket_stripe(QueueShared *q, uint64 hash)
{
	return &shared->stripes[(hash + QueueIndex(q)) % STRIPES].lock;
}

static inline BucketsShared *
shared_of(Queue *queue)
{
	return &shared->queues[QueueIndex(queue->shared)];
}

/* Whether something is loaded for this use of the element. */
static bool
is_loaded(BucketsShared *s, uint32 generation)
{
	Assert(LWLockHeldByMe(&s->lock));
	return s->generation == generation && s->buckets.load != 0;
}

/* The same, and still what it was. */
static bool
is_load(BucketsShared *s, Queue *queue, uint32 load)
{
	return is_loaded(s, queue->generation) && s->buckets.load == load;
}

bool
buckets_read(Queue *queue, Buckets *copy)
{
	BucketsShared *s = shared_of(queue);
	bool		loaded;

	LWLockAcquire(&s->lock, LW_SHARED);
	loaded = is_loaded(s, queue->generation);
	if (loaded)
		*copy = s->buckets;
	LWLockRelease(&s->lock);
	return loaded;
}

/* The keys of a bucket are gone, or not all known. */
static void
drop_filter(Bucket *b)
{
	filter_give_back(b->filter);
	b->filter = 0;
}

/* Take back filters from elements that have been given up, but where that is not free at once. */
static void
recover_filters(void)
{
	for (int i = 0; i < queue_max_queues; i++)
	{
		BucketsShared *s = &shared->queues[i];

		if (s->generation == pg_atomic_read_u32(&queue_state->queues[i].generation) ||
			LWLockHeldByMe(&s->lock) || !LWLockConditionalAcquire(&s->lock, LW_EXCLUSIVE))
			continue;
		if (s->generation != pg_atomic_read_u32(&queue_state->queues[i].generation))
		{
			s->buckets.load = 0;
			for (int j = 0; j < QUEUE_MAX_BUCKETS; j++)
				drop_filter(&s->buckets.buckets[j]);
		}
		LWLockRelease(&s->lock);
	}
}

/* Make a bucket with no key in it the current one. */
static void
make_current(Buckets *buckets, int bucket)
{
	Bucket	   *b = &buckets->buckets[bucket];

	b->state = BUCKET_ACTIVE;
	b->opened_at = 0;
	b->writers = 0;
	b->prepared = false;
	b->last_end = 0;
	b->filter = filter_take();
	if (b->filter == 0)
	{
		recover_filters();
		b->filter = filter_take();
	}
	buckets->current = bucket;
}

/* A pooled bucket, or -1. */
static int
find_pooled(const Buckets *buckets)
{
	for (int i = 0; i < QUEUE_MAX_BUCKETS; i++)
	{
		if (buckets->buckets[i].state == BUCKET_POOLED)
			return i;
	}
	return -1;
}

/* For how long a bucket is the current one. */
static inline int64
slice(int64 window)
{
	return Max(window / SLICES, MIN_SLICE);
}

/* The pooled bucket to go on with, or -1 if it is not time, or there is none. */
static int
next_current(const Buckets *buckets, int64 window, TimestampTz now)
{
	const Bucket *current = &buckets->buckets[buckets->current];

	if (current->opened_at == 0 || current->opened_at + slice(window) > now)
		return -1;
	return find_pooled(buckets);
}

bool
buckets_rotate(Queue *queue, const Buckets *copy, TimestampTz now)
{
	BucketsShared *s = shared_of(queue);
	int64		window = queue->settings.dedup_window;
	int			next = -1;

	if (likely(next_current(copy, window, now) < 0))
		return false;
	LWLockAcquire(&s->lock, LW_EXCLUSIVE);
	if (is_load(s, queue, copy->load))
		next = next_current(&s->buckets, window, now);
	if (next >= 0)
		make_current(&s->buckets, next);
	LWLockRelease(&s->lock);
	return next >= 0;
}

bool
buckets_wanting(const Buckets *buckets)
{
	bool		room = false;

	for (int i = 0; i < QUEUE_MAX_BUCKETS; i++)
		room |= buckets->buckets[i].state == BUCKET_NONE;
	return room && find_pooled(buckets) < 0 && buckets->buckets[buckets->current].opened_at != 0;
}

void
buckets_install(Queue *queue, int n, const Oid *relids, const bool *empty)
{
	BucketsShared *s = shared_of(queue);
	TimestampTz now;

	Assert(n > 0 && n <= QUEUE_MAX_BUCKETS);
	LWLockAcquire(&s->lock, LW_EXCLUSIVE);
	now = GetCurrentTimestamp();
	if (!is_loaded(s, queue->generation) &&
		pg_atomic_read_u32(&queue->shared->generation) == queue->generation)
	{
		/*
		 * If they were loaded before, who wrote since has not been forgotten
		 * by the tables, but what was found out about them can be too old.
		 */
		bool		first = (s->generation != queue->generation);
		int			pooled;

		for (int i = 0; i < QUEUE_MAX_BUCKETS; i++)
			drop_filter(&s->buckets.buckets[i]);
		memset(&s->buckets, 0, sizeof(Buckets));
		for (int i = 0; i < n; i++)
		{
			Bucket	   *b = &s->buckets.buckets[i];

			b->relid = relids[i];
			b->state = (first && empty[i]) ? BUCKET_POOLED : BUCKET_ACTIVE;
			b->opened_at = now;
			b->prepared = true;
			b->last_end = now;
		}
		pooled = find_pooled(&s->buckets);
		if (pooled >= 0)
			make_current(&s->buckets, pooled);
		else
			s->buckets.current = n - 1;
		s->generation = queue->generation;
		s->window = queue->settings.dedup_window;
		s->buckets.load = pg_atomic_add_fetch_u32(&shared->loads, 1);
	}
	LWLockRelease(&s->lock);
}

void
buckets_discard(Queue *queue, uint32 load)
{
	BucketsShared *s = shared_of(queue);

	LWLockAcquire(&s->lock, LW_EXCLUSIVE);
	if (is_load(s, queue, load))
		s->buckets.load = 0;
	LWLockRelease(&s->lock);
}

void
buckets_add(Queue *queue, Oid relid, bool empty)
{
	BucketsShared *s = shared_of(queue);
	Bucket	   *unused = NULL;

	LWLockAcquire(&s->lock, LW_EXCLUSIVE);
	for (int i = QUEUE_MAX_BUCKETS - 1; i >= 0; i--)
	{
		Bucket	   *b = &s->buckets.buckets[i];

		if (b->state == BUCKET_NONE)
			unused = b;
		else if (b->relid == relid)
		{
			unused = NULL;
			break;
		}
	}
	if (unused != NULL && is_loaded(s, queue->generation))
	{
		unused->relid = relid;
		unused->state = empty ? BUCKET_POOLED : BUCKET_ACTIVE;
		unused->opened_at = unused->last_end = GetCurrentTimestamp();
		unused->prepared = !empty;
		unused->writers = 0;
	}
	LWLockRelease(&s->lock);
}

bool
bucket_unused(const Buckets *buckets, int bucket)
{
	const Bucket *b = &buckets->buckets[bucket];

	return b->state == BUCKET_POOLED || (b->state == BUCKET_ACTIVE && b->opened_at == 0);
}

void
bucket_found(Queue *queue, uint32 load, int bucket)
{
	BucketsShared *s = shared_of(queue);

	/* Whoever writes to it after we read that it is unused opens it first. */
	LWLockAcquire(&s->lock, LW_EXCLUSIVE);
	if (is_load(s, queue, load) && bucket_unused(&s->buckets, bucket))
	{
		Bucket	   *b = &s->buckets.buckets[bucket];

		b->state = BUCKET_ACTIVE;
		b->opened_at = b->last_end = GetCurrentTimestamp();
		b->prepared = true;
		drop_filter(b);
	}
	LWLockRelease(&s->lock);
}

bool
bucket_join(Queue *queue, uint32 load, int bucket)
{
	BucketsShared *s = shared_of(queue);
	int			index = QueueIndex(queue->shared);
	bool		joined;
	bool		first = false;

	for (int i = nwritings - 1; i >= 0; i--)
	{
		if (writings[i].queue != index || writings[i].load != load || writings[i].bucket != bucket)
			continue;

		/*
		 * What was looked up in a filter may be about the past, if it is
		 * loaded again.
		 */
		LWLockAcquire(&s->lock, LW_SHARED);
		joined = is_load(s, queue, load);
		LWLockRelease(&s->lock);
		return joined;
	}
	if (nwritings == max_writings)
	{
		int			n = Max(8, max_writings * 2);

		if (writings == NULL)
			writings = MemoryContextAlloc(TopMemoryContext, n * sizeof(Writing));
		else
			writings = repalloc(writings, n * sizeof(Writing));
		max_writings = n;
	}

	LWLockAcquire(&s->lock, LW_EXCLUSIVE);
	joined = is_load(s, queue, load) && s->buckets.buckets[bucket].state == BUCKET_ACTIVE;
	if (joined)
	{
		Bucket	   *b = &s->buckets.buckets[bucket];

		b->writers++;
		s->window = queue->settings.dedup_window;
		first = (b->opened_at == 0);
		if (first)
			b->opened_at = GetCurrentTimestamp();
		writings[nwritings++] = (Writing)
		{
			index, load, bucket
		};
	}
	LWLockRelease(&s->lock);

	/* Time to make another one, for when this one is no longer the current. */
	if (first)
		maintenance_wake(MyDatabaseId);
	return joined;
}

/*
 * This transaction has ended.  What it wrote can be seen by now, or never will
 * be, unless it was prepared: then only its locks tell when it ends.
 */
static void
leave_all(bool prepared)
{
	if (nwritings > 0)
		STOP_POINT("dedup-visible");
	for (int i = 0; i < nwritings; i++)
	{
		BucketsShared *s = &shared->queues[writings[i].queue];
		Bucket	   *b = &s->buckets.buckets[writings[i].bucket];

		LWLockAcquire(&s->lock, LW_EXCLUSIVE);
		if (s->buckets.load == writings[i].load)
		{
			b->prepared |= prepared;
			b->last_end = GetCurrentTimestamp();
			b->writers--;
		}
		LWLockRelease(&s->lock);
	}
	nwritings = 0;
}

static void
bucket_xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
			leave_all(false);
			break;
		case XACT_EVENT_PREPARE:
			leave_all(true);
			break;
		default:
			break;
	}
}

void
bucket_no_writers(Queue *queue, uint32 load, int bucket)
{
	BucketsShared *s = shared_of(queue);

	LWLockAcquire(&s->lock, LW_EXCLUSIVE);
	if (is_load(s, queue, load) && s->buckets.buckets[bucket].prepared)
	{
		s->buckets.buckets[bucket].prepared = false;
		s->buckets.buckets[bucket].last_end = GetCurrentTimestamp();
	}
	LWLockRelease(&s->lock);
}

void
bucket_pool(Queue *queue, uint32 load, int bucket)
{
	BucketsShared *s = shared_of(queue);

	LWLockAcquire(&s->lock, LW_EXCLUSIVE);

	/*
	 * One whose entry failed, in a subtransaction that is over, counts but
	 * has no lock.
	 */
	if (is_load(s, queue, load) && s->buckets.current != bucket &&
		s->buckets.buckets[bucket].writers == 0)
	{
		s->buckets.buckets[bucket].state = BUCKET_POOLED;
		drop_filter(&s->buckets.buckets[bucket]);
	}
	LWLockRelease(&s->lock);
}

TimestampTz
buckets_due(QueueShared *q, uint32 generation)
{
	BucketsShared *s = &shared->queues[QueueIndex(q)];
	TimestampTz due = DT_NOEND;

	LWLockAcquire(&s->lock, LW_SHARED);
	if (is_loaded(s, generation))
	{
		if (buckets_wanting(&s->buckets))
			due = DT_NOBEGIN;
		for (int i = 0; i < QUEUE_MAX_BUCKETS; i++)
		{
			Bucket	   *b = &s->buckets.buckets[i];
			TimestampTz when;

			/* An open transaction will be the last writer to end, or not. */
			if (b->state != BUCKET_ACTIVE || b->opened_at == 0)
				continue;
			when = b->prepared ? DT_NOBEGIN : b->writers > 0 ? DT_NOEND : b->last_end + s->window;
			if (i == s->buckets.current && when != DT_NOEND)
			{
				TimestampTz sealed = b->opened_at + slice(s->window);

				when = Max(when, sealed);
			}
			due = Min(due, when);
		}
	}
	LWLockRelease(&s->lock);
	return due;
}

void
bucket_init(void)
{
	RegisterXactCallback(bucket_xact_callback, NULL);
}
