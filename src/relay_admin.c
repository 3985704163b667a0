/*
 * relay_admin.c
 *		SQL functions that create, change and show relays.
 */
#include "postgres.h"

#include <unistd.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_foreign_server.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "frontier.h"
#include "funcapi.h"
#include "guc.h"
#include "miscadmin.h"
#include "relay.h"
#include "segment.h"
#include "sinks/sink.h"
#include "storage/bufmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "compat.h"

/* Pages looked at for the oldest message that waits. */
#define OLDEST_MAX_PAGES	16

PG_FUNCTION_INFO_V1(queue_create_relay);
PG_FUNCTION_INFO_V1(queue_alter_relay);
PG_FUNCTION_INFO_V1(queue_pause_relay);
PG_FUNCTION_INFO_V1(queue_resume_relay);
PG_FUNCTION_INFO_V1(queue_drop_relay);
PG_FUNCTION_INFO_V1(queue_relay_list);

/* The argument, or an error if it is NULL. */
static text *
required_text(FunctionCallInfo fcinfo, int n, const char *what)
{
	if (PG_ARGISNULL(n))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", what)));
	return PG_GETARG_TEXT_PP(n);
}

/*
 * queue.relay, to change it.  One change at a time, as each looks before it
 * writes; readers are not in the way.
 */
static Relation
open_relays(void)
{
	return table_open(extension_relation("relay"), ShareRowExclusiveLock);
}

/* A relay's row in memory, NULL if there is none. */
static HeapTuple
find_relay(Relation rel, text *name)
{
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_relay_name, BTEqualStrategyNumber, F_TEXTEQ,
				PointerGetDatum(name));
	key.sk_collation = DEFAULT_COLLATION_OID;
	scan = systable_beginscan(rel, extension_relation("relay_pkey"), true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		tuple = heap_copytuple(tuple);
	systable_endscan(scan);
	return tuple;
}

/* The same, an error if there is none or the caller may not change it. */
static HeapTuple
find_own_relay(Relation rel, text *name)
{
	HeapTuple	tuple = find_relay(rel, name);
	bool		isnull;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("relay \"%s\" does not exist", text_to_cstring(name))));
	if (!has_privs_of_role(GetUserId(),
						   DatumGetObjectId(heap_getattr(tuple, Anum_relay_owner,
														 RelationGetDescr(rel), &isnull))))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of relay \"%s\"", text_to_cstring(name))));
	return tuple;
}

/* Change one column of a relay and let its worker know. */
static void
update_relay(Relation rel, HeapTuple tuple, int column, Datum value)
{
	Datum		values[Natts_relay] = {0};
	bool		nulls[Natts_relay] = {0};
	bool		replace[Natts_relay] = {0};

	values[column - 1] = value;
	replace[column - 1] = true;
	tuple = heap_modify_tuple(tuple, RelationGetDescr(rel), values, nulls, replace);
	CatalogTupleUpdate(rel, &tuple->t_self, tuple);
	relay_wake_at_commit();
}

/* The kind of a server's sink, the caller's right to use it checked. */
static RelayKind
check_server(const char *name)
{
	ForeignServer *server = GetForeignServerByName(name, true);
	RelayKind	kind;
	AclResult	result;

	if (server == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("server \"%s\" does not exist", name),
				 errhint("Create it with CREATE SERVER.")));
	if (!relay_kind_of_server(server->fdwid, &kind))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("server \"%s\" is not one a relay can publish to", name),
				 errhint("Create it with foreign data wrapper queue_amqp or queue_postgres.")));
#if PG_VERSION_NUM >= 160000
	result = object_aclcheck(ForeignServerRelationId, server->serverid, GetUserId(), ACL_USAGE);
#else
	result = pg_foreign_server_aclcheck(server->serverid, GetUserId(), ACL_USAGE);
#endif
	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_FOREIGN_SERVER, name);
	return kind;
}

