/*
 * deferred.c
 *		Messages with a due time (queue.deferred) and dead letters.
 *
 * Both are ordinary tables with an index, written past the executor because
 * the caller has no rights on them.  QueueShared.next_due is a lower bound of
 * the due times of all deferred messages nobody has leased, so that a look
 * into the index starts where there is something to find, however many dead
 * entries lie before.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "compat.h"
#include "deferred.h"
#include "miscadmin.h"
#include "segment.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "wake.h"

/* Columns of queue.dead_letters. */
enum
{
	Anum_dead_queue = 1,
	Anum_dead_id,
	Anum_dead_key,
	Anum_dead_priority,
	Anum_dead_headers,
	Anum_dead_payload,
	Anum_dead_body,
	Anum_dead_attempts,
	Anum_dead_reason,
	Anum_dead_error,
	Anum_dead_enqueued_at,
	Anum_dead_died_at,
	Natts_dead = Anum_dead_died_at
};

/* Store a value that may be missing. */
static void
set_varlena(Datum *values, bool *isnull, int column, const void *value)
{
	values[column - 1] = PointerGetDatum(value);
	isnull[column - 1] = (value == NULL);
}

static void
set_priority(Datum *values, bool *isnull, int column, const Message *message)
{
	values[column - 1] = Int16GetDatum(message->priority);
	isnull[column - 1] = !message->has_priority;
}

/* Insert a row and its index entries. */
static void
insert_row(const char *table, Datum *values, bool *isnull, ItemPointer tid)
{
	Relation	rel = table_open(extension_relation(table), RowExclusiveLock);
	HeapTuple	tuple = heap_form_tuple(RelationGetDescr(rel), values, isnull);

	CatalogTupleInsert(rel, tuple);
	if (tid != NULL)
		*tid = tuple->t_self;
	heap_freetuple(tuple);
	table_close(rel, NoLock);
}

void
deferred_insert(Queue *queue, Message *message, TimestampTz due_at, int attempts,
				const char *error, ItemPointer tid)
{
	Datum		values[Natts_deferred] = {0};
	bool		isnull[Natts_deferred] = {false};

	values[Anum_deferred_id - 1] = Int64GetDatum(message->id);
	values[Anum_deferred_due_at - 1] = TimestampTzGetDatum(due_at);
	values[Anum_deferred_enqueued_at - 1] = TimestampTzGetDatum(message->enqueued_at);
	isnull[Anum_deferred_expires_at - 1] = true;
	values[Anum_deferred_relid - 1] = ObjectIdGetDatum(queue->relid);
	values[Anum_deferred_attempts - 1] = Int32GetDatum(attempts);
	set_priority(values, isnull, Anum_deferred_priority, message);
	set_varlena(values, isnull, Anum_deferred_key, message->key);
	set_varlena(values, isnull, Anum_deferred_headers, message->headers);
	set_varlena(values, isnull, Anum_deferred_payload, message->payload);
	set_varlena(values, isnull, Anum_deferred_body, message->body);
	set_varlena(values, isnull, Anum_deferred_error, error ? cstring_to_text(error) : NULL);
	insert_row("deferred", values, isnull, tid);
	wake_due_at_commit(queue->shared, due_at);
}

