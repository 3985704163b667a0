/*
 * transaction.c
 *		Transactions of our workers: their settings.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xact.h"
#include "compat.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/snapmgr.h"
#include "workers/transaction.h"

#define SAFE_SEARCH_PATH	"pg_catalog, pg_temp"

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
};

const char *worker_lock_timeout = "0";

static MemoryContext outer_context = NULL;

static void
enforce_setting(const char *name, const char *value)
{
	const char *now = GetConfigOption(name, false, false);

	if (now == NULL || strcmp(now, value) != 0)
		SetConfigOption(name, value, PGC_SUSET, PGC_S_SESSION);
}

void
worker_begin(void)
{
	Oid			user;
	int			context;

	outer_context = CurrentMemoryContext;

	/* Outside the transaction, as they are to hold at its start. */
	for (int i = 0; i < lengthof(settings); i++)
		enforce_setting(settings[i][0], settings[i][1]);
	if (HAS_TRANSACTION_TIMEOUT)
		enforce_setting("transaction_timeout", "0");
	enforce_setting("lock_timeout", worker_lock_timeout);

	/* A database can have a session_authorization, too. */
	GetUserIdAndSecContext(&user, &context);
	if (user != GetAuthenticatedUserId() || context != 0)
		SetUserIdAndSecContext(GetAuthenticatedUserId(), 0);

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
}

void
worker_end(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(outer_context);
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
