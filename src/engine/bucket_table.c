/*
 * bucket_table.c
 *		The tables that a queue's dedup keys lie in.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/catalog.h"
#include "catalog/dependency.h"
#include "catalog/index.h"
#include "catalog/indexing.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "commands/tablecmds.h"
#include "commands/tablespace.h"
#include "compat.h"
#include "engine/bucket_table.h"
#include "engine/creation.h"
#include "engine/extension.h"
#include "engine/owner.h"
#include "engine/tables.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "nodes/makefuncs.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

/*
 * Keys of one hash that are looked through for another, at most: somebody made
 * them, and senders of other queues wait meanwhile.
 */
#define MAX_COLLISIONS	1000

/* Columns of a bucket's table; hash is the one with an index. */
enum
{
	Anum_entry_hash = 1,
	Anum_entry_id,
	Anum_entry_fingerprint,
	Anum_entry_content,
	Anum_entry_key,
	Natts_entry = Anum_entry_key
};

static const struct
{
	const char *name;
	Oid			type;
}			columns[Natts_entry] = {
	{"hash", INT8OID}, {"id", INT8OID}, {"fingerprint", INT8OID}, {"content", BOOLOID}, {"key", TEXTOID}
};

/*
 * Which tables there are
 */

/* A column of the rows of queue.dedup_bucket, of all or of one queue. */
static List *
list_column(AttrNumber column, int nkeys, ScanKey key)
{
	Relation	rel = table_open(extension_relation("dedup_bucket"), AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, nkeys, key);
	List	   *result = NIL;
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		Datum		relid = heap_getattr(tuple, column, RelationGetDescr(rel), &isnull);

		result = list_append_unique_oid(result, DatumGetObjectId(relid));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

List *
bucket_tables(Oid queue)
{
	ScanKeyData key;

	ScanKeyInit(&key, Anum_bucket_queue, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(queue));
	return list_column(Anum_bucket_relid, 1, &key);
}

List *
bucket_queues(void)
{
	return list_column(Anum_bucket_queue, 0, NULL);
}

/* Whether queue.dedup_bucket says that a table is a queue's. */
static bool
recorded(Oid relid, Oid queue)
{
	Relation	rel = table_open(extension_relation("dedup_bucket"), AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		isnull;
	bool		found;

	ScanKeyInit(&key, Anum_bucket_relid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(rel, extension_relation("dedup_bucket_pkey"), true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	found = HeapTupleIsValid(tuple) &&
		DatumGetObjectId(heap_getattr(tuple, Anum_bucket_queue, RelationGetDescr(rel), &isnull)) == queue;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/*
 * Making one
 */

static void
create_index(Oid relid, const char *table, char *tablespace, Oid namespace)
{
	IndexStmt  *stmt = makeNode(IndexStmt);
	IndexElem  *column = makeNode(IndexElem);

	column->name = pstrdup(columns[Anum_entry_hash - 1].name);
	column->ordering = SORTBY_DEFAULT;
	column->nulls_ordering = SORTBY_NULLS_DEFAULT;
	stmt->idxname = creation_free_name(psprintf("%s_idx", table), '_', namespace);
	stmt->relation = makeRangeVar(get_namespace_name(namespace), pstrdup(table), -1);
	stmt->accessMethod = "btree";
	stmt->tableSpace = tablespace;
	stmt->indexParams = list_make1(column);
	DEFINE_INDEX(relid, stmt);
}

/*
 * Made for the owner of the extension, whoever the current user is, and
 * without a statement: no event trigger runs, and no setting is read.
 */
Oid
bucket_table_create(Oid queue)
{
	Relation	catalog = table_open(extension_relation("dedup_bucket"), RowExclusiveLock);
	Oid			owner = catalog->rd_rel->relowner;
	Oid			namespace = RelationGetNamespace(catalog);
	Relation	rel = relation_open(queue, NoLock);
	CreateStmt *stmt = makeNode(CreateStmt);
	char	   *name = creation_free_name(RelationGetRelationName(rel), '#', namespace);
	char	   *tablespace = get_tablespace_name(MyDatabaseTableSpace);
	Datum		values[Natts_bucket];
	bool		isnull[Natts_bucket] = {false};
	OwnerContext caller;
	Oid			relid;
	ObjectAddress bucket;
	ObjectAddress on;

	stmt->relation = makeRangeVar(get_namespace_name(namespace), name, -1);
	stmt->relation->relpersistence = rel->rd_rel->relpersistence;
	for (int i = 0; i < Natts_entry; i++)
		stmt->tableElts = lappend(stmt->tableElts,
								  makeColumnDef(columns[i].name, columns[i].type, -1, InvalidOid));
	stmt->options = list_make2(creation_off(NULL, "autovacuum_enabled"),
							   creation_off(NULL, "vacuum_truncate"));
	stmt->oncommit = ONCOMMIT_NOOP;
	stmt->accessMethod = "heap";
	stmt->tablespacename = tablespace;

	owner_begin(owner, &caller);
	relid = DefineRelation(stmt, RELKIND_RELATION, owner, NULL, NULL).objectId;
	CommandCounterIncrement();
	create_index(relid, name, tablespace, namespace);
	CommandCounterIncrement();
	owner_end(&caller);

	ObjectAddressSet(bucket, RelationRelationId, relid);
	ObjectAddressSet(on, RelationRelationId, queue);
	recordDependencyOn(&bucket, &on, DEPENDENCY_AUTO);
	values[Anum_bucket_relid - 1] = ObjectIdGetDatum(relid);
	values[Anum_bucket_queue - 1] = ObjectIdGetDatum(queue);
	CatalogTupleInsert(catalog, heap_form_tuple(RelationGetDescr(catalog), values, isnull));
	CommandCounterIncrement();
	relation_close(rel, NoLock);
	table_close(catalog, NoLock);
	return relid;
}

void
bucket_table_provide(Oid queue)
{
	if (bucket_tables(queue) == NIL)
		(void) bucket_table_create(queue);
}

/*
 * Opening and closing
 */

/* Tables this backend has checked, until something about them changes. */
#define CHECKED_TABLES	64

static struct
{
	Oid			relid;
	Oid			queue;
	Oid			index;			/* the only one; InvalidOid if there are more */
}			checked_tables[CHECKED_TABLES];
static uint64 invalidations = 0;

static void
forget_checked(Datum arg, Oid relid)
{
	invalidations++;
	for (int i = 0; i < CHECKED_TABLES; i++)
	{
		if (!OidIsValid(relid) || checked_tables[i].relid == relid)
			checked_tables[i].relid = InvalidOid;
	}
}

static bool
index_is_ours(Relation index)
{
	return index->rd_rel->relam == BTREE_AM_OID && index->rd_index->indnatts == 1 &&
		index->rd_index->indkey.values[0] == Anum_entry_hash && !index->rd_index->indisunique &&
		RelationGetIndexPredicate(index) == NIL;
}

static bool
heap_is_ours(Relation heap)
{
	TupleDesc	desc = RelationGetDescr(heap);

	if (heap->rd_rel->relkind != RELKIND_RELATION || heap->rd_rel->relam != HEAP_TABLE_AM_OID ||
		desc->natts != Natts_entry)
		return false;
	for (int i = 0; i < Natts_entry; i++)
	{
		if (TupleDescAttr(desc, i)->attisdropped || TupleDescAttr(desc, i)->atttypid != columns[i].type)
			return false;
	}
	return true;
}

/*
 * Only the owner of the extension, or a superuser, can alter such a table.
 * Entries that cannot be found would let a key in twice, so one is refused.
 */
static void
table_altered(Relation heap)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("table \"%s.%s\" is not as the extension made it",
					get_namespace_name(RelationGetNamespace(heap)), RelationGetRelationName(heap)),
			 errhint("Drop it, and its dedup keys are forgotten.")));
}

/* Open an index without a lock: see bucket_table_open. */
static Relation
open_index(Relation heap, Oid indexid)
{
	Relation	index = RelationIdGetRelation(indexid);

	if (!RelationIsValid(index))
		table_altered(heap);
	return index;
}

static void
open_indexes(BucketTable *table)
{
	List	   *indexes = RelationGetIndexList(table->heap);
	ListCell   *lc;

	foreach(lc, indexes)
	{
		Relation	index = open_index(table->heap, lfirst_oid(lc));

		if (!index->rd_index->indisready)
		{
			RelationClose(index);
			continue;
		}
		if (table->nindexes == BUCKET_MAX_INDEXES || !index_is_ours(index))
			table_altered(table->heap);
		if (index->rd_index->indisvalid)
			table->valid = index;
		table->indexes[table->nindexes++] = index;
	}
	list_free(indexes);
	if (table->valid == NULL)
		table_altered(table->heap);
}

/* Whether an open table is a queue's bucket; its indexes are opened. */
static bool
check(BucketTable *table, Oid queue)
{
	static bool registered = false;
	Relation	heap = table->heap;
	Oid			relid = RelationGetRelid(heap);
	int			slot = relid % CHECKED_TABLES;
	uint64		before;

	if (likely(checked_tables[slot].relid == relid && checked_tables[slot].queue == queue))
	{
		if (likely(OidIsValid(checked_tables[slot].index)))
			table->valid = table->indexes[table->nindexes++] =
				open_index(heap, checked_tables[slot].index);
		else
			open_indexes(table);
		return true;
	}
	if (!registered)
	{
		CacheRegisterRelcacheCallback(forget_checked, (Datum) 0);
		registered = true;
	}
	before = invalidations;
	if (!recorded(relid, queue))
		return false;
	if (!heap_is_ours(heap))
		table_altered(heap);
	open_indexes(table);
	if (before == invalidations)
	{
		List	   *indexes = RelationGetIndexList(heap);

		checked_tables[slot].relid = relid;
		checked_tables[slot].queue = queue;
		checked_tables[slot].index = list_length(indexes) == 1 ? linitial_oid(indexes) : InvalidOid;
		list_free(indexes);
	}
	return true;
}

/*
 * All who use a bucket have its table locked with RowExclusiveLock.  That
 * keeps away everything that would change its indexes, which so need no lock.
 * Who writes locks them all the same, to the transaction's end: ShareLock on
 * an index is free when nobody has anything left to write (forget.c), whoever
 * looks meanwhile.
 */
bool
bucket_table_open(Oid relid, Oid queue, bool write, BucketTable *table)
{
	table->heap = table_open_if_any(relid, RowExclusiveLock);
	if (table->heap == NULL)
		return false;
	table->write = write;
	table->nindexes = 0;
	table->valid = NULL;
	if (!check(table, queue))
	{
		relation_close(table->heap, RowExclusiveLock);
		return false;
	}
	for (int i = 0; write && i < table->nindexes; i++)
		LockRelationOid(RelationGetRelid(table->indexes[i]), RowExclusiveLock);
	return true;
}

void
bucket_table_close(BucketTable *table)
{
	for (int i = 0; i < table->nindexes; i++)
		RelationClose(table->indexes[i]);
	relation_close(table->heap, table->write ? NoLock : RowExclusiveLock);
}

/*
 * Entries
 */

static bool
same_text(const text *a, const text *b)
{
	return VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
		memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)) == 0;
}

