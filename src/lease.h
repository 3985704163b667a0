/*
 * lease.h
 *		Leases: which consumer has which message, until when.
 */
#ifndef QUEUE_LEASE_H
#define QUEUE_LEASE_H

#include "shmem.h"
#include "storage/itemptr.h"

typedef enum LeaseKind
{
	LEASE_TIMED,				/* receive: ends at a time */
	LEASE_TRANSACTION,			/* pop: ends with the transaction */
	LEASE_PROCESS				/* relay: ends with the process */
} LeaseKind;

/*
 * FREE -> HELD -> SETTLING -> FREE is a message's normal life.  A rollback
 * takes SETTLING back to HELD, and a HELD lease taken in the transaction
 * itself on to RETURNED, from where the next receiver takes it.  MOVING is a
 * HELD lease whose message the maintenance worker is moving elsewhere.
 */
typedef enum LeaseState
{
	LEASE_FREE,
	LEASE_HELD,
	LEASE_SETTLING,
	LEASE_RETURNED,
	LEASE_MOVING
} LeaseState;

/* What settling does to the message. */
typedef enum LeaseOutcome
{
	LEASE_ACKED,
	LEASE_FAILED,
	LEASE_GONE					/* nothing: somebody else removed it */
} LeaseOutcome;

/* LeaseSlot.segment of a message in queue.deferred. */
#define LEASE_IN_DEFERRED	(-1)

typedef struct LeaseSlot
{
	pg_atomic_uint64 word;		/* generation << 8 | LeaseState */
	int64		id;				/* message id */
	Oid			relid;			/* table the message is in */
	ItemPointerData tid;
	int16		segment;		/* element of segments, or LEASE_IN_DEFERRED */
	int			queue;			/* element of queue_state->queues */
	int			attempts;		/* deliveries, this one included */
	int			kind;			/* LeaseKind */
	int			pid;
	int			next;			/* in the free or a returned list */
	int			hash_next;
	TimestampTz leased_at;
	TimestampTz expires_at;		/* DT_NOEND unless LEASE_TIMED */
} LeaseSlot;

/* A receipt is generation << LEASE_SLOT_BITS | slot number. */
#define LEASE_SLOT_BITS		20

#define LeaseWordState(word)	((LeaseState) ((word) & 0xFF))

/* Results of lease_take other than a slot's number. */
#define LEASE_TAKEN_ALREADY	(-1)
#define LEASE_NONE_FREE		(-2)

extern Size lease_shmem_size(void);
extern void lease_shmem_init(bool found);
extern void lease_init(void);

/*
 * Make room to remember n leases for the transaction's end.  Must come before
 * the functions below, as they may be called with locks held.
 */
extern void lease_reserve(int n);

/*
 * Take a lease; if the transaction aborts it is returned.  Returns the slot's
 * number, LEASE_TAKEN_ALREADY or LEASE_NONE_FREE.
 */
extern int	lease_take(QueueShared *q, Oid relid, int segment, ItemPointer tid,
					   int64 id, int attempts, LeaseKind kind, TimestampTz now,
					   TimestampTz expires_at);

/* Give up a lease of this transaction: its place holds nothing to receive. */
extern void lease_drop(int slotno);

/* State of the lease on the message at a place, LEASE_FREE if there is none. */
extern LeaseState lease_state(Oid relid, ItemPointer tid, int64 id);

/*
 * Take the oldest returned lease of a queue, -1 if there is none.  The caller
 * looks at its message and then renews it, puts it back or drops it; at abort
 * it is put back.
 */
extern int	lease_take_returned(QueueShared *q);
extern void lease_renew(int slotno, LeaseKind kind, TimestampTz now, TimestampTz expires_at);
extern void lease_put_back(int slotno);

/* The message of a lease from lease_take_returned leaves with this transaction. */
extern void lease_remove_returned(int slotno);

extern LeaseSlot *lease_slot(int slotno);
extern int64 lease_receipt(int slotno);

/* The table of the receipt's queue, InvalidOid if the lease has ended. */
extern Oid	lease_queue(int64 receipt);

/*
 * Begin to settle: HELD -> SETTLING.  The slot is freed when the transaction
 * commits and goes back to HELD when it, or the subtransaction, aborts.  NULL
 * if the lease has ended.
 */
extern LeaseSlot *lease_begin_settle(int64 receipt);

/* Say how a lease being settled ends: for the statistics. */
extern void lease_mark(LeaseSlot *slot, LeaseOutcome outcome);

/* Take lease_begin_settle back at once, and let the lease end then. */
extern void lease_cancel_settle(LeaseSlot *slot, TimestampTz expires_at);

/* Change when a lease ends.  False if it has ended. */
extern bool lease_extend(int64 receipt, TimestampTz expires_at);

/* Give a lease back at once, no attempt counted.  False if it has ended. */
extern bool lease_release(int64 receipt);

/*
 * Receipts of leases in this database that have ended by now, up to max; and
 * when the next one ends, DT_NOEND if none.
 */
extern int	lease_expired(TimestampTz now, int64 *receipts, int max, TimestampTz *next);

/* Slots of leases that point into a segment, up to max. */
extern int	lease_in_segment(QueueShared *q, int segment, int *slots, int max);

/*
 * Move a lease's message: begin with HELD -> MOVING, say where it goes before
 * that place can be seen by others; abort undoes both.  False if not HELD.
 */
extern bool lease_begin_move(int slotno);
extern void lease_move(int slotno, Oid relid, ItemPointer tid);

/*
 * Free the slots of a queue that is no more.  False if a transaction is still
 * at work on one.
 */
extern bool lease_forget_queue(QueueShared *q);

#endif							/* QUEUE_LEASE_H */
