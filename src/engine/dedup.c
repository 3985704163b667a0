/*
 * dedup.c
 *		Dedup keys: messages that were sent before.
 *
 * A key is looked up in all buckets that may remember it, and entered in the
 * current one, under one lightweight lock that all senders of the key
 * take: a stripe.  The tables are locked before it, as a lightweight lock must
 * not be held while one waits for a heavyweight one; so what was known of the
 * buckets is compared again under it.
 *
 * Between look-up and entry the current bucket may change.  The entry then
 * goes to the one that was current: its table is locked, so it is not emptied,
 * and the writer is counted before it writes, so that the bucket counts as not
 * expired.
 */
#include "postgres.h"

#include "access/xact.h"
#include "argument.h"
#include "common/cryptohash.h"
#include "common/hashfn.h"
#include "common/sha2.h"
#include "compat.h"
#include "engine/bucket.h"
#include "engine/dedup.h"
#include "engine/durable.h"
#include "engine/filter.h"
#include "engine/tables.h"
#include "miscadmin.h"
#include "stop_point.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/rel.h"

struct Dedup
{
	Queue	   *queue;
	uint32		load;			/* what the open tables are of; 0: none is
								 * open */
	Buckets		buckets;
	bool		open[QUEUE_MAX_BUCKETS];
	BucketTable tables[QUEUE_MAX_BUCKETS];
};

/*
 * Keys and fingerprints
 */

/* A value in full; it is the caller's to free if it is not the same. */
static struct varlena *
plain(const void *value)
{
	return (struct varlena *) PG_DETOAST_DATUM_PACKED(PointerGetDatum(value));
}

static uint64
hash_value(const void *value, uint64 seed)
{
	struct varlena *bytes = plain(value);
	uint64		hash = hash_bytes_extended((unsigned char *) VARDATA_ANY(bytes),
										   VARSIZE_ANY_EXHDR(bytes), seed);

	if (bytes != value)
		pfree(bytes);
	return hash;
}

/*
 * What tells one message from another with the same dedup key: contents and
 * key.  Headers and delay may differ, as who sends again sends them anew.
 */
static int64
fingerprint(const Message *message)
{
	uint64		hash = message->payload != NULL ? hash_value(message->payload, 1) :
		hash_value(message->body, 2);

	return (int64) (message->key != NULL ? hash_value(message->key, hash) : hash);
}

/* Feed a value, or that there is none, and where it ends. */
static void
digest_value(pg_cryptohash_ctx *context, const void *value)
{
	struct varlena *bytes = value ? plain(value) : NULL;
	int64		length = bytes ? (int64) VARSIZE_ANY_EXHDR(bytes) : -1;

	if (pg_cryptohash_update(context, (uint8 *) &length, sizeof(length)) < 0 ||
		(bytes != NULL &&
		 pg_cryptohash_update(context, (uint8 *) VARDATA_ANY(bytes), (size_t) length) < 0))
		elog(ERROR, "could not compute the digest of a message");
	if (bytes != NULL && bytes != value)
		pfree(bytes);
}

/*
 * A key made of all of a message.  Nobody must be able to find another message
 * with the same, as it would keep this one from being sent.
 */
static void
content_key(const Message *message, BucketEntry *entry)
{
	pg_cryptohash_ctx *context = pg_cryptohash_create(PG_SHA256);
	uint8		digest[PG_SHA256_DIGEST_LENGTH];
	char		hex[PG_SHA256_DIGEST_LENGTH * 2 + 1];

	if (context == NULL || pg_cryptohash_init(context) < 0)
		elog(ERROR, "could not compute the digest of a message");
	digest_value(context, message->payload);
	digest_value(context, message->body);
	digest_value(context, message->key);
	digest_value(context, message->headers);
	if (pg_cryptohash_final(context, digest, sizeof(digest)) < 0)
		elog(ERROR, "could not compute the digest of a message");
	pg_cryptohash_free(context);

	hex_encode((char *) digest, sizeof(digest), hex);
	hex[sizeof(hex) - 1] = '\0';
	entry->content = true;
	entry->fingerprint = 0;
	entry->key = cstring_to_text(hex);
	memcpy(&entry->hash, digest, sizeof(entry->hash));
}

