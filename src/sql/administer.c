/*
 * administer.c
 *		Create, alter, drop and purge queues; send dead letters again.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "argument.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "commands/trigger.h"
#include "compat.h"
#include "engine/bucket_table.h"
#include "engine/commit.h"
#include "engine/creation.h"
#include "engine/dead_letter.h"
#include "engine/deferred.h"
#include "engine/extension.h"
#include "engine/limit.h"
#include "engine/owner.h"
#include "engine/registry.h"
#include "engine/tables.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "relay/configuration.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

PG_FUNCTION_INFO_V1(queue_create);
PG_FUNCTION_INFO_V1(queue_alter);
PG_FUNCTION_INFO_V1(queue_drop);
PG_FUNCTION_INFO_V1(queue_purge);
PG_FUNCTION_INFO_V1(queue_redrive);
PG_FUNCTION_INFO_V1(queue_purge_dead_letters);

/* Longest name: a segment's adds a $ and a number. */
#define MAX_NAME	(NAMEDATALEN - 1 - 8)

/* Segments a queue starts with: the tail, and one to rotate into. */
#define FIRST_SEGMENTS	2

/* Number of create's argument that gives a column; for alter, which has no "durable". */
#define CREATE_DURABLE		5
#define CREATE_ARGUMENT(column)	((column) <= CREATE_DURABLE ? (column) - 1 : (column))
#define ALTER_ARGUMENT(column)	((column) - 1)

static void
check_name(const char *name)
{
	if (name[0] == '\0' || strlen(name) > MAX_NAME || strchr(name, '$') != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid queue name: \"%s\"", name),
				 errhint("It must have 1 to %d bytes and no dollar sign.", MAX_NAME)));
}

/* The queue named by the first argument, which the caller must own. */
static Queue *
owned_queue_argument(FunctionCallInfo fcinfo, const char *function)
{
	text	   *name = argument_text(fcinfo, 0, "queue");
	Queue	   *queue;

	PreventCommandIfReadOnly(function);
	PreventCommandIfParallelMode(function);
	queue = queue_by_name(name, ACL_NO_RIGHTS);
	queue_check_owner(queue->relid, text_to_cstring(name));
	return queue;
}

static Oid
table_owner(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

static void
queue_exists(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_DUPLICATE_OBJECT),
			 errmsg("queue \"%s\" already exists", name)));
}

/*
 * Create the table.  Of two sessions that create the same one at a time, the
 * second waits for the first, as the name is in its way, and then fails.
 */
static Oid
create_table(const char *name, bool durable)
{
	PG_TRY();
	{
		/* The C code knows the columns by number: see message.h. */
		owner_execute(psprintf("CREATE %sTABLE queues.%s ("
							   "id bigint NOT NULL, "
							   "enqueued_at timestamptz NOT NULL, "
							   "key_hash bigint, "
							   "expires_at timestamptz, "
							   "priority smallint, "
							   "key text, "
							   "headers jsonb, "
							   "payload jsonb, "
							   "body bytea) USING heap WITH (vacuum_truncate = false)",
							   durable ? "" : "UNLOGGED ", quote_identifier(name)));
	}
	PG_CATCH();
	{
		int			code = geterrcode();

		if (code == ERRCODE_UNIQUE_VIOLATION || code == ERRCODE_DUPLICATE_TABLE ||
			code == ERRCODE_DUPLICATE_OBJECT)
		{
			FlushErrorState();
			queue_exists(name);
		}
		PG_RE_THROW();
	}
	PG_END_TRY();
	return get_relname_relid(name, queues_namespace());
}

/*
 * Raise an error unless this table, which exists and is no queue, can become
 * one.  A restore of definitions alone leaves such tables behind.
 */
