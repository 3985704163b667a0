/*
 * administration.c
 *		SQL functions that create and change relays.
 */
#include "postgres.h"

#include <unistd.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "argument.h"
#include "catalog/indexing.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/typecmds.h"
#include "compat.h"
#include "engine/extension.h"
#include "engine/registry.h"
#include "engine/tables.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "guc.h"
#include "miscadmin.h"
#include "relay/anchor.h"
#include "relay/configuration.h"
#include "relay/options.h"
#include "relay/server.h"
#include "relay/supervision.h"
#include "relay/transform.h"
#include "sinks/sql_procedure.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/syscache.h"

PG_FUNCTION_INFO_V1(queue_create_relay);
PG_FUNCTION_INFO_V1(queue_alter_relay);
PG_FUNCTION_INFO_V1(queue_pause_relay);
PG_FUNCTION_INFO_V1(queue_resume_relay);
PG_FUNCTION_INFO_V1(queue_drop_relay);

/*
 * queue.relay_definition, to change it.  Nobody with an open transaction is in
 * the way of others: who changes a relay holds a lock on its anchor, and who
 * is given one more is locked as a role.
 */
static Relation
open_relays(const char *function)
{
	PreventCommandIfReadOnly(function);
	PreventCommandIfParallelMode(function);
	return table_open(extension_relation("relay_definition"), RowExclusiveLock);
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
	scan = systable_beginscan(rel, extension_relation("relay_definition_pkey"), true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		tuple = heap_copytuple(tuple);
	systable_endscan(scan);
	return tuple;
}

/* The anchor of a relay's row. */
static Oid
anchor_of(Relation rel, HeapTuple tuple)
{
	bool		isnull;

	return DatumGetObjectId(heap_getattr(tuple, Anum_relay_anchor, RelationGetDescr(rel), &isnull));
}

/* The same, an error if there is none or the caller may not change it. */
static HeapTuple
check_own_relay(Relation rel, text *name)
{
	HeapTuple	tuple = find_relay(rel, name);
	RelayConfig relay = {0};

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("relay \"%s\" does not exist", text_to_cstring(name))));
	relay.anchor = anchor_of(rel, tuple);
	relay_config_read_anchor(&relay);
	if (!superuser() &&
		!(OidIsValid(relay.owner) && has_privs_of_role(GetUserId(), relay.owner)))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of relay \"%s\"", text_to_cstring(name))));
	return tuple;
}

/* The same, against other changes. */
static HeapTuple
find_own_relay(Relation rel, text *name)
{
	HeapTuple	tuple = check_own_relay(rel, name);
	Oid			anchor = anchor_of(rel, tuple);

	/* Who may not change it has no business to lock it. */
	for (;;)
	{
		LockDatabaseObject(TypeRelationId, anchor, 0, ShareUpdateExclusiveLock);
		tuple = check_own_relay(rel, name);
		if (anchor_of(rel, tuple) == anchor)
			return tuple;
		UnlockDatabaseObject(TypeRelationId, anchor, 0, ShareUpdateExclusiveLock);
		anchor = anchor_of(rel, tuple);
	}
}

/* Change columns of a relay and let its worker know; its statement may go on to change it. */
static void
update_relay(Relation rel, HeapTuple tuple, Datum *values, bool *nulls, bool *replace)
{
	tuple = heap_modify_tuple(tuple, RelationGetDescr(rel), values, nulls, replace);
	CatalogTupleUpdate(rel, &tuple->t_self, tuple);
	CommandCounterIncrement();
	relay_config_changed();
}

/*
 * The option that names the routine of a relay, of which each has one at most:
 * the procedure it calls, or the function that transforms what it publishes.
 */
static const char *
routine_option(const SinkKind *kind)
{
	return kind->has_server ? "transform" : "procedure";
}

/*
 * Take the routine out of a relay's options: it is looked up now, in the
 * caller's search_path, and is that one from then on.  InvalidOid if the
 * options name none.
 */
