/*
 * object.c
 *		What DDL on a queue's table entails.
 *
 * A queue is an ordinary table, and ordinary DDL does to it what it does to a
 * table: DROP leaves nothing of the queue, a new owner owns its segments too,
 * and a constraint that cannot hold across its segments is refused.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/catalog.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "commands/tablecmds.h"
#include "compat.h"
#include "engine/commit.h"
#include "engine/dead_letter.h"
#include "engine/deferred.h"
#include "engine/extension.h"
#include "engine/registry.h"
#include "engine/tables.h"
#include "miscadmin.h"
#include "relay/relay.h"
#include "sql/object.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

static object_access_hook_type prev_object_access_hook = NULL;

/* Delete the rows of a table of the extension that have this table in their first column. */
static void
delete_rows(const char *table, const char *index, Oid relid)
{
	Relation	rel = table_open(extension_relation(table), RowExclusiveLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(rel, extension_relation(index), true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		TM_FailureData tmfd;

		/* A superuser's SQL can have deleted the row the moment before. */
		CHECK_FOR_INTERRUPTS();
		(void) heap_delete(rel, &tuple->t_self, GetCurrentCommandId(true), InvalidSnapshot,
						   true, &tmfd, false);
	}
	systable_endscan(scan);
	table_close(rel, NoLock);
}

/*
 * Whether the extension's tables all exist: DROP EXTENSION drops them and the
 * queues in any order.
 */
static bool
storage_exists(void)
{
	static const char *const relations[] = {
		"deferred", "deferred_due", "dead", "dead_pkey", "inbox", "inbox_pkey",
		"dedup_bucket", "dedup_bucket_pkey"
	};
	Oid			namespace = get_namespace_oid("queue", true);

	for (int i = 0; i < lengthof(relations); i++)
	{
		if (!OidIsValid(get_relname_relid(relations[i], namespace)))
			return false;
	}
	return true;
}

/* A table is about to be dropped: delete what is kept of the queue. */
static void
relation_dropped(Oid relid)
{
	QueueShared *q;

	if (get_rel_relkind(relid) != RELKIND_RELATION ||
		get_rel_persistence(relid) == RELPERSISTENCE_TEMP)
		return;

	if (queue_recorded(relid) && storage_exists())
	{
		delete_rows("queue_definition", "queue_definition_pkey", relid);
		delete_rows("inbox", "inbox_pkey", relid);
		deferred_delete_all(relid);
		(void) dead_letter_delete(relid, NULL);
	}
	else if (get_rel_namespace(relid) == get_namespace_oid("queue", true) && storage_exists() &&
			 extension_exists())
		delete_rows("dedup_bucket", "dedup_bucket_pkey", relid);
	q = queue_find_shared(relid);
	if (q != NULL)
		commit_dropped(q);
}

/*
 * A copy of the catalog row with this OID as this command has left it, before
 * it can be seen by others; NULL if there is none.
 */
static HeapTuple
latest_row(Oid catalog, Oid index, AttrNumber attnum, Oid oid)
{
	Relation	rel = table_open(catalog, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, attnum, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(oid));
	scan = systable_beginscan(rel, index, true, SnapshotSelf, 1, &key);
	tuple = heap_copytuple(systable_getnext(scan));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return tuple;
}

/* A table was altered: a queue's new owner is to own its segments, too. */
static void
relation_altered(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			old_owner;
	Oid			owner;
	ListCell   *lc;

	if (!HeapTupleIsValid(tuple))
		return;
	old_owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);

	/*
	 * The catalog cache has the old row until the command counter is
	 * incremented.
	 */
	tuple = latest_row(RelationRelationId, ClassOidIndexId, Anum_pg_class_oid, relid);
	if (tuple == NULL)
		return;
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	heap_freetuple(tuple);
	if (owner == old_owner || !queue_recorded(relid))
		return;
	foreach(lc, table_segments(relid, AccessExclusiveLock))
		ATExecChangeOwner(lfirst_oid(lc), owner, true, AccessExclusiveLock);
}

static void
refuse(Oid queue, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("%s is not supported on queue \"%s\"", what, get_rel_name(queue)),
			 errdetail("It cannot hold across the tables a queue's messages are in."),
			 errhint("Non-unique indexes and CHECK and NOT NULL constraints can be used.")));
}

/* A relation was created: a unique index would hold in one of the tables only. */
static void
relation_created(Oid relid)
{
	HeapTuple	tuple = latest_row(IndexRelationId, IndexRelidIndexId,
								   Anum_pg_index_indexrelid, relid);
	Oid			table = InvalidOid;
	Form_pg_index form;

	if (tuple == NULL)
		return;
	form = (Form_pg_index) GETSTRUCT(tuple);
	if (form->indisunique || form->indisexclusion)
		table = form->indrelid;
	heap_freetuple(tuple);

	if (OidIsValid(table) && OidIsValid(table = queue_of_table(table)))
		refuse(table, "a unique index or exclusion constraint");
}

/* A constraint was created: a foreign key would hold for one of the tables only. */
static void
constraint_created(Oid constraint)
{
	HeapTuple	tuple = latest_row(ConstraintRelationId, ConstraintOidIndexId,
								   Anum_pg_constraint_oid, constraint);
	Oid			tables[2] = {InvalidOid, InvalidOid};
	Form_pg_constraint form;

	if (tuple == NULL)
		return;
	form = (Form_pg_constraint) GETSTRUCT(tuple);
	if (form->contype == CONSTRAINT_FOREIGN)
	{
		tables[0] = form->conrelid;
		tables[1] = form->confrelid;
	}
	heap_freetuple(tuple);

	for (int i = 0; i < lengthof(tables); i++)
	{
		Oid			queue = OidIsValid(tables[i]) ? queue_of_table(tables[i]) : InvalidOid;

		if (OidIsValid(queue))
			refuse(queue, "a foreign key");
	}
}

static void
queue_object_access(ObjectAccessType access, Oid classid, Oid objectid, int subid, void *arg)
{
	if (prev_object_access_hook)
		prev_object_access_hook(access, classid, objectid, subid, arg);

	if (subid != 0 || objectid < FirstNormalObjectId)
		return;
	if (classid == RelationRelationId && access == OAT_DROP)
		relation_dropped(objectid);
	else if (classid == RelationRelationId && access == OAT_POST_ALTER)
		relation_altered(objectid);
	else if (classid == RelationRelationId && access == OAT_POST_CREATE)
		relation_created(objectid);
	else if (classid == ConstraintRelationId && access == OAT_POST_CREATE)
		constraint_created(objectid);
	else if (classid == TypeRelationId && access == OAT_DROP)
		relay_anchor_dropped(objectid);
	else if (access == OAT_POST_ALTER)
		relay_object_altered(classid);
}

void
object_init(void)
{
	prev_object_access_hook = object_access_hook;
	object_access_hook = queue_object_access;
}
