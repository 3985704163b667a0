/*
 * forget.c
 *		Forgetting dedup keys whose window is over.
 *
 * Buckets that have expired get new, empty files, and are pooled in the next
 * transaction, once that has committed: one that is pooled holds no key.
 */
#include "postgres.h"

#include "access/relation.h"
#include "compat.h"
#include "engine/bucket.h"
#include "engine/bucket_table.h"
#include "engine/dedup.h"
#include "engine/extension.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "workers/empty.h"
#include "workers/forget.h"
#include "workers/transaction.h"

/* Lock a queue's buckets, so that nothing that opens them waits; *n is how many there are. */
static bool
try_lock_buckets(ReclaimRound *round, int *n)
{
	ListCell   *lc;

	*n = 0;
	if (!reclaim_try_lock(round, extension_relation("dedup_bucket"), AccessShareLock))
		return false;
	foreach(lc, bucket_tables(round->relid))
	{
		if (!reclaim_try_lock(round, lfirst_oid(lc), RowExclusiveLock))
			return false;
		(*n)++;
	}
	return true;
}

/*
 * Learn what there is: buckets that were restored, or that the last worker
 * made and did not come to make known.  False if there is nothing to do.
 */
static bool
learn(ReclaimRound *round)
{
	Queue	   *queue = reclaim_begin(round);
	bool		attached = round->attached;
	bool		known = false;
	Buckets		buckets;
	int			n;

	if (queue == NULL)
		return false;
	if (try_lock_buckets(round, &n) && n > 0)
	{
		if (!attached)
			bucket_tables_attach(round->relid);
		attached = true;
		known = dedup_refresh(queue) && buckets_read(queue, &buckets);
		if (known)
			(void) buckets_rotate(queue, &buckets, GetCurrentTimestamp());
	}
	worker_end();
	round->attached = attached;
	return known;
}

/* Make another bucket if none is empty; the next round finds it. */
static void
provide(ReclaimRound *round)
{
	Queue	   *queue = reclaim_begin(round);
	Buckets		buckets;

	if (queue == NULL)
		return;
	if (buckets_read(queue, &buckets) && buckets_wanting(&buckets) &&
		reclaim_try_lock(round, round->relid, ShareUpdateExclusiveLock) &&
		reclaim_try_lock(round, extension_relation("dedup_bucket"), RowExclusiveLock))
		(void) bucket_table_create(round->relid);
	worker_end();
	(void) learn(round);
}

/* What is known of a bucket, in a transaction that reclaim_begin has begun. */
static bool
read_bucket(Queue *queue, int i, Buckets *buckets, Bucket *bucket)
{
	if (!buckets_read(queue, buckets))
		return false;
	*bucket = buckets->buckets[i];
	return bucket->state == BUCKET_ACTIVE;
}

/* Whether nobody has an index locked to write to it: see bucket_table_open. */
static bool
no_writers(Oid relid)
{
	Relation	rel;
	bool		locked = true;
	ListCell   *lc;

	/* Who looks has this lock too, so that it is mostly free. */
	if (!ConditionalLockRelationOid(relid, RowExclusiveLock))
		return false;
	rel = try_relation_open(relid, NoLock);
	if (rel == NULL)
		return false;
	foreach(lc, RelationGetIndexList(rel))
		locked &= ConditionalLockRelationOid(lfirst_oid(lc), ShareLock);
	relation_close(rel, NoLock);
	return locked;
}

/*
 * Find out whether a bucket's writers have all ended that are not counted:
 * they have it locked to their end, prepared transactions too.
 */
static void
await_writers(ReclaimRound *round, int i)
{
	Queue	   *queue = reclaim_begin(round);
	Buckets		buckets;
	Bucket		bucket;

	if (queue == NULL)
		return;
	if (read_bucket(queue, i, &buckets, &bucket) && bucket.prepared &&
		no_writers(bucket.relid))
		bucket_no_writers(queue, buckets.load, i);
	worker_end();
}

/* Empty a bucket that has expired. */
static void
empty_bucket(ReclaimRound *round, int i)
{
	Queue	   *queue = reclaim_begin(round);
	Buckets		buckets;
	Bucket		bucket;

	if (queue == NULL)
		return;
	if (read_bucket(queue, i, &buckets, &bucket) && buckets.current != i &&
		bucket_expired(&bucket, queue->settings.dedup_window, GetCurrentTimestamp()) &&
		reclaim_try_lock(round, bucket.relid, AccessExclusiveLock))
	{
		Relation	rel = try_relation_open(bucket.relid, NoLock);

		/* Again, as a sender can have written there before we had the lock. */
		if (rel != NULL && RelationGetNumberOfBlocks(rel) > 0 &&
			read_bucket(queue, i, &buckets, &bucket) && buckets.current != i &&
			bucket_expired(&bucket, queue->settings.dedup_window, GetCurrentTimestamp()))
		{
			empty_table(rel);
		}
		if (rel != NULL)
			relation_close(rel, NoLock);
	}
	worker_end();
}

/* Pool a bucket that is empty, now that the transaction which emptied it is over. */
static void
pool_bucket(ReclaimRound *round, int i)
{
	Queue	   *queue = reclaim_begin(round);
	Buckets		buckets;
	Bucket		bucket;

	if (queue == NULL)
		return;
	if (read_bucket(queue, i, &buckets, &bucket) && buckets.current != i &&
		no_writers(bucket.relid))
	{
		Relation	rel = try_relation_open(bucket.relid, NoLock);

		if (rel != NULL && RelationGetNumberOfBlocks(rel) == 0)
			bucket_pool(queue, buckets.load, i);
		if (rel != NULL)
			relation_close(rel, NoLock);
	}
	worker_end();
}

void
forget_keys(ReclaimRound *round)
{
	if (learn(round))
	{
		for (int i = 0; i < QUEUE_MAX_BUCKETS; i++)
		{
			await_writers(round, i);
			empty_bucket(round, i);
			pool_bucket(round, i);
		}
		provide(round);
	}
	reclaim_finish(round);
}
