/*
 * overdue.c
 *		Leases that ended and were not settled in time: receivers take them over.
 *
 * So expiry needs no worker.  A lease is overdue when its message would be due
 * again had its end been noticed at once, that is after the back-off.
 */
#include "postgres.h"

#include "access/xact.h"
#include "backoff.h"
#include "engine/deed.h"
#include "engine/lease_account.h"
#include "engine/overdue.h"
#include "engine/problem.h"
#include "engine/settle.h"
#include "guard.h"
#include "miscadmin.h"
#include "stop_point.h"
#include "utils/timestamp.h"

/* Overdue leases that one claim takes over, at most. */
#define OVERDUE_BATCH	500

/* How soon a lease that could not be settled is tried again, at first and at last. */
#define TROUBLE_FIRST_MS	5000
#define TROUBLE_LAST_MS		300000

const char	overdue_activity[] = "settling expired leases";
const char	overdue_error[] = "lease expired";

void
overdue_report_trouble(const Lease *lease, const ErrorData *error)
{
	int64		delay = backoff_delay(lease->retries + 1, TROUBLE_FIRST_MS, TROUBLE_LAST_MS);
	TimestampTz retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), delay);
	Lease		now;

	/* By id, as undoing the attempt has given the lease another ref. */
	if (lease_find(lease->q, lease->id, &now))
		lease_retry_expiry(now.ref, retry_at);
	problem_report(lease->q->relid, overdue_activity, error->sqlerrcode, error->message, retry_at);
	if (lease->retries == 0)
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("could not settle the expired lease of message " INT64_FORMAT " in table %u: %s",
						lease->id, lease->place.relid, error->message)));
}

/* When a lease's message would be due again, had its expiry been noticed at once. */
static TimestampTz
overdue_at(const Lease *lease, void *arg)
{
	Queue	   *queue = arg;

	if (lease->attempts >= queue->settings.max_attempts)
		return lease->expires_at;
	return lease->expires_at +
		backoff_delay(lease->attempts, queue->settings.backoff, queue->settings.backoff_max);
}

typedef struct TakeOver
{
	ClaimScan  *scan;
	LeaseRef	ref;
	bool		nothing;		/* was done, */
	bool		locked;			/* because a lock was not free */
} TakeOver;

/* Count a lease's end as a failure, and lease its message to the scan's caller. */
static void
take_over(void *arg)
{
	TakeOver   *this = arg;
	ClaimScan  *scan = this->scan;
	const Failure failure = {.expired_by = scan->now,.error = overdue_error};
	Failed	   *failed = palloc0(sizeof(Failed));
	SettleTable table = {0};
	LeaseRef	ref;
	int			pending = deeds_count();
	FailureResult result = settle_failed(this->ref, &failure, &table, failed);

	settle_close(&table);
	this->nothing = (deeds_count() == pending);
	this->locked = (result == FAILURE_LOCKED);

	/*
	 * If nothing was done, because a lock was not free or another process was
	 * first, an error releases the locks taken here: a waiting receiver must
	 * not hold them.
	 */
	if (this->nothing)
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("could not obtain lock on the message")));

	/* A message of a limited key waits for its turn, when others can see it. */
	if (result != FAILURE_DEFERRED || (scan->keyed && failed->message.key != NULL))
		return;

	/* So that this transaction can acknowledge the row inserted. */
	CommandCounterIncrement();
	lease_reserve();
	if (lease_take(scan->q, &failed->place, failed->message.id, failed->message.attempts + 1,
				   scan->kind, scan->now, scan->expires_at, -1, &scan->limits, &ref) == LEASE_TAKEN)
	{
		Claim	   *claim = scan_add_claim(scan, ref, failed->message.id,
										   failed->message.attempts + 1, LEASE_IN_DEFERRED);

		claim->message = &failed->message;
		claim->message->attempts++;
	}
}

void
overdue_claim(Queue *queue, ClaimScan *scan)
{
	QueueShared *q = scan->q;
	Lease	   *overdue;
	int			n;

	if (lease_next_look(q) > scan->now ||
		XactReadOnly || IsInParallelMode() || scan->nclaims >= scan->max)
		return;

	overdue = palloc(sizeof(Lease) * OVERDUE_BATCH);
	n = lease_overdue(q, scan->now, overdue_at, queue, overdue, OVERDUE_BATCH);
	STOP_POINT("expiry-found");
	for (int i = 0; i < n; i++)
	{
		TakeOver	this = {.scan = scan,.ref = overdue[i].ref};
		ErrorData  *error;

		CHECK_FOR_INTERRUPTS();
		if (scan_full(scan))
			break;				/* the rest is for the next receiver */
		if (lease_queue(this.ref) != queue->relid || guard_run(take_over, &this, &error))
			continue;
		if (this.locked)
			lease_retry_expiry(this.ref, TimestampTzPlusMilliseconds(scan->now, SETTLE_RETRY_MS));
		else if (!this.nothing)
			overdue_report_trouble(&overdue[i], error);
	}
	pfree(overdue);
}
