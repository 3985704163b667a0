/*
 * deferred.c
 *		Messages with a due time: queue.deferred.
 *
 * It is an ordinary table with an index, written past the executor because
 * the caller has no rights on it.
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
#include "engine/deferred.h"
#include "engine/extension.h"
#include "engine/tuple.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

const MessageColumns deferred_columns = {
	.id = Anum_deferred_id,
	.enqueued_at = Anum_deferred_enqueued_at,
	.expires_at = Anum_deferred_expires_at,
	.priority = Anum_deferred_priority,
	.key = Anum_deferred_key,
	.headers = Anum_deferred_headers,
	.payload = Anum_deferred_payload,
	.body = Anum_deferred_body
};

void
deferred_insert(Queue *queue, const Message *message, TimestampTz due_at, int attempts,
				const char *error, ItemPointer tid)
{
	Relation	rel = table_open(extension_relation("deferred"), RowExclusiveLock);
	Datum		values[Natts_deferred] = {0};
	bool		isnull[Natts_deferred] = {false};
	HeapTuple	tuple;

	message_fill(&deferred_columns, message, values, isnull);
	values[Anum_deferred_due_at - 1] = TimestampTzGetDatum(due_at);
	values[Anum_deferred_deferred_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	isnull[Anum_deferred_key_hash - 1] = true;
	if (settings_limit_keys(&queue->settings) && message->key != NULL)
	{
		values[Anum_deferred_key_hash - 1] = Int64GetDatum(message_key_hash(message->key));
		isnull[Anum_deferred_key_hash - 1] = false;
	}
	values[Anum_deferred_relid - 1] = ObjectIdGetDatum(queue->relid);
	values[Anum_deferred_attempts - 1] = Int32GetDatum(attempts);
	isnull[Anum_deferred_error - 1] = (error == NULL);
	if (error != NULL)
		values[Anum_deferred_error - 1] = CStringGetTextDatum(error);
	tuple = heap_form_tuple(RelationGetDescr(rel), values, isnull);
	CatalogTupleInsert(rel, tuple);
	if (tid != NULL)
		*tid = tuple->t_self;
	heap_freetuple(tuple);
	table_close(rel, NoLock);
	commit_due(queue->shared, due_at);
}

bool
deferred_is(Relation rel, HeapTuple tuple, Oid relid, TimestampTz due_at, int64 id)
{
	TupleDesc	desc = RelationGetDescr(rel);
	bool		isnull;

	return tuple_message_id(tuple->t_data) == id &&
		DatumGetObjectId(heap_getattr(tuple, Anum_deferred_relid, desc, &isnull)) == relid &&
		DatumGetTimestampTz(heap_getattr(tuple, Anum_deferred_due_at, desc, &isnull)) == due_at;
}

int
deferred_attempts(Relation rel, HeapTuple tuple)
{
	bool		isnull;

	return DatumGetInt32(heap_getattr(tuple, Anum_deferred_attempts, RelationGetDescr(rel), &isnull));
}

bool
deferred_find(Relation rel, Oid relid, TimestampTz due_at, int64 id, ItemPointer tid)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ScanKeyData keys[3];
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found;

	ScanKeyInit(&keys[0], Anum_deferred_relid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	ScanKeyInit(&keys[1], Anum_deferred_due_at, BTEqualStrategyNumber, F_TIMESTAMPTZ_EQ,
				TimestampTzGetDatum(due_at));
	ScanKeyInit(&keys[2], Anum_deferred_id, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(id));
	scan = systable_beginscan(rel, extension_relation("deferred_due"), true, snapshot, 3, keys);
	tuple = systable_getnext(scan);
	found = HeapTupleIsValid(tuple);
	if (found)
		*tid = tuple->t_self;
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	return found;
}

void
deferred_begin_key(DeferredScan *scan, Oid relid, int64 hash, Snapshot snapshot)
{
	ScanKeyData keys[2];

	ScanKeyInit(&keys[0], Anum_deferred_relid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	ScanKeyInit(&keys[1], Anum_deferred_key_hash, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(hash));
	scan->rel = table_open(extension_relation("deferred"), AccessShareLock);
	scan->index = index_open(extension_relation("deferred_key"), AccessShareLock);
	scan->scan = systable_beginscan_ordered(scan->rel, scan->index, snapshot, 2, keys);
}

bool
deferred_next_of_key(DeferredScan *scan, DeferredRow *row)
{
	HeapTuple	tuple = systable_getnext_ordered(scan->scan, ForwardScanDirection);
	bool		isnull;

	if (!HeapTupleIsValid(tuple))
		return false;
	row->id = tuple_message_id(tuple->t_data);
	row->due_at = DatumGetTimestampTz(heap_getattr(tuple, Anum_deferred_due_at,
												   RelationGetDescr(scan->rel), &isnull));
	row->attempts = deferred_attempts(scan->rel, tuple);
	row->tid = tuple->t_self;
	return true;
}

void
deferred_end_key(DeferredScan *scan)
{
	systable_endscan_ordered(scan->scan);
	index_close(scan->index, AccessShareLock);
	table_close(scan->rel, AccessShareLock);
}

/* Go through all deferred messages of a queue. */
static SysScanDesc
begin_queue(Relation rel, Oid relid, Snapshot snapshot)
{
	ScanKeyData key;

	ScanKeyInit(&key, Anum_deferred_relid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	return systable_beginscan(rel, extension_relation("deferred_due"), true, snapshot, 1, &key);
}

void
deferred_hash_keys(Oid relid)
{
	Relation	rel = table_open(extension_relation("deferred"), RowExclusiveLock);
	TupleDesc	desc = RelationGetDescr(rel);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	SysScanDesc scan;
	HeapTuple	tuple;

	scan = begin_queue(rel, relid, snapshot);
	while ((tuple = systable_getnext(scan)) != NULL)
	{
		Datum		values[Natts_deferred];
		bool		isnull[Natts_deferred];

		CHECK_FOR_INTERRUPTS();
		heap_deform_tuple(tuple, desc, values, isnull);
		if (isnull[Anum_deferred_key - 1] || !isnull[Anum_deferred_key_hash - 1])
			continue;
		isnull[Anum_deferred_key_hash - 1] = false;
		values[Anum_deferred_key_hash - 1] =
			Int64GetDatum(message_key_hash(DatumGetTextPP(values[Anum_deferred_key - 1])));
		CatalogTupleUpdate(rel, &tuple->t_self, heap_form_tuple(desc, values, isnull));
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, NoLock);
}

/* Delete a row; false if another transaction has. */
static bool
delete_row(Relation rel, ItemPointer tid)
{
	TM_FailureData tmfd;

	return heap_delete(rel, tid, GetCurrentCommandId(true), InvalidSnapshot,
					   true, &tmfd, false) == TM_Ok;
}

void
deferred_delete_all(Oid relid)
{
	Relation	rel = table_open(extension_relation("deferred"), RowExclusiveLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	SysScanDesc scan;
	HeapTuple	tuple;

	scan = begin_queue(rel, relid, snapshot);
	while ((tuple = systable_getnext(scan)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		(void) delete_row(rel, &tuple->t_self);
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, NoLock);
}
