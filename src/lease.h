/*
 * lease.h
 *		Leases: which consumer has which message, until when.
 */
#ifndef QUEUE_LEASE_H
#define QUEUE_LEASE_H

#include "catalog.h"
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
 * itself on to RETURNED, from where the next receiver takes it.
 */
typedef enum LeaseState
{
	LEASE_FREE,
	LEASE_HELD,
	LEASE_SETTLING,
	LEASE_RETURNED
} LeaseState;

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
	TimestampTz expires_at;		/* DT_NOEND for a process's lease */
} LeaseSlot;

extern Size lease_shmem_size(void);
extern void lease_shmem_init(bool found);
extern void lease_init(void);

/*
 * Take a lease.  Returns the slot's number; -1 if the place is leased
 * already; -2 if there is no free slot.  The caller may hold the queue's lock
 * and a page's; nothing here allocates or raises.
 */
extern int	lease_take(QueueShared *q, Oid relid, int segment, ItemPointer tid,
					   int64 id, int attempts, LeaseKind kind, TimestampTz expires_at);

/* Undo lease_take at once: the place is found to hold nothing to receive. */
extern void lease_drop(int slotno);

/* Whether a lease points to this place. */
extern bool lease_exists(Oid relid, ItemPointer tid);

/* Take the oldest returned lease of a queue, as SETTLING; -1 if none. */
extern int	lease_take_returned(QueueShared *q);

/* Make a slot from lease_take_returned a lease again, or put it back last. */
extern void lease_renew(int slotno, LeaseKind kind, TimestampTz expires_at);
extern void lease_put_back(int slotno);

/*
 * Make the transaction responsible for leases it took: should it abort they
 * are returned.  Must be called with no lock held (it allocates).
 */
extern void lease_remember_taken(int slotno);

extern LeaseSlot *lease_slot(int slotno);
extern int64 lease_receipt(int slotno);

/*
 * Begin to settle: HELD -> SETTLING if the receipt's lease still holds, and
 * remember that for the transaction's end, which frees the slot at commit and
 * returns it to HELD at abort.  NULL if the lease has ended.
 */
extern LeaseSlot *lease_begin_settle(int64 receipt);

/* The queue of a receipt, InvalidOid if the lease has ended. */
extern Oid	lease_queue(int64 receipt);

/* Change when a lease ends.  False if it has ended. */
extern bool lease_extend(int64 receipt, TimestampTz expires_at);

/* Give a lease back at once, no attempt counted.  False if it has ended. */
extern bool lease_release(int64 receipt);

/* Receipts of up to max leases in this database that ended before now. */
extern int	lease_expired(TimestampTz now, int64 *receipts, int max);

/* Earliest end of a timed lease in this database, DT_NOEND if none. */
extern TimestampTz lease_next_expiry(void);

/* Free every slot of a queue that is no more. */
extern void lease_forget_queue(QueueShared *q);

#endif							/* QUEUE_LEASE_H */
