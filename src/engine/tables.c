/*
 * tables.c
 *		Which tables are a queue's.
 *
 * A queue's owner can alter its tables in any way, and its own table can get
 * other children.  No table is read or written before it was checked here.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "engine/tables.h"
#include "message.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

bool		tables_nowait = false;

static const Oid message_types[Natts_message] = {
	INT8OID, TIMESTAMPTZOID, INT8OID, TIMESTAMPTZOID, INT2OID, TEXTOID, JSONBOID, JSONBOID, BYTEAOID
};

bool
table_columns_valid(Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);

	if (desc->natts < Natts_message || rel->rd_rel->relkind != RELKIND_RELATION ||
		rel->rd_rel->relam != HEAP_TABLE_AM_OID)
		return false;
	for (int i = 0; i < Natts_message; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		bool		required = (i == Anum_message_id - 1 || i == Anum_message_enqueued_at - 1);

		if (att->attisdropped || att->atttypid != message_types[i] || att->atttypmod != -1 ||
			att->atthasmissing || att->attgenerated != '\0' || att->attidentity != '\0' ||
			(required && !att->attnotnull))
			return false;
	}
	return true;
}

void
table_check_columns(Relation rel)
{
	if (unlikely(!table_columns_valid(rel)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s.%s\" is not as queue.create() made it",
						get_namespace_name(RelationGetNamespace(rel)),
						RelationGetRelationName(rel)),
				 errhint("Columns of a queue must not be dropped, generated, or changed in type,"
						 " and id and enqueued_at must be NOT NULL.")));
}

Oid
table_parent(Oid relid)
{
	Relation	rel = table_open(InheritsRelationId, AccessShareLock);
	Oid			parent = InvalidOid;
	int			parents = 0;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_inherits_inhrelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	scan = systable_beginscan(rel, InheritsRelidSeqnoIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		parent = ((Form_pg_inherits) GETSTRUCT(tuple))->inhparent;
		parents++;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return parents == 1 ? parent : InvalidOid;
}

bool
table_belongs(Relation rel, Oid parent)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(parent));
	Form_pg_class form;
	bool		alike;

	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_class) GETSTRUCT(tuple);
	alike = rel->rd_rel->relkind == RELKIND_RELATION &&
		rel->rd_rel->relowner == form->relowner &&
		rel->rd_rel->relnamespace == form->relnamespace &&
		rel->rd_rel->relpersistence == form->relpersistence;
	ReleaseSysCache(tuple);
	return alike && table_parent(RelationGetRelid(rel)) == parent;
}

List *
table_children(Oid parent, LOCKMODE lockmode)
{
	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(parent)))
		return NIL;
	return find_inheritance_children(parent, lockmode);
}

List *
table_segments(Oid parent, LOCKMODE lockmode)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, table_children(parent, lockmode))
	{
		Relation	rel = try_relation_open(lfirst_oid(lc), NoLock);

		if (rel == NULL)
			continue;
		if (table_belongs(rel, parent))
			result = lappend_oid(result, RelationGetRelid(rel));
		relation_close(rel, NoLock);
	}
	return result;
}

/*
 * Tables this backend has checked: segments, with their queues' tables.  An
 * entry is valid until something about either table changes.
 */
#define CHECKED_TABLES	64

static struct
{
	Oid			relid;
	Oid			parent;
}			checked_tables[CHECKED_TABLES];
static uint64 checked_invalidations = 0;

static void
forget_checked(Datum arg, Oid relid)
{
	checked_invalidations++;
	for (int i = 0; i < CHECKED_TABLES; i++)
	{
		if (!OidIsValid(relid) || checked_tables[i].relid == relid ||
			checked_tables[i].parent == relid)
			checked_tables[i].relid = InvalidOid;
	}
}

bool
table_check(Oid parent, Relation rel)
{
	static bool registered = false;
	Oid			relid = RelationGetRelid(rel);
	uint64		before;

	if (likely(checked_tables[relid % CHECKED_TABLES].relid == relid &&
			   checked_tables[relid % CHECKED_TABLES].parent == parent))
		return true;

	if (!registered)
	{
		CacheRegisterRelcacheCallback(forget_checked, (Datum) 0);
		registered = true;
	}
	before = checked_invalidations;
	if (relid != parent && !table_belongs(rel, parent))
		return false;
	table_check_columns(rel);
	if (before == checked_invalidations)
	{
		checked_tables[relid % CHECKED_TABLES].relid = relid;
		checked_tables[relid % CHECKED_TABLES].parent = parent;
	}
	return true;
}

/*
 * Open a table; NULL if it is gone.  With tables_nowait NULL also if the lock
 * is not free, as the maintenance worker must not wait.
 */
Relation
table_open_if_any(Oid relid, LOCKMODE lockmode)
{
	Relation	rel;

	if (!tables_nowait)
		return try_relation_open(relid, lockmode);
	if (!ConditionalLockRelationOid(relid, lockmode))
		return NULL;
	rel = try_relation_open(relid, NoLock);
	if (rel == NULL)
		UnlockRelationOid(relid, lockmode);
	return rel;
}

void
queue_missing(const char *name)
{
	Oid			relid = get_relname_relid(name, get_namespace_oid("queues", true));
	bool		table = get_rel_relkind(relid) == RELKIND_RELATION &&
		!OidIsValid(table_parent(relid));

	/* After a restore of definitions alone there are tables and no queues. */
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("queue \"%s\" does not exist", name),
			 table ? errhint("There is a table queues.%s: make it a queue with queue.create().",
							 quote_identifier(name)) :
			 errhint("Create it with queue.create().")));
}

void
queue_lock(Oid relid, const char *name, LOCKMODE lockmode)
{
	LockRelationOid(relid, lockmode);
	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
		queue_missing(name);
}
