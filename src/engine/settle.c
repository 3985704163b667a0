/*
 * settle.c
 *		End leases: acknowledge, fail, reject.
 *
 * Settling brings the lease to SETTLING, checks that the message is still
 * where the lease says, and changes the tables in the current transaction;
 * the lease ends with its commit (lease.c).
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/relation.h"
#include "backoff.h"
#include "engine/dead_letter.h"
#include "engine/deferred.h"
#include "engine/extension.h"
#include "engine/leased.h"
#include "engine/registry.h"
#include "engine/settle.h"
#include "engine/tables.h"
#include "stop_point.h"
#include "storage/lmgr.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

/*
 * Lock a table for writing; false if it would have to wait and wait is false.
 */
static bool
lock_table(Oid relid, bool wait)
{
	if (!wait)
		return ConditionalLockRelationOid(relid, RowExclusiveLock);
	LockRelationOid(relid, RowExclusiveLock);
	return true;
}

void
settle_close(SettleTable *table)
{
	if (table->rel != NULL)
		relation_close(table->rel, NoLock);
	table->rel = NULL;
}

/*
 * Open the table a lease points into, for writing.  The queue's own is locked
 * first, the order of purge and drop.  NULL if it is gone or, which *locked
 * says, if it would have to wait and wait is false.
 */
static Relation
open_leased(const Lease *lease, bool wait, SettleTable *table, bool *locked)
{
	Oid			relid = lease->place.relid;

	*locked = false;
	if (table->rel != NULL && RelationGetRelid(table->rel) == relid)
		return table->rel;
	settle_close(table);
	if (!lock_table(lease->q->relid, wait) || !lock_table(relid, wait))
	{
		*locked = true;
		return NULL;
	}
	table->rel = try_relation_open(relid, NoLock);
	if (table->rel != NULL && lease->place.segment != LEASE_IN_DEFERRED &&
		!table_check(lease->q->relid, table->rel))
		settle_close(table);
	return table->rel;
}

bool
settle_ack_lease(LeaseRef ref, SettleTable *table)
{
	Lease		lease;
	Relation	rel;
	bool		locked;

	if (!lease_begin_settle(ref, &lease))
		return false;
	STOP_POINT("settle-begun");
	rel = open_leased(&lease, true, table, &locked);
	if (rel != NULL && leased_delete(rel, &lease, true, NULL) == TM_Ok)
		return true;
	lease_mark(ref, LEASE_GONE);
	return false;
}

FailureResult
settle_failed(LeaseRef ref, const Failure *failure, SettleTable *table, Failed *failed)
{
	Oid			relid = lease_queue(ref);
	Queue	   *queue;
	Lease		lease;
	Relation	rel;
	HeapTuple	tuple;
	Message    *message = &failed->message;
	const char *unreadable;
	TM_Result	result;
	bool		locked;

	if (!OidIsValid(relid) || (queue = queue_by_relid(relid)) == NULL)
		return FAILURE_ENDED;

	/* The queue too, or it could be dropped before the row is visible. */
	if (!lock_table(relid, failure->wait) ||
		!lock_table(extension_relation("deferred"), failure->wait) ||
		!lock_table(extension_relation("dead"), failure->wait))
		return FAILURE_LOCKED;

	/* The lock may have waited for alter(). */
	if ((queue = queue_by_relid(relid)) == NULL)
		return FAILURE_ENDED;
	if (!(failure->expired_by != 0 ? lease_begin_expire(ref, failure->expired_by, &lease) :
		  lease_begin_settle(ref, &lease)))
		return FAILURE_ENDED;
	STOP_POINT("settle-begun");
	lease_mark(ref, LEASE_GONE);

	rel = open_leased(&lease, failure->wait, table, &locked);
	if (rel == NULL)
	{
		if (!locked)
			return FAILURE_ENDED;
		lease_cancel_settle(ref, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), SETTLE_RETRY_MS));
		return FAILURE_LOCKED;
	}
	result = leased_delete(rel, &lease, failure->wait, &tuple);
	if (result == TM_BeingModified)
	{
		lease_cancel_settle(ref, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), SETTLE_RETRY_MS));
		return FAILURE_LOCKED;
	}
	if (result != TM_Ok)
		return FAILURE_ENDED;

	/* Deleted by this transaction, so its toasted values are still there. */
	unreadable = message_deform(lease.place.segment == LEASE_IN_DEFERRED ?
								&deferred_columns : &message_columns,
								tuple, RelationGetDescr(rel), message);
	message->attempts = failure->attempts > 0 ? failure->attempts : lease.attempts;
	lease_mark(ref, failure->expired_by != 0 ? LEASE_EXPIRED : LEASE_FAILED);

	if (unreadable != NULL)
		dead_letter_insert(queue, message, "unreadable", unreadable);
	else if (failure->dead)
		dead_letter_insert(queue, message, failure->reason, failure->error);
	else if (message->attempts >= (failure->max_attempts > 0 ? failure->max_attempts :
								   queue->settings.max_attempts))
		dead_letter_insert(queue, message, "max_attempts", failure->error);
	else
	{
		int64		delay = failure->delay >= 0 ? failure->delay :
			backoff_delay(message->attempts, queue->settings.backoff, queue->settings.backoff_max);

		failed->place.relid = extension_relation("deferred");
		failed->place.segment = LEASE_IN_DEFERRED;
		failed->place.due_at = GetCurrentTimestamp() + delay;
		if (queue->settings.ordered)
			lease_end_run(ref);
		deferred_insert(queue, message, failed->place.due_at, message->attempts,
						failure->error, &failed->place.tid);
		return FAILURE_DEFERRED;
	}
	if (queue->settings.block_on_dead)
		lease_end_run(ref);
	return FAILURE_DEAD;
}

bool
settle_fail_lease(LeaseRef ref, const Failure *failure, SettleTable *table)
{
	Failed		failed;

	return settle_failed(ref, failure, table, &failed) >= FAILURE_DEFERRED;
}

static bool
fail_one(LeaseRef ref, const Failure *failure)
{
	SettleTable table = {0};
	bool		result = settle_fail_lease(ref, failure, &table);

	settle_close(&table);
	return result;
}

bool
settle_fail(int64 receipt, int64 delay, const char *error, int attempts, int max_attempts)
{
	const Failure failure = {
		.delay = delay,.attempts = attempts,.max_attempts = max_attempts,.wait = true,.error = error
	};

	return fail_one(lease_of_receipt(receipt), &failure);
}

bool
settle_unreadable(LeaseRef ref, const char *error)
{
	const Failure failure = {.dead = true,.reason = "unreadable",.error = error};

	return fail_one(ref, &failure);
}