static Oid
take_routine(const SinkKind *kind, Datum *options, Oid owner)
{
	const char *name = relay_options_get(relay_options_list(*options), routine_option(kind));
	Oid			routine;
	bool		batch;

	if (name == NULL)
		return InvalidOid;
	routine = kind->has_server ? transform_find(name) : procedure_find(name);
	LockDatabaseObject(ProcedureRelationId, routine, 0, AccessShareLock);
	if (kind->has_server)
		transform_check(routine, owner);
	else
		procedure_check(routine, owner, &batch);
	*options = DirectFunctionCall2(jsonb_delete, *options, CStringGetTextDatum(routine_option(kind)));
	return routine;
}

/* Whether options say that there is to be no transform any more. */
static bool
removes_transform(const SinkKind *kind, Datum options)
{
	return kind->has_server &&
		DatumGetBool(DirectFunctionCall2(jsonb_exists, options, CStringGetTextDatum("transform"))) &&
		relay_options_get(relay_options_list(options), "transform") == NULL;
}

static void
missing_procedure(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("option \"procedure\" is missing"),
			 errhint("A relay without a server calls a procedure of this database.")));
}

/* Raise an error unless a role may have so many more workers of relays. */
static void
check_role(Oid role, int more)
{
	int			n = more;
	ListCell   *cell;

	HeapTuple	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(role));
	bool		login;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for role %u", role);
	login = ((Form_pg_authid) GETSTRUCT(tuple))->rolcanlogin;
	ReleaseSysCache(tuple);
	if (WORKER_NEEDS_LOGIN && !login)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("role \"%s\" is not permitted to log in", GetUserNameFromId(role, false)),
				 errdetail("A relay's worker connects as the relay's owner.")));

	if (superuser_arg(role))
		return;

	/* Two at a time would not see each other's. */
	LockSharedObject(AuthIdRelationId, role, 0, ShareUpdateExclusiveLock);
	foreach(cell, relay_config_list())
	{
		RelayConfig *relay = lfirst(cell);

		if (relay->owner == role)
			n += relay->workers;
	}
	LWLockAcquire(&relay_shared->lock, LW_SHARED);
	n += relay_slots_of(role, MyDatabaseId);
	LWLockRelease(&relay_shared->lock);
	if (n > relay_role_limit())
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("role \"%s\" cannot have more than %d relays",
						GetUserNameFromId(role, false), relay_role_limit()),
				 errdetail("Each worker of a relay counts as one."),
				 errhint("The setting queue.max_relays_per_role says so.")));
}

/* A name that can be shown anywhere, and leaves space for the anchor's "$". */
static void
check_name(text *name)
{
	int			length = VARSIZE_ANY_EXHDR(name);
	bool		good = length > 0 && length < NAMEDATALEN - 1;

	for (int i = 0; good && i < length; i++)
	{
		unsigned char c = VARDATA_ANY(name)[i];

		good = c >= ' ' && c != 0x7F;
	}
	if (!good)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid name of a relay: \"%s\"", text_to_cstring(name)),
				 errhint("It must have from 1 to %d bytes, and no control characters.", NAMEDATALEN - 2)));
}

/* The library of a kind of sink may not be installed. */
static void
check_library(const SinkKind *kind)
{
	char		library[MAXPGPATH];

	snprintf(library, MAXPGPATH, "%s/queue_%s%s", pkglib_path, kind->name, DLSUFFIX);
	if (access(library, R_OK) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("library \"queue_%s\" is not installed", kind->name),
				 errhint("Build the extension where the client library of this kind of server is found.")));
}

