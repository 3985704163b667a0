/*
 * lease_slot.h
 *		The slots that leases are kept in, and their states.
 *
 * The functions whose names begin with slot_ are for lease.c and lease_end.c.
 */
#ifndef QUEUE_ENGINE_LEASE_SLOT_H
#define QUEUE_ENGINE_LEASE_SLOT_H

#include "engine/leased_place.h"
#include "engine/receipt.h"
#include "engine/shared.h"
#include "miscadmin.h"

typedef enum LeaseKind
{
	LEASE_TIMED,				/* receive: ends at a time */
	LEASE_TRANSACTION,			/* pop: ends with the transaction */
	LEASE_PROCESS				/* relay: ends with the process */
} LeaseKind;

/*
 * FREE -> HELD -> SETTLING -> FREE is a message's normal life.  A rollback
 * takes SETTLING back to HELD, and a HELD lease taken in the transaction
 * itself on to RETURNED, from where the next receiver takes it: CHECKING while
 * it judges the message.  MOVING is a HELD lease whose message the maintenance
 * worker is moving elsewhere, LEAVING one that has been given back meanwhile,
 * and is RETURNED when the move is over; BUSY one whose fields a process is
 * changing, for some instructions.
 */
typedef enum LeaseState
{
	LEASE_FREE,
	LEASE_HELD,
	LEASE_SETTLING,
	LEASE_RETURNED,
	LEASE_CHECKING,
	LEASE_MOVING,
	LEASE_LEAVING,
	LEASE_BUSY
} LeaseState;

/* A copy of a lease. */
typedef struct Lease
{
	LeaseRef	ref;
	LeaseState	state;
	LeaseKind	kind;
	QueueShared *q;
	int64		id;				/* of the message */
	LeasePlace	place;
	int			attempts;		/* number of this delivery (RETURNED: of the
								 * next, unless it is over) */
	bool		over;			/* RETURNED: a prepared transaction settled
								 * this delivery */
	int			pid;			/* 0 if returned */
	int			retries;		/* how often its expiry failed */
	TimestampTz leased_at;
	TimestampTz expires_at;		/* DT_NOEND unless LEASE_TIMED */
	int			key;			/* number of its key (keys.h), or -1 */
} Lease;

/* Whether a lease is on a queue of this database. */
static inline bool
lease_is_here(const Lease *lease)
{
	return lease->q->dboid == MyDatabaseId;
}

extern Size lease_shmem_size(void);
extern void lease_shmem_init(void);

/*
 * A receipt stands for a lease outside the engine: a positive number below
 * 2^53, which survives JSON, and which shows neither the slot nor the next
 * receipt.  lease_of_receipt does not check that there is such a lease; 0 if
 * there cannot be.
 */
extern int64 lease_receipt(LeaseRef ref);
extern LeaseRef lease_of_receipt(int64 receipt);

/* State of the lease on the message at a place of a segment, LEASE_FREE if there is none. */
extern LeaseState lease_state(Oid relid, ItemPointer tid, int64 id);

/* Whether any lease is timed. */
extern bool lease_any_timed(void);

/*
 * Go through all leases: each call copies another one, with a cursor that
 * starts at zero.  False at the end.  A lease can have ended by the time its
 * copy is returned.
 */
typedef int LeaseCursor;

extern bool lease_next(LeaseCursor *cursor, Lease *lease);

/* Copy the lease in the slot with this number; false if there is none. */
extern bool lease_get(int slotno, Lease *lease);

/*
 * word is changed by compare-and-swap, or by slot_set_state in the process
 * that owns the slot.  That process writes the other fields, and
 * slot_set_state publishes them; others read them without a lock, see
 * lease_get.
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
	bool		over;			/* see Lease */
	int			retries;
	int			next;			/* in the free list, under free_mutex */
	TransactionId prepared;		/* prepared transaction that took it */
	TimestampTz leased_at;
	TimestampTz expires_at;
	int			current;		/* of the two places, see slot_entry */
	int			key;			/* number of its key (keys.h), or -1 */

	/*
	 * Generation of a lease that ends though another transaction was settling
	 * it; written by any process, see lease_end.c.
	 */
	pg_atomic_uint64 doomed;
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