bool
dedup_entry(Queue *queue, NullableDatum key, const Message *message, BucketEntry *entry)
{
	if (likely(key.isnull && queue->settings.dedup != DEDUP_CONTENT))
		return false;
	memset(entry, 0, sizeof(BucketEntry));
	if (key.isnull)
	{
		content_key(message, entry);
		return true;
	}
	if (queue->settings.dedup == DEDUP_OFF)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("dedup keys are off in queue \"%s\"", NameStr(queue->name)),
				 errhint("Turn them on with queue.alter(%s, dedup => 'key').",
						 quote_literal_cstr(NameStr(queue->name)))));
	entry->key = (text *) plain(DatumGetPointer(key.value));
	argument_check_key(entry->key, "dedup_key");
	entry->hash = hash_bytes_extended((unsigned char *) VARDATA_ANY(entry->key),
									  VARSIZE_ANY_EXHDR(entry->key), 0);
	entry->fingerprint = fingerprint(message);
	return true;
}

/*
 * The buckets' tables
 */

/* The tables of a queue that are there, and which of them are empty; returns how many. */
static int
gather_tables(Queue *queue, Oid *known, bool *empty)
{
	List	   *relids = bucket_tables(queue->relid);
	int			n = 0;
	ListCell   *lc;

	foreach(lc, relids)
	{
		BucketTable table;

		if (!bucket_table_open(lfirst_oid(lc), queue->relid, false, &table))
			continue;
		if (n == QUEUE_MAX_BUCKETS)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("queue \"%s\" has too many tables of dedup keys", NameStr(queue->name)),
					 errdetail("At most %d are supported.", QUEUE_MAX_BUCKETS)));
		known[n] = lfirst_oid(lc);
		empty[n] = RelationGetNumberOfBlocks(table.heap) == 0;
		bucket_table_close(&table);
		n++;
	}
	list_free(relids);
	return n;
}

/* Load what tables there are, or with make have at least one. */
static void
load_tables(Queue *queue, bool make)
{
	Oid			known[QUEUE_MAX_BUCKETS];
	bool		empty[QUEUE_MAX_BUCKETS];
	int			n = gather_tables(queue, known, empty);

	if (n == 0 && make)
	{
		/* One sender makes the first, and the others wait for it. */
		LockRelationOid(queue->relid, ShareUpdateExclusiveLock);
		n = gather_tables(queue, known, empty);
		if (n == 0)
		{
			(void) bucket_table_create(queue->relid);
			n = gather_tables(queue, known, empty);
		}
	}
	if (n > 0)
		buckets_install(queue, n, known, empty);
}

/*
 * A restore can have filled buckets after they were loaded as empty ones.  One
 * that is gone is left to whoever opens it next.
 */
static void
find_restored(Queue *queue, const Buckets *buckets)
{
	for (int i = 0; i < QUEUE_MAX_BUCKETS; i++)
	{
		BucketTable table;

		if (!bucket_unused(buckets, i) ||
			!bucket_table_open(buckets->buckets[i].relid, queue->relid, false, &table))
			continue;
		if (RelationGetNumberOfBlocks(table.heap) > 0)
			bucket_found(queue, buckets->load, i);
		bucket_table_close(&table);
	}
}

bool
dedup_refresh(Queue *queue)
{
	Buckets		buckets;
	bool		known = buckets_read(queue, &buckets);
	ListCell   *lc;

	if (known)
		find_restored(queue, &buckets);
	foreach(lc, bucket_tables(queue->relid))
	{
		BucketTable table;

		if (!bucket_table_open(lfirst_oid(lc), queue->relid, false, &table))
			continue;
		if (known)
			buckets_add(queue, lfirst_oid(lc), RelationGetNumberOfBlocks(table.heap) == 0);
		else if (RelationGetNumberOfBlocks(table.heap) > 0)
		{
			load_tables(queue, false);
			known = buckets_read(queue, &buckets);
		}
		bucket_table_close(&table);
	}
	return known;
}

