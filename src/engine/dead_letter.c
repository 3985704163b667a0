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
dead_letter_insert(QueueShared *q, const Message *message, const char *reason, const char *error)
{
	Relation	rel = table_open(extension_relation("dead"), RowExclusiveLock);
	Datum		values[Natts_dead] = {0};
	bool		isnull[Natts_dead] = {false};
	HeapTuple	tuple;

	message_fill(&dead_columns, message, values, isnull);
	values[Anum_dead_relid - 1] = ObjectIdGetDatum(q->relid);
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
	commit_dead(q, 1);
}

/*
 * Delete up to max dead letters, -1 for all, and with a queue send them there;
 * returns how many.
 */
static int64
take_dead_letters(Oid relid, Queue *queue, int64 max)
{
	Relation	rel = table_open(extension_relation("dead"), RowExclusiveLock);
	Relation	index = index_open(extension_relation("dead_pkey"), AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext each = AllocSetContextCreate(caller, "queue dead letter", ALLOCSET_DEFAULT_SIZES);
	int64		n = 0;

	ScanKeyInit(&key, Anum_dead_relid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan_ordered(rel, index, snapshot, 1, &key);
	while (n != max && (tuple = systable_getnext_ordered(scan, ForwardScanDirection)) != NULL)
	{
		TM_FailureData tmfd;

		CHECK_FOR_INTERRUPTS();

		/* Another transaction may have taken it. */
		if (heap_delete(rel, &tuple->t_self, GetCurrentCommandId(true), InvalidSnapshot,
						true, &tmfd, false) != TM_Ok)
			continue;
		if (queue != NULL)
		{
			Message		message;
			const char *unreadable;

			/* Together they can be larger than memory. */
			MemoryContextSwitchTo(each);
			unreadable = message_deform(&dead_columns, tuple, RelationGetDescr(rel), &message);
			if (unreadable != NULL)
				ereport(ERROR,
						(errcode(ERRCODE_DATA_CORRUPTED),
						 errmsg("dead letter " INT64_FORMAT " cannot be read: %s",
								message.id, unreadable)));

			/* Its id is the old one, its time that of the new attempt. */
			insert_message(queue, &message);
			MemoryContextSwitchTo(caller);
			MemoryContextReset(each);
		}
		n++;
	}
	systable_endscan_ordered(scan);
	UnregisterSnapshot(snapshot);
	index_close(index, AccessShareLock);
	table_close(rel, NoLock);
	MemoryContextDelete(each);
	return n;
}

int64
dead_letter_delete_all(Oid relid)
{
	return take_dead_letters(relid, NULL, -1);
}

int64
dead_letter_redrive(Queue *queue, int64 max)
{
	int64		n = take_dead_letters(queue->relid, queue, max);

	commit_dead(queue->shared, -n);
	return n;
}
