/*
 * lease_search.c
 *		Leases by what they have in common.
 *
 * Each function reads all slots ever used, so none is called by every claim.  A
 * lease that it finds can have ended by the time it returns.
 */
#include "postgres.h"

#include "engine/lease.h"
#include "engine/lease_account.h"
#include "miscadmin.h"
#include "stop_point.h"
#include "storage/procarray.h"
#include "utils/timestamp.h"

bool
lease_find(QueueShared *q, int64 id, Lease *lease)
{
	LeaseCursor cursor = 0;

	while (lease_next(&cursor, lease))
	{
		if (lease->q == q && lease->id == id)
			return true;
	}
	return false;
}

static int
compare_leases(const void *a, const void *b)
{
	int64		x = ((const Lease *) a)->id;
	int64		y = ((const Lease *) b)->id;

	return (x > y) - (x < y);
}

int
lease_expired(TimestampTz now, Lease *expired, int max, TimestampTz *next)
{
	LeaseCursor cursor = 0;
	int			n = 0;

	*next = DT_NOEND;
	if (!lease_any_timed())
		return 0;
	while (n < max && lease_next(&cursor, &expired[n]))
	{
		Lease	   *lease = &expired[n];

		if (!lease_is_here(lease) || lease->state != LEASE_HELD || lease->kind != LEASE_TIMED)
			continue;
		if (lease->expires_at <= now)
			n++;
		else
			*next = Min(*next, lease->expires_at);
	}
	qsort(expired, n, sizeof(Lease), compare_leases);
	return n;
}

int
lease_overdue(QueueShared *q, TimestampTz now, LeaseDue due, void *arg, Lease *overdue, int max)
{
	TimestampTz next = DT_NOEND;
	LeaseCursor cursor = 0;
	Lease		lease;
	int			n = 0;

	/*
	 * The bound is raised before the slots are read: a process that takes a
	 * lease meanwhile lowers it again, or we see the lease (lease_look_by).
	 * Nothing in between can fail.  The leases that we return count too, as
	 * the caller may not come to all of them.
	 */
	(void) lease_raise_look(q);
	STOP_POINT("expiry-raised");
	while (lease_next(&cursor, &lease))
	{
		TimestampTz due_at;

		/* In another state it lowers the bound when it becomes HELD again. */
		if (lease.q != q ||
			lease.state != LEASE_HELD || lease.kind != LEASE_TIMED)
			continue;
		due_at = due(&lease, arg);
		next = Min(next, due_at);
		if (due_at <= now && n < max)
			overdue[n++] = lease;
	}
	STOP_POINT("expiry-searched");
	lease_look_by(q, next);
	qsort(overdue, n, sizeof(Lease), compare_leases);
	return n;
}

int
lease_in_segment(QueueShared *q, int segment, LeaseRef *refs, int max)
{
	LeaseCursor cursor = 0;
	Lease		lease;
	int			n = 0;

	while (n < max && lease_next(&cursor, &lease))
	{
		if (lease.state == LEASE_HELD &&
			lease.q == q && lease.place.segment == segment)
			refs[n++] = lease.ref;
	}
	return n;
}

typedef struct OwnLease
{
	int64		id;
	LeaseRef	ref;
} OwnLease;

static int
compare_own_leases(const void *a, const void *b)
{
	int64		x = ((const OwnLease *) a)->id;
	int64		y = ((const OwnLease *) b)->id;

	return (x > y) - (x < y);
}

static bool
is_own(const Lease *lease)
{
	return (lease->state == LEASE_HELD || lease->state == LEASE_MOVING) &&
		lease->kind == LEASE_PROCESS && lease->pid == MyProcPid;
}

void
lease_release_process(void)
{
	LeaseCursor cursor = 0;
	OwnLease   *own;
	Lease		lease;
	int			max = 0;
	int			n = 0;

	while (lease_next(&cursor, &lease))
		max += is_own(&lease);
	own = malloc(sizeof(OwnLease) * Max(max, 1));
	if (own == NULL)
		max = 0;

	cursor = 0;
	while (lease_next(&cursor, &lease))
	{
		if (!is_own(&lease))
			continue;
		if (n >= max)
		{
			/* Out of memory: give them back in any order. */
			(void) lease_release(lease.ref);
			continue;
		}
		own[n].id = lease.id;
		own[n++].ref = lease.ref;
	}
	if (n > 1)
		qsort(own, n, sizeof(OwnLease), compare_own_leases);
	for (int i = 0; i < n; i++)
		(void) lease_release(own[i].ref);
	free(own);
}

void
lease_sweep(void)
{
	LeaseCursor cursor = 0;
	Lease		lease;

	while (lease_next(&cursor, &lease))
	{
		/* There should be none, but it would stay out of reach for good. */
		if (lease_is_here(&lease) && lease.state == LEASE_HELD &&
			lease.kind == LEASE_PROCESS && BackendPidGetProc(lease.pid) == NULL)
			(void) lease_release(lease.ref);
	}
}