/* Check all that can be checked of a relay's options before it runs. */
static void
check_options(RelayKind kind, Datum jsonb, Oid owner)
{
	List	   *options = relay_options_parse(jsonb);
	bool		batch;

	relay_options_check(kind, options);
	if (kind == RELAY_SQL)
		relay_procedure(sink_option(options, "procedure", ""), owner, &batch);
}

Datum
queue_create_relay(PG_FUNCTION_ARGS)
{
	text	   *name = required_text(fcinfo, 0, "name of a relay");
	Datum		values[Natts_relay] = {0};
	bool		nulls[Natts_relay] = {0};
	RelayKind	kind = RELAY_SQL;
	Relation	rel;
	Queue	   *queue;

	shmem_require();
	if (VARSIZE_ANY_EXHDR(name) == 0 || VARSIZE_ANY_EXHDR(name) >= NAMEDATALEN)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid name of a relay: \"%s\"", text_to_cstring(name)),
				 errhint("It must have from 1 to %d bytes.", NAMEDATALEN - 1)));
	queue = queue_by_name(required_text(fcinfo, 1, "name of a queue"), ACL_SELECT | ACL_DELETE);

	values[Anum_relay_name - 1] = PointerGetDatum(name);
	values[Anum_relay_queue - 1] = ObjectIdGetDatum(queue->relid);
	if (PG_ARGISNULL(2))
		nulls[Anum_relay_server - 1] = true;
	else
	{
		char		library[MAXPGPATH];

		values[Anum_relay_server - 1] = PG_GETARG_DATUM(2);
		kind = check_server(text_to_cstring(PG_GETARG_TEXT_PP(2)));
		snprintf(library, MAXPGPATH, "%s/queue_%s%s", pkglib_path, relay_kind_name(kind), DLSUFFIX);
		if (access(library, R_OK) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("library \"queue_%s\" is not installed", relay_kind_name(kind)),
					 errhint("Build the extension where the client library of this kind of server is found.")));
	}
	values[Anum_relay_options - 1] = PG_ARGISNULL(3) ?
		DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")) : PG_GETARG_DATUM(3);
	check_options(kind, values[Anum_relay_options - 1], GetUserId());
	values[Anum_relay_owner - 1] = ObjectIdGetDatum(GetUserId());
	values[Anum_relay_paused - 1] = BoolGetDatum(false);

#if PG_VERSION_NUM < 170000
	/* From 17 on a background worker can run as any role. */
	{
		HeapTuple	role = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
		bool		login = ((Form_pg_authid) GETSTRUCT(role))->rolcanlogin;

		ReleaseSysCache(role);
		if (!login)
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("role \"%s\" is not permitted to log in", GetUserNameFromId(GetUserId(), false)),
					 errdetail("A relay's worker connects as the relay's owner.")));
	}
#endif

	rel = open_relays();
	if (HeapTupleIsValid(find_relay(rel, name)))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("relay \"%s\" already exists", text_to_cstring(name))));
	CatalogTupleInsert(rel, heap_form_tuple(RelationGetDescr(rel), values, nulls));
	table_close(rel, NoLock);
	relay_wake_at_commit();
	PG_RETURN_VOID();
}

/* old with the members of changes put in, and without those null there. */
static Datum
merge_options(Datum old, Datum changes)
{
	Datum		merged = DirectFunctionCall2(jsonb_concat, old, changes);
	Jsonb	   *object = DatumGetJsonbP(changes);
	JsonbIterator *it = JsonbIteratorInit(&object->root);
	JsonbValue	v;
	JsonbIteratorToken token;
	text	   *name = NULL;

	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = cstring_to_text_with_len(v.val.string.val, v.val.string.len);
		else if (token == WJB_VALUE && v.type == jbvNull)
			merged = DirectFunctionCall2(jsonb_delete, merged, PointerGetDatum(name));
	}
	return merged;
}

