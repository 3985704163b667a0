/*
 * lease.c
 *		Leases: taken, given back, settled, moved.
 *
 * What a transaction did to leases is undone or finished at its end
 * (lease_end.c) from a list kept by this backend (deed.c).
 */
#include "postgres.h"

#include "engine/deed.h"
#include "engine/keys.h"
#include "engine/lease.h"
#include "engine/lease_account.h"
#include "miscadmin.h"

void
lease_reserve(void)
{
	deed_reserve();
}

LeaseTaking
lease_take(QueueShared *q, const LeasePlace *place, int64 id, int attempts, LeaseKind kind,
		   TimestampTz now, TimestampTz expires_at, int key, Limits *limits, LeaseRef *ref)
{
	int			queue = QueueIndex(q);
	int			bucket = leased_place_lock(queue, place, id);
	int			slotno;
	LeaseSlot  *slot;

	if (leased_place_find(bucket, queue, place, id) >= 0)
	{
		leased_place_unlock(bucket);
		return LEASE_TAKEN_ALREADY;
	}
	if (!limit_enter(q, limits))
	{
		leased_place_unlock(bucket);
		return LEASE_LIMITED;
	}
	slotno = slot_take();
	if (slotno < 0)
	{
		leased_place_unlock(bucket);
		if (limit_leave(q))
			limit_wake(q);
		return LEASE_NONE_FREE;
	}

	/* Owned: its word is FREE, set before free_mutex gave it to us. */
	slot = &leases->slots[slotno];
	slot->id = id;
	slot->queue = queue;
	slot->current = 0;
	slot->key = key;
	slot_begin(slot, attempts, kind, now, expires_at);
	leased_place_put(bucket, slot_entry(slotno, 0), queue, place, id);
	leased_place_unlock(bucket);

	if (unlikely(key >= 0))
		key_enter(key, slotno);
	slot_count_in_segment(slotno, 0, 1);
	account_count(queue, 1);
	*ref = slot_announce(slotno);
	return LEASE_TAKEN;
}

/*
 * Give a held lease back; if its message is being moved, finish_move does so
 * (LEAVING).  False if the lease has ended.
 */
bool
lease_release(LeaseRef ref)
{
	for (;;)
	{
		uint64		word;

		if (slot_seize(ref, LEASE_BUSY, false))
		{
			slot_hand_back(ref);
			return true;
		}
		if (slot_change_state(ref, LEASE_MOVING, LEASE_LEAVING))
			return true;

		/* The move can have ended between the two attempts, so try again. */
		word = pg_atomic_read_u64(&slot_of(ref)->word);
		if (word != REF_WORD(ref, LEASE_HELD) && word != REF_WORD(ref, LEASE_BUSY) &&
			word != REF_WORD(ref, LEASE_MOVING))
			return false;
	}
}

/*
 * The leases of the same key taken after one that is held or being settled, in
 * that order, into an array palloc'd; returns how many.
 */
static int
later_leases(LeaseRef ref, LeaseRef **later)
{
	int			key = slot_of(ref)->key;
	int			max = key_leased(key);
	int		   *slots = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(int) * (Size) max);
	int			n = key_later(key, REF_SLOTNO(ref), slots, max);
	int			kept = 0;

	*later = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(LeaseRef) * (Size) max);
	for (int i = 0; i < n; i++)
	{
		Lease		lease;

		/* A lease that has ended since can have left its slot to another key. */
		if (lease_get(slots[i], &lease) && lease.key == key)
			(*later)[kept++] = lease.ref;
	}
	pfree(slots);
	return kept;
}

void
lease_end_run(LeaseRef ref)
{
	LeaseRef   *later;
	int			n;
	Lease		lease;

	if (slot_of(ref)->key < 0)
		return;
	n = later_leases(ref, &later);
	for (int i = 0; i < n; i++)
	{
		if (lease_begin_settle(later[i], &lease))
			lease_mark(later[i], LEASE_HANDED_BACK);
		else
		{
			/* Another transaction is settling it, and may be rolled back. */
			lease_reserve();
			(void) deed_add(later[i], LEASE_DID_DOOM);
		}
	}
	pfree(later);
}

bool
lease_release_run(const Lease *lease)
{
	LeaseRef   *later = NULL;
	int			n = 0;

	if (lease->key >= 0)
		n = later_leases(lease->ref, &later);
	if (!lease_release(lease->ref))
		return false;
	for (int i = 0; i < n; i++)
		(void) lease_release(later[i]);
	return true;
}

void
lease_drop(LeaseRef ref)
{
	LeaseDeed  *deed = deed_latest(ref);

	if (deed == NULL)
		return;

	/* A lease just taken can have ended already, if it is timed. */
	if (deed->action == LEASE_DID_TAKE && !slot_seize(ref, LEASE_BUSY, false))
		return;
	deed_forget(ref);
	slot_free(ref);
}

void
lease_give_back(LeaseRef ref)
{
	LeaseDeed  *deed = deed_latest(ref);

	if (deed != NULL && deed->action == LEASE_DID_TAKE && lease_release(ref))
		deed_forget(ref);
}

bool
lease_take_returned(QueueShared *q, Lease *lease)
{
	int			slotno = account_take_returned(QueueIndex(q));
	LeaseRef	ref;

	if (slotno < 0)
		return false;

	/* Off the list it is owned; the list's mutex has published the word. */
	ref = slot_current_ref(slotno);
	slot_set_state(ref, LEASE_CHECKING);
	(void) deed_add(ref, LEASE_DID_CHECK);
	slot_copy(ref, LEASE_CHECKING, lease);
	return true;
}

