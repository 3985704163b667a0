/*
 * blocked.c
 *		What the view queue.blocked_keys shows.
 *
 * A key waits for a due time or for somebody who deals with a dead letter: the
 * tables say so, and each key is looked up in their indexes once.  Or it waits
 * for a lease to end, which shared memory knows.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "compat.h"
#include "engine/dead_letter.h"
#include "engine/deferred.h"
#include "engine/extension.h"
#include "engine/keys.h"
#include "engine/leased.h"
#include "engine/registry.h"
#include "engine/rights.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(queue_blocked_key_list);

/* Columns of queue.blocked_key_list. */
enum
{
	BLOCKED_QUEUE,
	BLOCKED_KEY,
	BLOCKED_WAITING_FOR,
	BLOCKED_ID,
	BLOCKED_SINCE,
	BLOCKED_UNTIL,
	BLOCKED_MESSAGES,
	BLOCKED_COLUMNS
};

/* What a key of a queue is found by. */
typedef struct KeyName
{
	int64		hash;
	Oid			queue;
	Oid			unused;			/* so that no byte is undefined */
} KeyName;

typedef struct KeyEntry
{
	KeyName		name;
	bool		shown;
	int			lease;			/* slot of a lease of it, -1 if there is none */
	int			waiting;
	TimestampTz since;
} KeyEntry;

typedef struct BlockedList
{
	ReturnSetInfo *rsinfo;
	HTAB	   *keys;			/* those in shared memory */
	Snapshot	snapshot;
} BlockedList;

/* A table that says what keys wait for, with its index on queue and hash. */
typedef struct HeadTable
{
	const char *table;
	const char *index;
	AttrNumber	queue;
	AttrNumber	hash;
	AttrNumber	id;
	AttrNumber	key;
	AttrNumber	since;
	AttrNumber	until;			/* 0: nobody knows */
	AttrNumber	attempts;
} HeadTable;

static const HeadTable dead_heads = {
	"dead", "dead_key", Anum_dead_relid, Anum_dead_key_hash, Anum_dead_id, Anum_dead_key,
	Anum_dead_died_at, 0, 0
};
static const HeadTable deferred_heads = {
	"deferred", "deferred_key", Anum_deferred_relid, Anum_deferred_key_hash, Anum_deferred_id,
	Anum_deferred_key, Anum_deferred_deferred_at, Anum_deferred_due_at, Anum_deferred_attempts
};

/* What is known of a key; an entry is made for one that has no slot. */
static KeyEntry *
find_key(BlockedList *list, Oid queue, int64 hash)
{
	KeyName		name = {.hash = hash,.queue = queue};
	bool		found;
	KeyEntry   *entry = hash_search(list->keys, &name, HASH_ENTER, &found);

	if (!found)
	{
		entry->shown = false;
		entry->lease = -1;
		entry->waiting = 0;
		entry->since = 0;
	}
	return entry;
}

/* Whether a message of the key that goes before a dead letter is not due yet. */
static bool
waits_before(BlockedList *list, Oid queue, int64 hash, int64 dead, TimestampTz now)
{
	DeferredScan scan;
	DeferredRow row;
	bool		waits;

	deferred_begin_key(&scan, queue, hash, list->snapshot);
	waits = deferred_next_of_key(&scan, &row) && row.id < dead && row.due_at > now;
	deferred_end_key(&scan);
	return waits;
}

/* Show a key, unless that was done; who may not read the queue is not told which it is. */
static void
show(BlockedList *list, Oid queue, bool readable, KeyEntry *entry, Datum *values, bool *isnull)
{
	if (entry->shown)
		return;
	entry->shown = true;
	values[BLOCKED_QUEUE] = ObjectIdGetDatum(queue);
	values[BLOCKED_MESSAGES] = Int64GetDatum(entry->waiting);
	isnull[BLOCKED_KEY] |= !readable;
	tuplestore_putvalues(list->rsinfo->setResult, list->rsinfo->setDesc, values, isnull);
}

