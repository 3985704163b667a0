/*
 * administer.c
 *		Create, alter, drop and purge queues; send dead letters again.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "deferred.h"
#include "duration.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "relay.h"
#include "segment.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "wake.h"

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

/* Number of the argument that gives each of these columns. */
static const int settings_arguments[Natts_queue] = {-1, 1, 2, 3, 4};

static void
check_name(const char *name)
{
	if (name[0] == '\0' || strlen(name) > MAX_NAME || strchr(name, '$') != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid queue name: \"%s\"", name),
				 errhint("It must have 1 to %d bytes and no dollar sign.", MAX_NAME)));
}

static char *
name_argument(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("queue must not be null")));
	return text_to_cstring(PG_GETARG_TEXT_PP(0));
}

/*
 * The queue of the first argument, which the caller must own, to be changed
 * by this function.
 */
static Queue *
owned_queue_argument(FunctionCallInfo fcinfo, const char *function)
{
	char	   *name = name_argument(fcinfo);
	Queue	   *queue;

	PreventCommandIfReadOnly(function);
	PreventCommandIfParallelMode(function);
	queue = queue_by_name(PG_GETARG_TEXT_PP(0), ACL_NO_RIGHTS);
	queue_check_owner(queue->relid, name);
	return queue;
}

/* Check the settings that are given; create() gives them all. */
static void
check_settings(FunctionCallInfo fcinfo)
{
	if (!PG_ARGISNULL(1))
		(void) duration_microseconds("lease", PG_GETARG_INTERVAL_P(1), 1);
	if (!PG_ARGISNULL(2) && PG_GETARG_INT32(2) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for \"max_attempts\": %d", PG_GETARG_INT32(2)),
				 errhint("It must be at least 1.")));
	if (!PG_ARGISNULL(3))
		(void) duration_microseconds("backoff", PG_GETARG_INTERVAL_P(3), 0);
	if (!PG_ARGISNULL(4))
		(void) duration_microseconds("backoff_max", PG_GETARG_INTERVAL_P(4), 0);
}

static void
execute(const char *sql)
{
	if (SPI_execute(sql, false, 0) < 0)
		elog(ERROR, "could not execute \"%s\"", sql);
}

/* The table, its sequence, its triggers and its first segments. */
static Oid
create_tables(const char *name, bool durable)
{
	const char *table = quote_identifier(name);
	const char *sequence = quote_identifier(psprintf("%s$id", name));
	Oid			relid;

	SPI_connect();

	/* The C code knows the columns by number: see catalog.h. */
	execute(psprintf("CREATE %sTABLE queues.%s ("
					 "id bigint NOT NULL, "
					 "enqueued_at timestamptz NOT NULL, "
					 "expires_at timestamptz, "
					 "priority smallint, "
					 "key text, "
					 "headers jsonb, "
					 "payload jsonb, "
					 "body bytea) USING heap WITH (vacuum_truncate = false)",
					 durable ? "" : "UNLOGGED ", table));

	/* identity.c reserves ids by the thousand. */
	execute(psprintf("CREATE SEQUENCE queues.%s INCREMENT BY 1000 OWNED BY queues.%s.id",
					 sequence, table));
	execute(psprintf("CREATE TRIGGER queue_before_insert BEFORE INSERT ON queues.%s "
					 "FOR EACH ROW EXECUTE FUNCTION queue.before_insert()", table));
	execute(psprintf("CREATE TRIGGER queue_after_insert AFTER INSERT ON queues.%s "
					 "FOR EACH ROW EXECUTE FUNCTION queue.after_insert()", table));
	SPI_finish();

	relid = get_relname_relid(name, queues_namespace());
	for (int i = 0; i < FIRST_SEGMENTS; i++)
		segment_create(relid);
	return relid;
}

Datum
queue_create(PG_FUNCTION_ARGS)
{
	char	   *name = name_argument(fcinfo);
	Relation	rel;
	Datum		values[Natts_queue];
	bool		isnull[Natts_queue] = {false};
	Oid			relid;

	shmem_require();
	PreventCommandIfReadOnly("queue.create()");
	check_name(name);
	for (int i = 1; i <= 5; i++)
	{
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("settings of a queue must not be null")));
	}
	check_settings(fcinfo);

	/* One creation at a time, so that the second finds what the first made. */
	rel = table_open(extension_relation("queue"), ShareRowExclusiveLock);
	if (OidIsValid(get_relname_relid(name, queues_namespace())))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("queue \"%s\" already exists", name)));
	relid = create_tables(name, PG_GETARG_BOOL(5));

	values[Anum_queue_relid - 1] = ObjectIdGetDatum(relid);
	for (int i = 1; i < Natts_queue; i++)
		values[i] = PG_GETARG_DATUM(settings_arguments[i]);
	CatalogTupleInsert(rel, heap_form_tuple(RelationGetDescr(rel), values, isnull));
	table_close(rel, NoLock);
	CommandCounterIncrement();
	PG_RETURN_VOID();
}

