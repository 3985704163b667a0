/*
 * lease.c
 *		Leases: which consumer has which message, until when.
 *
 * A slot's state changes by compare-and-swap of its word, so that of an
 * acknowledgement, an expiry and an extension of the same lease only one
 * happens.  The process that has brought a slot out of HELD, or has taken it
 * off the free list or the list of returned leases, owns the slot: it alone
 * changes the other fields, until it makes the slot HELD, FREE or RETURNED.  A
 * hash on the message's place keeps it from being leased twice
 * (leased_place.c).
 *
 * What a transaction did to leases is undone or finished at its end from a
 * list kept by this backend (deed.c).
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "engine/deed.h"
#include "engine/lease.h"
#include "engine/lease_account.h"
#include "engine/round.h"
#include "guc.h"
#include "miscadmin.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/timestamp.h"

/* The greatest generation a receipt can hold; no lease has generation 0. */
#define MAX_GENERATION	((UINT64CONST(1) << (RECEIPT_BITS - LEASE_SLOT_BITS)) - 1)

/*
 * word is changed by compare-and-swap, or by set_state in the process that
 * owns the slot.  That process writes the other fields, and set_state
 * publishes them; others read them without a lock, see lease_read.
 */
typedef struct LeaseSlot
{
	pg_atomic_uint64 word;		/* generation << 8 | LeaseState */
	int64		id;				/* message id */
	int			queue;			/* element of queue_state->queues */
	int			attempts;
	int			kind;			/* LeaseKind */
	int			pid;
	bool		in_flight;		/* counted as such */
	int			retries;
	int			next;			/* in the free list, under free_mutex */
	TransactionId prepared;		/* prepared transaction that took it */
	TimestampTz leased_at;
	TimestampTz expires_at;
	int			current;		/* of the two places, see slot_entry */
} LeaseSlot;

typedef struct LeaseShared
{
	slock_t		free_mutex;
	int			free_head;		/* under free_mutex */
	int			high_water;		/* grows under free_mutex; see lease_next */
	pg_atomic_uint32 timed;		/* counted without a lock, by a slot's owner */

	/* Constant after the start. */
	uint64		receipt_keys[RECEIPT_KEYS]; /* random, new at each start */
	LeaseRef	void_ref;		/* whose receipt would be 0 */

	LeaseSlot	slots[FLEXIBLE_ARRAY_MEMBER];
} LeaseShared;

static LeaseShared *leases = NULL;

#define WORD(generation, state)	(((uint64) (generation) << 8) | (state))
#define WORD_GENERATION(word)	((word) >> 8)
#define WORD_STATE(word)		((LeaseState) ((word) & 0xFF))

#define REF(generation, slotno)	((LeaseRef) (generation) << LEASE_SLOT_BITS | (slotno))
#define REF_GENERATION(ref)		((ref) >> LEASE_SLOT_BITS)
#define REF_SLOTNO(ref)			((int) ((ref) & (LEASE_MAX_SLOTS - 1)))
#define REF_WORD(ref, state)	WORD(REF_GENERATION(ref), state)

/*
 * Shared memory
 */

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
		pg_atomic_init_u64(&slot->word, WORD(0, LEASE_FREE));
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

/*
 * Slots
 */

/* Number of an entry of a slot, 0 or 1: a lease has both while its message is being moved. */
static inline int
slot_entry(int slotno, int which)
{
	return 2 * slotno + which;
}

/* Where the message of an owned slot lies.  See lease_read for others. */
static const LeasePlace *
current_place(int slotno)
{
	return leased_place_get(slot_entry(slotno, leases->slots[slotno].current));
}

/* Count a lease in or out of the segment it keeps from being truncated. */
static void
count_in_segment(int slotno, int which, int32 change)
{
	int			segment = leased_place_get(slot_entry(slotno, which))->segment;

	if (segment != LEASE_IN_DEFERRED)
		account_count_in_segment(leases->slots[slotno].queue, segment, change);
}

/* Take a place off an owned slot. */
static void
leave_place(int slotno, int which)
{
	leased_place_remove(slot_entry(slotno, which));
	count_in_segment(slotno, which, -1);
}

static inline LeaseSlot *
ref_slot(LeaseRef ref)
{
	return &leases->slots[REF_SLOTNO(ref)];
}

static inline QueueShared *
slot_queue(const LeaseSlot *slot)
{
	return &queue_state->queues[slot->queue];
}

/* Whether a process owns a slot: for assertions, where it should be this one. */
static inline bool
pg_attribute_unused()
is_ours(LeaseRef ref)
{
	LeaseState	state = WORD_STATE(pg_atomic_read_u64(&ref_slot(ref)->word));

	return state != LEASE_FREE && state != LEASE_HELD;
}

