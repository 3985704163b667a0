/*
 * dead_letter.c
 *		Dead letters: queue.dead.
 *
 * An ordinary table with an index, written past the executor because the
 * caller has no rights on it.  A dead letter belongs to its queue's table by
 * OID: a later table of the same name does not get it.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "compat.h"
#include "engine/commit.h"
#include "engine/dead_letter.h"
#include "engine/deferred.h"
#include "engine/extension.h"
#include "engine/insert.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

static const MessageColumns dead_columns = {
	.id = Anum_dead_id,
	.enqueued_at = Anum_dead_enqueued_at,
	.expires_at = Anum_dead_expires_at,
	.priority = Anum_dead_priority,
	.key = Anum_dead_key,
	.headers = Anum_dead_headers,
	.payload = Anum_dead_payload,
	.body = Anum_dead_body
};

void
dead_letter_insert(Queue *queue, const Message *message, const char *reason, const char *error)
{
	Relation	rel = table_open(extension_relation("dead"), RowExclusiveLock);
	Datum		values[Natts_dead] = {0};
	bool		isnull[Natts_dead] = {false};
	HeapTuple	tuple;

	message_fill(&dead_columns, message, values, isnull);
	isnull[Anum_dead_key_hash - 1] = true;
	if (queue->settings.block_on_dead && message->key != NULL)
	{
		values[Anum_dead_key_hash - 1] = Int64GetDatum(message_key_hash(message->key));
		isnull[Anum_dead_key_hash - 1] = false;
	}
	values[Anum_dead_relid - 1] = ObjectIdGetDatum(queue->relid);
	values[Anum_dead_attempts - 1] = Int32GetDatum(message->attempts);
	values[Anum_dead_died_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[Anum_dead_reason - 1] = CStringGetTextDatum(reason);
	isnull[Anum_dead_error - 1] = (error == NULL);
	if (error != NULL)
		values[Anum_dead_error - 1] = CStringGetTextDatum(error);
	tuple = heap_form_tuple(RelationGetDescr(rel), values, isnull);
	CatalogTupleInsert(rel, tuple);
	heap_freetuple(tuple);
	table_close(rel, NoLock);
	commit_dead(queue->shared, 1);
}

bool
dead_letter_of_key(Oid relid, int64 hash, Snapshot snapshot, int64 *id)
{
	Relation	rel = table_open(extension_relation("dead"), AccessShareLock);
	Relation	index = index_open(extension_relation("dead_key"), AccessShareLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		isnull;

	ScanKeyInit(&keys[0], Anum_dead_relid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	ScanKeyInit(&keys[1], Anum_dead_key_hash, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(hash));
	scan = systable_beginscan_ordered(rel, index, snapshot, 2, keys);
	tuple = systable_getnext_ordered(scan, ForwardScanDirection);
	if (tuple != NULL)
		*id = DatumGetInt64(heap_getattr(tuple, Anum_dead_id, RelationGetDescr(rel), &isnull));
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
	return tuple != NULL;
}

/*
 * Send a dead letter again: with its old id, and the time of this attempt.  In
 * an ordered queue it goes before what has come after it, so it is not put at
 * the tail.
 */
static void
send_again(Queue *queue, HeapTuple tuple, TupleDesc desc)
{
	Message		message;
	const char *unreadable = message_deform(&dead_columns, tuple, desc, &message);

	if (unreadable != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("dead letter " INT64_FORMAT " cannot be read: %s", message.id, unreadable)));
	if (queue->settings.ordered && message.key != NULL)
	{
		message.enqueued_at = GetCurrentTimestamp();
		insert_check(queue, 1, &message);
		deferred_insert(queue, &message, message.enqueued_at, 0, NULL, NULL);
	}
	else
		insert_message(queue, &message);
}

/* Whether a dead letter has this key. */
static bool
has_key(HeapTuple tuple, TupleDesc desc, const text *key)
{
	bool		isnull;
	Datum		value = heap_getattr(tuple, Anum_dead_key, desc, &isnull);
	text	   *other;

	if (isnull)
		return false;
	other = DatumGetTextPP(value);
	return VARSIZE_ANY_EXHDR(other) == VARSIZE_ANY_EXHDR(key) &&
		memcmp(VARDATA_ANY(other), VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key)) == 0;
}

/*
 * Delete up to max dead letters, -1 for all, of one key or, if that is NULL,
 * of all; and with a queue send them there.  Returns how many.
 */
static int64
take_dead_letters(Oid relid, Queue *queue, const text *key, int64 max)
{
	Relation	rel = table_open(extension_relation("dead"), RowExclusiveLock);
	Relation	index = index_open(extension_relation("dead_pkey"), AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ScanKeyData scan_key;
	SysScanDesc scan;
	HeapTuple	tuple;
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext each = AllocSetContextCreate(caller, "queue dead letter", ALLOCSET_DEFAULT_SIZES);
	int64		n = 0;

	ScanKeyInit(&scan_key, Anum_dead_relid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan_ordered(rel, index, snapshot, 1, &scan_key);
	while (n != max && (tuple = systable_getnext_ordered(scan, ForwardScanDirection)) != NULL)
	{
		TM_FailureData tmfd;

		CHECK_FOR_INTERRUPTS();

		/* Together they can be larger than memory. */
		MemoryContextSwitchTo(each);
		MemoryContextReset(each);
		if (key != NULL && !has_key(tuple, RelationGetDescr(rel), key))
			continue;

		/* Another transaction may have taken it. */
		if (heap_delete(rel, &tuple->t_self, GetCurrentCommandId(true), InvalidSnapshot,
						true, &tmfd, false) != TM_Ok)
			continue;
		if (queue != NULL)
			send_again(queue, tuple, RelationGetDescr(rel));
		n++;
	}
	MemoryContextSwitchTo(caller);
	systable_endscan_ordered(scan);
	UnregisterSnapshot(snapshot);
	index_close(index, AccessShareLock);
	table_close(rel, NoLock);
	MemoryContextDelete(each);
	return n;
}

int64
dead_letter_delete(Oid relid, const text *key)
{
	return take_dead_letters(relid, NULL, key, -1);
}

int64
dead_letter_redrive(Queue *queue, const text *key, int64 max)
{
	int64		n = take_dead_letters(queue->relid, queue, key, max);

	commit_dead(queue->shared, -n);
	commit_unpark(queue->shared, 0);
	return n;
}