/* Whether a row is an entry for a key; if so, *found is what it says. */
static bool
row_matches(TupleTableSlot *slot, const BucketEntry *entry, BucketEntry *found)
{
	text	   *key;
	bool		same;

	slot_getallattrs(slot);
	for (int i = 0; i < Natts_entry; i++)
	{
		if (slot->tts_isnull[i])
			return false;
	}
	if (DatumGetBool(slot->tts_values[Anum_entry_content - 1]) != entry->content)
		return false;
	key = DatumGetTextPP(slot->tts_values[Anum_entry_key - 1]);
	same = same_text(key, entry->key);
	if (PointerGetDatum(key) != slot->tts_values[Anum_entry_key - 1])
		pfree(key);
	if (!same)
		return false;
	*found = *entry;
	found->id = DatumGetInt64(slot->tts_values[Anum_entry_id - 1]);
	found->fingerprint = DatumGetInt64(slot->tts_values[Anum_entry_fingerprint - 1]);
	return true;
}

/* The entries for a key among those with its hash. */
static BucketFinding
find_among(Relation heap, IndexScanDesc scan, const BucketEntry *entry, BucketEntry *found,
		   TransactionId *xid)
{
	BucketFinding finding = BUCKET_HAS_NOT;
	int			others = 0;
	TupleTableSlot *slot = table_slot_create(heap, NULL);
	BufferHeapTupleTableSlot *stored = (BufferHeapTupleTableSlot *) slot;
	bool		more = index_fetch_heap(scan, slot) ||
		index_getnext_slot(scan, ForwardScanDirection, slot);

	for (; more && finding != BUCKET_IN_PROGRESS;
		 more = index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		BucketEntry row;

		if (!row_matches(slot, entry, &row))
		{
			if (++others > MAX_COLLISIONS)
				ereport(ERROR,
						(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						 errmsg("too many dedup keys have the hash of \"%s\"",
								text_to_cstring(entry->key)),
						 errhint("Use another dedup key.")));
			continue;
		}

		/* Set by the snapshot: who is inserting it. */
		if (TransactionIdIsValid(scan->xs_snapshot->xmin))
		{
			*xid = scan->xs_snapshot->xmin;
			finding = BUCKET_IN_PROGRESS;
		}
		else if (finding == BUCKET_HAS_NOT || row.id > found->id)
		{
			*found = row;
			found->xmin = HeapTupleHeaderGetXmin(stored->base.tuple->t_data);
			finding = BUCKET_HAS;
		}
	}
	ExecDropSingleTupleTableSlot(slot);
	return finding;
}