static void
close_tables(Dedup *dedup)
{
	for (int i = 0; i < QUEUE_MAX_BUCKETS; i++)
	{
		if (dedup->open[i])
			bucket_table_close(&dedup->tables[i]);
		dedup->open[i] = false;
	}
	dedup->load = 0;
}

/*
 * Whether a key of this hash may be remembered in a bucket.  The filter may by
 * now be another bucket's: then this one has expired meanwhile, or it was
 * loaded again, which bucket_join finds out.
 */
static bool
may_remember(Dedup *dedup, int i, uint64 hash, TimestampTz now)
{
	Bucket	   *bucket = &dedup->buckets.buckets[i];

	return bucket_remembers(bucket, dedup->queue->settings.dedup_window, now) &&
		(bucket->filter == 0 || filter_may_have(bucket->filter, hash));
}

/* Whether all buckets that count now for a hash are open, as they are to be. */
static bool
tables_suffice(Dedup *dedup, uint64 hash, TimestampTz now)
{
	int			current = dedup->buckets.current;

	if (dedup->load != dedup->buckets.load || !dedup->open[current] ||
		!dedup->tables[current].write)
		return false;
	for (int i = 0; i < QUEUE_MAX_BUCKETS; i++)
	{
		if (!dedup->open[i] && may_remember(dedup, i, hash, now))
			return false;
	}
	return true;
}

/* Open a bucket that is not open in that way; false if it is gone. */
static bool
open_table(Dedup *dedup, int i, bool write)
{
	Oid			relid = dedup->buckets.buckets[i].relid;

	if (dedup->open[i] && dedup->tables[i].write >= write)
		return true;
	if (dedup->open[i])
		bucket_table_close(&dedup->tables[i]);
	dedup->open[i] = bucket_table_open(relid, dedup->queue->relid, write, &dedup->tables[i]);
	if (!dedup->open[i])
		buckets_discard(dedup->queue, dedup->buckets.load);
	return dedup->open[i];
}

/* Open what a look-up needs as of now.  It may need more once that is done. */
static void
open_tables(Dedup *dedup, uint64 hash)
{
	Queue	   *queue = dedup->queue;
	bool		complete;

	do
	{
		TimestampTz now;

		CHECK_FOR_INTERRUPTS();
		if (pg_atomic_read_u32(&queue->shared->generation) != queue->generation)
			queue_missing(NameStr(queue->name));
		complete = false;
		if (!buckets_read(queue, &dedup->buckets))
		{
			load_tables(queue, true);
			continue;
		}
		now = GetCurrentTimestamp();
		if (buckets_rotate(queue, &dedup->buckets, now))
			continue;
		if (unlikely(dedup->buckets.buckets[dedup->buckets.current].opened_at == 0))
		{
			find_restored(queue, &dedup->buckets);
			if (!buckets_read(queue, &dedup->buckets))
				continue;
		}
		STOP_POINT("dedup-view");
		if (dedup->load != dedup->buckets.load)
			close_tables(dedup);
		dedup->load = dedup->buckets.load;
		complete = open_table(dedup, dedup->buckets.current, true);
		for (int i = 0; complete && i < QUEUE_MAX_BUCKETS; i++)
		{
			if (may_remember(dedup, i, hash, now))
				complete = open_table(dedup, i, false);
		}
	} while (!complete);
}

Dedup *
dedup_begin(Queue *queue)
{
	Dedup	   *dedup = palloc(sizeof(Dedup));

	/* The queue's table comes first, as the lock order says. */
	LockRelationOid(queue->relid, RowExclusiveLock);
	dedup->queue = queue;
	dedup->load = 0;
	memset(dedup->open, 0, sizeof(dedup->open));
	return dedup;
}

void
dedup_end(Dedup *dedup)
{
	close_tables(dedup);
	pfree(dedup);
}

/*
 * Look-up and entry
 */