static void
check_adoptable(Oid relid, const char *name)
{
	Relation	rel;
	ListCell   *lc;

	/* Before the lock, which a role without rights must not be able to take. */
	if (queue_recorded(relid))
		queue_exists(name);
	queue_check_owner(relid, name);

	rel = try_relation_open(relid, AccessExclusiveLock);
	if (rel == NULL || get_relname_relid(name, queues_namespace()) != relid)
		queue_missing(name);
	if (queue_recorded(relid))
		queue_exists(name);
	queue_check_owner(relid, name);

	/*
	 * A superuser would otherwise take another role's table for a queue of
	 * its own.
	 */
	if (rel->rd_rel->relowner != GetUserId())
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("table queues.%s already exists and belongs to role \"%s\"",
						quote_identifier(name), GetUserNameFromId(rel->rd_rel->relowner, false)),
				 errhint("Make it a queue as that role, or drop it.")));
	if (!table_columns_valid(rel) || OidIsValid(table_parent(relid)))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("table queues.%s already exists and is not as queue.create() makes it",
						quote_identifier(name)),
				 errhint("Drop it or move it to another schema.")));
	foreach(lc, RelationGetIndexList(rel))
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		if (index->rd_index->indisunique || index->rd_index->indisexclusion)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("a unique index or exclusion constraint is not supported on queue \"%s\"", name),
					 errdetail("The index is \"%s\".", RelationGetRelationName(index))));
		index_close(index, AccessShareLock);
	}
	if (RelationGetFKeyList(rel) != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a foreign key is not supported on queue \"%s\"", name)));
	relation_close(rel, NoLock);
}

/* Create the sequence that reserves ids, above those there are. */
static void
create_sequence(Oid relid, const char *name)
{
	const char *table = quote_identifier(name);
	int64		last = 0;
	bool		isnull;
	Datum		max;

	if (SPI_execute(psprintf("SELECT pg_catalog.max(id) FROM queues.%s", table),
					false, 0) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not read the ids of queue \"%s\"", name);
	max = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	if (!isnull)
	{
		int64		highest = DatumGetInt64(max);

		last = Max(highest, 0);
	}
	if (last == PG_INT64_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("queue \"%s\" has used up its ids", name)));

	owner_execute(psprintf("CREATE SEQUENCE queues.%s INCREMENT BY %d START WITH " INT64_FORMAT
						   " OWNED BY queues.%s.id",
						   quote_identifier(psprintf("%s$id", name)), IDS_RESERVED, last + 1, table));
}

/* Create a trigger unless the table has one that does the same. */
static void
provide_trigger(Oid relid, const char *name, const char *timing, const char *function)
{
	List	   *function_name = list_make2(makeString("queue"), makeString(pstrdup(function)));
	Oid			funcid = LookupFuncName(function_name, 0, NULL, false);
	Relation	rel = relation_open(relid, NoLock);
	bool		found = false;

	for (int i = 0; rel->trigdesc != NULL && i < rel->trigdesc->numtriggers; i++)
		found |= (rel->trigdesc->triggers[i].tgfoid == funcid);
	relation_close(rel, NoLock);
	if (!found)
		owner_execute(psprintf("CREATE TRIGGER queue_%s %s INSERT ON queues.%s "
							   "FOR EACH ROW EXECUTE FUNCTION queue.%s()",
							   function, timing, quote_identifier(name), function));
}

/*
 * Give a table what it lacks of a queue's sequence, triggers and segments: a
 * new table lacks all of them, a restored one perhaps none.
 */
static void
complete_table(Oid relid, const char *name)
{
	if (getOwnedSequences(relid) == NIL)
		create_sequence(relid, name);
	provide_trigger(relid, name, "BEFORE", "before_insert");
	provide_trigger(relid, name, "AFTER", "after_insert");
	for (int n = list_length(table_segments(relid, AccessShareLock)); n < FIRST_SEGMENTS; n++)
	{
		if (!segment_create(relid, true))
			elog(ERROR, "could not create a segment of queue \"%s\"", name);
	}
}

Datum
queue_create(PG_FUNCTION_ARGS)
{
	static const char *const arguments[] = {
		"name", "lease", "max_attempts", "backoff", "backoff_max", "durable", "ordered", "on_dead",
		"key_concurrency", "max_in_flight", "rate", "rate_interval", "dedup", "dedup_window"
	};
	char	   *name = text_to_cstring(argument_text(fcinfo, 0, "name"));
	Relation	rel;
	Datum		values[Natts_queue];
	bool		isnull[Natts_queue] = {false};
	QueueSettings settings;
	Oid			relid;
	bool		created;
	OwnerContext saved;

	shmem_require();
	PreventCommandIfReadOnly("queue.create()");
	check_name(name);
	for (int i = 1; i < lengthof(arguments); i++)
		argument_required(fcinfo, i, arguments[i]);
	for (AttrNumber column = Anum_queue_lease; column <= Natts_queue; column++)
		values[column - 1] = PG_GETARG_DATUM(CREATE_ARGUMENT(column));
	settings_read(values, &settings);

	relid = get_relname_relid(name, queues_namespace());
	if (OidIsValid(relid))
		check_adoptable(relid, name);

	owner_begin_sql(GetUserId(), &saved);
	created = !OidIsValid(relid);
	if (created)
		relid = create_table(name, PG_GETARG_BOOL(CREATE_DURABLE));
	complete_table(relid, name);
	owner_end_sql(&saved);

	/* OIDs are used again: a table dropped without the library has left rows. */
	if (created)
	{
		deferred_delete_all(relid);
		(void) dead_letter_delete(relid, NULL);
		bucket_tables_drop(relid);
	}
	if (settings.dedup != DEDUP_OFF)
		bucket_table_provide(relid);

	rel = table_open(extension_relation("queue_definition"), RowExclusiveLock);
	values[Anum_queue_relid - 1] = ObjectIdGetDatum(relid);
	CatalogTupleInsert(rel, heap_form_tuple(RelationGetDescr(rel), values, isnull));
	table_close(rel, NoLock);
	CacheInvalidateRelcacheByRelid(relid);
	CommandCounterIncrement();

	/* If this is a queue too many, its first use would fail: fail now. */
	(void) queue_by_relid(relid);
	PG_RETURN_VOID();
}