/*
 * The scan is ended each time: it takes 27 kB, and what several take at once
 * malloc() gives back to the system.
 */
BucketFinding
bucket_table_find(BucketTable *table, const BucketEntry *entry, BucketEntry *found,
				  TransactionId *xid)
{
	BucketFinding finding = BUCKET_HAS_NOT;
	SnapshotData snapshot;
	ScanKeyData key;
	IndexScanDesc scan;

	InitDirtySnapshot(snapshot);
	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum((int64) entry->hash));
	scan = INDEX_BEGINSCAN(table->heap, table->valid, &snapshot, 1);
	index_rescan(scan, &key, 1, NULL, 0);
	if (index_getnext_tid(scan, ForwardScanDirection) != NULL)
		finding = find_among(table->heap, scan, entry, found, xid);
	index_endscan(scan);
	return finding;
}

void
bucket_table_insert(BucketTable *table, const BucketEntry *entry)
{
	static IndexInfo *info = NULL;
	Datum		values[Natts_entry];
	bool		isnull[Natts_entry] = {false};
	HeapTuple	tuple;

	Assert(table->write);
	if (info == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		/* The same for all such indexes. */
		info = BuildIndexInfo(table->valid);
		MemoryContextSwitchTo(old);
	}
	values[Anum_entry_hash - 1] = Int64GetDatum((int64) entry->hash);
	values[Anum_entry_id - 1] = Int64GetDatum(entry->id);
	values[Anum_entry_fingerprint - 1] = Int64GetDatum(entry->fingerprint);
	values[Anum_entry_content - 1] = BoolGetDatum(entry->content);
	values[Anum_entry_key - 1] = PointerGetDatum(entry->key);
	tuple = heap_form_tuple(RelationGetDescr(table->heap), values, isnull);
	heap_insert(table->heap, tuple, GetCurrentCommandId(true), 0, NULL);
	for (int i = 0; i < table->nindexes; i++)
		(void) index_insert(table->indexes[i], values, isnull, &tuple->t_self, table->heap,
							UNIQUE_CHECK_NO, false, info);
	heap_freetuple(tuple);
}

