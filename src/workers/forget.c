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
await_writers(ReclaimRound *round, Queue *queue, int i, const Buckets *buckets)
{
	const Bucket *bucket = &buckets->buckets[i];

	if (bucket->prepared && no_writers(bucket->relid))
		bucket_no_writers(queue, buckets->load, i);
}

/* Whether a bucket is to be emptied. */
static bool
is_over(Queue *queue, int i, const Buckets *buckets)
{
	const Bucket *bucket = &buckets->buckets[i];

	return bucket->state == BUCKET_ACTIVE && buckets->current != i &&
		bucket_expired(bucket, queue->settings.dedup_window, GetCurrentTimestamp());
}

/* Empty a bucket that has expired. */
static void
empty_bucket(ReclaimRound *round, Queue *queue, int i, const Buckets *buckets)
{
	Oid			relid = buckets->buckets[i].relid;
	Buckets		now;
	Relation	rel;

	if (!is_over(queue, i, buckets) || !reclaim_try_lock(round, relid, AccessExclusiveLock))
		return;
	rel = try_relation_open(relid, NoLock);
	if (rel == NULL)
		return;

	/* Again, as a sender can have written there before we had the lock. */
	if (RelationGetNumberOfBlocks(rel) > 0 && buckets_read(queue, &now) && is_over(queue, i, &now))
		empty_table(rel);
	relation_close(rel, NoLock);
}

/* Pool a bucket that is empty, now that the transaction which emptied it is over. */
static void
pool_bucket(ReclaimRound *round, Queue *queue, int i, const Buckets *buckets)
{
	Oid			relid = buckets->buckets[i].relid;
	Relation	rel;

	if (buckets->current == i || !no_writers(relid))
		return;
	rel = try_relation_open(relid, NoLock);
	if (rel == NULL)
		return;
	if (RelationGetNumberOfBlocks(rel) == 0)
		bucket_pool(queue, buckets->load, i);
	relation_close(rel, NoLock);
}

typedef void (*BucketTask) (ReclaimRound *round, Queue *queue, int i, const Buckets *buckets);

/* Do something for a bucket in a transaction, if it may hold keys. */
static void
do_task(ReclaimRound *round, int i, BucketTask task)
{
	Queue	   *queue = reclaim_begin(round);
	Buckets		buckets;

	if (queue == NULL)
		return;
	if (buckets_read(queue, &buckets) && buckets.buckets[i].state == BUCKET_ACTIVE)
		task(round, queue, i, &buckets);
	worker_end();
}

void
forget_keys(ReclaimRound *round)
{
	if (learn(round))
	{
		for (int i = 0; i < QUEUE_MAX_BUCKETS; i++)
		{
			do_task(round, i, await_writers);
			do_task(round, i, empty_bucket);
			do_task(round, i, pool_bucket);
		}
		provide(round);
	}
	reclaim_finish(round);
}
