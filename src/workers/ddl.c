/*
 * ddl.c
 *		Stopping workers for DDL that needs a database to itself.
 *
 * DROP DATABASE and its like refuse a database that has other sessions, and
 * DROP EXTENSION would wait for workers in a transaction.  So before such a
 * statement the workers are stopped, and until its transaction ends none is
 * started.  Likewise where they are to start with other settings.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "compat.h"
#include "engine/commit.h"
#include "engine/extension.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "workers/database.h"
#include "workers/ddl.h"

static ProcessUtility_hook_type prev_process_utility_hook = NULL;

/*
 * Block a database if it exists and the current user owns it.  Another user's
 * statement will fail, and must not stop the workers.
 */
static void
block_database(const char *name)
{
	Oid			dboid = get_database_oid(name, true);

	if (OidIsValid(dboid) && OWNS_DATABASE(dboid, GetUserId()))
		database_block(dboid);
}

/* The database that CREATE DATABASE copies. */
static const char *
template_name(CreatedbStmt *stmt)
{
	ListCell   *lc;

	foreach(lc, stmt->options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, "template") == 0 && option->arg != NULL)
			return defGetString(option);
	}
	return "template1";
}

/* Whether DROP EXTENSION names this extension. */
static bool
drops_extension(DropStmt *stmt)
{
	ListCell   *lc;

	if (stmt->removeType != OBJECT_EXTENSION)
		return false;
	foreach(lc, stmt->objects)
	{
		if (strcmp(strVal(lfirst(lc)), "queue") == 0)
			return true;
	}
	return false;
}

/* Whether SET or RESET is about a setting of the extension. */
static bool
sets_ours(VariableSetStmt *stmt)
{
	return stmt->kind == VAR_RESET_ALL ||
		(stmt->name != NULL && pg_strncasecmp(stmt->name, "queue.", 6) == 0);
}

/* Stop workers that would be in a statement's way. */
static void
before_statement(Node *stmt)
{
	switch (nodeTag(stmt))
	{
		case T_CreatedbStmt:
			block_database(template_name((CreatedbStmt *) stmt));
			break;
		case T_DropdbStmt:
			block_database(((DropdbStmt *) stmt)->dbname);
			break;
		case T_AlterDatabaseStmt:
			/* SET TABLESPACE, or an option that may be about connections. */
			block_database(((AlterDatabaseStmt *) stmt)->dbname);
			break;
		case T_AlterDatabaseSetStmt:
			/* Workers apply the settings of their database when they start. */
			if (sets_ours(((AlterDatabaseSetStmt *) stmt)->setstmt))
				block_database(((AlterDatabaseSetStmt *) stmt)->dbname);
			break;
		case T_RenameStmt:
			if (((RenameStmt *) stmt)->renameType == OBJECT_DATABASE)
				block_database(((RenameStmt *) stmt)->subname);
			break;
		case T_DropStmt:
			if (drops_extension((DropStmt *) stmt))
			{
				Oid			extension = get_extension_oid("queue", true);

				if (OidIsValid(extension) && OWNS_EXTENSION(extension, GetUserId()))
					database_block(MyDatabaseId);
			}
			break;
		default:
			break;
	}
}

static void
queue_process_utility(PlannedStmt *pstmt, const char *query_string,
					  bool read_only_tree, ProcessUtilityContext context,
					  ParamListInfo params, QueryEnvironment *query_env,
					  DestReceiver *dest, QueryCompletion *qc)
{
	Node	   *stmt = pstmt->utilityStmt;
	char	   *created = NULL;
	bool		ends_prepared = false;
	bool		rolls_back = false;

	/* Before it is executed, which may free the statement. */
	if (IsA(stmt, CreatedbStmt))
		created = pstrdup(((CreatedbStmt *) stmt)->dbname);
	else if (IsA(stmt, TransactionStmt))
	{
		rolls_back = ((TransactionStmt *) stmt)->kind == TRANS_STMT_ROLLBACK_PREPARED;
		ends_prepared = rolls_back ||
			((TransactionStmt *) stmt)->kind == TRANS_STMT_COMMIT_PREPARED;
	}
	before_statement(stmt);

	if (prev_process_utility_hook)
		prev_process_utility_hook(pstmt, query_string, read_only_tree, context,
								  params, query_env, dest, qc);
	else
		standard_ProcessUtility(pstmt, query_string, read_only_tree, context,
								params, query_env, dest, qc);

	if (created)
	{
		/* It may have been copied from one with the extension. */
		CommandCounterIncrement();
		database_poke_at_commit(get_database_oid(created, false));
	}
	if (ends_prepared)
	{
		commit_prepared(rolls_back);
		if (!database_running(MyDatabaseId) && extension_exists())
			database_poke_at_commit(MyDatabaseId);
	}
}

void
ddl_init(void)
{
	prev_process_utility_hook = ProcessUtility_hook;
	ProcessUtility_hook = queue_process_utility;
}
