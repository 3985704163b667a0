/*
 * extension.c
 *		The extension's own tables and schemas in this database.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "commands/extension.h"
#include "engine/extension.h"
#include "utils/lsyscache.h"

bool
extension_exists(void)
{
	return OidIsValid(get_extension_oid("queue", true));
}

Oid
extension_relation_if_any(const char *name)
{
	return get_relname_relid(name, get_namespace_oid("queue", true));
}

Oid
extension_relation(const char *name)
{
	Oid			relid = get_relname_relid(name, get_namespace_oid("queue", false));

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"queue.%s\" does not exist", name),
				 errhint("The extension queue is not installed as it should be in this database.")));
	return relid;
}

Oid
queues_namespace(void)
{
	return get_namespace_oid("queues", false);
}
