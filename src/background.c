/*
 * background.c
 *		Background workers: their role, and their transactions.
 */
#include "postgres.h"

#include "access/xact.h"
#include "background.h"
#include "miscadmin.h"
#include "storage/lwlock.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

static MemoryContext outer_context = NULL;

void
background_user(void)
{
	Oid			user;
	int			context;

	GetUserIdAndSecContext(&user, &context);
	if (user != GetAuthenticatedUserId() || context != 0)
		SetUserIdAndSecContext(GetAuthenticatedUserId(), 0);
}

void
background_begin(void)
{
	outer_context = CurrentMemoryContext;
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
}

void
background_end(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(outer_context);
}

ErrorData *
background_failed(MemoryContext context, bool report)
{
	ErrorData  *error;

	/* As autovacuum does when a table's turn fails. */
	HOLD_INTERRUPTS();
	MemoryContextSwitchTo(context);
	if (report)
		EmitErrorReport();
	error = CopyErrorData();
	LWLockReleaseAll();
	AbortOutOfAnyTransaction();
	FlushErrorState();
	MemoryContextSwitchTo(context);
	RESUME_INTERRUPTS();
	return error;
}
