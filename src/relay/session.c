/*
 * session.c
 *		What the session of a relay's worker is like.
 *
 * It is the owner's, as if he had logged in, with the settings his role and
 * the database have; but for those that would be in the way of our own work.
 * Nothing a procedure leaves in it is there for the next transaction.
 */
#include "postgres.h"

#include "access/xact.h"
#include "background.h"
#include "catalog/namespace.h"
#include "commands/async.h"
#include "commands/prepare.h"
#include "commands/sequence.h"
#include "guc.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "relay/session.h"
#include "relay/supervision.h"
#include "storage/lock.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/portal.h"

/* A procedure's transaction is isolated as the owner has it set. */
static const char *const settings[][2] = {
	{"default_transaction_read_only", "off"},
	{"default_transaction_deferrable", "off"},
};

/* As reset values, so that a reset brings them back. */
static void
override(const char *name, const char *value)
{
	guc_override(name, value, PGC_S_OVERRIDE);
}

void
relay_session_begin(const RelayConfig *relay, int worker)
{
	char		name[2 * NAMEDATALEN];

	for (int i = 0; i < lengthof(settings); i++)
		override(settings[i][0], settings[i][1]);
	override("role", "none");
	if (OidIsValid(relay->server))
	{
		override("default_transaction_isolation", "read committed");
		override("search_path", SAFE_SEARCH_PATH);

		/* What leaves is UTF-8: text_utf8() has its conversion at hand then. */
		background_begin();
		override("client_encoding", "UTF8");
		background_end();
	}
	relay_worker_name(relay->name, worker, name, sizeof(name));
	override("application_name", name);
	background_user();
}

/*
 * What DISCARD ALL does, but for the plans: they hold nothing of a message.
 * All of it is quick if there is nothing to do.
 */
void
relay_session_reset(void)
{
	background_begin();
	PortalHashTableDeleteAll();
	if (GetUserId() != GetAuthenticatedUserId() || GetSessionUserId() != GetAuthenticatedUserId())
		SetPGVariable("session_authorization", NIL, false);
	ResetAllOptions();
	DropAllPreparedStatements();
	Async_UnlistenAll();
	LockReleaseAll(USER_LOCKMETHOD, true);
	ResetTempTableNamespace();
	ResetSequenceCaches();
	background_end();
	background_user();
}
