/*
 * anchor.c
 *		Anchors: what the server's own catalogs know of relays.
 *
 * Each relay has an anchor, the empty composite type queues."$<name>".  Its
 * owner is the relay's owner, and it depends on the queue's table and on the
 * relay's server or procedure.  So DROP, DROP OWNED, REASSIGN OWNED and DROP
 * ROLE treat a relay as they treat any object, and what an anchor depends on,
 * by OID, is what its relay uses: one of the same name that comes later is
 * not.  When the anchor goes its row in queue.relay_definition goes with it.
 *
 * A dump carries the type and the row.  The row has the names of the server
 * and the procedure; OIDs there would not live through pg_upgrade.  They are
 * used for an anchor that depends on none as yet, one that was just restored,
 * and are kept up to date for that by the maintenance worker.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/tablecmds.h"
#include "engine/extension.h"
#include "engine/owner.h"
#include "engine/registry.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "relay/anchor.h"
#include "relay/relay.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/syscache.h"

void
relay_anchor_depend(Oid anchor, Oid classid, Oid was, Oid is)
{
	ObjectAddress depender;
	ObjectAddress referenced;

	if (OidIsValid(was))
		deleteDependencyRecordsForSpecific(TypeRelationId, anchor, DEPENDENCY_NORMAL, classid, was);
	if (!OidIsValid(is))
		return;
	ObjectAddressSet(depender, TypeRelationId, anchor);
	ObjectAddressSet(referenced, classid, is);
	recordDependencyOn(&depender, &referenced, DEPENDENCY_NORMAL);
}

/* Nobody else may use the type, and thereby keep it from being dropped. */
static void
revoke_usage(char *name)
{
	GrantStmt  *revoke = makeNode(GrantStmt);
	RoleSpec   *everyone = makeNode(RoleSpec);

	everyone->roletype = ROLESPEC_PUBLIC;
	everyone->location = -1;
	revoke->is_grant = false;
	revoke->targtype = ACL_TARGET_OBJECT;
	revoke->objtype = OBJECT_TYPE;
	revoke->objects = list_make1(list_make2(makeString("queues"), makeString(name)));
	revoke->grantees = list_make1(everyone);
	revoke->behavior = DROP_RESTRICT;
	ExecuteGrantStmt(revoke);
}

Oid
relay_anchor_create(const char *name, Oid owner, const RelayConfig *relay)
{
	char	   *type_name = psprintf("$%s", name);
	CreateStmt *create = makeNode(CreateStmt);
	ObjectAddress type;
	RelayConfig left = {0};
	HeapTuple	schema;
	OwnerContext rights;

	left.anchor = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum(type_name),
								  ObjectIdGetDatum(queues_namespace()));
	relay_config_read_anchor(&left);
	if (OidIsValid(left.owner) && get_typtype(left.anchor) == TYPTYPE_COMPOSITE &&
		get_rel_relkind(get_typ_typrelid(left.anchor)) == RELKIND_COMPOSITE_TYPE &&
		has_privs_of_role(GetUserId(), left.owner))
	{
		relay_anchor_drop(left.anchor);
		CommandCounterIncrement();
	}

	schema = SearchSysCache1(NAMESPACEOID, ObjectIdGetDatum(queues_namespace()));
	if (!HeapTupleIsValid(schema))
		elog(ERROR, "cache lookup failed for schema \"queues\"");
	owner_begin(((Form_pg_namespace) GETSTRUCT(schema))->nspowner, &rights);
	ReleaseSysCache(schema);

	create->relation = makeRangeVar(pstrdup("queues"), type_name, -1);
	create->oncommit = ONCOMMIT_NOOP;
	(void) DefineRelation(create, RELKIND_COMPOSITE_TYPE, owner, &type, NULL);
	CommandCounterIncrement();
	revoke_usage(type_name);

	owner_end(&rights);

	relay_anchor_depend(type.objectId, RelationRelationId, InvalidOid, relay->queue);
	relay_anchor_depend(type.objectId, ForeignServerRelationId, InvalidOid, relay->server);
	relay_anchor_depend(type.objectId, ProcedureRelationId, InvalidOid, relay->procedure);
	return type.objectId;
}

void
relay_anchor_drop(Oid anchor)
{
	ObjectAddress type;

	ObjectAddressSet(type, TypeRelationId, anchor);
	performDeletion(&type, DROP_RESTRICT, 0);
}

/* The OID of a procedure by its full signature, InvalidOid if there is none. */
static Oid
procedure_of_signature(const char *signature)
{
	LOCAL_FCINFO(fcinfo, 1);
	Datum		result;

	InitFunctionCallInfoData(*fcinfo, NULL, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = CStringGetTextDatum(signature);
	fcinfo->args[0].isnull = false;
	result = to_regprocedure(fcinfo);
	return fcinfo->isnull ? InvalidOid : DatumGetObjectId(result);
}

/* The names are those of what the anchor depends on: put them in the row. */
static void
update_names(Relation rel, const RelayConfig *relay, const char *server, const char *procedure)
{
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Datum		values[Natts_relay] = {0};
		bool		nulls[Natts_relay] = {0};
		bool		replace[Natts_relay] = {0};
		bool		isnull;

		if (DatumGetObjectId(heap_getattr(tuple, Anum_relay_anchor, RelationGetDescr(rel),
										  &isnull)) != relay->anchor)
			continue;
		replace[Anum_relay_server - 1] = replace[Anum_relay_procedure - 1] = true;
		nulls[Anum_relay_server - 1] = server == NULL;
		nulls[Anum_relay_procedure - 1] = procedure == NULL;
		if (server)
			values[Anum_relay_server - 1] = CStringGetTextDatum(server);
		if (procedure)
			values[Anum_relay_procedure - 1] = CStringGetTextDatum(procedure);
		CatalogTupleUpdate(rel, &tuple->t_self,
						   heap_modify_tuple(tuple, RelationGetDescr(rel), values, nulls, replace));
		break;
	}
	systable_endscan(scan);
}