/*
 * Dependencies
 */

static bool
depends(Oid relid, Oid queue)
{
	Relation	rel = table_open(DependRelationId, AccessShareLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found = false;

	ScanKeyInit(&keys[0], Anum_pg_depend_classid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(RelationRelationId));
	ScanKeyInit(&keys[1], Anum_pg_depend_objid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	scan = systable_beginscan(rel, DependDependerIndexId, true, NULL, lengthof(keys), keys);
	while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend form = (Form_pg_depend) GETSTRUCT(tuple);

		found = form->refclassid == RelationRelationId && form->refobjid == queue;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

void
bucket_tables_attach(Oid queue)
{
	ListCell   *lc;

	foreach(lc, bucket_tables(queue))
	{
		ObjectAddress bucket;
		ObjectAddress on;

		if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(lfirst_oid(lc))) ||
			depends(lfirst_oid(lc), queue))
			continue;
		ObjectAddressSet(bucket, RelationRelationId, lfirst_oid(lc));
		ObjectAddressSet(on, RelationRelationId, queue);
		recordDependencyOn(&bucket, &on, DEPENDENCY_AUTO);
	}
	CommandCounterIncrement();
}

void
bucket_tables_drop(Oid queue)
{
	Relation	rel = table_open(extension_relation("dedup_bucket"), RowExclusiveLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_bucket_queue, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(queue));
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		Datum		relid = heap_getattr(tuple, Anum_bucket_relid, RelationGetDescr(rel), &isnull);
		ObjectAddress object;

		CatalogTupleDelete(rel, &tuple->t_self);
		ObjectAddressSet(object, RelationRelationId, DatumGetObjectId(relid));
		CommandCounterIncrement();
		if (SearchSysCacheExists1(RELOID, relid))
			performDeletion(&object, DROP_RESTRICT, PERFORM_DELETION_INTERNAL);
	}
	systable_endscan(scan);
	table_close(rel, NoLock);
}
