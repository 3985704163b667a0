/*
 * catalog.c
 *		Queues by name or by table: this backend's cache of their settings.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "commands/extension.h"
#include "duration.h"
#include "guc.h"
#include "lease.h"
#include "miscadmin.h"
#include "segment.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "compat.h"

/* Columns of queue.queue. */
enum
{
	Anum_queue_relid = 1,
	Anum_queue_lease,
	Anum_queue_max_attempts,
	Anum_queue_backoff,
	Anum_queue_backoff_max,
	Natts_queue = Anum_queue_backoff_max
};

static HTAB *queue_cache = NULL;
static uint64 invalidations = 0;

/* A queue's settings changed, or it is gone: read them again at the next use. */
static void
invalidate_queue(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS status;
	Queue	   *queue;

	invalidations++;
	if (queue_cache == NULL)
		return;

	if (OidIsValid(relid))
	{
		queue = hash_search(queue_cache, &relid, HASH_FIND, NULL);
		if (queue)
			queue->valid = false;
		return;
	}
	hash_seq_init(&status, queue_cache);
	while ((queue = hash_seq_search(&status)) != NULL)
		queue->valid = false;
}

void
catalog_init(void)
{
	CacheRegisterRelcacheCallback(invalidate_queue, (Datum) 0);
}

Oid
extension_relation(const char *name)
{
	Oid			relid = get_relname_relid(name, get_namespace_oid("queue", false));

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"queue.%s\" does not exist", name),
				 errhint("The extension queue is not installed as it should be in this database.")));
	return relid;
}

Oid
queues_namespace(void)
{
	return get_namespace_oid("queues", false);
}

bool
extension_exists(void)
{
	return OidIsValid(get_extension_oid("queue", true));
}

void
queue_missing(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("queue \"%s\" does not exist", name),
			 errhint("Create it with queue.create().")));
}

void
queue_lock(Oid relid, const char *name, LOCKMODE lockmode)
{
	LockRelationOid(relid, lockmode);
	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
		queue_missing(name);
}

void
queue_check_rights(Oid relid, const char *name, AclMode rights)
{
	/* One at a time: pg_class_aclcheck is content with any of them. */
	for (AclMode right = 1; right <= rights; right <<= 1)
	{
		bool		missing = false;
		AclResult	result;

		if ((rights & right) == 0)
			continue;
		result = pg_class_aclcheck_ext(relid, GetUserId(), right, &missing);
		if (missing)
			queue_missing(name);
		if (result != ACLCHECK_OK)
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("permission denied for queue \"%s\"", name),
					 errdetail("%s on the table queues.%s is needed.",
							   right == ACL_INSERT ? "INSERT" :
							   right == ACL_SELECT ? "SELECT" : "DELETE",
							   quote_identifier(name))));
	}
}

void
queue_check_owner(Oid relid, const char *name)
{
	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
		queue_missing(name);
#if PG_VERSION_NUM >= 160000
	if (!object_ownercheck(RelationRelationId, relid, GetUserId()))
#else
	if (!pg_class_ownercheck(relid, GetUserId()))
#endif
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of queue \"%s\"", name)));
}

