/*
 * rights.c
 *		Who may see what the views show.
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "engine/rights.h"
#include "miscadmin.h"
#include "utils/acl.h"

bool
may_watch(void)
{
	return has_privs_of_role(GetUserId(), ROLE_PG_MONITOR);
}

bool
may_watch_queue(Oid relid)
{
	bool		missing = false;
	AclResult	result = pg_class_aclcheck_ext(relid, GetUserId(), ACL_SELECT, &missing);

	return !missing && (result == ACLCHECK_OK || may_watch());
}
