/*
 * registry.c
 *		Queues by name or by table: this backend's cache of their settings.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "compat.h"
#include "engine/extension.h"
#include "engine/keys.h"
#include "engine/lease.h"
#include "engine/lease_account.h"
#include "engine/registry.h"
#include "engine/segment.h"
#include "engine/tables.h"
#include "guc.h"
#include "miscadmin.h"
#include "stop_point.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/syscache.h"

static HTAB *queue_cache = NULL;
static uint64 invalidations = 0;

/* A queue's settings changed, or it is gone: read them again at the next use. */
static void
invalidate_queue(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS status;
	Queue	   *queue;

	if (queue_cache == NULL)
		return;

	if (OidIsValid(relid))
	{
		queue = hash_search(queue_cache, &relid, HASH_FIND, NULL);
		if (queue)
		{
			queue->valid = false;
			invalidations++;
		}
		return;
	}
	invalidations++;
	hash_seq_init(&status, queue_cache);
	while ((queue = hash_seq_search(&status)) != NULL)
		queue->valid = false;
}

/* Roles or schemas have changed, and with them perhaps who may do what. */
static void
invalidate_rights(Datum arg, int cacheid, uint32 hashvalue)
{
	invalidations++;
}

void
registry_init(void)
{
	CacheRegisterRelcacheCallback(invalidate_queue, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHOID, invalidate_rights, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHMEMMEMROLE, invalidate_rights, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, invalidate_rights, (Datum) 0);
}

/*
 * The queue used last, and what rights on it were checked.  Valid as long as
 * nothing about the table, its grants or a role has changed; changes of tables
 * are counted only for queues in the cache.
 */
static struct
{
	NameData	name;
	Oid			relid;			/* InvalidOid: nothing */
	Oid			userid;
	AclMode		rights;			/* checked */
	uint64		invalidations;
}			last_used;

static void
remember_rights(Oid relid, const char *name, AclMode rights)
{
	if (queue_cache == NULL || hash_search(queue_cache, &relid, HASH_FIND, NULL) == NULL)
		return;
	if (last_used.relid != relid || last_used.userid != GetUserId() ||
		last_used.invalidations != invalidations)
		last_used.rights = 0;
	namestrcpy(&last_used.name, name);
	last_used.relid = relid;
	last_used.userid = GetUserId();
	last_used.rights |= rights;
	last_used.invalidations = invalidations;
}

bool
queue_rights_known(Oid relid, AclMode rights)
{
	return last_used.relid == relid && last_used.invalidations == invalidations &&
		last_used.userid == GetUserId() && (rights & ~last_used.rights) == 0;
}

void
queue_check_rights(Oid relid, const char *name, AclMode rights)
{
	/* One at a time: of several, one would be enough for the check. */
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

	/* The engine does not apply policies, so it refuses such a table. */
	if (check_enable_rls(relid, InvalidOid, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("row-level security is not supported on queue \"%s\"", name),
				 errhint("Disable it on the table queues.%s, and use grants.",
						 quote_identifier(name))));

	remember_rights(relid, name, rights);
}

void
queue_check_owner(Oid relid, const char *name)
{
	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
		queue_missing(name);
	if (!OWNS_TABLE(relid, GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of queue \"%s\"", name)));
}