Datum
queue_create_relay(PG_FUNCTION_ARGS)
{
	text	   *name = argument_text(fcinfo, 0, "name");
	Datum		values[Natts_relay] = {0};
	bool		nulls[Natts_relay] = {0};
	const SinkKind *kind = &sql_kind;
	RelayConfig relay = {0};
	char	   *queue_name;
	int			workers;
	Datum		options;
	Relation	rel;

	shmem_require();
	check_name(name);
	queue_name = text_to_cstring(argument_text(fcinfo, 1, "queue"));
	relay.queue = queue_by_name(PG_GETARG_TEXT_PP(1), ACL_SELECT | ACL_DELETE)->relid;

	nulls[Anum_relay_server - 1] = nulls[Anum_relay_procedure - 1] = true;
	if (!PG_ARGISNULL(2))
	{
		char	   *server = text_to_cstring(PG_GETARG_TEXT_PP(2));

		relay.server = get_foreign_server_oid(server, true);
		if (!OidIsValid(relay.server))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("server \"%s\" does not exist", server),
					 errhint("Create it with CREATE SERVER.")));
		kind = relay_server_check(relay.server, GetUserId());
		check_library(kind);
		nulls[Anum_relay_server - 1] = false;
		values[Anum_relay_server - 1] = PG_GETARG_DATUM(2);
	}

	options = PG_ARGISNULL(3) ? DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")) : PG_GETARG_DATUM(3);
	relay_options_check(kind, options);
	relay_options_check_together(kind, relay_options_list(options));
	workers = relay_options_workers(relay_options_list(options));
	relay_check_workers(queue_by_name(PG_GETARG_TEXT_PP(1), ACL_SELECT), workers);
	relay.procedure = take_routine(kind, &options, GetUserId());
	if (OidIsValid(relay.procedure))
	{
		nulls[Anum_relay_procedure - 1] = false;
		values[Anum_relay_procedure - 1] = CStringGetTextDatum(format_procedure_qualified(relay.procedure));
	}
	else if (!kind->has_server)
		missing_procedure();

	rel = open_relays("queue.create_relay()");
	if (HeapTupleIsValid(find_relay(rel, name)))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("relay \"%s\" already exists", text_to_cstring(name))));
	check_role(GetUserId(), workers);

	/* Against being dropped before we are seen to depend on it. */
	queue_lock(relay.queue, queue_name, AccessShareLock);
	values[Anum_relay_name - 1] = PointerGetDatum(name);
	values[Anum_relay_anchor - 1] =
		ObjectIdGetDatum(relay_anchor_create(text_to_cstring(name), GetUserId(), &relay));
	values[Anum_relay_queue - 1] = ObjectIdGetDatum(relay.queue);
	values[Anum_relay_options - 1] = options;
	values[Anum_relay_paused - 1] = BoolGetDatum(false);
	CatalogTupleInsert(rel, heap_form_tuple(RelationGetDescr(rel), values, nulls));
	table_close(rel, NoLock);
	CommandCounterIncrement();
	relay_config_changed();
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

/*
 * Give a relay to another role, as ALTER ... OWNER TO would: the caller has to
 * be a member of it.  What the new owner may do is up to the worker.
 */
static void
change_owner(Oid anchor, const char *name, int workers)
{
	Oid			role = get_role_oid(name, false);

	CHECK_CAN_SET_ROLE(GetUserId(), role);
	check_role(role, workers);
	AlterTypeOwner_oid(anchor, role, true);
	CommandCounterIncrement();
	relay_config_changed();
}

/* Raise an error unless a relay of this queue and owner may have so many workers. */
static void
check_more_workers(Oid relid, Oid owner, int before, int workers)
{
	Queue	   *queue = queue_by_relid(relid);

	if (queue && workers > 1)
		relay_check_workers(queue, workers);
	if (workers > before)
		check_role(owner, workers - before);
}