/* Change a queue's settings to those that alter() is given. */
static void
change_settings(FunctionCallInfo fcinfo, Oid relid)
{
	Relation	rel = table_open(extension_relation("queue_definition"), RowExclusiveLock);
	Datum		values[Natts_queue];
	bool		isnull[Natts_queue];
	QueueSettings settings;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_queue_relid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(rel, extension_relation("queue_definition_pkey"), true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "could not find the settings of queue %u", relid);
	heap_deform_tuple(tuple, RelationGetDescr(rel), values, isnull);
	for (AttrNumber column = Anum_queue_lease; column <= Natts_queue; column++)
	{
		if (!PG_ARGISNULL(ALTER_ARGUMENT(column)))
			values[column - 1] = PG_GETARG_DATUM(ALTER_ARGUMENT(column));
	}
	settings_read(values, &settings);
	if (settings_limit_keys(&settings))
		deferred_hash_keys(relid);
	CatalogTupleUpdate(rel, &tuple->t_self, heap_form_tuple(RelationGetDescr(rel), values, isnull));
	systable_endscan(scan);
	table_close(rel, NoLock);
	if (settings.dedup != DEDUP_OFF)
		bucket_table_provide(relid);

	/* All backends keep the settings with the queue's table. */
	CacheInvalidateRelcacheByRelid(relid);
	CommandCounterIncrement();
	commit_unpark(queue_by_relid(relid)->shared, settings_key_limit(&settings));
}

Datum
queue_alter(PG_FUNCTION_ARGS)
{
	Queue	   *queue = owned_queue_argument(fcinfo, "queue.alter()");
	char	   *name = pstrdup(NameStr(queue->name));
	Oid			relid = queue->relid;
	LOCKMODE	lockmode = ShareUpdateExclusiveLock;

	/*
	 * A concurrent alter() would make the update fail.  What senders and
	 * consumers do to queue.deferred depends on the settings of keys.
	 */
	for (AttrNumber column = Anum_queue_ordered; column <= Anum_queue_key_concurrency; column++)
	{
		if (!PG_ARGISNULL(ALTER_ARGUMENT(column)))
			lockmode = ShareRowExclusiveLock;
	}
	queue_lock(relid, name, lockmode);
	queue_check_owner(relid, name);
	change_settings(fcinfo, relid);

	/* At once, as what is shared knows no transactions. */
	if (!PG_ARGISNULL(ALTER_ARGUMENT(Anum_queue_rate)) ||
		!PG_ARGISNULL(ALTER_ARGUMENT(Anum_queue_rate_interval)))
	{
		QueueShared *q = queue_find_shared(relid);

		if (q != NULL)
			limit_forget(q);
	}
	PG_RETURN_VOID();
}

