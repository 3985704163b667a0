/*
 * settle.c
 *		Settle and extend leases: the functions that take a receipt, and release.
 */
#include "postgres.h"

#include "access/xact.h"
#include "argument.h"
#include "compat.h"
#include "engine/lease.h"
#include "engine/registry.h"
#include "engine/settle.h"
#include "engine/tables.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(queue_ack);
PG_FUNCTION_INFO_V1(queue_ack_batch);
PG_FUNCTION_INFO_V1(queue_nack);
PG_FUNCTION_INFO_V1(queue_nack_batch);
PG_FUNCTION_INFO_V1(queue_reject);
PG_FUNCTION_INFO_V1(queue_extend);
PG_FUNCTION_INFO_V1(queue_extend_batch);
PG_FUNCTION_INFO_V1(queue_release);

/*
 * Raise 42501 unless the caller may settle this lease.  False if it has ended,
 * which is no error and tells nothing about the queue.  *checked is the queue
 * of the lease before, and of this one afterwards.
 */
static bool
check_receipt(LeaseRef ref, Oid *checked)
{
	Oid			relid = lease_queue(ref);

	if (!OidIsValid(relid))
		return false;
	if (relid != *checked && !queue_rights_known(relid, ACL_DELETE))
	{
		Queue	   *queue = queue_by_relid(relid);

		if (queue == NULL)
			return false;
		queue_check_rights(relid, NameStr(queue->name), ACL_DELETE);
	}
	*checked = relid;
	return true;
}

/* Raise an error where the transaction may not write. */
static void
check_writable(const char *function)
{
	PreventCommandIfReadOnly(function);
	PreventCommandIfParallelMode(function);
}

Datum
queue_ack(PG_FUNCTION_ARGS)
{
	LeaseRef	ref = lease_of_receipt(PG_GETARG_INT64(0));
	Oid			checked = InvalidOid;
	SettleTable table = {0};
	bool		acked;

	check_writable("queue.ack()");
	acked = check_receipt(ref, &checked) && settle_ack_lease(ref, &table);
	settle_close(&table);
	PG_RETURN_BOOL(acked);
}

/* The leases of the argument receipts, NULLs left out. */
static LeaseRef *
receipts_argument(FunctionCallInfo fcinfo, int *n)
{
	ArgumentArray receipts;
	LeaseRef   *refs;

	argument_array(fcinfo, 0, "receipts", NULL, &receipts);
	refs = palloc(sizeof(LeaseRef) * Max(receipts.n, 1));
	*n = 0;
	for (int i = 0; i < receipts.n; i++)
	{
		if (!receipts.isnull[i])
			refs[(*n)++] = lease_of_receipt(DatumGetInt64(receipts.values[i]));
	}
	return refs;
}

Datum
queue_ack_batch(PG_FUNCTION_ARGS)
{
	int			n;
	LeaseRef   *refs = receipts_argument(fcinfo, &n);
	Oid			checked = InvalidOid;
	SettleTable table = {0};
	int			acked = 0;

	check_writable("queue.ack_batch()");
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (check_receipt(refs[i], &checked) && settle_ack_lease(refs[i], &table))
			acked++;
	}
	settle_close(&table);
	PG_RETURN_INT32(acked);
}

/* The arguments delay and error of nack. */
static void
nack_arguments(FunctionCallInfo fcinfo, Failure *failure)
{
	memset(failure, 0, sizeof(Failure));
	failure->wait = true;
	failure->delay = argument_duration(fcinfo, 1, "delay", 0, -1);
	if (!PG_ARGISNULL(2))
		failure->error = text_to_cstring(PG_GETARG_TEXT_PP(2));
}

