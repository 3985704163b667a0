/*
 * claim.c
 *		Take messages from a queue: what receive, pop and the relays share.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "engine/claim.h"
#include "engine/deferred.h"
#include "engine/due.h"
#include "engine/extension.h"
#include "engine/frontier.h"
#include "engine/keys.h"
#include "engine/lease_account.h"
#include "engine/leased.h"
#include "engine/overdue.h"
#include "engine/round.h"
#include "engine/settle.h"
#include "engine/turn.h"
#include "guc.h"
#include "miscadmin.h"
#include "stop_point.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* How often waiters search again while a transaction holds messages up. */
#define LOOK_INTERVAL_MS	100

/* And how often at least while a limit does: it can be changed. */
#define LIMIT_INTERVAL_MS	1000

/* How this process's last search ended. */
static Limits last_limits;

/*
 * Take the oldest returned lease, unless the element is another queue's by
 * now: under the queue's lock that is certain.
 */
static bool
take_returned(ClaimScan *scan, Lease *lease)
{
	QueueShared *q = scan->q;
	bool		taken;

	lease_reserve();
	LWLockAcquire(&q->lock, LW_SHARED);
	taken = pg_atomic_read_u32(&q->generation) == scan->generation &&
		lease_take_returned(q, lease);
	LWLockRelease(&q->lock);
	return taken;
}

/*
 * Look at the message of a returned lease.  The transaction that gave it back
 * has ended, though the claim's snapshot may be too old to show that: to let it
 * wait for that would let those go first that were given back behind it.
 */
static Verdict
fetch_returned(ClaimScan *scan, Relation rel, Lease *lease, HeapTuple *tuple)
{
	Verdict		verdict = leased_fetch(rel, lease, scan->snapshot, tuple);

	if (verdict == VERDICT_WAIT)
	{
		Snapshot	latest = RegisterSnapshot(GetLatestSnapshot());

		verdict = leased_fetch(rel, lease, latest, tuple);
		UnregisterSnapshot(latest);
	}
	return verdict;
}

/*
 * Lease again the returned leases whose messages are still there.  Those whose
 * messages wait for a transaction are put back in the end: they would be the
 * first again.
 */
static void
claim_returned(ClaimScan *scan)
{
	QueueShared *q = scan->q;
	int			n = lease_count_returned(q);
	LeaseRef   *waiting;
	int			nwaiting = 0;
	Lease		lease;

	if (n == 0)
		return;
	waiting = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(LeaseRef) * (Size) n);
	for (; n > 0 && !scan_full(scan) && take_returned(scan, &lease); n--)
	{
		bool		deferred = (lease.place.segment == LEASE_IN_DEFERRED);
		Relation	rel;
		HeapTuple	tuple;
		Verdict		verdict = VERDICT_DEAD;
		bool		waits;

		rel = deferred ? try_relation_open(lease.place.relid, AccessShareLock) :
			scan_open(scan, lease.place.segment);
		if (rel != NULL)
			verdict = fetch_returned(scan, rel, &lease, &tuple);
		waits = (verdict == VERDICT_LIVE && !lease.over && turns_return(scan, rel, &lease, tuple));
		if (rel != NULL && deferred)
			relation_close(rel, AccessShareLock);
		STOP_POINT("claim-checked");
		if (waits)
			continue;
		if (verdict == VERDICT_LIVE && lease.over)
			lease_expire_returned(lease.ref);
		else if (verdict == VERDICT_LIVE &&
				 lease_renew(&lease.ref, lease.attempts, scan->kind, scan->now, scan->expires_at,
							 &scan->limits))
		{
			scan_add_claim(scan, lease.ref, lease.id, lease.attempts,
						   lease.place.segment)->tuple = tuple;
			if (counter_read(&q->counters, COUNTER_READY) > 0)
				counter_add(&q->counters, COUNTER_READY, -1);
		}
		else if (verdict == VERDICT_WAIT || verdict == VERDICT_LIVE)
			waiting[nwaiting++] = lease.ref;
		else
			lease_drop(lease.ref);
	}

	/* The last one first, as deeds are looked for from the latest on. */
	while (nwaiting > 0)
		lease_put_back(waiting[--nwaiting]);
	pfree(waiting);

	/* What a limit keeps from being taken was out of sight meanwhile. */
	if (scan->limits.stopped)
		wake_waiters(&q->waiters, 1);
}

