/*
 * dead_letter.c
 *		Dead letters: queue.dead.
 *
 * An ordinary table with an index, written past the executor because the
 * caller has no rights on it.  A dead letter belongs to its queue's table by
 * OID: another table of that name, later, has none of it.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "compat.h"
#include "engine/dead_letter.h"
#include "engine/segment.h"
#include "engine/wake.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* Store a value that may be missing. */
static void
set_varlena(Datum *values, bool *isnull, int column, const void *value)
{
	values[column - 1] = PointerGetDatum(value);
	isnull[column - 1] = (value == NULL);
}

void
dead_letter_insert(Queue *queue, Message *message, const char *reason, const char *error)
{
	Relation	rel = table_open(extension_relation("dead"), RowExclusiveLock);
	Datum		values[Natts_dead] = {0};
	bool		isnull[Natts_dead] = {false};
	HeapTuple	tuple;

	values[Anum_dead_relid - 1] = ObjectIdGetDatum(queue->relid);
	values[Anum_dead_attempts - 1] = Int32GetDatum(message->attempts);
	values[Anum_dead_id - 1] = Int64GetDatum(message->id);
	values[Anum_dead_died_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[Anum_dead_enqueued_at - 1] = TimestampTzGetDatum(message->enqueued_at);
	values[Anum_dead_priority - 1] = Int16GetDatum(message->priority);
	isnull[Anum_dead_priority - 1] = !message->has_priority;
	set_varlena(values, isnull, Anum_dead_key, message->key);
	set_varlena(values, isnull, Anum_dead_headers, message->headers);
	set_varlena(values, isnull, Anum_dead_payload, message->payload);
	set_varlena(values, isnull, Anum_dead_body, message->body);
	values[Anum_dead_reason - 1] = CStringGetTextDatum(reason);
	set_varlena(values, isnull, Anum_dead_error, error ? cstring_to_text(error) : NULL);
	tuple = heap_form_tuple(RelationGetDescr(rel), values, isnull);
	CatalogTupleInsert(rel, tuple);
	heap_freetuple(tuple);
	table_close(rel, NoLock);
	wake_dead_at_commit(queue->shared, 1);
}

/* Send a dead letter again, as a new message with its old id. */
static void
send_again(Queue *queue, Datum *dead, bool *dead_isnull)
{
	static const struct
	{
		int			column;
		int			from;
	}			map[] = {
		{Anum_message_id, Anum_dead_id},
		{Anum_message_priority, Anum_dead_priority},
		{Anum_message_key, Anum_dead_key},
		{Anum_message_headers, Anum_dead_headers},
		{Anum_message_payload, Anum_dead_payload},
		{Anum_message_body, Anum_dead_body},
	};
	Datum		values[Natts_message] = {0};
	bool		isnull[Natts_message];

	memset(isnull, true, sizeof(isnull));
	for (int i = 0; i < lengthof(map); i++)
	{
		values[map[i].column - 1] = dead[map[i].from - 1];
		isnull[map[i].column - 1] = dead_isnull[map[i].from - 1];
	}
	values[Anum_message_enqueued_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	isnull[Anum_message_enqueued_at - 1] = false;
	segment_insert(queue, values, isnull);
}

/* Delete up to max dead letters; with a queue, send them there. */
static int64
take_dead_letters(Oid relid, Queue *queue, int64 max)
{
	Relation	rel = table_open(extension_relation("dead"), RowExclusiveLock);
	Relation	index = index_open(extension_relation("dead_pkey"), AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	int64		n = 0;

	ScanKeyInit(&key, Anum_dead_relid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan_ordered(rel, index, snapshot, 1, &key);
	while (n != max && (tuple = systable_getnext_ordered(scan, ForwardScanDirection)) != NULL)
	{
		TM_FailureData tmfd;

		CHECK_FOR_INTERRUPTS();

		/* Somebody else may have taken it. */
		if (heap_delete(rel, &tuple->t_self, GetCurrentCommandId(true), InvalidSnapshot,
						true, &tmfd, false) != TM_Ok)
			continue;
		if (queue != NULL)
		{
			Datum		values[Natts_dead];
			bool		isnull[Natts_dead];

			heap_deform_tuple(tuple, RelationGetDescr(rel), values, isnull);
			send_again(queue, values, isnull);
		}
		n++;
	}
	systable_endscan_ordered(scan);
	UnregisterSnapshot(snapshot);
	index_close(index, AccessShareLock);
	table_close(rel, NoLock);
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

	wake_dead_at_commit(queue->shared, -n);
	return n;
}