static void
mismatch(Queue *queue, const BucketEntry *entry, int64 id)
{
	ereport(ERROR,
			(errcode(ERRCODE_DEDUP_MISMATCH),
			 errmsg("dedup key \"%s\" was used for another message in queue \"%s\"",
					text_to_cstring(entry->key), NameStr(queue->name)),
			 errdetail("That message has the id " INT64_FORMAT
					   ", and another payload, body or key.", id),
			 errhint("Send each message with a dedup key of its own.")));
}

/* Look in all buckets that remember something as of now, under the stripe. */
static DedupOutcome
look_up(Dedup *dedup, const BucketEntry *entry, TimestampTz now, BucketEntry *found,
		TransactionId *xid)
{
	DedupOutcome outcome = DEDUP_NEW;

	for (int i = 0; i < QUEUE_MAX_BUCKETS; i++)
	{
		BucketEntry row;

		/* Again: a bit may have been set since, for another key. */
		if (!dedup->open[i] || !may_remember(dedup, i, entry->hash, now))
			continue;
		switch (bucket_table_find(&dedup->tables[i], entry, &row, xid))
		{
			case BUCKET_IN_PROGRESS:
				return DEDUP_IN_PROGRESS;
			case BUCKET_HAS:

				/*
				 * An entry whose window is over can come to light again; ids
				 * tell.
				 */
				if (outcome == DEDUP_NEW || row.id > found->id)
					*found = row;
				outcome = DEDUP_DUPLICATE;
				break;
			case BUCKET_HAS_NOT:
				break;
		}
	}
	return outcome;
}

/* Enter a key in the current bucket, under the stripe. */
static void
write_entry(Dedup *dedup, const BucketEntry *entry)
{
	int			current = dedup->buckets.current;

	if (dedup->buckets.buckets[current].filter != 0)
		filter_add(dedup->buckets.buckets[current].filter, entry->hash);
	bucket_table_insert(&dedup->tables[current], entry);
}

DedupOutcome
dedup_enter(Dedup *dedup, const BucketEntry *entry, int64 *id, TransactionId *xid)
{
	Queue	   *queue = dedup->queue;
	LWLock	   *stripe = bucket_stripe(queue->shared, entry->hash);
	BucketEntry found = {.id = 0};
	DedupOutcome outcome;
	bool		done = false;

	do
	{
		TimestampTz now;

		open_tables(dedup, entry->hash);
		STOP_POINT("dedup-opened");
		LWLockAcquire(stripe, LW_EXCLUSIVE);
		outcome = DEDUP_NEW;
		now = GetCurrentTimestamp();
		if (buckets_read(queue, &dedup->buckets) && tables_suffice(dedup, entry->hash, now))
		{
			outcome = look_up(dedup, entry, now, &found, xid);
			done = true;
		}
		if (done && outcome == DEDUP_NEW)
		{
			STOP_POINT("dedup-looked");
			done = bucket_join(queue, dedup->load, dedup->buckets.current);
			STOP_POINT("dedup-joined");
			if (done)
				write_entry(dedup, entry);
		}
		LWLockRelease(stripe);
	} while (!done);

	if (outcome == DEDUP_DUPLICATE)
	{
		if (found.fingerprint != entry->fingerprint)
			mismatch(queue, entry, found.id);
		durable_commit(found.xmin);
		*id = found.id;
	}
	return outcome;
}

void
dedup_await(Queue *queue, const BucketEntry *entry, TransactionId xid, bool wait)
{
	if (!wait)
		ereport(ERROR,
				(errcode(ERRCODE_DEDUP_IN_PROGRESS),
				 entry->content ?
				 errmsg("the same message is being sent to queue \"%s\" by another transaction",
						NameStr(queue->name)) :
				 errmsg("dedup key \"%s\" is being used in queue \"%s\" by another transaction",
						text_to_cstring(entry->key), NameStr(queue->name)),
				 errhint("Send it again once that has ended, or wait for it with dedup_wait => true.")));
	XactLockTableWait(xid, NULL, NULL, XLTW_None);
}