static int
compare_claims(const void *a, const void *b)
{
	int64		x = ((const Claim *) a)->id;
	int64		y = ((const Claim *) b)->id;

	return (x > y) - (x < y);
}

/*
 * The lease of a claim has ended by now: in an ordered queue those claimed of
 * its key that follow it are not to go without it.
 */
static void
give_back_run(ClaimScan *scan, int first)
{
	for (int i = first + 1; i < scan->nclaims && scan->settings->ordered; i++)
	{
		if (scan->claims[i].keyed && scan->claims[i].hash == scan->claims[first].hash)
			lease_give_back(scan->claims[i].ref);
	}
}

/*
 * Make messages of the claimed tuples; returns how many.  Those beyond
 * max_bytes are given back, and those that cannot be read are set aside.
 */
static int
build_messages(ClaimScan *scan, Size max_bytes, Message **result)
{
	Message    *messages = MemoryContextAllocHuge(CurrentMemoryContext,
												  sizeof(Message) * Max(scan->nclaims, 1));
	Relation	deferred = NULL;
	Size		bytes = 0;
	bool		full = false;
	int			n = 0;

	STOP_POINT("claim-taken");
	for (int i = 0; i < scan->nclaims; i++)
	{
		Claim	   *claim = &scan->claims[i];
		bool		is_deferred = (claim->segment == LEASE_IN_DEFERRED);
		const char *unreadable = NULL;

		/* Large values take their time. */
		CHECK_FOR_INTERRUPTS();

		if (scan->keyed && !OidIsValid(lease_queue(claim->ref)))
		{
			if (claim->keyed)
				give_back_run(scan, i);
			continue;
		}
		if (scan->keyed && full)
		{
			lease_give_back(claim->ref);
			continue;
		}
		if (is_deferred && deferred == NULL)
			deferred = table_open(extension_relation("deferred"), AccessShareLock);
		if (claim->message != NULL)
			messages[n] = *claim->message;
		else
		{
			TupleDesc	desc = RelationGetDescr(is_deferred ? deferred : scan->rels[claim->segment]);

			/* Before it is detoasted, as a few bytes can stand for many. */
			if (max_bytes != CLAIM_UNLIMITED)
			{
				bytes += message_size(claim->tuple, desc);
				if (n > 0 && bytes > max_bytes)
				{
					full = true;
					lease_give_back(claim->ref);
					continue;
				}
			}
			unreadable = message_deform(is_deferred ? &deferred_columns : &message_columns,
										claim->tuple, desc, &messages[n]);
		}
		messages[n].attempts = claim->attempts;
		messages[n].receipt = lease_receipt(claim->ref);

		/* If that fails now, the expiry of a timed lease sets it aside. */
		if (unlikely(unreadable != NULL))
		{
			if ((XactReadOnly || !settle_unreadable(claim->ref, unreadable)) &&
				scan->kind != LEASE_TIMED)
				lease_give_back(claim->ref);
			continue;
		}
		n++;
	}
	if (deferred != NULL)
		table_close(deferred, AccessShareLock);
	*result = messages;
	return n;
}

/* Note how the search ends for claim_next_look. */
static void
end_search(ClaimScan *scan, int n)
{
	limit_end(scan->q, &scan->limits, n);
	last_limits = scan->limits;
	if (scan->limits.stopped && n == 0)
		wait_in_vain();
}

