/*
 * configuration.c
 *		Rows of queue.relay_definition, and what they refer to.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "compat.h"
#include "engine/extension.h"
#include "engine/round.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "relay/configuration.h"
#include "relay/options.h"
#include "relay/server.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

/* InvalidOid if there is no such type. */
static Oid
anchor_owner(Oid anchor)
{
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(anchor));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	owner = ((Form_pg_type) GETSTRUCT(tuple))->typowner;
	ReleaseSysCache(tuple);
	return owner;
}

void
relay_config_read_anchor(RelayConfig *relay)
{
	Relation	rel = table_open(DependRelationId, AccessShareLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	relay->owner = anchor_owner(relay->anchor);
	relay->server = relay->procedure = InvalidOid;
	relay->depends_on_queue = false;

	ScanKeyInit(&keys[0], Anum_pg_depend_classid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(TypeRelationId));
	ScanKeyInit(&keys[1], Anum_pg_depend_objid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relay->anchor));
	scan = systable_beginscan(rel, DependDependerIndexId, true, NULL, lengthof(keys), keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend depend = (Form_pg_depend) GETSTRUCT(tuple);

		if (depend->refclassid == ForeignServerRelationId)
			relay->server = depend->refobjid;
		else if (depend->refclassid == ProcedureRelationId)
			relay->procedure = depend->refobjid;
		else if (depend->refclassid == RelationRelationId && depend->refobjid == relay->queue)
			relay->depends_on_queue = true;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
}

/* Why a relay cannot run as a role: its worker would fail before it could say so. */
static const char *
role_problem(Oid role)
{
	HeapTuple	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(role));
	bool		login;

	if (!HeapTupleIsValid(tuple))
		return "the relay's owner does not exist any more";
	login = ((Form_pg_authid) GETSTRUCT(tuple))->rolcanlogin;
	ReleaseSysCache(tuple);
	return WORKER_NEEDS_LOGIN && !login ? "the relay's owner is not permitted to log in" : NULL;
}

/* What keeps a relay from running, as far as its row and its anchor tell. */
static const char *
config_problem(const RelayConfig *relay)
{
	if (!OidIsValid(relay->owner))
		return "the relay's type in schema queues does not exist any more";
	if (get_rel_name(relay->queue) == NULL)
		return "the relay's queue does not exist any more";
	if (relay->server_name &&
		(!OidIsValid(relay->server) || GetForeignServerExtended(relay->server, FSV_MISSING_OK) == NULL))
		return psprintf("server \"%s\" does not exist", relay->server_name);
	if (relay->server_name && relay->procedure_name && !OidIsValid(relay->procedure))
		return psprintf("function %s does not exist", relay->procedure_name);
	if (relay->server_name == NULL && !OidIsValid(relay->procedure))
		return relay->procedure_name ?
			psprintf("procedure %s does not exist", relay->procedure_name) :
			"the relay has neither a server nor a procedure";
	if (relay->kind == NULL)
		return psprintf("server \"%s\" is not one a relay can publish to", relay->server_name);
	return role_problem(relay->owner);
}

/* Make a RelayConfig of a row. */
static RelayConfig *
config_of_tuple(HeapTuple tuple, TupleDesc desc)
{
	RelayConfig *relay = palloc0(sizeof(RelayConfig));
	Datum		values[Natts_relay];
	bool		nulls[Natts_relay];
	StringInfoData all;
	Jsonb	   *given;

	heap_deform_tuple(tuple, desc, values, nulls);
	relay->name = TextDatumGetCString(values[Anum_relay_name - 1]);
	relay->anchor = DatumGetObjectId(values[Anum_relay_anchor - 1]);
	relay->queue = DatumGetObjectId(values[Anum_relay_queue - 1]);
	if (!nulls[Anum_relay_server - 1])
		relay->server_name = TextDatumGetCString(values[Anum_relay_server - 1]);
	if (!nulls[Anum_relay_procedure - 1])
		relay->procedure_name = TextDatumGetCString(values[Anum_relay_procedure - 1]);
	relay->paused = DatumGetBool(values[Anum_relay_paused - 1]);
	given = DatumGetJsonbP(values[Anum_relay_options - 1]);
	relay->given = JsonbPGetDatum(given);
	relay_config_read_anchor(relay);
	relay->kind = OidIsValid(relay->server) ? relay_server_kind(relay->server) : &sql_kind;
	relay->superuser = superuser_arg(relay->owner);
	relay->problem = config_problem(relay);
	if (JB_ROOT_IS_OBJECT(given))
		relay->options = relay_options_list(JsonbPGetDatum(given));
	else
		relay->problem = "options of a relay must be a JSON object";
	relay->workers = relay_options_workers(relay->options);

	initStringInfo(&all);
	appendStringInfo(&all, "%u %u %u %u %u %s", relay->anchor, relay->queue, relay->owner,
					 relay->server, relay->procedure, JsonbToCString(NULL, &given->root, 0));
	relay->fingerprint = hash_bytes_extended((unsigned char *) all.data, all.len, 0);
	return relay;
}

/* All relays, or those of one name. */
static List *
read_relays(const char *name)
{
	Relation	rel = table_open(extension_relation("relay_definition"), AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	List	   *result = NIL;
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		Datum		its = heap_getattr(tuple, Anum_relay_name, RelationGetDescr(rel), &isnull);

		if (name == NULL || strcmp(TextDatumGetCString(its), name) == 0)
			result = lappend(result, config_of_tuple(tuple, RelationGetDescr(rel)));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

List *
relay_config_list(void)
{
	return read_relays(NULL);
}

RelayConfig *
relay_config_find(const char *name)
{
	List	   *found = read_relays(name);

	return found ? linitial(found) : NULL;
}

/*
 * In an ordered queue, and in no other, messages of a key are with one receiver
 * at a time.  That holds whatever workers there are, and which end or begin.
 */
void
relay_check_workers(const Queue *queue, int workers)
{
	if (workers > 1 && !queue->settings.ordered)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a relay of queue \"%s\" cannot have %d workers: the queue is not ordered",
						NameStr(queue->name), workers),
				 errdetail("Several workers keep the order of a key only in an ordered queue."),
				 errhint("Set \"ordered\" to true with queue.alter(), or \"workers\" to 1.")));
}

/*
 * Changes of queue.relay_definition take effect when they are committed.
 */

static bool wake_wanted = false;

static void
wake_supervisor(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT && wake_wanted)
		maintenance_wake(MyDatabaseId);
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		wake_wanted = false;
}

void
relay_config_changed(void)
{
	static bool registered = false;
	Oid			relid = extension_relation_if_any("relay_definition");
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));

	/* Workers hear of it by this before our client is told of the commit. */
	if (HeapTupleIsValid(tuple))
	{
		CacheInvalidateRelcacheByTuple(tuple);
		ReleaseSysCache(tuple);
	}
	if (!registered)
		RegisterXactCallback(wake_supervisor, NULL);
	registered = true;
	wake_wanted = true;
}
