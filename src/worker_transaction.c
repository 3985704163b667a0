/*
 * worker_transaction.c
 *		Transactions of our workers: their settings, and whose rights they use.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "worker_transaction.h"

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
	{"lock_timeout", "0"},
	{"idle_in_transaction_session_timeout", "0"},
#if PG_VERSION_NUM >= 170000
	{"transaction_timeout", "0"},
#endif
};

static MemoryContext outer_context = NULL;

void
worker_begin(void)
{
	Oid			user;
	int			context;

	outer_context = CurrentMemoryContext;

	/* Outside the transaction, as they are to hold at its start. */
	for (int i = 0; i < lengthof(settings); i++)
	{
		const char *value = GetConfigOption(settings[i][0], false, false);

		if (value == NULL || strcmp(value, settings[i][1]) != 0)
			SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_SESSION);
	}

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

void
owner_rights_begin(Oid owner, OwnerRights *saved)
{
	GetUserIdAndSecContext(&saved->user, &saved->context);
	SetUserIdAndSecContext(owner, saved->context | SECURITY_RESTRICTED_OPERATION);
	saved->nest_level = NewGUCNestLevel();
	(void) set_config_option("search_path", SAFE_SEARCH_PATH, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

void
owner_rights_end(const OwnerRights *saved)
{
	AtEOXact_GUC(false, saved->nest_level);
	SetUserIdAndSecContext(saved->user, saved->context);
}
