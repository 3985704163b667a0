/*
 * lease_end.c
 *		What becomes of leases at the end of a transaction.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "engine/deed.h"
#include "engine/lease.h"
#include "engine/lease_account.h"
#include "engine/lease_end.h"
#include "storage/procarray.h"

/* The move is over: the lease keeps one of its places, or is given back if LEAVING. */
static void
finish_move(LeaseDeed *deed, bool arrived)
{
	LeaseSlot  *slot = slot_of(deed->ref);

	if (deed->moved)
	{
		int			left = arrived ? slot->current : 1 - slot->current;

		slot_leave_place(REF_SLOTNO(deed->ref), left);
		slot->current = 1 - left;
	}
	if (!slot_change_state(deed->ref, LEASE_MOVING, LEASE_HELD))
		slot_hand_back(deed->ref);
	else if (slot->kind == LEASE_TIMED)
		lease_look_by(slot_queue(slot), slot->expires_at);
}

/* Undo a deed, the transaction or subtransaction that did it having aborted. */
static void
undo(LeaseDeed *deed)
{
	LeaseSlot  *slot = slot_of(deed->ref);

	/* A lease that was only taken can have ended, and its slot be reused. */
	if (WORD_GENERATION(pg_atomic_read_u64(&slot->word)) != REF_GENERATION(deed->ref))
		return;

	switch (deed->action)
	{
		case LEASE_DID_TAKE:
			(void) lease_release(deed->ref);
			break;
		case LEASE_DID_CHECK:
		case LEASE_DID_REMOVE:
			slot_return(deed->ref);
			break;
		case LEASE_DID_SETTLE:
			if (deed->ended)
			{
				/* Under another generation: the receipt stays void. */
				(void) slot_set_held(REF_SLOTNO(deed->ref));
				slot_notice_expiry(slot);
			}
			else if (slot->kind == LEASE_TIMED)
				slot_set_expiry(deed->ref, slot->expires_at);
			else
				slot_set_state(deed->ref, LEASE_HELD);

			/* Pairs with finish: it is HELD before this is read. */
			pg_memory_barrier();
			if (pg_atomic_read_u64(&slot->doomed) == REF_GENERATION(deed->ref))
				(void) lease_release(deed->ref);
			break;
		case LEASE_DID_DOOM:
			break;
		case LEASE_DID_MOVE:
			finish_move(deed, false);
			break;
	}
}

/*
 * Undo the latest deeds, from one on.  Leases that were taken are given back
 * in the order in which they were, after all that was done with them since.
 */
static void
undo_from(int first)
{
	int			n = deeds_count();

	for (int i = n - 1; i >= first; i--)
	{
		if (deed_get(i)->action != LEASE_DID_TAKE)
			undo(deed_get(i));
	}
	for (int i = first; i < n; i++)
	{
		if (deed_get(i)->action == LEASE_DID_TAKE)
			undo(deed_get(i));
	}
	deeds_truncate(first);
}

/* Note in a lease taken by this transaction that the transaction is prepared. */
static void
mark_prepared(LeaseRef ref)
{
	LeaseSlot  *slot = slot_of(ref);

	if (slot_seize(ref, LEASE_BUSY, false))
	{
		slot->prepared = GetTopTransactionIdIfAny();
		slot_set_state(ref, LEASE_HELD);
	}
	else if (deed_latest(ref)->action == LEASE_DID_SETTLE)
		slot->prepared = GetTopTransactionIdIfAny();
}

/* Finish a deed, the transaction having committed or been prepared. */
static void
finish(LeaseDeed *deed, bool prepared)
{
	LeaseSlot  *slot = slot_of(deed->ref);
	QueueCounters *counters;

	if (WORD_GENERATION(pg_atomic_read_u64(&slot->word)) != REF_GENERATION(deed->ref))
		return;

	switch (deed->action)
	{
		case LEASE_DID_TAKE:
			if (prepared)
				mark_prepared(deed->ref);
			break;
		case LEASE_DID_CHECK:
			slot_return(deed->ref);
			break;
		case LEASE_DID_REMOVE:
			slot_free(deed->ref);
			break;
		case LEASE_DID_SETTLE:

			/*
			 * Whether a prepared transaction's message is gone is not decided
			 * yet; the receiver that takes the lease off the list judges its
			 * tuple.
			 */
			if (prepared)
			{
				/* An earlier transaction's delivery is over in any case. */
				slot->over = slot->prepared != GetTopTransactionIdIfAny() &&
					deed->outcome != LEASE_HANDED_BACK;
				slot_return(deed->ref);
				break;
			}
			if (deed->outcome == LEASE_HANDED_BACK)
			{
				slot_hand_back(deed->ref);
				break;
			}
			counters = &slot_queue(slot)->counters;
			if (deed->outcome == LEASE_ACKED)
				counter_add(counters, COUNTER_ACKED, 1);
			else if (deed->outcome != LEASE_GONE)
				counter_add(counters, COUNTER_FAILED, 1);
			if (deed->outcome == LEASE_EXPIRED)
				counter_add(counters, COUNTER_EXPIRED, 1);
			if (slot_place(REF_SLOTNO(deed->ref))->segment == LEASE_IN_DEFERRED)
				counter_add(counters, COUNTER_DEFERRED, -1);
			slot_free(deed->ref);
			break;
		case LEASE_DID_MOVE:
			finish_move(deed, true);
			break;
		case LEASE_DID_DOOM:

			/* Pairs with undo: it is HELD here, or doomed is seen there. */
			pg_atomic_write_u64(&slot->doomed, REF_GENERATION(deed->ref));
			pg_memory_barrier();
			(void) lease_release(deed->ref);
			break;
	}
}

void
lease_finish_prepared(void)
{
	for (int i = 0; i < leases->high_water; i++)
	{
		LeaseSlot  *slot = &leases->slots[i];
		Lease		lease;

		/* A hint, read again once the lease is seized. */
		TransactionId xid = slot->prepared;

		if (!TransactionIdIsValid(xid) || !lease_get(i, &lease) ||
			!lease_is_here(&lease) || TransactionIdIsInProgress(xid) ||
			!slot_seize(lease.ref, LEASE_BUSY, false))
			continue;
		if (slot->prepared == xid && !TransactionIdDidCommit(xid))
		{
			slot_hand_back(lease.ref);
			continue;
		}
		slot->prepared = InvalidTransactionId;
		slot_set_state(lease.ref, LEASE_HELD);
	}
}

static void
lease_xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PREPARE:
			for (int i = 0; i < deeds_count(); i++)
				finish(deed_get(i), event == XACT_EVENT_PREPARE);
			deeds_truncate(0);
			break;
		case XACT_EVENT_ABORT:
			undo_from(0);
			break;
		default:
			break;
	}
}

static void
lease_subxact_callback(SubXactEvent event, SubTransactionId subid,
					   SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_COMMIT_SUB)
		deeds_to_parent(subid, parent);
	else if (event == SUBXACT_EVENT_ABORT_SUB)
		undo_from(deeds_of_subtransaction(subid));
}

void
lease_end_init(void)
{
	RegisterXactCallback(lease_xact_callback, NULL);
	RegisterSubXactCallback(lease_subxact_callback, NULL);
}