/*
 * Make an anchor and the names in its relay's row say the same: an anchor that
 * is new here depends on what the row names, and after a change of a name the
 * row has the new one.  Returns whether there was anything to do, and has done
 * it if the table, locked to be written, is given.
 */
static bool
follow(RelayConfig *relay, Relation rel)
{
	bool		to_do = false;
	ForeignServer *server;
	char	   *procedure;

	if (!OidIsValid(relay->owner) || get_rel_name(relay->queue) == NULL)
		return false;
	if (!relay->depends_on_queue)
	{
		to_do = true;
		if (rel)
			relay_anchor_depend(relay->anchor, RelationRelationId, InvalidOid, relay->queue);
	}
	if (!OidIsValid(relay->server) && relay->server_name)
	{
		relay->server = get_foreign_server_oid(relay->server_name, true);
		to_do |= OidIsValid(relay->server);
		if (rel)
			relay_anchor_depend(relay->anchor, ForeignServerRelationId, InvalidOid, relay->server);
	}
	if (!OidIsValid(relay->procedure) && relay->procedure_name)
	{
		relay->procedure = procedure_of_signature(relay->procedure_name);
		to_do |= OidIsValid(relay->procedure);
		if (rel)
			relay_anchor_depend(relay->anchor, ProcedureRelationId, InvalidOid, relay->procedure);
	}

	server = OidIsValid(relay->server) ?
		GetForeignServerExtended(relay->server, FSV_MISSING_OK) : NULL;
	procedure = OidIsValid(relay->procedure) &&
		SearchSysCacheExists1(PROCOID, ObjectIdGetDatum(relay->procedure)) ?
		format_procedure_qualified(relay->procedure) : NULL;
	if ((server && (relay->server_name == NULL || strcmp(server->servername, relay->server_name) != 0)) ||
		(procedure && (relay->procedure_name == NULL || strcmp(procedure, relay->procedure_name) != 0)))
	{
		to_do = true;
		if (rel)
			update_names(rel, relay, server ? server->servername : NULL, procedure);
	}
	return to_do;
}

/* Lock an anchor against changes of its relay, if nobody else has. */
static bool
try_lock_anchor(Oid anchor)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, TypeRelationId, anchor, 0);
	if (LockAcquire(&tag, ShareUpdateExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	AcceptInvalidationMessages();
	return true;
}

bool
relay_anchors_follow(void)
{
	Oid			relid = extension_relation("relay_definition");
	bool		all = true;
	ListCell   *cell;

	foreach(cell, relay_config_list())
	{
		RelayConfig *relay = lfirst(cell);
		Relation	rel;

		if (!follow(relay, NULL))
			continue;
		if (!ConditionalLockRelationOid(relid, RowExclusiveLock) || !try_lock_anchor(relay->anchor))
		{
			all = false;
			continue;
		}

		/* It may have been changed before we had the lock. */
		relay = relay_config_find(relay->name);
		if (relay == NULL)
			continue;
		rel = table_open(relid, NoLock);
		(void) follow(relay, rel);
		table_close(rel, NoLock);
		CommandCounterIncrement();
	}
	return all;
}

/* A type is being dropped: if it is an anchor, its relay goes with it. */
void
relay_anchor_dropped(Oid type)
{
	Oid			relid;
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;
	char		relkind;

	/* What an anchor has in pg_class goes before it, a table goes after. */
	if (get_typtype(type) != TYPTYPE_COMPOSITE)
		return;
	relkind = get_rel_relkind(get_typ_typrelid(type));
	if ((relkind != '\0' && relkind != RELKIND_COMPOSITE_TYPE) || !extension_exists())
		return;

	/* With the extension, the table may have gone first. */
	relid = extension_relation_if_any("relay_definition");
	if (!OidIsValid(relid))
		return;
	rel = table_open(relid, RowExclusiveLock);
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;

		if (DatumGetObjectId(heap_getattr(tuple, Anum_relay_anchor, RelationGetDescr(rel),
										  &isnull)) != type)
			continue;
		CatalogTupleDelete(rel, &tuple->t_self);
		relay_config_changed();
	}
	systable_endscan(scan);
	table_close(rel, NoLock);
}

void
relay_object_altered(Oid classid)
{
	/* A new owner, or a new name of what a relay uses. */
	if (classid == TypeRelationId || classid == ForeignServerRelationId ||
		classid == ProcedureRelationId || classid == NamespaceRelationId)
		relay_config_changed();
}
