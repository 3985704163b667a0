/*
 * lease_slot.c
 *		The slots that leases are kept in, and their states.
 *
 * A slot's state changes by compare-and-swap of its word, so that of an
 * acknowledgement, an expiry and an extension of the same lease only one
 * happens.  The process that has brought a slot out of HELD, or has taken it
 * off the free list or the list of returned leases, owns the slot: it alone
 * changes the other fields, until it makes the slot HELD, FREE or RETURNED.  A
 * hash on the message's place keeps it from being leased twice
 * (leased_place.c).
 */
#include "postgres.h"

#include "engine/deed.h"
#include "engine/keys.h"
#include "engine/lease_account.h"
#include "engine/lease_slot.h"
#include "engine/limit.h"
#include "engine/round.h"
#include "guc.h"
#include "miscadmin.h"
#include "storage/shmem.h"
#include "storage/spin.h"

/* The greatest generation a receipt can hold; no lease has generation 0. */
#define MAX_GENERATION	((UINT64CONST(1) << (RECEIPT_BITS - LEASE_SLOT_BITS)) - 1)

LeaseShared *leases = NULL;

Size
lease_shmem_size(void)
{
	return add_size(offsetof(LeaseShared, slots),
					mul_size(queue_max_leases, sizeof(LeaseSlot)));
}

void
lease_shmem_init(void)
{
	bool		found;

	leases = ShmemInitStruct("queue leases", lease_shmem_size(), &found);
	if (found)
		return;

	/* With new keys, receipts from before a restart stand for no lease. */
	if (!pg_strong_random(leases->receipt_keys, sizeof(leases->receipt_keys)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));
	leases->void_ref = receipt_decode(leases->receipt_keys, 0);

	SpinLockInit(&leases->free_mutex);
	leases->free_head = 0;
	leases->high_water = 0;
	pg_atomic_init_u32(&leases->timed, 0);
	for (int i = 0; i < queue_max_leases; i++)
	{
		LeaseSlot  *slot = &leases->slots[i];

		memset(slot, 0, sizeof(LeaseSlot));
		pg_atomic_init_u64(&slot->word, SLOT_WORD(0, LEASE_FREE));
		pg_atomic_init_u64(&slot->doomed, 0);
		slot->key = -1;
		slot->next = (i + 1 < queue_max_leases) ? i + 1 : -1;
	}
}

int64
lease_receipt(LeaseRef ref)
{
	return receipt_encode(leases->receipt_keys, ref);
}

LeaseRef
lease_of_receipt(int64 receipt)
{
	LeaseRef	ref;

	shmem_require();
	if (receipt == 0)
		return 0;
	ref = receipt_decode(leases->receipt_keys, receipt);
	return REF_GENERATION(ref) > 0 && REF_SLOTNO(ref) < queue_max_leases ? ref : 0;
}

/* Where the message of an owned slot lies.  See lease_get for others. */
const LeasePlace *
slot_place(int slotno)
{
	return leased_place_get(slot_entry(slotno, leases->slots[slotno].current));
}

/* Count a lease in or out of the segment it keeps from being truncated. */
void
slot_count_in_segment(int slotno, int which, int32 change)
{
	int			segment = leased_place_get(slot_entry(slotno, which))->segment;

	if (segment != LEASE_IN_DEFERRED)
		account_count_in_segment(leases->slots[slotno].queue, segment, change);
}

/* Take a place off an owned slot. */
void
slot_leave_place(int slotno, int which)
{
	leased_place_remove(slot_entry(slotno, which));
	slot_count_in_segment(slotno, which, -1);
}

/* Set the state of an owned slot, once its fields are written. */
void
slot_set_state(LeaseRef ref, LeaseState state)
{
	/*
	 * Pairs with the first read barrier in lease_get, and with
	 * slot_change_state: a process that sees the state sees the fields.
	 */
	pg_write_barrier();
	pg_atomic_write_u64(&slot_of(ref)->word, REF_WORD(ref, state));
}

/*
 * Take a lease from one state to another; false if it is in another.  A full
 * barrier: the owner of the slot reads and changes fields after it.
 */
bool
slot_change_state(LeaseRef ref, LeaseState from, LeaseState to)
{
	uint64		expected = REF_WORD(ref, from);

	return pg_atomic_compare_exchange_u64(&slot_of(ref)->word, &expected, REF_WORD(ref, to));
}

/*
 * Take a held lease to another state, so that this process owns its slot;
 * false if the lease has ended.  BUSY lasts for some instructions, so we spin.
 * MOVING lasts until a transaction ends, for which we wait if asked to.
 */
