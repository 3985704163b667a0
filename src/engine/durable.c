/*
 * durable.c
 *		Commits of others that somebody is about to rely on.
 *
 * Who is told that a message was sent or accepted before acts on that: he does
 * not send it again, and tells whoever he has it from.  A crash must not take
 * an asynchronous commit back then.  As nothing is written for what was done
 * before, the caller's own commit may flush nothing.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "engine/durable.h"

void
durable_commit(TransactionId xid)
{
	XLogRecPtr	commit;

	if (synchronous_commit == SYNCHRONOUS_COMMIT_OFF || !TransactionIdIsNormal(xid) ||
		TransactionIdIsCurrentTransactionId(xid))
		return;
	commit = TransactionIdGetCommitLSN(xid);
	if (!XLogRecPtrIsInvalid(commit))
		XLogFlush(commit);
}
