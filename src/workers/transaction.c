/*
 * transaction.c
 *		Transactions of workers: their settings and locks.
 */
#include "postgres.h"

#include "access/relation.h"
#include "background.h"
#include "compat.h"
#include "guc.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "workers/transaction.h"

/* What ALTER DATABASE, ALTER ROLE or a function called can have set. */
static const char *const settings[][2] = {
	{"role", "none"},
	{"search_path", SAFE_SEARCH_PATH},
	{"session_replication_role", "origin"},
	{"default_transaction_isolation", "read committed"},
	{"default_transaction_read_only", "off"},
	{"default_transaction_deferrable", "off"},
	{"statement_timeout", "0"},
	{"idle_in_transaction_session_timeout", "0"},
	NO_TRANSACTION_TIMEOUT
};

const char *worker_lock_timeout = "0";

void
worker_begin(void)
{
	/* Before the transaction, as they are to be in effect at its start. */
	for (int i = 0; i < lengthof(settings); i++)
		guc_override(settings[i][0], settings[i][1], PGC_S_SESSION);
	guc_override("lock_timeout", worker_lock_timeout, PGC_S_SESSION);
	background_user();
	background_begin();
}

void
worker_end(void)
{
	background_end();
}

/* Lock a table's indexes, or a toast table's. */
static bool
try_lock_indexes(Relation rel, LOCKMODE lockmode)
{
	List	   *indexes = RelationGetIndexList(rel);
	ListCell   *lc;
	bool		locked = true;

	foreach(lc, indexes)
		locked = locked && ConditionalLockRelationOid(lfirst_oid(lc), lockmode);
	list_free(indexes);
	return locked;
}

bool
worker_try_lock(Oid relid, LOCKMODE lockmode)
{
	Relation	rel;
	Relation	toast = NULL;
	bool		locked;

	if (!ConditionalLockRelationOid(relid, lockmode))
		return false;
	rel = try_relation_open(relid, NoLock);
	if (rel == NULL)
		return true;
	locked = try_lock_indexes(rel, lockmode);
	if (locked && OidIsValid(rel->rd_rel->reltoastrelid))
	{
		locked = ConditionalLockRelationOid(rel->rd_rel->reltoastrelid, lockmode);
		if (locked)
			toast = try_relation_open(rel->rd_rel->reltoastrelid, NoLock);
	}
	if (toast != NULL)
	{
		locked = try_lock_indexes(toast, lockmode);
		relation_close(toast, NoLock);
	}
	relation_close(rel, NoLock);
	return locked;
}

void
worker_lock(Oid relid, LOCKMODE lockmode)
{
	if (!worker_try_lock(relid, lockmode))
		worker_report_locked(relid);
}

void
worker_report_locked(Oid relid)
{
	char	   *name = get_rel_name(relid);

	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("table \"%s\" is locked", name ? name : "")));
}