Datum
queue_alter_relay(PG_FUNCTION_ARGS)
{
	text	   *name = argument_text(fcinfo, 0, "name");
	Relation	rel;
	HeapTuple	tuple;
	RelayConfig relay = {0};
	Datum		values[Natts_relay];
	bool		nulls[Natts_relay];
	bool		replace[Natts_relay] = {0};
	const SinkKind *kind = &sql_kind;
	Oid			routine;
	int			workers;
	Datum		options;
	Datum		merged;

	shmem_require();
	if (PG_ARGISNULL(1) && PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("either options or an owner must be given")));

	rel = open_relays("queue.alter_relay()");
	tuple = find_own_relay(rel, name);
	heap_deform_tuple(tuple, RelationGetDescr(rel), values, nulls);
	relay.anchor = anchor_of(rel, tuple);
	workers = relay_options_workers(relay_options_list(values[Anum_relay_options - 1]));
	if (!PG_ARGISNULL(2))
		change_owner(relay.anchor, text_to_cstring(PG_GETARG_TEXT_PP(2)), workers);
	if (PG_ARGISNULL(1))
	{
		table_close(rel, NoLock);
		PG_RETURN_VOID();
	}

	options = PG_GETARG_DATUM(1);
	relay_config_read_anchor(&relay);
	if (OidIsValid(relay.server))
		kind = relay_server_check(relay.server, relay.owner);
	relay_options_check(kind, options);

	/* A procedure is changed or kept, and never removed. */
	merged = merge_options(DirectFunctionCall2(jsonb_concat,
											   DirectFunctionCall1(jsonb_in,
																   CStringGetDatum("{\"procedure\": \"\"}")),
											   values[Anum_relay_options - 1]), options);
	if (!kind->has_server && relay_options_get(relay_options_list(merged), "procedure") == NULL)
		missing_procedure();
	routine = take_routine(kind, &options, relay.owner);
	merged = merge_options(values[Anum_relay_options - 1], options);
	relay_options_check_together(kind, relay_options_list(merged));
	check_more_workers(DatumGetObjectId(values[Anum_relay_queue - 1]), relay.owner, workers,
					   relay_options_workers(relay_options_list(merged)));

	values[Anum_relay_options - 1] = merged;
	replace[Anum_relay_options - 1] = true;
	if (OidIsValid(routine) || removes_transform(kind, options))
	{
		relay_anchor_depend(relay.anchor, ProcedureRelationId, relay.procedure, routine);
		nulls[Anum_relay_procedure - 1] = !OidIsValid(routine);
		if (OidIsValid(routine))
			values[Anum_relay_procedure - 1] = CStringGetTextDatum(format_procedure_qualified(routine));
		replace[Anum_relay_procedure - 1] = true;
	}
	update_relay(rel, tuple, values, nulls, replace);
	table_close(rel, NoLock);
	PG_RETURN_VOID();
}

/* Set whether a relay is paused. */
static void
set_paused(FunctionCallInfo fcinfo, bool paused, const char *function)
{
	text	   *name = argument_text(fcinfo, 0, "name");
	Datum		values[Natts_relay] = {0};
	bool		nulls[Natts_relay] = {0};
	bool		replace[Natts_relay] = {0};
	Relation	rel;

	shmem_require();
	rel = open_relays(function);
	values[Anum_relay_paused - 1] = BoolGetDatum(paused);
	replace[Anum_relay_paused - 1] = true;
	update_relay(rel, find_own_relay(rel, name), values, nulls, replace);
	table_close(rel, NoLock);
}

Datum
queue_pause_relay(PG_FUNCTION_ARGS)
{
	set_paused(fcinfo, true, "queue.pause_relay()");
	PG_RETURN_VOID();
}

Datum
queue_resume_relay(PG_FUNCTION_ARGS)
{
	set_paused(fcinfo, false, "queue.resume_relay()");
	PG_RETURN_VOID();
}

Datum
queue_drop_relay(PG_FUNCTION_ARGS)
{
	text	   *name = argument_text(fcinfo, 0, "name");
	Relation	rel;
	HeapTuple	tuple;

	shmem_require();
	rel = open_relays("queue.drop_relay()");
	tuple = find_own_relay(rel, name);
	if (SearchSysCacheExists1(TYPEOID, ObjectIdGetDatum(anchor_of(rel, tuple))))
		relay_anchor_drop(anchor_of(rel, tuple));
	else
		CatalogTupleDelete(rel, &tuple->t_self);
	CommandCounterIncrement();
	table_close(rel, NoLock);
	relay_config_changed();
	PG_RETURN_VOID();
}