/* Fail one message, or several, as the caller may. */
static int
nack(const LeaseRef *refs, int n, const Failure *failure)
{
	Oid			checked = InvalidOid;
	SettleTable table = {0};
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext each = AllocSetContextCreate(caller, "queue nack", ALLOCSET_DEFAULT_SIZES);
	int			nfailed = 0;

	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();

		/* All messages together can be larger than memory. */
		MemoryContextSwitchTo(each);
		if (check_receipt(refs[i], &checked) && settle_fail_lease(refs[i], failure, &table))
			nfailed++;
		MemoryContextSwitchTo(caller);
		MemoryContextReset(each);
	}
	settle_close(&table);
	MemoryContextDelete(each);
	return nfailed;
}

Datum
queue_nack(PG_FUNCTION_ARGS)
{
	Failure		failure;
	LeaseRef	ref;

	check_writable("queue.nack()");
	nack_arguments(fcinfo, &failure);
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	ref = lease_of_receipt(PG_GETARG_INT64(0));
	PG_RETURN_BOOL(nack(&ref, 1, &failure) == 1);
}

Datum
queue_nack_batch(PG_FUNCTION_ARGS)
{
	Failure		failure;
	LeaseRef   *refs;
	int			n;

	check_writable("queue.nack_batch()");
	nack_arguments(fcinfo, &failure);
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	refs = receipts_argument(fcinfo, &n);
	PG_RETURN_INT32(nack(refs, n, &failure));
}

Datum
queue_reject(PG_FUNCTION_ARGS)
{
	Failure		failure = {.dead = true,.wait = true,.reason = "rejected"};
	LeaseRef	ref;

	check_writable("queue.reject()");
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	if (!PG_ARGISNULL(1))
		failure.reason = text_to_cstring(PG_GETARG_TEXT_PP(1));
	ref = lease_of_receipt(PG_GETARG_INT64(0));
	PG_RETURN_BOOL(nack(&ref, 1, &failure) == 1);
}

/* Extend one lease, or several, as the caller may. */
static int
extend(FunctionCallInfo fcinfo, const LeaseRef *refs, int n)
{
	Oid			checked = InvalidOid;
	int64		lease = argument_duration(fcinfo, 1, "lease", 1, -1);
	int			extended = 0;

	for (int i = 0; i < n; i++)
	{
		Queue	   *queue;
		TimestampTz expires_at;

		if (!check_receipt(refs[i], &checked) || (queue = queue_by_relid(checked)) == NULL)
			continue;
		expires_at = GetCurrentTimestamp() + (lease > 0 ? lease : queue->settings.lease);
		if (lease_extend(refs[i], expires_at))
			extended++;
	}
	return extended;
}

Datum
queue_extend(PG_FUNCTION_ARGS)
{
	LeaseRef	ref;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	ref = lease_of_receipt(PG_GETARG_INT64(0));
	PG_RETURN_BOOL(extend(fcinfo, &ref, 1) == 1);
}

Datum
queue_extend_batch(PG_FUNCTION_ARGS)
{
	LeaseRef   *refs;
	int			n;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	refs = receipts_argument(fcinfo, &n);
	PG_RETURN_INT32(extend(fcinfo, refs, n));
}

/* queue.release: (queue, id). */
Datum
queue_release(PG_FUNCTION_ARGS)
{
	text	   *queue_name;
	char	   *name;
	Queue	   *queue;
	Lease		lease;

	PreventCommandDuringRecovery("queue.release()");
	queue_name = argument_text(fcinfo, 0, "queue");
	argument_required(fcinfo, 1, "id");
	name = text_to_cstring(queue_name);
	queue = queue_by_name(queue_name, ACL_NO_RIGHTS);
	queue_check_owner(queue->relid, name);

	if (!lease_find(queue->shared, PG_GETARG_INT64(1), &lease))
		PG_RETURN_BOOL(false);
	if (lease.kind == LEASE_PROCESS)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("message " INT64_FORMAT " of queue \"%s\" is in the hands of a relay", lease.id, name),
				 errhint("Pause the relay with queue.pause_relay().")));
	if (lease.kind != LEASE_TIMED)
		PG_RETURN_BOOL(false);
	PG_RETURN_BOOL(queue->settings.ordered ? lease_release_run(&lease) : lease_release(lease.ref));
}