/* Change or delete (replace is NULL) a queue's row in queue.queue. */
static void
change_settings(Oid relid, Datum *values, bool *isnull, bool *replace)
{
	Relation	rel = table_open(extension_relation("queue"), RowExclusiveLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_queue_relid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(rel, extension_relation("queue_pkey"), true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "could not find the settings of queue %u", relid);
	if (replace != NULL)
		CatalogTupleUpdate(rel, &tuple->t_self,
						   heap_modify_tuple(tuple, RelationGetDescr(rel), values, isnull, replace));
	else
		CatalogTupleDelete(rel, &tuple->t_self);
	systable_endscan(scan);
	table_close(rel, NoLock);

	/* All backends keep the settings with the queue's table. */
	CacheInvalidateRelcacheByRelid(relid);
	CommandCounterIncrement();
}

Datum
queue_alter(PG_FUNCTION_ARGS)
{
	Queue	   *queue = owned_queue_argument(fcinfo, "queue.alter()");
	Datum		values[Natts_queue] = {0};
	bool		isnull[Natts_queue] = {false};
	bool		replace[Natts_queue] = {false};

	check_settings(fcinfo);

	/* Against another alter, which would make the update fail. */
	queue_lock(queue->relid, NameStr(queue->name), ShareUpdateExclusiveLock);
	for (int i = 1; i < Natts_queue; i++)
	{
		if (PG_ARGISNULL(settings_arguments[i]))
			continue;
		values[i] = PG_GETARG_DATUM(settings_arguments[i]);
		replace[i] = true;
	}
	change_settings(queue->relid, values, isnull, replace);
	PG_RETURN_VOID();
}

/* Raise an error if a relay reads the queue. */
static void
check_no_relay(Oid relid, const char *name)
{
	Relation	rel = table_open(extension_relation("relay"), AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;

		if (DatumGetObjectId(heap_getattr(tuple, Anum_relay_queue, RelationGetDescr(rel), &isnull)) == relid)
			ereport(ERROR,
					(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
					 errmsg("cannot drop queue \"%s\" because a relay reads it", name),
					 errdetail("The relay is \"%s\".",
							   TextDatumGetCString(heap_getattr(tuple, Anum_relay_name, RelationGetDescr(rel), &isnull))),
					 errhint("Drop it first with queue.drop_relay().")));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
}

Datum
queue_drop(PG_FUNCTION_ARGS)
{
	Queue	   *queue = owned_queue_argument(fcinfo, "queue.drop()");
	char	   *name = pstrdup(NameStr(queue->name));
	Oid			relid = queue->relid;
	ObjectAddresses *objects = new_object_addresses();
	ObjectAddress object;
	ListCell   *lc;
	List	   *children;

	check_no_relay(relid, name);
	queue_lock(relid, name, AccessExclusiveLock);
	children = find_inheritance_children(relid, AccessExclusiveLock);
	change_settings(relid, NULL, NULL, NULL);
	deferred_delete_all(relid);
	(void) dead_letters_delete_all(name);

	/* All at once: a view of the user's on them must stop us. */
	ObjectAddressSet(object, RelationRelationId, relid);
	add_exact_object_address(&object, objects);
	foreach(lc, children)
	{
		ObjectAddressSet(object, RelationRelationId, lfirst_oid(lc));
		add_exact_object_address(&object, objects);
	}
	performMultipleDeletions(objects, DROP_RESTRICT, 0);
	free_object_addresses(objects);
	wake_drop_at_commit(queue->shared);
	PG_RETURN_VOID();
}

Datum
queue_purge(PG_FUNCTION_ARGS)
{
	Queue	   *queue = owned_queue_argument(fcinfo, "queue.purge()");
	Oid			relid = queue->relid;

	queue_lock(relid, NameStr(queue->name), AccessExclusiveLock);
	wake_purged_at_commit(queue->shared);
	SPI_connect();
	execute(psprintf("TRUNCATE queues.%s", quote_identifier(NameStr(queue->name))));
	SPI_finish();
	deferred_delete_all(relid);
	PG_RETURN_VOID();
}

Datum
queue_redrive(PG_FUNCTION_ARGS)
{
	Queue	   *queue;
	int64		max = -1;

	PreventCommandIfReadOnly("queue.redrive()");
	(void) name_argument(fcinfo);
	if (!PG_ARGISNULL(1))
	{
		max = PG_GETARG_INT32(1);
		if (max < 1)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid value for \"max_messages\": " INT64_FORMAT, max),
					 errhint("It must be at least 1.")));
	}
	queue = queue_by_name(PG_GETARG_TEXT_PP(0), ACL_INSERT | ACL_DELETE);
	PG_RETURN_INT64(dead_letters_redrive(queue, max));
}

Datum
queue_purge_dead_letters(PG_FUNCTION_ARGS)
{
	Queue	   *queue = owned_queue_argument(fcinfo, "queue.purge_dead_letters()");
	int64		n = dead_letters_delete_all(NameStr(queue->name));

	wake_dead_at_commit(queue->shared, -n);
	PG_RETURN_INT64(n);
}