/* Set the state of an owned slot, once its fields are written. */
static void
set_state(LeaseRef ref, LeaseState state)
{
	/*
	 * Pairs with the first read barrier in lease_read, and with change_state:
	 * a process that sees the state sees the fields.
	 */
	pg_write_barrier();
	pg_atomic_write_u64(&ref_slot(ref)->word, REF_WORD(ref, state));
}

/*
 * Take a lease from one state to another; false if it is in another.  A full
 * barrier: the owner of the slot reads and changes fields after it.
 */
static bool
change_state(LeaseRef ref, LeaseState from, LeaseState to)
{
	uint64		expected = REF_WORD(ref, from);

	return pg_atomic_compare_exchange_u64(&ref_slot(ref)->word, &expected, REF_WORD(ref, to));
}

/*
 * Take a held lease to another state, so that this process owns its slot;
 * false if the lease has ended.  BUSY lasts for some instructions, so we spin.
 * MOVING lasts until a transaction ends, for which we wait if asked to.
 */
static bool
seize(LeaseRef ref, LeaseState to, bool wait)
{
	if (ref == 0)
		return false;
	for (;;)
	{
		uint64		word;

		if (change_state(ref, LEASE_HELD, to))
			return true;
		word = pg_atomic_read_u64(&ref_slot(ref)->word);
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

static void
copy_lease(LeaseRef ref, LeaseState state, Lease *lease)
{
	LeaseSlot  *slot = ref_slot(ref);

	lease->ref = ref;
	lease->state = state;
	lease->kind = slot->kind;
	lease->q = slot_queue(slot);
	lease->id = slot->id;
	lease->place = *current_place(REF_SLOTNO(ref));
	lease->attempts = slot->attempts;
	lease->pid = slot->pid;
	lease->retries = slot->retries;
	lease->leased_at = slot->leased_at;
	lease->expires_at = slot->expires_at;
}

/*
 * Copy the lease in a slot, without a lock; false if there is none.  If the
 * slot was owned meanwhile and is HELD again the word is the same: retries,
 * expires_at and the place can be of two moments.  In other states than HELD
 * the owner may have been changing any field.
 */
static bool
lease_read(int slotno, Lease *lease)
{
	LeaseSlot  *slot = &leases->slots[slotno];

	for (;;)
	{
		uint64		word = pg_atomic_read_u64(&slot->word);

		if (WORD_STATE(word) == LEASE_FREE)
			return false;

		/* Pairs with set_state: the fields are at least as new as the word. */
		pg_read_barrier();
		copy_lease(REF(WORD_GENERATION(word), slotno), WORD_STATE(word), lease);

		/* Pairs with change_state, which precedes changes of the fields. */
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
		if (lease_read((*cursor)++, lease))
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

void
lease_reserve(int n)
{
	deeds_reserve(n);
}

/*
 * Taking and giving up
 */

/*
 * Make an owned slot HELD with its next generation, so that older receipts
 * fail; the one whose receipt would be 0 is skipped.  Returns the new ref.
 */
static LeaseRef
set_held(int slotno)
{
	LeaseSlot  *slot = &leases->slots[slotno];
	uint64		generation = WORD_GENERATION(pg_atomic_read_u64(&slot->word));
	LeaseRef	ref;

	do
	{
		generation = generation == MAX_GENERATION ? 1 : generation + 1;
		ref = REF(generation, slotno);
	} while (ref == leases->void_ref);
	set_state(ref, LEASE_HELD);
	return ref;
}

/* Fill in an owned slot for a lease that begins. */
static void
begin_lease(LeaseSlot *slot, int attempts, LeaseKind kind, TimestampTz now, TimestampTz expires_at)
{
	slot->attempts = attempts;
	slot->kind = kind;
	slot->pid = MyProcPid;
	slot->in_flight = true;
	slot->retries = 0;
	slot->prepared = InvalidTransactionId;
	slot->leased_at = now;
	slot->expires_at = expires_at;
}

/* Begin a lease whose fields are filled in; HELD comes first, see lease_look_by. */
static LeaseRef
announce_lease(int slotno)
{
	LeaseSlot  *slot = &leases->slots[slotno];
	bool		timed = (slot->kind == LEASE_TIMED);
	TimestampTz expires_at = slot->expires_at;
	QueueShared *q = slot_queue(slot);
	LeaseRef	ref;

	/* From set_held() on another process can take the slot. */
	if (timed)
		pg_atomic_fetch_add_u32(&leases->timed, 1);
	ref = set_held(slotno);
	if (timed)
		lease_look_by(q, expires_at);
	(void) deed_add(ref, LEASE_DID_TAKE);
	return ref;
}

/* Take a slot off the free list; -1 if there is none. */
static int
take_slot(void)
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

LeaseTaking
lease_take(QueueShared *q, const LeasePlace *place, int64 id, int attempts, LeaseKind kind,
		   TimestampTz now, TimestampTz expires_at, Limits *limits, LeaseRef *ref)
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
	slotno = take_slot();
	if (slotno < 0)
	{
		leased_place_unlock(bucket);
		limit_leave(q);
		return LEASE_NONE_FREE;
	}

	/* Owned: its word is FREE, set before free_mutex gave it to us. */
	slot = &leases->slots[slotno];
	slot->id = id;
	slot->queue = queue;
	slot->current = 0;
	begin_lease(slot, attempts, kind, now, expires_at);
	leased_place_put(bucket, slot_entry(slotno, 0), queue, place, id);
	leased_place_unlock(bucket);

	count_in_segment(slotno, 0, 1);
	account_count(queue, 1);
	*ref = announce_lease(slotno);
	return LEASE_TAKEN;
}

/* Nobody has the message of an owned slot any more. */
static void
leave_flight(LeaseSlot *slot)
{
	if (slot->in_flight)
	{
		slot->in_flight = false;
		limit_leave(slot_queue(slot));
	}
}

/* Free an owned slot. */
static void
free_slot(LeaseRef ref)
{
	LeaseSlot  *slot = ref_slot(ref);

	Assert(is_ours(ref));
	leave_place(REF_SLOTNO(ref), slot->current);
	if (slot->kind == LEASE_TIMED)
		pg_atomic_fetch_sub_u32(&leases->timed, 1);
	leave_flight(slot);
	account_count(slot->queue, -1);

	/*
	 * The generation stays; the next lease gets another.  The word changes
	 * before free_mutex is taken: lease_queue and lease_take rely on it.
	 */
	set_state(ref, LEASE_FREE);
	SpinLockAcquire(&leases->free_mutex);
	slot->next = leases->free_head;
	leases->free_head = REF_SLOTNO(ref);
	SpinLockRelease(&leases->free_mutex);
}

/* Put an owned slot at the end of the list that the next receiver takes from. */
static void
return_slot(LeaseRef ref)
{
	LeaseSlot  *slot = ref_slot(ref);

	Assert(is_ours(ref));
	if (slot->kind == LEASE_TIMED)
		pg_atomic_fetch_sub_u32(&leases->timed, 1);
	slot->kind = LEASE_TRANSACTION;
	slot->expires_at = DT_NOEND;
	slot->pid = 0;
	slot->prepared = InvalidTransactionId;
	set_state(ref, LEASE_RETURNED);

	/*
	 * Counted before the slot can be freed, and the queue's element
	 * another's.
	 */
	leave_flight(slot);
	account_return(slot->queue, REF_SLOTNO(ref), slot->id);
}

/* Return an owned slot, and wake a waiter to receive its message. */
static void
hand_back(LeaseRef ref)
{
	QueueShared *q = slot_queue(ref_slot(ref));

	return_slot(ref);
	counter_add(&q->counters, COUNTER_READY, 1);
	wake_waiters(&q->waiters, 1);
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

		if (seize(ref, LEASE_BUSY, false))
		{
			hand_back(ref);
			return true;
		}
		if (change_state(ref, LEASE_MOVING, LEASE_LEAVING))
			return true;

		/* The move can have ended between the two attempts, so try again. */
		word = pg_atomic_read_u64(&ref_slot(ref)->word);
		if (word != REF_WORD(ref, LEASE_HELD) && word != REF_WORD(ref, LEASE_BUSY) &&
			word != REF_WORD(ref, LEASE_MOVING))
			return false;
	}
}

void
lease_drop(LeaseRef ref)
{
	LeaseDeed  *deed = deed_latest(ref);

	if (deed == NULL)
		return;

	/* A lease just taken can have ended already, if it is timed. */
	if (deed->action == LEASE_DID_TAKE && !seize(ref, LEASE_BUSY, false))
		return;
	deed_forget(ref);
	free_slot(ref);
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
	ref = REF(WORD_GENERATION(pg_atomic_read_u64(&leases->slots[slotno].word)), slotno);
	set_state(ref, LEASE_CHECKING);
	(void) deed_add(ref, LEASE_DID_CHECK);
	copy_lease(ref, LEASE_CHECKING, lease);
	return true;
}

bool
lease_renew(LeaseRef *ref, int attempts, LeaseKind kind, TimestampTz now, TimestampTz expires_at,
			Limits *limits)
{
	if (deed_latest(*ref) == NULL || !limit_enter(slot_queue(ref_slot(*ref)), limits))
		return false;
	(void) deed_forget(*ref);
	begin_lease(ref_slot(*ref), attempts, kind, now, expires_at);
	*ref = announce_lease(REF_SLOTNO(*ref));
	return true;
}

void
lease_put_back(LeaseRef ref)
{
	if (deed_forget(ref))
		return_slot(ref);
}

void
lease_remove_returned(LeaseRef ref)
{
	if (deed_forget(ref))
		(void) deed_add(ref, LEASE_DID_REMOVE);
}

/*
 * Settling
 */

Oid
lease_queue(LeaseRef ref)
{
	QueueShared *q;
	Oid			relid;
	uint64		word;

	if (ref == 0)
		return InvalidOid;

	/* A hint: to settle a lease, its slot is seized. */
	q = slot_queue(ref_slot(ref));
	relid = (q->dboid == MyDatabaseId) ? q->relid : InvalidOid;

	/*
	 * Pairs with free_slot, which changes the word before the slot can be
	 * another lease's: if this one has not ended by now, what we read was
	 * its.
	 */
	pg_read_barrier();
	word = pg_atomic_read_u64(&ref_slot(ref)->word);
	if (word == REF_WORD(ref, LEASE_HELD) || word == REF_WORD(ref, LEASE_MOVING) ||
		word == REF_WORD(ref, LEASE_BUSY))
		return relid;
	return InvalidOid;
}

bool
lease_begin_settle(LeaseRef ref, Lease *lease)
{
	lease_reserve(1);
	if (!seize(ref, LEASE_SETTLING, true))
		return false;
	(void) deed_add(ref, LEASE_DID_SETTLE);
	copy_lease(ref, LEASE_SETTLING, lease);
	return true;
}

bool
lease_begin_expire(LeaseRef ref, TimestampTz now, Lease *lease)
{
	lease_reserve(1);
	if (!seize(ref, LEASE_BUSY, false))
		return false;
	copy_lease(ref, LEASE_SETTLING, lease);
	if (lease->kind != LEASE_TIMED || lease->expires_at > now)
	{
		set_state(ref, LEASE_HELD);
		return false;
	}
	set_state(ref, LEASE_SETTLING);
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
	if (outcome == LEASE_EXPIRED)
		leave_flight(ref_slot(ref));
}

/*
 * Lower the bounds to when a timed lease ends, once it is HELD.  A process
 * that has changed the slot since lowers them itself.
 */
static void
notice_expiry(LeaseSlot *slot)
{
	QueueShared *q = slot_queue(slot);

	lease_look_by(q, slot->expires_at);
	maintenance_wake_by(q->dboid, slot->expires_at);
}

/* Make an owned, timed lease HELD until a time. */
static void
set_expiry(LeaseRef ref, TimestampTz expires_at)
{
	LeaseSlot  *slot = ref_slot(ref);

	slot->expires_at = expires_at;
	set_state(ref, LEASE_HELD);
	notice_expiry(slot);
}

void
lease_cancel_settle(LeaseRef ref, TimestampTz expires_at)
{
	if (deed_forget(ref))
		set_expiry(ref, expires_at);
}

void
lease_retry_expiry(LeaseRef ref, TimestampTz when)
{
	LeaseSlot  *slot = ref_slot(ref);

	if (!seize(ref, LEASE_BUSY, false))
		return;
	slot->retries++;

	/* Not before the time to which the consumer may have extended it. */
	set_expiry(ref, Max(when, slot->expires_at));
}

bool
lease_extend(LeaseRef ref, TimestampTz expires_at)
{
	if (!seize(ref, LEASE_BUSY, true))
		return false;
	if (ref_slot(ref)->kind != LEASE_TIMED)
	{
		set_state(ref, LEASE_HELD);
		return false;
	}
	ref_slot(ref)->retries = 0;
	set_expiry(ref, expires_at);
	return true;
}

bool
lease_any_timed(void)
{
	return pg_atomic_read_u32(&leases->timed) > 0;
}

/*
 * Moving
 */

bool
lease_begin_move(LeaseRef ref, Lease *lease)
{
	lease_reserve(1);
	if (!change_state(ref, LEASE_HELD, LEASE_MOVING))
		return false;
	(void) deed_add(ref, LEASE_DID_MOVE);
	copy_lease(ref, LEASE_MOVING, lease);
	return true;
}

void
lease_move(LeaseRef ref, const LeasePlace *place)
{
	LeaseSlot  *slot = ref_slot(ref);
	LeaseDeed  *deed = deed_latest(ref);
	int			which = 1 - slot->current;

	if (deed == NULL || deed->moved)
		return;
	leased_place_enter(slot_entry(REF_SLOTNO(ref), which), slot->queue, place, slot->id);
	count_in_segment(REF_SLOTNO(ref), which, 1);
	deed->moved = true;
}

/* The move is over: the lease keeps one of its places, or is given back if LEAVING. */
static void
finish_move(LeaseDeed *deed, bool arrived)
{
	LeaseSlot  *slot = ref_slot(deed->ref);

	if (deed->moved)
	{
		int			left = arrived ? slot->current : 1 - slot->current;

		leave_place(REF_SLOTNO(deed->ref), left);
		slot->current = 1 - left;
	}
	if (!change_state(deed->ref, LEASE_MOVING, LEASE_HELD))
		hand_back(deed->ref);
	else if (slot->kind == LEASE_TIMED)
		lease_look_by(slot_queue(slot), slot->expires_at);
}

bool
lease_forget_queue(QueueShared *q)
{
	LeaseCursor cursor = 0;
	Lease		lease;
	bool		all = true;
	int			slotno;

	while ((slotno = account_take_returned(QueueIndex(q))) >= 0)
		free_slot(REF(WORD_GENERATION(pg_atomic_read_u64(&leases->slots[slotno].word)), slotno));
	while (lease_next(&cursor, &lease))
	{
		if (lease.q != q)
			continue;
		if (change_state(lease.ref, LEASE_HELD, LEASE_BUSY))
			free_slot(lease.ref);
		else
			all = false;
	}
	return all;
}

/*
 * The end of a transaction
 */

/* Undo a deed, the transaction or subtransaction that did it having aborted. */
static void
undo(LeaseDeed *deed)
{
	LeaseSlot  *slot = ref_slot(deed->ref);

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
			return_slot(deed->ref);
			break;
		case LEASE_DID_SETTLE:
			if (deed->ended)
			{
				/* Under another generation: the receipt stays void. */
				(void) set_held(REF_SLOTNO(deed->ref));
				notice_expiry(slot);
			}
			else if (slot->kind == LEASE_TIMED)
				set_expiry(deed->ref, slot->expires_at);
			else
				set_state(deed->ref, LEASE_HELD);
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
	LeaseSlot  *slot = ref_slot(ref);

	if (seize(ref, LEASE_BUSY, false))
	{
		slot->prepared = GetTopTransactionIdIfAny();
		set_state(ref, LEASE_HELD);
	}
	else if (deed_latest(ref)->action == LEASE_DID_SETTLE)
		slot->prepared = GetTopTransactionIdIfAny();
}

/* Finish a deed, the transaction having committed or been prepared. */
static void
finish(LeaseDeed *deed, bool prepared)
{
	LeaseSlot  *slot = ref_slot(deed->ref);
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
			return_slot(deed->ref);
			break;
		case LEASE_DID_REMOVE:
			free_slot(deed->ref);
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
				if (slot->prepared != GetTopTransactionIdIfAny())
					slot->attempts++;
				return_slot(deed->ref);
				break;
			}
			counters = &slot_queue(slot)->counters;
			if (deed->outcome == LEASE_ACKED)
				counter_add(counters, COUNTER_ACKED, 1);
			else if (deed->outcome != LEASE_GONE)
				counter_add(counters, COUNTER_FAILED, 1);
			if (deed->outcome == LEASE_EXPIRED)
				counter_add(counters, COUNTER_EXPIRED, 1);
			if (current_place(REF_SLOTNO(deed->ref))->segment == LEASE_IN_DEFERRED)
				counter_add(counters, COUNTER_DEFERRED, -1);
			free_slot(deed->ref);
			break;
		case LEASE_DID_MOVE:
			finish_move(deed, true);
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

		if (!TransactionIdIsValid(xid) || !lease_read(i, &lease) ||
			!lease_is_here(&lease) || TransactionIdIsInProgress(xid) ||
			!seize(lease.ref, LEASE_BUSY, false))
			continue;
		if (slot->prepared == xid && !TransactionIdDidCommit(xid))
		{
			hand_back(lease.ref);
			continue;
		}
		slot->prepared = InvalidTransactionId;
		set_state(lease.ref, LEASE_HELD);
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
lease_init(void)
{
	RegisterXactCallback(lease_xact_callback, NULL);
	RegisterSubXactCallback(lease_subxact_callback, NULL);
}
