/*
 * cleanup.c
 *		Rows of the extension's own tables that are not needed any more.
 *
 * They are deleted without SQL: no code of a user's can run, and a publication
 * that lacks a replica identity is no obstacle.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "compat.h"
#include "engine/bucket_table.h"
#include "engine/dead_letter.h"
#include "engine/deferred.h"
#include "engine/extension.h"
#include "engine/registry.h"
#include "miscadmin.h"
#include "relay/configuration.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "workers/cleanup.h"
#include "workers/transaction.h"

/* Rows deleted in one transaction. */
#define BATCH				10000

#define Anum_inbox_relid				1
#define Anum_inbox_expires_at			5
#define Anum_inbox_version_role			1
#define Anum_inbox_version_expires_at	5
#define Anum_idempotency_expires_at		7

/*
 * Where rows about a queue are; queue.queue_definition last, as its row says
 * that there are some.
 */
static const struct
{
	const char *table;
	const char *index;			/* NULL: small enough without */
	AttrNumber	column;			/* the queue's table */
}			owned_rows[] = {
	{"deferred", "deferred_due", Anum_deferred_relid},
	{"dead", "dead_pkey", Anum_dead_relid},
	{"inbox", "inbox_pkey", Anum_inbox_relid},
	{"relay_definition", NULL, Anum_relay_queue},
	{"queue_definition", "queue_definition_pkey", Anum_queue_relid},
};

/*
 * Delete up to a batch of the rows that match a key; true if there may be
 * more.  A row that another transaction has locked is left, and *skipped set.
 */
static bool
delete_rows(const char *table, const char *index, ScanKey key, bool *skipped)
{
	Oid			relid = extension_relation(table);
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;
	int			deleted = 0;

	worker_lock(relid, RowExclusiveLock);
	rel = table_open(relid, NoLock);
	scan = systable_beginscan(rel, index ? extension_relation(index) : InvalidOid,
							  index != NULL, GetActiveSnapshot(), 1, key);
	while (deleted < BATCH && (tuple = systable_getnext(scan)) != NULL)
	{
		TM_FailureData tmfd;
		TM_Result	result;

		CHECK_FOR_INTERRUPTS();
		result = heap_delete(rel, &tuple->t_self, GetCurrentCommandId(true), InvalidSnapshot,
							 false, &tmfd, false);
		if (result == TM_Ok)
			deleted++;
		else if (result == TM_BeingModified)
			*skipped = true;
	}
	systable_endscan(scan);
	table_close(rel, NoLock);
	return deleted == BATCH;
}

/* Delete rows whose time is over; returns when there will be more to do. */
static TimestampTz
remove_expired(const char *table, const char *index, AttrNumber expires_at)
{
	Oid			relid;
	Relation	rel;
	bool		empty;
	bool		more = false;
	bool		skipped = false;

	worker_begin();
	relid = extension_relation(table);
	worker_lock(relid, AccessShareLock);
	rel = table_open(relid, NoLock);
	empty = (RelationGetNumberOfBlocks(rel) == 0);
	table_close(rel, NoLock);
	if (!empty)
	{
		ScanKeyData key;

		ScanKeyInit(&key, expires_at, BTLessEqualStrategyNumber, F_TIMESTAMPTZ_LE,
					TimestampTzGetDatum(GetCurrentTimestamp()));
		more = delete_rows(table, index, &key, &skipped);
	}
	worker_end();
	return more ? DT_NOBEGIN : DT_NOEND;
}

TimestampTz
cleanup_inbox(void)
{
	return remove_expired("inbox", "inbox_expires_at", Anum_inbox_expires_at);
}

TimestampTz
cleanup_idempotency(void)
{
	return remove_expired("idempotency", "idempotency_expires_at", Anum_idempotency_expires_at);
}

/*
 * The first role, after one or NULL, that has rows in queue.inbox_version, in
 * the current memory context; NULL if there is no other.
 */
static text *
next_role(Relation rel, Relation index, text *after)
{
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	text	   *result = NULL;

	if (after != NULL)
		ScanKeyEntryInitialize(&key, 0, Anum_inbox_version_role, BTGreaterStrategyNumber,
							   InvalidOid, C_COLLATION_OID, F_TEXT_GT, PointerGetDatum(after));
	scan = systable_beginscan_ordered(rel, index, GetActiveSnapshot(), after != NULL, &key);
	tuple = systable_getnext_ordered(scan, ForwardScanDirection);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;

		result = DatumGetTextPCopy(heap_getattr(tuple, Anum_inbox_version_role,
												RelationGetDescr(rel), &isnull));
	}
	systable_endscan_ordered(scan);
	return result;
}