bool
queue_recorded(Oid relid)
{
	Oid			namespace = get_namespace_oid("queue", true);
	Oid			table = OidIsValid(namespace) ? get_relname_relid("queue_definition", namespace) :
		InvalidOid;
	Oid			index = OidIsValid(namespace) ? get_relname_relid("queue_definition_pkey", namespace) :
		InvalidOid;
	Relation	rel;
	ScanKeyData key;
	SysScanDesc scan;
	bool		found;

	/* Without the extension any user can have made these. */
	if (!OidIsValid(table) || !OidIsValid(index) || !extension_exists())
		return false;
	rel = table_open(table, AccessShareLock);
	ScanKeyInit(&key, Anum_queue_relid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(rel, index, true, NULL, 1, &key);
	found = HeapTupleIsValid(systable_getnext(scan));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

Oid
queue_of_table(Oid relid)
{
	Oid			parent;

	if (get_rel_namespace(relid) != get_namespace_oid("queues", true) ||
		get_rel_relkind(relid) != RELKIND_RELATION)
		return InvalidOid;
	if (queue_recorded(relid))
		return relid;
	parent = table_parent(relid);
	return OidIsValid(parent) && queue_recorded(parent) ? parent : InvalidOid;
}

/*
 * What pg_class says of a queue's table; false if there is none in the schema
 * queues: one that was moved away is no queue until it is moved back.
 */
static bool
read_table(Queue *queue)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(queue->relid));
	Form_pg_class form;
	bool		good;

	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_class) GETSTRUCT(tuple);
	good = form->relkind == RELKIND_RELATION &&
		form->relpersistence != RELPERSISTENCE_TEMP &&
		form->relnamespace == get_namespace_oid("queues", true);
	namestrcpy(&queue->name, NameStr(form->relname));
	queue->owner = form->relowner;
	ReleaseSysCache(tuple);
	return good;
}

/* Read the settings from queue.queue_definition; false if it has no such row. */
static bool
read_settings(Queue *queue)
{
	Relation	rel = table_open(extension_relation("queue_definition"), AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found = false;

	ScanKeyInit(&key, Anum_queue_relid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(queue->relid));
	scan = systable_beginscan(rel, extension_relation("queue_definition_pkey"), true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		Datum		values[Natts_queue];
		bool		nulls[Natts_queue];

		heap_deform_tuple(tuple, RelationGetDescr(rel), values, nulls);
		settings_read(values, &queue->settings);
		found = true;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/* How many queues of one role may be in use. */
static int
queues_per_role(void)
{
	return queue_max_queues_per_role >= 0 ? queue_max_queues_per_role : (queue_max_queues + 1) / 2;
}

/*
 * Find this queue's shared element, or give it a free one; if there is none,
 * one of a queue that was dropped and not cleared away yet.  A role that is
 * not a superuser must not use them all up.
 */
static void
attach_shared(Queue *queue, bool may_retry)
{
	bool		exempt = superuser_arg(queue->owner);
	QueueShared *unused = NULL;
	QueueShared *found = NULL;
	int			owned = 0;

	STOP_POINT("attach");
	LWLockAcquire(&queue_state->registry_lock, LW_EXCLUSIVE);
	for (int i = 0; i < queue_max_queues && found == NULL; i++)
	{
		QueueShared *q = &queue_state->queues[i];

		if (q->relid == queue->relid && q->dboid == MyDatabaseId)
			found = q;
		else if (OidIsValid(q->relid))
			owned += (q->owner == queue->owner);
		else if (unused == NULL)
			unused = q;
	}
	if (found == NULL && unused != NULL && (exempt || owned < queues_per_role()))
	{
		found = unused;
		found->dboid = MyDatabaseId;
		found->relid = queue->relid;
		pg_atomic_write_u32(&found->generation,
							pg_atomic_add_fetch_u32(&queue_state->queue_generation, 1));
	}
	if (found != NULL)
	{
		found->owner = queue->owner;
		found->owner_is_superuser = exempt;
		queue->shared = found;
		queue->generation = pg_atomic_read_u32(&found->generation);
	}
	LWLockRelease(&queue_state->registry_lock);

	if (found != NULL)
		return;
	if (may_retry)
	{
		queue_forget_dropped(false);
		attach_shared(queue, false);
		return;
	}
	if (unused == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many queues are in use"),
				 errhint("Increase queue.max_queues, now %d, and restart the server.",
						 queue_max_queues)));
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("role \"%s\" has too many queues in use",
					GetUserNameFromId(queue->owner, false)),
			 errdetail("It has %d in all databases.", owned),
			 errhint("Drop queues, or increase queue.max_queues_per_role, now %d.",
					 queues_per_role())));
}