/* Show what the first row of each key in a table says. */
static void
show_heads(BlockedList *list, Oid queue, bool readable, const HeadTable *table)
{
	Relation	rel = table_open(extension_relation(table->table), AccessShareLock);
	Relation	index = index_open(extension_relation(table->index), AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	TimestampTz now = GetCurrentTimestamp();
	int64		hash = PG_INT64_MIN;
	bool		first = true;

	for (;; first = false)
	{
		ScanKeyData keys[2];
		SysScanDesc scan;
		HeapTuple	tuple;

		CHECK_FOR_INTERRUPTS();
		ScanKeyInit(&keys[0], table->queue, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(queue));
		ScanKeyInit(&keys[1], table->hash,
					first ? BTGreaterEqualStrategyNumber : BTGreaterStrategyNumber,
					first ? F_INT8GE : F_INT8GT, Int64GetDatum(hash));
		scan = systable_beginscan_ordered(rel, index, list->snapshot, 2, keys);
		tuple = systable_getnext_ordered(scan, ForwardScanDirection);
		if (tuple != NULL)
		{
			Datum		values[BLOCKED_COLUMNS] = {0};
			bool		isnull[BLOCKED_COLUMNS] = {false};
			const char *cause = "dead letter";
			bool		blocks = true;

			hash = DatumGetInt64(heap_getattr(tuple, table->hash, desc, &isnull[BLOCKED_QUEUE]));
			values[BLOCKED_KEY] = heap_getattr(tuple, table->key, desc, &isnull[BLOCKED_KEY]);
			values[BLOCKED_ID] = heap_getattr(tuple, table->id, desc, &isnull[BLOCKED_ID]);
			values[BLOCKED_SINCE] = heap_getattr(tuple, table->since, desc, &isnull[BLOCKED_SINCE]);
			isnull[BLOCKED_UNTIL] = true;
			if (table->until != 0)
			{
				bool		null;
				int			attempts = DatumGetInt32(heap_getattr(tuple, table->attempts, desc, &null));

				values[BLOCKED_UNTIL] = heap_getattr(tuple, table->until, desc, &isnull[BLOCKED_UNTIL]);
				blocks = DatumGetTimestampTz(values[BLOCKED_UNTIL]) > now;
				cause = attempts > 0 ? "retry" : "delay";
			}
			else
				blocks = !waits_before(list, queue, hash, DatumGetInt64(values[BLOCKED_ID]), now);
			values[BLOCKED_WAITING_FOR] = CStringGetTextDatum(cause);
			if (blocks)
				show(list, queue, readable, find_key(list, queue, hash), values, isnull);
		}
		systable_endscan_ordered(scan);
		if (tuple == NULL)
			break;
	}
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
}

/* The key of a message that is on lease, if it can be read now. */
static Datum
leased_key(BlockedList *list, Lease *lease, bool *isnull)
{
	bool		deferred = (lease->place.segment == LEASE_IN_DEFERRED);
	Relation	rel;
	HeapTuple	tuple = NULL;
	Datum		key = (Datum) 0;

	*isnull = true;
	if (!ConditionalLockRelationOid(lease->place.relid, AccessShareLock))
		return key;
	rel = try_relation_open(lease->place.relid, NoLock);
	if (rel == NULL)
		return key;
	(void) leased_fetch(rel, lease, list->snapshot, &tuple);
	if (tuple != NULL)
		key = heap_getattr(tuple, deferred ? Anum_deferred_key : Anum_message_key,
						   RelationGetDescr(rel), isnull);
	if (!*isnull)
		key = PointerGetDatum(PG_DETOAST_DATUM_COPY(key));
	relation_close(rel, AccessShareLock);
	return key;
}

/* Show a key whose messages wait for the end of a lease. */
static void
show_leased(BlockedList *list, KeyEntry *entry, bool readable)
{
	Datum		values[BLOCKED_COLUMNS] = {0};
	bool		isnull[BLOCKED_COLUMNS] = {false};
	Lease		lease;

	/* It can have ended since, and its slot be another's. */
	if (!lease_get(entry->lease, &lease) || lease.q->relid != entry->name.queue ||
		lease.key < 0 || key_hash(lease.key) != entry->name.hash)
		return;
	isnull[BLOCKED_KEY] = true;
	if (readable)
		values[BLOCKED_KEY] = leased_key(list, &lease, &isnull[BLOCKED_KEY]);
	values[BLOCKED_WAITING_FOR] = CStringGetTextDatum("lease");
	values[BLOCKED_ID] = Int64GetDatum(lease.id);
	values[BLOCKED_SINCE] = TimestampTzGetDatum(entry->since);
	values[BLOCKED_UNTIL] = TimestampTzGetDatum(lease.expires_at);
	isnull[BLOCKED_UNTIL] = (lease.expires_at == DT_NOEND);
	show(list, entry->name.queue, readable, entry, values, isnull);
}

/* Show what the tables say of the queues that are ordered. */
static void
show_ordered_queues(BlockedList *list)
{
	Relation	rel = table_open(extension_relation("queue_definition"), AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Datum		values[Natts_queue];
		bool		isnull[Natts_queue];
		QueueSettings settings;
		Oid			queue;
		bool		readable;

		heap_deform_tuple(tuple, desc, values, isnull);
		queue = DatumGetObjectId(values[Anum_queue_relid - 1]);
		settings_read(values, &settings);
		if (!settings.ordered || !may_watch_queue(queue))
			continue;
		readable = pg_class_aclcheck(queue, GetUserId(), ACL_SELECT) == ACLCHECK_OK;
		if (settings.block_on_dead)
			show_heads(list, queue, readable, &dead_heads);
		show_heads(list, queue, readable, &deferred_heads);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
}

/* What shared memory knows of keys in this database. */
static HTAB *
read_keys(void)
{
	HASHCTL		ctl = {.keysize = sizeof(KeyName),.entrysize = sizeof(KeyEntry),.hcxt = CurrentMemoryContext};
	HTAB	   *result = hash_create("blocked keys", 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	int			cursor = 0;
	KeyCopy		copy;

	while (keys_next(&cursor, &copy))
	{
		KeyName		name = {.hash = copy.hash,.queue = copy.q->relid};
		KeyEntry   *entry;

		CHECK_FOR_INTERRUPTS();
		if (copy.q->dboid != MyDatabaseId)
			continue;
		entry = hash_search(result, &name, HASH_ENTER, NULL);
		entry->shown = false;
		entry->lease = copy.leased > 0 && copy.since != 0 ? copy.lease : -1;
		entry->waiting = copy.waiting;
		entry->since = copy.since;
	}
	return result;
}

/* queue.blocked_key_list: (). */
Datum
queue_blocked_key_list(PG_FUNCTION_ARGS)
{
	BlockedList list;
	HASH_SEQ_STATUS status;
	KeyEntry   *entry;

	shmem_require();
	InitMaterializedSRF(fcinfo, 0);
	list.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	list.keys = read_keys();
	list.snapshot = RegisterSnapshot(GetLatestSnapshot());
	show_ordered_queues(&list);
	hash_seq_init(&status, list.keys);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		if (!entry->shown && entry->lease >= 0 && may_watch_queue(entry->name.queue))
			show_leased(&list, entry,
						pg_class_aclcheck(entry->name.queue, GetUserId(), ACL_SELECT) == ACLCHECK_OK);
	}
	UnregisterSnapshot(list.snapshot);
	return (Datum) 0;
}
