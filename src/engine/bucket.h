/*
 * bucket.h
 *		Buckets of dedup keys: which are in use, and when one has expired.
 *
 * A queue's dedup keys lie in a few tables (bucket_table.h).  Senders write to
 * the current bucket, and move on to an empty one after a quarter of the
 * window.  A bucket's keys are remembered together, until all transactions
 * that wrote there have ended a window ago; then it is emptied as a whole and
 * pooled.
 */
#ifndef QUEUE_ENGINE_BUCKET_H
#define QUEUE_ENGINE_BUCKET_H

#include "engine/registry.h"
#include "utils/timestamp.h"

/* Tables a queue has for its keys, at most. */
#define QUEUE_MAX_BUCKETS	8

typedef enum BucketState
{
	BUCKET_NONE = 0,			/* array element not in use */
	BUCKET_POOLED,				/* empty */
	BUCKET_ACTIVE				/* may hold keys */
} BucketState;

typedef struct Bucket
{
	Oid			relid;
	BucketState state;
	TimestampTz opened_at;		/* first written to as the current one; 0: not
								 * yet */
	int			writers;		/* transactions that have written here and are
								 * open */
	bool		prepared;		/* there may be more, that this server's
								 * memory has lost */
	TimestampTz last_end;		/* when a writer last ended */

	/*
	 * Of the hashes of all keys in it; 0 if there is none, as where the keys
	 * were not entered since this was loaded.
	 */
	int			filter;
} Bucket;

/* What is known of a queue's buckets. */
typedef struct Buckets
{
	uint32		load;			/* differs for each time they were loaded; 0:
								 * not loaded */
	int			current;
	Bucket		buckets[QUEUE_MAX_BUCKETS];
} Buckets;

/*
 * Whether a bucket holds no key that is to be remembered.  What counts is when
 * the writers ended, not when they wrote: a key is remembered for the whole
 * window from the commit on.
 */
static inline bool
bucket_expired(const Bucket *bucket, int64 window, TimestampTz now)
{
	return bucket->writers == 0 && !bucket->prepared && bucket->last_end + window <= now;
}

/* Whether a bucket must be looked in for a key. */
static inline bool
bucket_remembers(const Bucket *bucket, int64 window, TimestampTz now)
{
	return bucket->state == BUCKET_ACTIVE && !bucket_expired(bucket, window, now);
}

extern Size bucket_shmem_size(void);
extern void bucket_shmem_init(void);
extern void bucket_init(void);

/*
 * The lock under which a key of this hash is looked up and entered.  Taken
 * before all other lightweight locks, and while the buckets' tables are locked.
 */
extern LWLock *bucket_stripe(QueueShared *q, uint64 hash);

/* A copy of what is known; false if nothing is loaded. */
extern bool buckets_read(Queue *queue, Buckets *copy);

/*
 * If the current bucket is old enough, and there is an empty one, make that
 * the current one; true if this was done, and the copy is out of date.
 */
extern bool buckets_rotate(Queue *queue, const Buckets *copy, TimestampTz now);

/*
 * Make known which tables there are, and which of them are empty; nothing is
 * done if they are loaded already.  Those that are not empty may have writers
 * that are not counted.
 */
extern void buckets_install(Queue *queue, int n, const Oid *relids, const bool *empty);

/* Forget what was loaded under this number: a table is gone. */
extern void buckets_discard(Queue *queue, uint32 load);

/* Add a table that is new, unless it is known. */
extern void buckets_add(Queue *queue, Oid relid, bool empty);

/* Whether a bucket should hold nothing; and there is something in it all the same, as after a restore. */
extern bool bucket_unused(const Buckets *buckets, int bucket);
extern void bucket_found(Queue *queue, uint32 load, int bucket);

/*
 * This transaction is about to write to a bucket, whose table it has locked to
 * its end.  False if the bucket is not what it was in this load.
 */
extern bool bucket_join(Queue *queue, uint32 load, int bucket);

/*
 * For maintenance, which has the bucket's table locked against writers: all
 * have ended, so prepared is cleared; and a bucket that has expired and whose
 * table is empty is pooled.
 */
extern void bucket_no_writers(Queue *queue, uint32 load, int bucket);
extern void bucket_pool(Queue *queue, uint32 load, int bucket);

/* Whether keys are entered and there is no empty bucket to go on with, though there could be. */
extern bool buckets_wanting(const Buckets *buckets);

/*
 * When there is something to do for maintenance, DT_NOEND if nothing is known
 * of.
 */
extern TimestampTz buckets_due(QueueShared *q, uint32 generation);

#endif							/* QUEUE_ENGINE_BUCKET_H */