bool
slot_seize(LeaseRef ref, LeaseState to, bool wait)
{
	if (ref == 0)
		return false;
	for (;;)
	{
		uint64		word;

		if (slot_change_state(ref, LEASE_HELD, to))
			return true;
		word = pg_atomic_read_u64(&slot_of(ref)->word);
		if (word == REF_WORD(ref, LEASE_BUSY))
			pg_spin_delay();
		else if (word == REF_WORD(ref, LEASE_MOVING) && wait)
		{
			CHECK_FOR_INTERRUPTS();
			pg_usleep(1000);
		}
		else if (word != REF_WORD(ref, LEASE_HELD))
			return false;
	}
}

void
slot_copy(LeaseRef ref, LeaseState state, Lease *lease)
{
	LeaseSlot  *slot = slot_of(ref);

	lease->ref = ref;
	lease->state = state;
	lease->kind = slot->kind;
	lease->q = slot_queue(slot);
	lease->id = slot->id;
	lease->place = *slot_place(REF_SLOTNO(ref));
	lease->attempts = slot->attempts;
	lease->over = slot->over;
	lease->pid = slot->pid;
	lease->retries = slot->retries;
	lease->leased_at = slot->leased_at;
	lease->expires_at = slot->expires_at;
	lease->key = slot->key;
}

/*
 * Copy the lease in a slot, without a lock; false if there is none.  If the
 * slot was owned meanwhile and is HELD again the word is the same: retries,
 * expires_at and the place can be of two moments.  In other states than HELD
 * the owner may have been changing any field.
 */
bool
lease_get(int slotno, Lease *lease)
{
	LeaseSlot  *slot = &leases->slots[slotno];

	for (;;)
	{
		uint64		word = pg_atomic_read_u64(&slot->word);

		if (WORD_STATE(word) == LEASE_FREE)
			return false;

		/*
		 * Pairs with slot_set_state: the fields are at least as new as the
		 * word.
		 */
		pg_read_barrier();
		slot_copy(REF(WORD_GENERATION(word), slotno), WORD_STATE(word), lease);

		/* Pairs with slot_change_state, which precedes changes of the fields. */
		pg_read_barrier();
		if (WORD_STATE(word) != LEASE_BUSY && pg_atomic_read_u64(&slot->word) == word)
			return true;
		pg_spin_delay();
	}
}

bool
lease_next(LeaseCursor *cursor, Lease *lease)
{
	/*
	 * high_water is read without free_mutex: it only grows, and that before
	 * the barrier in lease_look_by, on which lease_overdue relies.
	 */
	while (*cursor < leases->high_water)
	{
		if (lease_get((*cursor)++, lease))
			return true;
	}
	return false;
}

LeaseState
lease_state(Oid relid, ItemPointer tid, int64 id)
{
	LeasePlace	place = {.relid = relid,.tid = *tid};
	int			bucket = leased_place_lock(0, &place, id);
	int			entry = leased_place_find(bucket, 0, &place, id);
	LeaseState	state = LEASE_FREE;

	if (entry >= 0)
	{
		state = WORD_STATE(pg_atomic_read_u64(&leases->slots[entry / 2].word));

		/* lease_take enters the place first, and sets HELD later. */
		if (state == LEASE_FREE)
			state = LEASE_HELD;
	}
	leased_place_unlock(bucket);
	return state;
}

bool
lease_any_timed(void)
{
	return pg_atomic_read_u32(&leases->timed) > 0;
}

/*
 * Make an owned slot HELD with its next generation, so that older receipts
 * fail; the one whose receipt would be 0 is skipped.  Returns the new ref.
 */
LeaseRef
slot_set_held(int slotno)
{
	LeaseSlot  *slot = &leases->slots[slotno];
	uint64		generation = WORD_GENERATION(pg_atomic_read_u64(&slot->word));
	LeaseRef	ref;

	do
	{
		generation = generation == MAX_GENERATION ? 1 : generation + 1;
		ref = REF(generation, slotno);
	} while (ref == leases->void_ref);
	slot_set_state(ref, LEASE_HELD);
	return ref;
}

/* Fill in an owned slot for a lease that begins. */
void
slot_begin(LeaseSlot *slot, int attempts, LeaseKind kind, TimestampTz now, TimestampTz expires_at)
{
	slot->attempts = attempts;
	slot->kind = kind;
	slot->pid = MyProcPid;
	slot->in_flight = true;
	slot->over = false;
	slot->retries = 0;
	slot->prepared = InvalidTransactionId;
	slot->leased_at = now;
	slot->expires_at = expires_at;
}

/* Begin a lease whose fields are filled in; HELD comes first, see lease_look_by. */
LeaseRef
slot_announce(int slotno)
{
	LeaseSlot  *slot = &leases->slots[slotno];
	bool		timed = (slot->kind == LEASE_TIMED);
	TimestampTz expires_at = slot->expires_at;
	QueueShared *q = slot_queue(slot);
	LeaseRef	ref;

	/* From slot_set_held() on another process can take the slot. */
	if (timed)
		pg_atomic_fetch_add_u32(&leases->timed, 1);
	ref = slot_set_held(slotno);
	if (timed)
		lease_look_by(q, expires_at);
	(void) deed_add(ref, LEASE_DID_TAKE);
	return ref;
}