/* A role that has rows in queue.inbox_version, and is no more; NULL if there is none. */
static text *
dropped_role(void)
{
	Oid			relid = extension_relation("inbox_version");
	text	   *role = NULL;
	Relation	rel;
	Relation	index;

	worker_lock(relid, AccessShareLock);
	rel = table_open(relid, NoLock);
	index = index_open(extension_relation("inbox_version_pkey"), NoLock);
	do
	{
		CHECK_FOR_INTERRUPTS();
		role = next_role(rel, index, role);
	} while (role != NULL && OidIsValid(get_role_oid(text_to_cstring(role), true)));
	index_close(index, NoLock);
	table_close(rel, NoLock);
	return role;
}

/* Versions have no end unless they are given one, so those of dropped roles go here. */
TimestampTz
cleanup_versions(void)
{
	TimestampTz next = remove_expired("inbox_version", "inbox_version_expires_at",
									  Anum_inbox_version_expires_at);
	text	   *role;

	worker_begin();
	role = dropped_role();
	if (role != NULL)
	{
		bool		skipped = false;
		ScanKeyData key;

		ScanKeyEntryInitialize(&key, 0, Anum_inbox_version_role, BTEqualStrategyNumber,
							   InvalidOid, C_COLLATION_OID, F_TEXTEQ, PointerGetDatum(role));
		(void) delete_rows("inbox_version", "inbox_version_pkey", &key, &skipped);
		next = skipped ? next : DT_NOBEGIN;
	}
	worker_end();
	return next;
}

/* Queues of which there is something left though their tables are no more, in the current memory context. */
static List *
dropped_queues(void)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *result = NIL;
	ListCell   *lc;

	worker_begin();
	worker_lock(extension_relation("queue_definition"), AccessShareLock);
	worker_lock(extension_relation("dedup_bucket"), AccessShareLock);
	foreach(lc, list_concat_unique_oid(queue_list(), bucket_queues()))
	{
		Oid			relid = lfirst_oid(lc);
		MemoryContext old;

		/* While it is being dropped it is locked. */
		if (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)) ||
			!ConditionalLockRelationOid(relid, AccessShareLock) ||
			SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
			continue;
		old = MemoryContextSwitchTo(context);
		result = lappend_oid(result, relid);
		MemoryContextSwitchTo(old);
	}
	worker_end();
	return result;
}

/*
 * Drop the tables of dedup keys of a queue that is gone.  They go with it, but
 * where a restore had lost that; so it is asked for the queues they are of.
 */
static void
remove_buckets(Oid relid)
{
	ListCell   *lc;

	worker_begin();
	worker_lock(extension_relation("dedup_bucket"), RowExclusiveLock);
	foreach(lc, bucket_tables(relid))
		worker_lock(lfirst_oid(lc), AccessExclusiveLock);
	bucket_tables_drop(relid);
	worker_end();
}

/* Delete what is left of a queue, its row in queue.queue_definition if all else has gone. */
static void
remove_queue(Oid relid)
{
	for (int i = 0; i < lengthof(owned_rows); i++)
	{
		bool		more = true;

		while (more)
		{
			bool		skipped = false;
			ScanKeyData key;

			worker_begin();
			ScanKeyInit(&key, owned_rows[i].column, BTEqualStrategyNumber, F_OIDEQ,
						ObjectIdGetDatum(relid));
			more = delete_rows(owned_rows[i].table, owned_rows[i].index, &key, &skipped);
			if (skipped && !more)
				worker_report_locked(extension_relation(owned_rows[i].table));
			worker_end();
		}
	}
}

TimestampTz
cleanup_dropped_queues(void)
{
	List	   *relids = dropped_queues();
	ListCell   *lc;

	foreach(lc, relids)
	{
		remove_buckets(lfirst_oid(lc));
		remove_queue(lfirst_oid(lc));
	}

	worker_begin();
	queue_forget_dropped(false);
	worker_end();
	return DT_NOEND;
}