extern LeaseShared *leases;

#define SLOT_WORD(generation, state)	(((uint64) (generation) << 8) | (state))
#define WORD_GENERATION(word)	((word) >> 8)
#define WORD_STATE(word)		((LeaseState) ((word) & 0xFF))

#define REF(generation, slotno)	((LeaseRef) (generation) << LEASE_SLOT_BITS | (slotno))
#define REF_GENERATION(ref)		((ref) >> LEASE_SLOT_BITS)
#define REF_SLOTNO(ref)			((int) ((ref) & (LEASE_MAX_SLOTS - 1)))
#define REF_WORD(ref, state)	SLOT_WORD(REF_GENERATION(ref), state)

static inline LeaseSlot *
slot_of(LeaseRef ref)
{
	return &leases->slots[REF_SLOTNO(ref)];
}

static inline QueueShared *
slot_queue(const LeaseSlot *slot)
{
	return &queue_state->queues[slot->queue];
}

/* Number of an entry of a slot, 0 or 1: a lease has both while its message is being moved. */
static inline int
slot_entry(int slotno, int which)
{
	return 2 * slotno + which;
}

/* The lease that is in a slot this process owns. */
static inline LeaseRef
slot_current_ref(int slotno)
{
	return REF(WORD_GENERATION(pg_atomic_read_u64(&leases->slots[slotno].word)), slotno);
}

/* Whether a process owns a slot: for assertions, where it should be this one. */
static inline bool
slot_is_ours(LeaseRef ref)
{
	LeaseState	state = WORD_STATE(pg_atomic_read_u64(&slot_of(ref)->word));

	return state != LEASE_FREE && state != LEASE_HELD;
}

/* Take a slot off the free list, -1 if there is none; this process owns it then. */
extern int	slot_take(void);

/* Fill in an owned slot for a lease that begins; and make it HELD, which returns its name. */
extern void slot_begin(LeaseSlot *slot, int attempts, LeaseKind kind,
					   TimestampTz now, TimestampTz expires_at);
extern LeaseRef slot_announce(int slotno);

/* Make an owned slot HELD under another name, so that older receipts are void. */
extern LeaseRef slot_set_held(int slotno);

/* Make an owned, timed lease HELD until a time; and lower the bounds to that of a HELD one. */
extern void slot_set_expiry(LeaseRef ref, TimestampTz expires_at);
extern void slot_notice_expiry(LeaseSlot *slot);

/* Set the state of an owned slot, once its fields are written. */
extern void slot_set_state(LeaseRef ref, LeaseState state);

/*
 * Take a lease from one state to another; false if it is in another.  A full
 * barrier: the owner of the slot reads and changes fields after it.
 */
extern bool slot_change_state(LeaseRef ref, LeaseState from, LeaseState to);

/*
 * Take a held lease to another state, so that this process owns its slot;
 * false if the lease has ended.  With wait a move is waited for.
 */
extern bool slot_seize(LeaseRef ref, LeaseState to, bool wait);

/* Copy the lease of an owned slot. */
extern void slot_copy(LeaseRef ref, LeaseState state, Lease *lease);

/* Where the message of an owned slot lies.  See lease_get for others. */
extern const LeasePlace *slot_place(int slotno);

/* Count a lease in or out of the segment of one of its places; take that place off it. */
extern void slot_count_in_segment(int slotno, int which, int32 change);
extern void slot_leave_place(int slotno, int which);

/* Nobody has the message of an owned slot any more; as limit_leave. */
extern bool slot_leave_flight(LeaseSlot *slot);

/*
 * Give up an owned slot: free it; put it on the list that the next receiver
 * takes from; or do that and wake a waiter to receive its message.  A message
 * of a key that is limited does not come on that list: it waits for its turn.
 */
extern void slot_free(LeaseRef ref);
extern void slot_return(LeaseRef ref);
extern void slot_hand_back(LeaseRef ref);

#endif							/* QUEUE_ENGINE_LEASE_SLOT_H */