int
claim_messages(Queue *queue, LeaseKind kind, int64 lease, int max, Size max_bytes,
			   Message **messages)
{
	QueueShared *q = queue->shared;
	QueueSettings settings = queue->settings;
	ClaimScan	scan;
	bool		out_of_keys;
	int			n;

	/* A snapshot is needed at all times to fetch toasted values. */
	Assert(ActiveSnapshotSet());

	memset(&scan, 0, sizeof(scan));
	scan.q = q;
	scan.relid = queue->relid;
	scan.generation = queue->generation;
	scan.settings = &settings;
	scan.keyed = settings_limit_keys(&settings);
	if (scan.keyed)
	{
		scan.rule.claim = key_claim();
		scan.rule.ordered = settings.ordered;
		scan.rule.limit = settings_key_limit(&settings);
	}
	scan.kind = kind;
	scan.now = GetCurrentTimestamp();
	scan.expires_at = (kind == LEASE_TIMED) ? scan.now + lease : DT_NOEND;
	scan.max = Min(max, queue_max_leases);
	STOP_POINT("claim");
	limit_begin(q, &queue->settings, &scan.limits);
	if (limit_rate_stops(q, &scan.limits))
	{
		end_search(&scan, 0);
		*messages = NULL;
		return 0;
	}

	/*
	 * Not the caller's snapshot, which in REPEATABLE READ is too old to see
	 * what was sent since.
	 */
	scan.snapshot = RegisterSnapshot(GetLatestSnapshot());
	STOP_POINT("claim-snapshot");
	overdue_claim(queue, &scan);
	if (!limit_flight_stops(q, &scan.limits))
	{
		STOP_POINT("claim-allowed");
		claim_returned(&scan);
	}

	/* The allowance is for leases taken from here on. */
	scan.max = scan.nclaims + lease_allowance(q, scan.max - scan.nclaims);
	due_claim(&scan);

	/* Turns free keys, and what is in the segments may have one already. */
	out_of_keys = scan.out_of_keys;
	scan.out_of_keys = false;
	STOP_POINT("claim-due");
	turns_claim(&scan);
	while (!scan_full(&scan))
	{
		int			before = scan.nclaims;
		int			taken_back;

		frontier_claim(&scan);
		if (counter_add(&q->counters, COUNTER_READY, before - scan.nclaims) < 0)
			counter_write(&q->counters, COUNTER_READY, 0);
		taken_back = turns_check(&scan, before);
		turns_wake(&scan);

		/* Notes that have ended make keys ready, too. */
		if (taken_back == 0 && (!scan.keyed || keys_ready(q) == 0))
			break;
		turns_claim(&scan);
	}
	UnregisterSnapshot(scan.snapshot);

	if (scan.nclaims == 0 && scan.out_of_leases)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("all %d leases are in use", queue_max_leases),
				 errhint("Increase queue.max_leases, or acknowledge messages sooner.")));
	if (scan.nclaims == 0 && (scan.out_of_keys || out_of_keys))
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many keys have messages on lease or waiting"),
				 errhint("Increase queue.max_keys, now %d, or see queue.blocked_keys.",
						 queue_max_keys)));
	if (scan.max == 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("the queues of role \"%s\" have all the leases they may have",
						GetUserNameFromId(q->owner, false)),
				 errhint("Increase queue.max_leases_per_role, or acknowledge messages sooner.")));

	if (scan.nclaims > 1)
		qsort(scan.claims, scan.nclaims, sizeof(Claim), compare_claims);
	n = build_messages(&scan, max_bytes, messages);
	scan_close(&scan);
	end_search(&scan, n);

	if (n > 0)
	{
		pg_atomic_write_u64(&q->reader.last_enqueued_at, (*messages)[n - 1].enqueued_at);
		counter_add(&q->counters, COUNTER_RECEIVED, n);
		if (kind == LEASE_TIMED)
			maintenance_wake_by(MyDatabaseId, scan.expires_at);
	}
	return n;
}

TimestampTz
claim_next_look(QueueShared *q)
{
	TimestampTz due = bound_read(&q->next_due);
	TimestampTz overdue = lease_next_look(q);
	TimestampTz next = Min(due, overdue);
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz look = TimestampTzPlusMilliseconds(now, LOOK_INTERVAL_MS);

	/*
	 * What is there does not matter then, but when the rate allows the next
	 * message, or a lease has ended and can be taken over.
	 */
	if (last_limits.stopped)
	{
		next = last_limits.next_token != DT_NOEND ? last_limits.next_token :
			overdue <= now ? look : overdue;
		look = TimestampTzPlusMilliseconds(now, LIMIT_INTERVAL_MS);
		return Min(next, look);
	}

	/* What is due and could not be leased is held up by a transaction, too. */
	if (next <= now)
		return look;
	if (notes_any(&q->reader.notes) || lease_count_returned(q) > 0 || keys_ready(q) > 0)
		return Min(next, look);
	return next;
}