Datum
queue_alter_relay(PG_FUNCTION_ARGS)
{
	text	   *name = required_text(fcinfo, 0, "name of a relay");
	Relation	rel;
	HeapTuple	tuple;
	Datum		values[Natts_relay];
	bool		nulls[Natts_relay];
	RelayKind	kind = RELAY_SQL;
	Datum		options;

	shmem_require();
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("options of a relay must not be null")));
	relay_options_parse(PG_GETARG_DATUM(1));

	rel = open_relays();
	tuple = find_own_relay(rel, name);
	heap_deform_tuple(tuple, RelationGetDescr(rel), values, nulls);
	if (!nulls[Anum_relay_server - 1])
		kind = check_server(TextDatumGetCString(values[Anum_relay_server - 1]));
	options = merge_options(values[Anum_relay_options - 1], PG_GETARG_DATUM(1));
	check_options(kind, options, DatumGetObjectId(values[Anum_relay_owner - 1]));
	update_relay(rel, tuple, Anum_relay_options, options);
	table_close(rel, NoLock);
	PG_RETURN_VOID();
}

/* Set whether a relay is paused. */
static void
set_paused(FunctionCallInfo fcinfo, bool paused)
{
	text	   *name = required_text(fcinfo, 0, "name of a relay");
	Relation	rel;

	shmem_require();
	rel = open_relays();
	update_relay(rel, find_own_relay(rel, name), Anum_relay_paused, BoolGetDatum(paused));
	table_close(rel, NoLock);
}

Datum
queue_pause_relay(PG_FUNCTION_ARGS)
{
	set_paused(fcinfo, true);
	PG_RETURN_VOID();
}

Datum
queue_resume_relay(PG_FUNCTION_ARGS)
{
	set_paused(fcinfo, false);
	PG_RETURN_VOID();
}

Datum
queue_drop_relay(PG_FUNCTION_ARGS)
{
	text	   *name = required_text(fcinfo, 0, "name of a relay");
	Relation	rel;
	HeapTuple	tuple;

	shmem_require();
	rel = open_relays();
	tuple = find_own_relay(rel, name);
	CatalogTupleDelete(rel, &tuple->t_self);
	table_close(rel, NoLock);
	relay_wake_at_commit();
	PG_RETURN_VOID();
}

static const char *
state_name(RelayConfig *relay, RelaySlot *slot)
{
	if (relay->paused)
		return "paused";
	if (slot->pid == 0)
		return slot->restart_at > GetCurrentTimestamp() ? "backing off" : "stopped";
	switch ((RelayActivity) pg_atomic_read_u32(&slot->activity))
	{
		case RELAY_RUNNING:
			return "running";
		case RELAY_BACKING_OFF:
			return "backing off";
		default:
			return "idle";
	}
}

/* Columns of queue.relay_list. */
enum
{
	LIST_NAME,
	LIST_STATE,
	LIST_PUBLISHED,
	LIST_FAILED,
	LIST_IN_FLIGHT,
	LIST_LAG_MESSAGES,
	LIST_LAG_SECONDS,
	LIST_LAST_ERROR,
	LIST_LAST_ERROR_AT,
	LIST_STARTED_AT,
	LIST_COLUMNS
};

/*
 * When the oldest message nobody has leased was sent, 0 if there seems to be
 * none: the first one from the cursor on, or what the cursor met last.
 */
