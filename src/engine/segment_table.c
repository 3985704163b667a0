/*
 * segment_table.c
 *		Which tables are a queue's, and making new ones.
 *
 * A queue's owner can do to its tables what he likes, and other children can
 * be given to its own table by and by.  Nothing of a table is read or written
 * before it has been looked at here.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/reloptions.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "catalog/toasting.h"
#include "commands/tablecmds.h"
#include "commands/tablespace.h"
#include "compat.h"
#include "engine/constrained.h"
#include "engine/segment.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

/* Longest "$<number>" at the end of a name. */
#define SEGMENT_SUFFIX	8

static const Oid message_types[Natts_message] = {
	INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT2OID, TEXTOID, JSONBOID, JSONBOID, BYTEAOID
};

bool
segment_columns_valid(Relation rel)
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
segment_check_columns(Relation rel)
{
	if (unlikely(!segment_columns_valid(rel)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s.%s\" is not as queue.create() made it",
						get_namespace_name(RelationGetNamespace(rel)),
						RelationGetRelationName(rel)),
				 errhint("Columns of a queue must not be dropped, generated, or changed in type,"
						 " and id and enqueued_at must be NOT NULL.")));
}

Oid
segment_parent(Oid relid)
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
segment_belongs(Relation rel, Oid parent)
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
	return alike && segment_parent(RelationGetRelid(rel)) == parent;
}

List *
segment_children(Oid parent, LOCKMODE lockmode)
{
	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(parent)))
		return NIL;
	return find_inheritance_children(parent, lockmode);
}

List *
segment_list(Oid parent, LOCKMODE lockmode)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, segment_children(parent, lockmode))
	{
		Relation	rel = try_relation_open(lfirst_oid(lc), NoLock);

		if (rel == NULL)
			continue;
		if (segment_belongs(rel, parent))
			result = lappend_oid(result, RelationGetRelid(rel));
		relation_close(rel, NoLock);
	}
	return result;
}

/*
 * Tables this backend has looked at, so that it need not look at each use:
 * segments, by their queues' tables.  An entry is good until something about
 * either table changes.
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
segment_check(QueueShared *q, Relation rel)
{
	static bool registered = false;
	Oid			relid = RelationGetRelid(rel);
	Oid			parent = q->relid;
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
	if (relid != parent && !segment_belongs(rel, parent))
		return false;
	segment_check_columns(rel);
	if (before == checked_invalidations)
	{
		checked_tables[relid % CHECKED_TABLES].relid = relid;
		checked_tables[relid % CHECKED_TABLES].parent = parent;
	}
	return true;
}

/*
 * Whether a catalog has an object of this name, or somebody is about to enter
 * or remove one: its end we would have to wait for.
 */
static bool
name_in_catalog(Oid catalog, Oid index, AttrNumber name_column, const char *name,
				AttrNumber namespace_column, Oid namespace)
{
	Relation	rel = table_open(catalog, AccessShareLock);
	SnapshotData snapshot;
	ScanKeyData keys[2];
	SysScanDesc scan;
	bool		found;

	InitDirtySnapshot(snapshot);
	ScanKeyInit(&keys[0], name_column, BTEqualStrategyNumber, F_NAMEEQ, CStringGetDatum(name));
	ScanKeyInit(&keys[1], namespace_column, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(namespace));
	scan = systable_beginscan(rel, index, true, &snapshot, lengthof(keys), keys);
	found = HeapTupleIsValid(systable_getnext(scan));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

char *
segment_free_name(const char *base, char mark, Oid namespace)
{
	int			len = pg_mbcliplen(base, strlen(base), NAMEDATALEN - 1 - SEGMENT_SUFFIX);
	int			number = 0;
	char	   *result;

	do
	{
		CHECK_FOR_INTERRUPTS();
		result = psprintf("%.*s%c%d", len, base, mark, ++number);
	} while (name_in_catalog(RelationRelationId, ClassNameNspIndexId, Anum_pg_class_relname,
							 result, Anum_pg_class_relnamespace, namespace) ||
			 name_in_catalog(TypeRelationId, TypeNameNspIndexId, Anum_pg_type_typname,
							 result, Anum_pg_type_typnamespace, namespace));
	return result;
}

static DefElem *
off(char *namespace, char *option)
{
	return makeDefElemExtended(namespace, option, (Node *) makeString("false"),
							   DEFELEM_UNSPEC, -1);
}

/*
 * The table is made for the parent's owner, by whoever the current user is,
 * with nothing of either's running on the way: no statement, so no event
 * trigger, and no setting is asked.  As the parent is locked, its name and
 * its schema are for certain those of the table of this OID; even so we look
 * at what was made.
 */
bool
segment_create(Oid parent, bool wait)
{
	static RELOPT_NAMESPACE toast_namespaces[] = HEAP_RELOPT_NAMESPACES;
	CreateStmt *stmt = makeNode(CreateStmt);
	char	   *namespace;
	Relation	rel;
	Oid			relid;
	Datum		toast_options;

	if (wait)
		LockRelationOid(parent, ShareUpdateExclusiveLock);
	else if (!ConditionalLockRelationOid(parent, ShareUpdateExclusiveLock))
		return false;
	rel = try_relation_open(parent, NoLock);
	if (rel == NULL)
		return false;
	if (RelationGetNamespace(rel) != queues_namespace())
	{
		relation_close(rel, NoLock);
		return false;
	}

	namespace = get_namespace_name(RelationGetNamespace(rel));
	stmt->relation = makeRangeVar(namespace,
								  segment_free_name(RelationGetRelationName(rel), '$',
													RelationGetNamespace(rel)),
								  -1);
	stmt->relation->relpersistence = rel->rd_rel->relpersistence;
	stmt->inhRelations = list_make1(makeRangeVar(namespace, pstrdup(RelationGetRelationName(rel)), -1));
	stmt->options = list_make3(off(NULL, "autovacuum_enabled"), off("toast", "autovacuum_enabled"),
							   off(NULL, "vacuum_truncate"));
	stmt->oncommit = ONCOMMIT_NOOP;
	stmt->accessMethod = "heap";
	stmt->tablespacename = get_tablespace_name(OidIsValid(rel->rd_rel->reltablespace) ?
											   rel->rd_rel->reltablespace : MyDatabaseTableSpace);
	relid = DefineRelation(stmt, RELKIND_RELATION, rel->rd_rel->relowner, NULL, NULL).objectId;
	CommandCounterIncrement();
	toast_options = transformRelOptions((Datum) 0, stmt->options, "toast", toast_namespaces, true, false);
	(void) heap_reloptions(RELKIND_TOASTVALUE, toast_options, true);
	NewRelationCreateToastTable(relid, toast_options);
	CommandCounterIncrement();

	/* Nobody may keep the maintenance worker busy. */
	constrained_copy_indexes(rel, relid, wait);
	relation_close(rel, NoLock);

	rel = relation_open(relid, NoLock);
	if (!segment_belongs(rel, parent))
		elog(ERROR, "table \"%s\" is no segment of table %u", RelationGetRelationName(rel), parent);
	relation_close(rel, NoLock);
	return true;
}