/* Raise an error if a relay reads the queue. */
static void
check_no_relay(Oid relid, const char *name)
{
	Relation	rel = table_open(extension_relation("relay_definition"), AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		Datum		relay = heap_getattr(tuple, Anum_relay_name, desc, &isnull);

		if (DatumGetObjectId(heap_getattr(tuple, Anum_relay_queue, desc, &isnull)) == relid)
			ereport(ERROR,
					(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
					 errmsg("cannot drop queue \"%s\" because a relay reads it", name),
					 errdetail("The relay is \"%s\".", TextDatumGetCString(relay)),
					 errhint("Drop it first with queue.drop_relay().")));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
}

/*
 * The table to drop: a queue's, or one with a queue's columns that has no row
 * in queue.queue_definition, as after a restore of definitions alone.
 */
static Oid
table_to_drop(const char *name)
{
	Oid			relid = get_relname_relid(name, queues_namespace());
	Relation	rel;
	bool		valid;

	if (!OidIsValid(relid))
		queue_missing(name);
	if (queue_recorded(relid))
		return relid;
	rel = try_relation_open(relid, AccessShareLock);
	if (rel == NULL)
		queue_missing(name);
	valid = table_columns_valid(rel) && !OidIsValid(table_parent(relid));
	relation_close(rel, AccessShareLock);
	if (!valid)
		queue_missing(name);
	return relid;
}

Datum
queue_drop(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(argument_text(fcinfo, 0, "queue"));
	ObjectAddresses *objects = new_object_addresses();
	ObjectAddress object;
	Oid			relid;
	ListCell   *lc;

	shmem_require();
	PreventCommandIfReadOnly("queue.drop()");
	PreventCommandIfParallelMode("queue.drop()");
	relid = table_to_drop(name);
	queue_check_owner(relid, name);
	check_no_relay(relid, name);
	queue_lock(relid, name, AccessExclusiveLock);
	queue_check_owner(relid, name);

	/* A restore has not told that these go with the queue. */
	bucket_tables_attach(relid);

	/* All in one call, so that a view on any of them makes it fail. */
	ObjectAddressSet(object, RelationRelationId, relid);
	add_exact_object_address(&object, objects);
	foreach(lc, table_segments(relid, AccessExclusiveLock))
	{
		ObjectAddressSet(object, RelationRelationId, lfirst_oid(lc));
		add_exact_object_address(&object, objects);
	}

	/* The rest of the queue is deleted with its table: see object.c. */
	performMultipleDeletions(objects, DROP_RESTRICT, 0);
	free_object_addresses(objects);
	PG_RETURN_VOID();
}

Datum
queue_purge(PG_FUNCTION_ARGS)
{
	Queue	   *queue = owned_queue_argument(fcinfo, "queue.purge()");
	char	   *name = pstrdup(NameStr(queue->name));
	Oid			relid = queue->relid;
	OwnerContext saved;
	StringInfoData sql;
	ListCell   *lc;

	queue_lock(relid, name, AccessExclusiveLock);
	queue_check_owner(relid, name);
	commit_purged(queue->shared);

	/* As the owner, because the owner's triggers on the tables run. */
	owner_begin_sql(table_owner(relid), &saved);
	initStringInfo(&sql);
	appendStringInfoString(&sql, "TRUNCATE");
	foreach(lc, lcons_oid(relid, table_segments(relid, AccessExclusiveLock)))
		appendStringInfo(&sql, "%s ONLY %s", sql.len > strlen("TRUNCATE") ? "," : "",
						 quote_qualified_identifier(get_namespace_name(get_rel_namespace(lfirst_oid(lc))),
													get_rel_name(lfirst_oid(lc))));
	owner_execute(sql.data);
	owner_end_sql(&saved);
	deferred_delete_all(relid);
	PG_RETURN_VOID();
}

/* The argument of this number, a key; NULL for any. */
static text *
key_argument(FunctionCallInfo fcinfo, int argno)
{
	return PG_ARGISNULL(argno) ? NULL : PG_GETARG_TEXT_PP(argno);
}

/* queue.redrive: (queue, max_messages, key). */
Datum
queue_redrive(PG_FUNCTION_ARGS)
{
	text	   *name;
	int64		max = -1;

	PreventCommandIfReadOnly("queue.redrive()");
	name = argument_text(fcinfo, 0, "queue");
	if (!PG_ARGISNULL(1))
		max = argument_integer(fcinfo, 1, "max_messages", 1);
	PG_RETURN_INT64(dead_letter_redrive(queue_by_name(name, ACL_INSERT | ACL_DELETE),
										key_argument(fcinfo, 2), max));
}

/* queue.purge_dead_letters: (queue, key). */
Datum
queue_purge_dead_letters(PG_FUNCTION_ARGS)
{
	Queue	   *queue = owned_queue_argument(fcinfo, "queue.purge_dead_letters()");
	int64		n = dead_letter_delete(queue->relid, key_argument(fcinfo, 1));

	commit_dead(queue->shared, -n);
	commit_unpark(queue->shared, 0);
	PG_RETURN_INT64(n);
}
