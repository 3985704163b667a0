/*
 * creation.c
 *		Making new segments.
 */
#include "postgres.h"

#include "access/attmap.h"
#include "access/genam.h"
#include "access/relation.h"
#include "access/reloptions.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "catalog/toasting.h"
#include "commands/defrem.h"
#include "commands/tablecmds.h"
#include "commands/tablespace.h"
#include "compat.h"
#include "engine/creation.h"
#include "engine/extension.h"
#include "engine/owner.h"
#include "engine/tables.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_utilcmd.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

/* Longest "$<number>" at the end of a name. */
#define SEGMENT_SUFFIX	8

/*
 * Whether a catalog has an object of this name, or a transaction in progress
 * enters or removes one, for which an insertion would wait.
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
creation_free_name(const char *base, char mark, Oid namespace)
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

static bool
is_of_users(Oid function, void *context)
{
	return function >= FirstNormalObjectId;
}

/*
 * Whether the planner might evaluate part of this expression: it does so where
 * nothing depends on a column, and inlines SQL functions.
 */
static bool
may_be_evaluated(Node *node, void *context)
{
	if (node == NULL || IsA(node, Const))
		return false;
	if (IsA(node, CoerceToDomain) || check_functions_in_node(node, is_of_users, NULL) ||
		(!IsA(node, List) && !contain_var_clause(node)))
		return true;
	return expression_tree_walker(node, may_be_evaluated, context);
}

/* The same for the expressions or the predicate of an index. */
static bool
index_may_be_evaluated(Relation index, AttrNumber column)
{
	bool		isnull;
	Datum		tree = SysCacheGetAttr(INDEXRELID, index->rd_indextuple, column, &isnull);

	return !isnull && may_be_evaluated(stringToNode(TextDatumGetCString(tree)), NULL);
}

/*
 * Give a new segment the indexes its queue has, unless evaluate is false and
 * there is something in them that the planner might evaluate.
 */
static void
copy_indexes(Relation parent, Oid segment, bool evaluate)
{
	List	   *indexes = RelationGetIndexList(parent);
	OwnerContext caller;
	ListCell   *lc;

	if (indexes == NIL)
		return;
	owner_begin(parent->rd_rel->relowner, &caller);
	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		/* A unique index would hold within one segment only. */
		if (!index->rd_index->indisunique && !index->rd_index->indisexclusion &&
			index->rd_index->indisvalid &&
			(evaluate ||
			 (!index_may_be_evaluated(index, Anum_pg_index_indexprs) &&
			  !index_may_be_evaluated(index, Anum_pg_index_indpred))))
		{
			Relation	rel = table_open(segment, NoLock);
			AttrMap    *map = COLUMNS_BY_NAME(RelationGetDescr(rel), RelationGetDescr(parent));
			Oid			constraint;
			IndexStmt  *statement = generateClonedIndexStmt(NULL, index, map, &constraint);

			statement->idxname = creation_free_name(psprintf("%s_idx", RelationGetRelationName(rel)), '_',
													RelationGetNamespace(rel));
			table_close(rel, NoLock);
			DEFINE_INDEX(segment, statement);
			free_attrmap(map);
		}
		index_close(index, AccessShareLock);
	}
	owner_end(&caller);
	list_free(indexes);
}

DefElem *
creation_off(char *namespace, char *option)
{
	return makeDefElemExtended(namespace, option, (Node *) makeString("false"),
							   DEFELEM_UNSPEC, -1);
}

/*
 * The table is made for the parent's owner, whatever the current user is, and
 * no code of either's runs: no statement, so no event trigger, and no setting
 * is read.  As the parent is locked, its name and its schema are those of the
 * table with this OID; what was made is checked all the same.
 */
bool
segment_create(Oid parent, bool wait)
{
	RELOPT_NAMESPACE_ARRAY toast_namespaces[] = HEAP_RELOPT_NAMESPACES;
	CreateStmt *stmt = makeNode(CreateStmt);
	char	   *namespace;
	char	   *name;
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
	name = creation_free_name(RelationGetRelationName(rel), '$', RelationGetNamespace(rel));
	stmt->relation = makeRangeVar(namespace, name, -1);
	stmt->relation->relpersistence = rel->rd_rel->relpersistence;
	stmt->inhRelations = list_make1(makeRangeVar(namespace, pstrdup(RelationGetRelationName(rel)), -1));
	stmt->options = list_make3(creation_off(NULL, "autovacuum_enabled"),
							   creation_off("toast", "autovacuum_enabled"),
							   creation_off(NULL, "vacuum_truncate"));
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

	/* Without wait, in the maintenance worker, evaluate nothing. */
	copy_indexes(rel, relid, wait);
	relation_close(rel, NoLock);

	rel = relation_open(relid, NoLock);
	if (!table_belongs(rel, parent))
		elog(ERROR, "table \"%s\" is no segment of table %u", RelationGetRelationName(rel), parent);
	relation_close(rel, NoLock);
	return true;
}