/* Read the settings from queue.queue; false if it has no such row. */
static bool
read_settings(Queue *queue)
{
	Relation	rel = table_open(extension_relation("queue"), AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found = false;

	ScanKeyInit(&key, Anum_queue_relid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(queue->relid));
	scan = systable_beginscan(rel, extension_relation("queue_pkey"), true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		Datum		values[Natts_queue];
		bool		nulls[Natts_queue];

		heap_deform_tuple(tuple, RelationGetDescr(rel), values, nulls);
		queue->lease = duration_microseconds("lease", DatumGetIntervalP(values[Anum_queue_lease - 1]), 0);
		queue->max_attempts = DatumGetInt32(values[Anum_queue_max_attempts - 1]);
		queue->backoff = duration_microseconds("backoff", DatumGetIntervalP(values[Anum_queue_backoff - 1]), 0);
		queue->backoff_max = duration_microseconds("backoff_max", DatumGetIntervalP(values[Anum_queue_backoff_max - 1]), 0);
		found = true;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/* Find this queue's shared element, or give it a free one. */
static QueueShared *
attach_shared(Oid relid)
{
	QueueShared *q;
	QueueShared *unused = NULL;

	LWLockAcquire(&queue_state->registry_lock, LW_EXCLUSIVE);
	for (int i = 0; i < queue_max_queues; i++)
	{
		q = &queue_state->queues[i];
		if (q->relid == relid && q->dboid == MyDatabaseId)
		{
			LWLockRelease(&queue_state->registry_lock);
			return q;
		}
		if (unused == NULL && !OidIsValid(q->relid))
			unused = q;
	}
	if (unused == NULL)
	{
		LWLockRelease(&queue_state->registry_lock);
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many queues are in use"),
				 errhint("Increase queue.max_queues, now %d, and restart the server.",
						 queue_max_queues)));
	}
	unused->dboid = MyDatabaseId;
	unused->relid = relid;
	pg_atomic_write_u32(&unused->generation,
						pg_atomic_add_fetch_u32(&queue_state->queue_generation, 1));
	LWLockRelease(&queue_state->registry_lock);
	return unused;
}

/* Make a freed element as good as new, its locks aside. */
static void
clear_shared(QueueShared *q)
{
	q->nsegments = q->nscan = 0;
	for (int i = 0; i < QUEUE_MAX_SEGMENTS; i++)
		pg_atomic_write_u32(&q->segments[i].state, SEGMENT_UNUSED);
	pg_atomic_write_u32(&q->nlooks, 0);
	q->next_id = q->id_limit = 0;
	q->scanned = 0;
	q->swept_at = 0;
	pg_atomic_write_u64(&q->appended, 0);
	pg_atomic_write_u64(&q->next_due, 0);
	pg_atomic_write_u32(&q->wants_segment, 0);
	pg_atomic_write_u64(&q->ready, 0);
	pg_atomic_write_u64(&q->sent, 0);
	pg_atomic_write_u64(&q->received, 0);
	pg_atomic_write_u64(&q->acked, 0);
	pg_atomic_write_u64(&q->failed, 0);
	pg_atomic_write_u64(&q->expired, 0);
	pg_atomic_write_u64(&q->frontier_time, 0);
	pg_atomic_write_u32(&q->loaded, 0);
}

void
queue_forget(Oid dboid, Oid relid)
{
	LWLockAcquire(&queue_state->registry_lock, LW_EXCLUSIVE);
	for (int i = 0; i < queue_max_queues; i++)
	{
		QueueShared *q = &queue_state->queues[i];

		if (q->dboid != dboid || !OidIsValid(q->relid) ||
			(OidIsValid(relid) && q->relid != relid))
			continue;
		LWLockAcquire(&q->lock, LW_EXCLUSIVE);

		/* What a transaction has its hands on is left for the next time. */
		if (lease_forget_queue(q))
		{
			clear_shared(q);
			q->relid = q->dboid = InvalidOid;
			pg_atomic_write_u32(&q->generation, 0);
		}
		LWLockRelease(&q->lock);
	}
	LWLockRelease(&queue_state->registry_lock);
}

Queue *
queue_by_relid(Oid relid)
{
	Queue	   *queue;
	bool		found;

	shmem_require();

	if (queue_cache == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(Oid),.entrysize = sizeof(Queue)};

		queue_cache = hash_create("queues", 64, &ctl, HASH_ELEM | HASH_BLOBS);
	}
	queue = hash_search(queue_cache, &relid, HASH_ENTER, &found);
	if (!found)
	{
		queue->valid = false;
		queue->shared = NULL;
	}

	if (!queue->valid)
	{
		uint64		before = invalidations;
		char	   *relname = get_rel_name(relid);
		List	   *sequences;

		if (relname == NULL || !read_settings(queue))
			return NULL;
		namestrcpy(&queue->name, relname);
		pfree(relname);

		/* By ownership: names change when somebody renames a table. */
		sequences = getOwnedSequences(relid);
		queue->sequence = sequences ? linitial_oid(sequences) : InvalidOid;
		list_free(sequences);

		/* What was invalidated while we read it is good for this once only. */
		queue->valid = (before == invalidations);
	}

	if (queue->shared == NULL ||
		pg_atomic_read_u32(&queue->shared->generation) != queue->generation)
	{
		queue->shared = attach_shared(relid);
		queue->generation = pg_atomic_read_u32(&queue->shared->generation);
	}
	if (pg_atomic_read_u32(&queue->shared->loaded) == 0)
		segment_load(queue);
	return queue;
}

Queue *
queue_by_name(text *name, AclMode rights)
{
	char	   *cname = text_to_cstring(name);
	Oid			relid;
	Queue	   *queue = NULL;

	shmem_require();

	/* One who waits takes no lock, and would never hear of a drop. */
	AcceptInvalidationMessages();
	relid = get_relname_relid(cname, queues_namespace());
	if (OidIsValid(relid))
		queue = queue_by_relid(relid);
	if (queue == NULL)
		queue_missing(cname);
	queue_check_rights(relid, cname, rights);
	pfree(cname);
	return queue;
}

List *
queue_list(void)
{
	Relation	rel = table_open(extension_relation("queue"), AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	List	   *result = NIL;
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		Datum		relid = heap_getattr(tuple, Anum_queue_relid, RelationGetDescr(rel), &isnull);

		result = lappend_oid(result, DatumGetObjectId(relid));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}