QueueShared *
queue_find_shared(Oid relid)
{
	QueueShared *found = NULL;

	LWLockAcquire(&queue_state->registry_lock, LW_SHARED);
	for (int i = 0; i < queue_max_queues && found == NULL; i++)
	{
		QueueShared *q = &queue_state->queues[i];

		if (q->relid == relid && q->dboid == MyDatabaseId)
			found = q;
	}
	LWLockRelease(&queue_state->registry_lock);
	return found;
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

		/* Not while a transaction owns one of its leases. */
		keys_forget(q);
		if (lease_forget_queue(q))
		{
			shared_reset(q);
			lease_account_reset(q);
			q->relid = q->dboid = q->owner = InvalidOid;
			pg_atomic_write_u32(&q->generation, 0);
		}
		LWLockRelease(&q->lock);
	}
	LWLockRelease(&queue_state->registry_lock);
}

void
queue_forget_dropped(bool wait)
{
	List	   *relids = NIL;
	ListCell   *lc;

	LWLockAcquire(&queue_state->registry_lock, LW_SHARED);
	for (int i = 0; i < queue_max_queues; i++)
	{
		QueueShared *q = &queue_state->queues[i];

		if (q->dboid == MyDatabaseId && OidIsValid(q->relid))
			relids = lappend_oid(relids, q->relid);
	}
	LWLockRelease(&queue_state->registry_lock);

	foreach(lc, relids)
	{
		Oid			relid = lfirst_oid(lc);

		if (wait)
			LockRelationOid(relid, AccessShareLock);
		else if (!ConditionalLockRelationOid(relid, AccessShareLock))
			continue;
		if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
			queue_forget(MyDatabaseId, relid);
		UnlockRelationOid(relid, AccessShareLock);
	}
}

/* Fill in a cache entry; false if there is no such queue. */
static bool
read_queue(Queue *queue)
{
	uint64		before = invalidations;
	List	   *sequences;

	if (!read_table(queue) || !read_settings(queue))
		return false;

	/* By ownership: names change when a table is renamed. */
	sequences = getOwnedSequences(queue->relid);
	queue->sequence = sequences ? linitial_oid(sequences) : InvalidOid;
	list_free(sequences);

	/* Attach again: the shared element has the owner, too. */
	queue->shared = NULL;

	/* If it was invalidated meanwhile, it is read again next time. */
	queue->valid = (before == invalidations);
	return true;
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

	for (;;)
	{
		if (!queue->valid && !read_queue(queue))
			return NULL;

		/*
		 * Without a lock: that the generation is the same is checked again
		 * where it matters, under the queue's lock or with its table locked.
		 */
		if (queue->shared == NULL ||
			pg_atomic_read_u32(&queue->shared->generation) != queue->generation)
			attach_shared(queue, true);
		if (queue_loaded(queue->shared) ||
			segment_load(queue->shared, queue->generation, queue->relid, NameStr(queue->name)))
			return queue;

		/* It was given to another queue: this one may have been dropped. */
		queue->valid = false;
		CHECK_FOR_INTERRUPTS();
		AcceptInvalidationMessages();
	}
}

static Queue *
find_again(text *name, AclMode rights)
{
	int			len = VARSIZE_ANY_EXHDR(name);

	if (!OidIsValid(last_used.relid) || !queue_rights_known(last_used.relid, rights) ||
		len >= NAMEDATALEN || NameStr(last_used.name)[len] != '\0' ||
		memcmp(NameStr(last_used.name), VARDATA_ANY(name), len) != 0)
		return NULL;
	return queue_by_relid(last_used.relid);
}

Queue *
queue_by_name(text *name, AclMode rights)
{
	char	   *cname;
	Oid			relid;
	Queue	   *queue;

	shmem_require();

	/* A receiver that waits takes no lock, and would not notice a drop. */
	AcceptInvalidationMessages();
	queue = find_again(name, rights);
	if (likely(queue != NULL))
		return queue;

	cname = text_to_cstring(name);
	relid = get_relname_relid(cname, queues_namespace());
	if (OidIsValid(relid))
		queue = queue_by_relid(relid);
	if (queue == NULL)
		queue_missing(cname);
	queue_check_rights(relid, cname, rights);

	pfree(cname);
	return queue;
}

void
queue_allocate_ids(Queue *queue, int n, int64 *ids)
{
	ids_allocate(&queue->shared->ids, queue->relid, NameStr(queue->name), queue->sequence, n, ids);
}

List *
queue_list(void)
{
	Relation	rel = table_open(extension_relation("queue_definition"), AccessShareLock);
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