/* Take a slot off the free list; -1 if there is none. */
int
slot_take(void)
{
	int			slotno;

	SpinLockAcquire(&leases->free_mutex);
	slotno = leases->free_head;
	if (slotno >= 0)
	{
		leases->free_head = leases->slots[slotno].next;
		if (slotno >= leases->high_water)
			leases->high_water = slotno + 1;
	}
	SpinLockRelease(&leases->free_mutex);
	return slotno;
}

bool
slot_leave_flight(LeaseSlot *slot)
{
	bool		in_flight = slot->in_flight;

	slot->in_flight = false;
	return in_flight && limit_leave(slot_queue(slot));
}

/* Free an owned slot. */
void
slot_free(LeaseRef ref)
{
	LeaseSlot  *slot = slot_of(ref);
	QueueShared *q = slot_queue(slot);
	bool		wake;

	Assert(slot_is_ours(ref));
	slot_leave_place(REF_SLOTNO(ref), slot->current);
	if (slot->kind == LEASE_TIMED)
		pg_atomic_fetch_sub_u32(&leases->timed, 1);
	wake = slot_leave_flight(slot);
	account_count(slot->queue, -1);
	if (slot->key >= 0)
		key_leave(slot->key, REF_SLOTNO(ref));
	slot->key = -1;

	/*
	 * The generation stays; the next lease gets another.  The word changes
	 * before free_mutex is taken: lease_queue and lease_take rely on it.
	 */
	slot_set_state(ref, LEASE_FREE);
	SpinLockAcquire(&leases->free_mutex);
	slot->next = leases->free_head;
	leases->free_head = REF_SLOTNO(ref);
	SpinLockRelease(&leases->free_mutex);
	if (wake)
		limit_wake(q);
}

/* Put an owned slot at the end of the list that the next receiver takes from. */
void
slot_return(LeaseRef ref)
{
	LeaseSlot  *slot = slot_of(ref);
	QueueShared *q = slot_queue(slot);
	bool		wake;

	Assert(slot_is_ours(ref));
	if (slot->kind == LEASE_TIMED)
		pg_atomic_fetch_sub_u32(&leases->timed, 1);
	slot->kind = LEASE_TRANSACTION;
	slot->expires_at = DT_NOEND;
	slot->pid = 0;
	slot->prepared = InvalidTransactionId;
	slot_set_state(ref, LEASE_RETURNED);

	/*
	 * Counted before the slot can be freed, and the queue's element
	 * another's.
	 */
	wake = slot_leave_flight(slot);
	account_return(slot->queue, REF_SLOTNO(ref), slot->id);
	if (wake)
		limit_wake(q);
}

/* Have the message of an owned slot wait for the next turn of its key. */
static void
wait_for_turn(LeaseRef ref)
{
	LeaseSlot  *slot = slot_of(ref);
	const LeasePlace *place = slot_place(REF_SLOTNO(ref));

	if (place->segment == LEASE_IN_DEFERRED)
		key_wait_again(slot->key, NULL);
	else
	{
		KeyPlace	where = key_place(slot_queue(slot), place->segment, place_of_tid(&place->tid));

		key_wait_again(slot->key, &where);
	}
}

/*
 * Return an owned slot, and wake a waiter to receive its message; or if that
 * has to wait for its turn free it, which wakes one when the turn has come.
 */
void
slot_hand_back(LeaseRef ref)
{
	LeaseSlot  *slot = slot_of(ref);
	QueueShared *q = slot_queue(slot);

	if (slot->key >= 0)
	{
		wait_for_turn(ref);
		if (slot_place(REF_SLOTNO(ref))->segment != LEASE_IN_DEFERRED)
			counter_add(&q->counters, COUNTER_READY, 1);
		slot_free(ref);
		return;
	}
	slot_return(ref);
	counter_add(&q->counters, COUNTER_READY, 1);
	wake_waiters(&q->waiters, 1);
}

/*
 * Lower the bounds to when a timed lease ends, once it is HELD.  A process
 * that has changed the slot since lowers them itself.
 */
void
slot_notice_expiry(LeaseSlot *slot)
{
	QueueShared *q = slot_queue(slot);

	lease_look_by(q, slot->expires_at);
	maintenance_wake_by(q->dboid, slot->expires_at);
}

/* Make an owned, timed lease HELD until a time. */
void
slot_set_expiry(LeaseRef ref, TimestampTz expires_at)
{
	LeaseSlot  *slot = slot_of(ref);

	slot->expires_at = expires_at;
	slot_set_state(ref, LEASE_HELD);
	slot_notice_expiry(slot);
}
