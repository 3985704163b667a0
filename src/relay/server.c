/*
 * server.c
 *		The foreign server of a relay.
 */
#include "postgres.h"

#include "catalog/pg_foreign_server.h"
#include "commands/defrem.h"
#include "common/hashfn.h"
#include "compat.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "relay/options.h"
#include "relay/server.h"
#include "sinks/text.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/syscache.h"

const SinkKind *
relay_server_kind(Oid serverid)
{
	ForeignServer *server = GetForeignServerExtended(serverid, FSV_MISSING_OK);

	return server ? kind_of_wrapper(server->fdwid) : NULL;
}

const SinkKind *
relay_server_check(Oid serverid, Oid role)
{
	ForeignServer *server;
	const SinkKind *kind;
	AclResult	result;

	LockDatabaseObject(ForeignServerRelationId, serverid, 0, AccessShareLock);
	server = GetForeignServerExtended(serverid, FSV_MISSING_OK);
	if (server == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("server %u does not exist", serverid)));
	kind = kind_of_wrapper(server->fdwid);
	if (kind == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("server \"%s\" is not one a relay can publish to", server->servername),
				 errhint("Create it with foreign data wrapper %s.", kind_wrappers())));
	result = FOREIGN_SERVER_ACLCHECK(serverid, role, ACL_USAGE);
	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_FOREIGN_SERVER, server->servername);
	return kind;
}

/* Append options to what is hashed, to see whether they have changed. */
static void
append_options(StringInfo all, List *options)
{
	ListCell   *cell;

	foreach(cell, options)
		appendStringInfo(all, "%s=%s\n", ((DefElem *) lfirst(cell))->defname,
						 defGetString(lfirst(cell)));
	appendStringInfoChar(all, '\n');
}

uint64
relay_server_read(Oid serverid, Oid owner, const SinkKind **kind,
				  List **server_options, List **mapping_options, char *error)
{
	ForeignServer *server = GetForeignServerExtended(serverid, FSV_MISSING_OK);
	StringInfoData all;

	if (server == NULL)
	{
		strlcpy(error, "the server of the relay does not exist any more", SINK_ERROR_SIZE);
		return 0;
	}
	*kind = kind_of_wrapper(server->fdwid);
	if (*kind == NULL)
	{
		text_say(error, "server \"%s\" is not one a relay can publish to", server->servername);
		return 0;
	}
	if (FOREIGN_SERVER_ACLCHECK(server->serverid, owner, ACL_USAGE) != ACLCHECK_OK)
	{
		text_say(error, "permission denied for server \"%s\"", server->servername);
		return 0;
	}

	*server_options = server->options;
	*mapping_options = NIL;
	if (SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(owner),
							  ObjectIdGetDatum(server->serverid)) ||
		SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(InvalidOid),
							  ObjectIdGetDatum(server->serverid)))
		*mapping_options = GetUserMapping(owner, server->serverid)->options;
	if (!relay_options_permitted(*kind, *server_options, server->servername, server->owner,
								 *mapping_options, superuser_arg(owner), error))
		return 0;

	initStringInfo(&all);
	appendStringInfo(&all, "%s\n", (*kind)->name);
	append_options(&all, *server_options);
	append_options(&all, *mapping_options);
	return hash_bytes_extended((unsigned char *) all.data, all.len, 0) | 1;
}