static TimestampTz
oldest_waiting(QueueShared *q, Snapshot snapshot)
{
	uint8		order[QUEUE_MAX_SEGMENTS];
	int			norder;

	LWLockAcquire(&q->lock, LW_SHARED);
	norder = q->nscan;
	memcpy(order, q->scan_order, norder);
	LWLockRelease(&q->lock);

	for (int i = 0, pages = 0; i < norder && pages < OLDEST_MAX_PAGES; i++)
	{
		Relation	rel = segment_open(q, order[i], AccessShareLock);
		BlockNumber block = PlaceBlock(pg_atomic_read_u64(&q->segments[order[i]].cursor));
		TimestampTz oldest = 0;

		if (rel == NULL)
			continue;
		for (; oldest == 0 && block < RelationGetNumberOfBlocks(rel) &&
			 pages < OLDEST_MAX_PAGES; block++, pages++)
		{
			HeapTuple	tuples[MaxHeapTuplesPerPage];
			bool		isnull;

			if (frontier_page_tuples(rel, block, snapshot, true, tuples) > 0)
				oldest = DatumGetTimestampTz(heap_getattr(tuples[0], Anum_message_enqueued_at,
														  RelationGetDescr(rel), &isnull));
		}
		relation_close(rel, AccessShareLock);
		if (oldest != 0)
			return oldest;
	}
	return (TimestampTz) pg_atomic_read_u64(&q->frontier_time);
}

Datum
queue_relay_list(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	ListCell   *cell;

	shmem_require();
	InitMaterializedSRF(fcinfo, 0);
	foreach(cell, relay_config_list())
	{
		RelayConfig *relay = lfirst(cell);
		Datum		values[LIST_COLUMNS] = {0};
		bool		nulls[LIST_COLUMNS] = {0};
		RelaySlot	none = {0};
		RelaySlot	slot;
		RelaySlot  *found;
		bool		no_slot;
		int64		lag = 0;
		TimestampTz oldest = 0;
		Queue	   *queue;

		if (pg_class_aclcheck(relay->queue, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
			continue;
		queue = queue_by_relid(relay->queue);
		if (queue == NULL)
			continue;

		LWLockAcquire(&relay_shared->lock, LW_SHARED);
		found = relay_slot_find(MyDatabaseId, relay->name);
		slot = found ? *found : none;
		no_slot = found == NULL && relay_slot_find(InvalidOid, "") == NULL;
		LWLockRelease(&relay_shared->lock);

		oldest = (TimestampTz) pg_atomic_read_u64(&slot.oldest);
		lag = (int64) pg_atomic_read_u64(&queue->shared->ready) +
			(int64) pg_atomic_read_u64(&queue->shared->leased);
		if (oldest == 0 && lag > 0)
			oldest = oldest_waiting(queue->shared, GetActiveSnapshot());

		values[LIST_NAME] = CStringGetTextDatum(relay->name);
		values[LIST_STATE] = CStringGetTextDatum(state_name(relay, &slot));
		values[LIST_PUBLISHED] = Int64GetDatum(pg_atomic_read_u64(&slot.published));
		values[LIST_FAILED] = Int64GetDatum(pg_atomic_read_u64(&slot.failed));
		values[LIST_IN_FLIGHT] = Int32GetDatum(pg_atomic_read_u32(&slot.in_flight));
		values[LIST_LAG_MESSAGES] = Int64GetDatum(Max(lag, 0));
		values[LIST_LAG_SECONDS] =
			Float8GetDatum(oldest == 0 ? 0.0 :
						   Max(GetCurrentTimestamp() - oldest, 0) / (double) USECS_PER_SEC);
		if (slot.last_error_at != 0)
		{
			values[LIST_LAST_ERROR] = CStringGetTextDatum(slot.last_error);
			values[LIST_LAST_ERROR_AT] = TimestampTzGetDatum(slot.last_error_at);
		}
		else
		{
			nulls[LIST_LAST_ERROR_AT] = true;
			if (!no_slot || relay->paused)
				nulls[LIST_LAST_ERROR] = true;
			else
				values[LIST_LAST_ERROR] =
					CStringGetTextDatum("no slot is free: increase queue.max_relays");
		}
		if (slot.pid != 0)
			values[LIST_STARTED_AT] = TimestampTzGetDatum(slot.started_at);
		else
			nulls[LIST_STARTED_AT] = true;
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
