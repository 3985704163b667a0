/*
 * receive.c
 *		Receive messages: receive, pop and peek.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xact.h"
#include "argument.h"
#include "compat.h"
#include "engine/claim.h"
#include "engine/deed.h"
#include "engine/frontier.h"
#include "engine/registry.h"
#include "engine/segment.h"
#include "engine/settle.h"
#include "engine/wait.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "stop_point.h"
#include "storage/bufmgr.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "utils/wait_event.h"

PG_FUNCTION_INFO_V1(queue_receive);
PG_FUNCTION_INFO_V1(queue_pop);
PG_FUNCTION_INFO_V1(queue_peek);

/* From libpq/libpq.h, which needs headers of GSSAPI that need not be there. */
extern bool pq_check_connection(void);

/* Longest sleep of a waiting receiver: messages that wake nobody are found that soon. */
#define WAIT_SLICE_MS	1000

static void
put_message(ReturnSetInfo *rsinfo, const Message *message)
{
	Datum		values[Natts_message_result];
	bool		isnull[Natts_message_result];

	message_result(message, values, isnull);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, isnull);
}

/* Prepare to return a set; the executor mostly knows its columns already. */
static void
begin_messages(FunctionCallInfo fcinfo)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	bool		known = rsinfo != NULL && IsA(rsinfo, ReturnSetInfo) && rsinfo->expectedDesc != NULL;

	InitMaterializedSRF(fcinfo, known ? MAT_SRF_USE_EXPECTED_DESC : 0);
}

/* Return messages to the caller as a set. */
static void
return_messages(FunctionCallInfo fcinfo, const Message *messages, int n)
{
	begin_messages(fcinfo);
	for (int i = 0; i < n; i++)
		put_message((ReturnSetInfo *) fcinfo->resultinfo, &messages[i]);
}

/* Sleep until woken, until this time, or for a slice. */
static void
sleep_until(TimestampTz when)
{
	long		timeout = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), when);

	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 Min(timeout, WAIT_SLICE_MS), PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* End the session if its client has gone: it must not be given a message. */
static void
check_client(void)
{
	if (MyProcPort == NULL || !WaitEventSetCanReportClosed() || pq_check_connection())
		return;
	ereport(FATAL,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("connection to client lost")));
}

/*
 * Claim messages, waiting for the first one up to wait microseconds.  lease:
 * in microseconds from the moment of the claim, -1 for the queue's own.
 */
static int
claim_or_wait(FunctionCallInfo fcinfo, LeaseKind kind, int64 lease, int64 wait,
			  int max, Message **messages)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext attempt = AllocSetContextCreate(caller, "queue receive", ALLOCSET_DEFAULT_SIZES);
	int			pending = deeds_count();
	TimestampTz deadline = 0;
	int			n;

	for (;;)
	{
		/* By name each time: the queue may have been dropped meanwhile. */
		Queue	   *queue = queue_by_name(argument_text(fcinfo, 0, "queue"), ACL_SELECT | ACL_DELETE);
		QueueShared *q = queue->shared;
		TimestampTz now = GetCurrentTimestamp();
		TimestampTz next;

		/*
		 * In the list of those who wait before the claim, or a wake-up is
		 * missed.
		 */
		if (wait > 0 && deadline != 0)
		{
			check_client();
			wait_begin(&q->waiters);
		}
		MemoryContextReset(attempt);
		MemoryContextSwitchTo(attempt);
		n = claim_messages(queue, kind, lease >= 0 ? lease : queue->settings.lease, max,
						   CLAIM_UNLIMITED, messages);
		MemoryContextSwitchTo(caller);
		if (n > 0 || wait == 0 || (deadline != 0 && now >= deadline))
			break;

		/*
		 * The claim has settled an overdue lease.  Waiting for a message with
		 * the locks of that would keep others from theirs.
		 */
		if (deeds_count() > pending)
			break;
		if (deadline == 0)
		{
			deadline = now + wait;
			continue;
		}
		STOP_POINT("receive-sleep");
		next = claim_next_look(q);
		sleep_until(Min(deadline, next));
	}
	wait_end(n > 0);
	return n;
}

Datum
queue_receive(PG_FUNCTION_ARGS)
{
	int			max = argument_integer(fcinfo, 1, "max_messages", 1);
	int64		lease;
	int64		wait = argument_duration(fcinfo, 3, "wait", 0, 0);
	Message    *messages;
	int			n;

	PreventCommandDuringRecovery("queue.receive()");
	lease = argument_duration(fcinfo, 2, "lease", 1, -1);
	n = claim_or_wait(fcinfo, LEASE_TIMED, lease, wait, max, &messages);
	return_messages(fcinfo, messages, n);
	return (Datum) 0;
}

Datum
queue_pop(PG_FUNCTION_ARGS)
{
	int			max = argument_integer(fcinfo, 1, "max_messages", 1);
	int64		wait = argument_duration(fcinfo, 2, "wait", 0, 0);
	SettleTable table = {0};
	Message    *messages;
	int			n;
	int			popped = 0;

	PreventCommandIfReadOnly("queue.pop()");
	PreventCommandIfParallelMode("queue.pop()");
	n = claim_or_wait(fcinfo, LEASE_TRANSACTION, 0, wait, max, &messages);
	for (int i = 0; i < n; i++)
	{
		/* Plain SQL may have deleted the message the moment before. */
		if (!settle_ack_lease(lease_of_receipt(messages[i].receipt), &table))
			continue;
		messages[popped] = messages[i];
		messages[popped++].receipt = 0;
	}
	settle_close(&table);
	return_messages(fcinfo, messages, popped);
	return (Datum) 0;
}

/*
 * Return a segment's unleased messages, from its first undrained block on; of
 * the queue's own table, where space is used again, from the first block on.
 */
static int
peek_segment(QueueShared *q, int segno, Snapshot snapshot, ReturnSetInfo *rsinfo, int n, int max)
{
	Relation	rel = segment_open(q, segno, AccessShareLock);

	if (rel == NULL)
		return n;
	for (BlockNumber block = (segno == 0) ? 0 : q->segments[segno].drained;
		 n < max && block < RelationGetNumberOfBlocks(rel); block++)
	{
		HeapTuple	tuples[MaxHeapTuplesPerPage];
		int			ntuples = frontier_page_tuples(rel, block, snapshot, true, tuples);

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < ntuples && n < max; i++, n++)
		{
			Message		message;

			(void) message_deform(&message_columns, tuples[i], RelationGetDescr(rel), &message);
			message.attempts = 1;
			put_message(rsinfo, &message);
		}
	}
	relation_close(rel, AccessShareLock);
	return n;
}

Datum
queue_peek(PG_FUNCTION_ARGS)
{
	int			max = argument_integer(fcinfo, 1, "max_messages", 1);
	Queue	   *queue = queue_by_name(argument_text(fcinfo, 0, "queue"), ACL_SELECT);
	QueueShared *q = queue->shared;
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	uint8		order[QUEUE_MAX_SEGMENTS];
	int			norder;
	int			n = 0;

	begin_messages(fcinfo);
	LWLockAcquire(&q->lock, LW_SHARED);
	norder = q->lane.nscan;
	memcpy(order, q->lane.scan_order, norder);
	LWLockRelease(&q->lock);

	for (int i = 0; i < norder && n < max; i++)
		n = peek_segment(q, order[i], snapshot, (ReturnSetInfo *) fcinfo->resultinfo, n, max);
	UnregisterSnapshot(snapshot);
	return (Datum) 0;
}