void
dead_letter_insert(Queue *queue, Message *message, const char *reason, const char *error)
{
	Datum		values[Natts_dead] = {0};
	bool		isnull[Natts_dead] = {false};

	values[Anum_dead_queue - 1] = CStringGetTextDatum(NameStr(queue->name));
	values[Anum_dead_id - 1] = Int64GetDatum(message->id);
	set_varlena(values, isnull, Anum_dead_key, message->key);
	set_priority(values, isnull, Anum_dead_priority, message);
	set_varlena(values, isnull, Anum_dead_headers, message->headers);
	set_varlena(values, isnull, Anum_dead_payload, message->payload);
	set_varlena(values, isnull, Anum_dead_body, message->body);
	values[Anum_dead_attempts - 1] = Int32GetDatum(message->attempts);
	values[Anum_dead_reason - 1] = CStringGetTextDatum(reason);
	set_varlena(values, isnull, Anum_dead_error, error ? cstring_to_text(error) : NULL);
	values[Anum_dead_enqueued_at - 1] = TimestampTzGetDatum(message->enqueued_at);
	values[Anum_dead_died_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	insert_row("dead_letters", values, isnull, NULL);
	wake_dead_at_commit(queue->shared, 1);
}

static void
lower_next_due(QueueShared *q, TimestampTz due_at)
{
	uint64		old = pg_atomic_read_u64(&q->next_due);

	while ((int64) old > due_at &&
		   !pg_atomic_compare_exchange_u64(&q->next_due, &old, (uint64) due_at))
		;
}

/*
 * Lease what is due from a time on.  Returns a lower bound of the due times
 * of what is left.
 */
static TimestampTz
claim_due(ClaimScan *scan, Oid relid, TimestampTz from, Snapshot snapshot)
{
	Relation	rel = table_open(extension_relation("deferred"), AccessShareLock);
	Relation	index = index_open(extension_relation("deferred_due"), AccessShareLock);
	TimestampTz left = DT_NOEND;
	ScanKeyData keys[2];
	SysScanDesc desc;
	HeapTuple	tuple;

	ScanKeyInit(&keys[0], Anum_deferred_relid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	ScanKeyInit(&keys[1], Anum_deferred_due_at, BTGreaterEqualStrategyNumber,
				F_TIMESTAMPTZ_GE, TimestampTzGetDatum(from));
	desc = systable_beginscan_ordered(rel, index, snapshot, 2, keys);
	while ((tuple = systable_getnext_ordered(desc, ForwardScanDirection)) != NULL)
	{
		bool		isnull;
		TimestampTz due_at = DatumGetTimestampTz(heap_getattr(tuple, Anum_deferred_due_at,
															  RelationGetDescr(rel), &isnull));
		int64		id = frontier_tuple_id(tuple->t_data);
		Claim	   *claim;
		Verdict		verdict;
		HeapTuple	copy;
		int			slotno;

		if (due_at > scan->now || scan->nclaims >= scan->max)
		{
			left = Min(left, due_at);
			break;
		}

		/*
		 * Lease first and look again then: who had the message before us may
		 * have acknowledged it since our snapshot.
		 */
		slotno = lease_take(scan->q, RelationGetRelid(rel), LEASE_IN_DEFERRED, &tuple->t_self,
							id, 0, scan->kind, scan->now, scan->expires_at);
		if (slotno == LEASE_TAKEN_ALREADY)
			continue;
		if (slotno == LEASE_NONE_FREE)
		{
			scan->out_of_leases = true;
			left = Min(left, due_at);
			break;
		}
		verdict = frontier_fetch(rel, &tuple->t_self, id, snapshot, &copy);
		if (verdict != VERDICT_LIVE)
		{
			lease_drop(slotno);
			if (verdict == VERDICT_WAIT)
				left = Min(left, due_at);
			continue;
		}
		claim = &scan->claims[scan->nclaims++];
		claim->slotno = slotno;
		claim->id = id;
		claim->segment = LEASE_IN_DEFERRED;
		claim->tuple = copy;
	}
	systable_endscan_ordered(desc);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
	return left;
}

void
deferred_claim(ClaimScan *scan, Oid relid)
{
	QueueShared *q = scan->q;
	TimestampTz from = (TimestampTz) pg_atomic_read_u64(&q->next_due);
	TimestampTz left;
	Snapshot	snapshot;

	if (from > scan->now || scan->nclaims >= scan->max)
		return;

	/*
	 * Reset the bound before the snapshot is taken: what commits later lowers
	 * it again, what committed earlier the snapshot shows.
	 */
	from = (TimestampTz) pg_atomic_exchange_u64(&q->next_due, (uint64) DT_NOEND);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	PG_TRY();
	{
		left = claim_due(scan, relid, from, snapshot);
	}
	PG_CATCH();
	{
		lower_next_due(q, from);
		PG_RE_THROW();
	}
	PG_END_TRY();
	UnregisterSnapshot(snapshot);

	lower_next_due(q, left);
	if (left <= scan->now && scan->nclaims >= scan->max)
		wake_waiters(q, 1);
}

/* Delete a row others may be deleting too; false if they were first. */
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
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_deferred_relid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	scan = systable_beginscan(rel, extension_relation("deferred_due"), true, snapshot, 1, &key);
	while ((tuple = systable_getnext(scan)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		(void) delete_row(rel, &tuple->t_self);
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, NoLock);
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
take_dead_letters(const char *name, Queue *queue, int64 max)
{
	Relation	rel = table_open(extension_relation("dead_letters"), RowExclusiveLock);
	Relation	index = index_open(extension_relation("dead_letters_queue"), AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	int64		n = 0;

	ScanKeyInit(&key, Anum_dead_queue, BTEqualStrategyNumber, F_TEXTEQ,
				CStringGetTextDatum(name));
	scan = systable_beginscan_ordered(rel, index, snapshot, 1, &key);
	while (n != max && (tuple = systable_getnext_ordered(scan, ForwardScanDirection)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (!delete_row(rel, &tuple->t_self))
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
dead_letters_delete_all(const char *name)
{
	return take_dead_letters(name, NULL, -1);
}

int64
dead_letters_redrive(Queue *queue, int64 max)
{
	int64		n = take_dead_letters(NameStr(queue->name), queue, max);

	wake_dead_at_commit(queue->shared, -n);
	return n;
}
