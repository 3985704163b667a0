/*
 * settle.h
 *		End leases: acknowledge, fail, reject.  No check of rights here.
 *
 * Each works in the current transaction and takes effect at its commit.
 * Returns false, having done nothing, when the lease has ended.  Needs a
 * transaction that may write; locks the queue's table first, then the
 * message's.
 */
#ifndef QUEUE_ENGINE_SETTLE_H
#define QUEUE_ENGINE_SETTLE_H

#include "engine/lease.h"
#include "message.h"
#include "utils/relcache.h"

/* The table of the message settled last, kept open for the next. */
typedef struct SettleTable
{
	Relation	rel;
} SettleTable;

/* How the delivery of a message failed, and what is to become of it. */
typedef struct Failure
{
	int64		delay;			/* -1: back off */
	int			attempts;		/* 0: the lease's */
	int			max_attempts;	/* 0: the queue's */
	bool		dead;			/* whatever the attempts */
	bool		wait;			/* for a lock on the row or a table */
	TimestampTz expired_by;		/* the lease ended by then; 0: it did not */
	const char *reason;
	const char *error;
} Failure;

/*
 * Delete a message, or move it to where it is tried again or to the dead
 * letters.  table is zeroed before the first of a row of calls, and closed by
 * settle_close after the last.
 */
extern bool settle_ack_lease(LeaseRef ref, SettleTable *table);
extern bool settle_fail_lease(LeaseRef ref, const Failure *failure, SettleTable *table);
extern void settle_close(SettleTable *table);

/*
 * Count a failed attempt, whose number is attempts, 0 for the lease's.  The
 * message comes back after delay microseconds, -1 for the queue's back-off; or
 * if the number is max_attempts, 0 for the queue's, goes to the dead letters
 * with reason "max_attempts".
 */
extern bool settle_fail(int64 receipt, int64 delay, const char *error,
						int attempts, int max_attempts);

/* Set a message aside that cannot be read. */
extern bool settle_unreadable(LeaseRef ref, const char *error);

/*
 * The same as settle_fail_lease, with what became of the message.
 * FAILURE_LOCKED leaves the lease held, to be tried again after
 * SETTLE_RETRY_MS.
 */
typedef enum FailureResult
{
	FAILURE_ENDED,				/* the lease or its message was gone */
	FAILURE_LOCKED,				/* a lock was not free, and wait was false */
	FAILURE_DEFERRED,
	FAILURE_DEAD
} FailureResult;

/* Where a failed message went. */
typedef struct Failed
{
	Message		message;
	LeasePlace	place;			/* if deferred */
} Failed;

#define SETTLE_RETRY_MS		1000

extern FailureResult settle_failed(LeaseRef ref, const Failure *failure, SettleTable *table,
								   Failed *failed);

#endif							/* QUEUE_ENGINE_SETTLE_H */