bool
lease_renew(LeaseRef *ref, int attempts, LeaseKind kind, TimestampTz now, TimestampTz expires_at,
			Limits *limits)
{
	if (deed_latest(*ref) == NULL || !limit_enter(slot_queue(slot_of(*ref)), limits))
		return false;
	(void) deed_forget(*ref);
	slot_begin(slot_of(*ref), attempts, kind, now, expires_at);
	*ref = slot_announce(REF_SLOTNO(*ref));
	return true;
}

void
lease_put_back(LeaseRef ref)
{
	if (deed_forget(ref))
		slot_return(ref);
}

void
lease_expire_returned(LeaseRef ref)
{
	LeaseSlot  *slot = slot_of(ref);

	if (!deed_forget(ref))
		return;
	slot->over = false;
	slot->kind = LEASE_TIMED;
	slot->retries = 0;
	slot->expires_at = GetCurrentTimestamp();
	pg_atomic_fetch_add_u32(&leases->timed, 1);
	(void) slot_set_held(REF_SLOTNO(ref));
	slot_notice_expiry(slot);
}

void
lease_remove_returned(LeaseRef ref)
{
	if (deed_forget(ref))
		(void) deed_add(ref, LEASE_DID_REMOVE);
}

Oid
lease_queue(LeaseRef ref)
{
	QueueShared *q;
	Oid			relid;
	uint64		word;

	if (ref == 0)
		return InvalidOid;

	/* A hint: to settle a lease, its slot is seized. */
	q = slot_queue(slot_of(ref));
	relid = (q->dboid == MyDatabaseId) ? q->relid : InvalidOid;

	/*
	 * Pairs with slot_free, which changes the word before the slot can be
	 * another lease's: if this one has not ended by now, what we read was
	 * its.
	 */
	pg_read_barrier();
	word = pg_atomic_read_u64(&slot_of(ref)->word);
	if (word == REF_WORD(ref, LEASE_HELD) || word == REF_WORD(ref, LEASE_MOVING) ||
		word == REF_WORD(ref, LEASE_BUSY))
		return relid;
	return InvalidOid;
}

bool
lease_begin_settle(LeaseRef ref, Lease *lease)
{
	lease_reserve();
	if (!slot_seize(ref, LEASE_SETTLING, true))
		return false;
	(void) deed_add(ref, LEASE_DID_SETTLE);
	slot_copy(ref, LEASE_SETTLING, lease);
	return true;
}

bool
lease_begin_expire(LeaseRef ref, TimestampTz now, Lease *lease)
{
	lease_reserve();
	if (!slot_seize(ref, LEASE_BUSY, false))
		return false;
	slot_copy(ref, LEASE_SETTLING, lease);
	if (lease->kind != LEASE_TIMED || lease->expires_at > now)
	{
		slot_set_state(ref, LEASE_HELD);
		return false;
	}
	slot_set_state(ref, LEASE_SETTLING);
	deed_add(ref, LEASE_DID_SETTLE)->ended = true;
	return true;
}

void
lease_mark(LeaseRef ref, LeaseOutcome outcome)
{
	LeaseDeed  *deed = deed_latest(ref);

	if (deed == NULL)
		return;
	deed->outcome = outcome;

	/* Its receipt is void, and stays so if the transaction aborts. */
	if (outcome == LEASE_EXPIRED && slot_leave_flight(slot_of(ref)))
		limit_wake(slot_queue(slot_of(ref)));
}

void
lease_cancel_settle(LeaseRef ref, TimestampTz expires_at)
{
	if (deed_forget(ref))
		slot_set_expiry(ref, expires_at);
}

void
lease_retry_expiry(LeaseRef ref, TimestampTz when)
{
	LeaseSlot  *slot = slot_of(ref);

	if (!slot_seize(ref, LEASE_BUSY, false))
		return;
	slot->retries++;

	/* Not before the time to which the consumer may have extended it. */
	slot_set_expiry(ref, Max(when, slot->expires_at));
}

bool
lease_extend(LeaseRef ref, TimestampTz expires_at)
{
	if (!slot_seize(ref, LEASE_BUSY, true))
		return false;
	if (slot_of(ref)->kind != LEASE_TIMED)
	{
		slot_set_state(ref, LEASE_HELD);
		return false;
	}
	slot_of(ref)->retries = 0;
	slot_set_expiry(ref, expires_at);
	return true;
}

bool
lease_begin_move(LeaseRef ref, Lease *lease)
{
	lease_reserve();
	if (!slot_change_state(ref, LEASE_HELD, LEASE_MOVING))
		return false;
	(void) deed_add(ref, LEASE_DID_MOVE);
	slot_copy(ref, LEASE_MOVING, lease);
	return true;
}

void
lease_move(LeaseRef ref, const LeasePlace *place)
{
	LeaseSlot  *slot = slot_of(ref);
	LeaseDeed  *deed = deed_latest(ref);
	int			which = 1 - slot->current;

	if (deed == NULL || deed->moved)
		return;
	leased_place_enter(slot_entry(REF_SLOTNO(ref), which), slot->queue, place, slot->id);
	slot_count_in_segment(REF_SLOTNO(ref), which, 1);
	deed->moved = true;
}

bool
lease_forget_queue(QueueShared *q)
{
	LeaseCursor cursor = 0;
	Lease		lease;
	bool		all = true;
	int			slotno;

	while ((slotno = account_take_returned(QueueIndex(q))) >= 0)
		slot_free(slot_current_ref(slotno));
	while (lease_next(&cursor, &lease))
	{
		if (lease.q != q)
			continue;
		if (slot_change_state(lease.ref, LEASE_HELD, LEASE_BUSY))
			slot_free(lease.ref);
		else
			all = false;
	}
	return all;
}
