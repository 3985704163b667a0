/*
 * lease.h
 *		Leases: which consumer has which message, until when.
 */
#ifndef QUEUE_ENGINE_LEASE_H
#define QUEUE_ENGINE_LEASE_H

#include "engine/lease_slot.h"
#include "engine/limit.h"

typedef enum LeaseTaking
{
	LEASE_TAKEN,
	LEASE_TAKEN_ALREADY,
	LEASE_NONE_FREE,
	LEASE_LIMITED				/* by limits, which say more */
} LeaseTaking;

/*
 * A function below that takes a LeaseRef does nothing if its lease has ended.
 */

/*
 * Reserve memory to record one lease more for the transaction's end: right before
 * each of the functions below that begin a lease or take a returned one, as a
 * lease that has ended in the meantime stays on record.  They allocate none,
 * as they may be called with locks held.
 */
extern void lease_reserve(void);

/*
 * Take a lease on the message with this id at a place, from now until
 * expires_at (DT_NOEND unless LEASE_TIMED); *ref is set for LEASE_TAKEN.  If
 * the transaction aborts the lease is returned.  key is the number of its key
 * if that is limited, which the caller has taken, or -1.  The caller holds the page's
 * lock or judges the tuple again after this, and the queue's lock or one on
 * its table, so that the element stays this queue's.
 */
extern LeaseTaking lease_take(QueueShared *q, const LeasePlace *place, int64 id, int attempts,
							  LeaseKind kind, TimestampTz now, TimestampTz expires_at,
							  int key, Limits *limits, LeaseRef *ref);

/* Give up a lease that this transaction took or checks: its place holds no message. */
extern void lease_drop(LeaseRef ref);

/* Give a lease that this transaction took back, for the next receiver. */
extern void lease_give_back(LeaseRef ref);

/*
 * Take the oldest returned lease of a queue; false if there is none.  The
 * caller judges its message and then renews it, which changes *ref, puts it
 * back or drops it; at abort it is put back.  False also if the limits do not
 * allow to renew it.
 */
extern bool lease_take_returned(QueueShared *q, Lease *lease);
extern bool lease_renew(LeaseRef *ref, int attempts, LeaseKind kind,
						TimestampTz now, TimestampTz expires_at, Limits *limits);
extern void lease_put_back(LeaseRef ref);

/*
 * Have a lease from lease_take_returned, whose delivery is over, end by expiry:
 * so that counts as a failed attempt.
 */
extern void lease_expire_returned(LeaseRef ref);

/*
 * This transaction moves the message of a lease from lease_take_returned away:
 * the lease ends at commit.
 */
extern void lease_remove_returned(LeaseRef ref);

/* The table of a lease's queue in this database; InvalidOid if the lease has ended.  A hint. */
extern Oid	lease_queue(LeaseRef ref);

/*
 * Begin to settle: HELD -> SETTLING.  The slot is freed when the transaction
 * commits and goes back to HELD when it, or the subtransaction, aborts.
 * False if the lease has ended.
 */
extern bool lease_begin_settle(LeaseRef ref, Lease *lease);

/*
 * The same, for a timed lease that has ended by a time: false if it has been
 * extended.  If the transaction aborts it is held under another ref, so that
 * its receipt is void.
 */
extern bool lease_begin_expire(LeaseRef ref, TimestampTz now, Lease *lease);

/* Record how a lease being settled ends, for the statistics. */
extern void lease_mark(LeaseRef ref, LeaseOutcome outcome);

/* Undo lease_begin_settle at once, and let the lease end at a time. */
extern void lease_cancel_settle(LeaseRef ref, TimestampTz expires_at);

/* The expiry of a lease failed: try it again at a time. */
extern void lease_retry_expiry(LeaseRef ref, TimestampTz when);

/* Change when a timed lease ends.  False if it has ended. */
extern bool lease_extend(LeaseRef ref, TimestampTz expires_at);

/* Give a lease back at once, no attempt counted.  False if it has ended. */
extern bool lease_release(LeaseRef ref);

/*
 * The same, and those on later messages of the key with it, which one receiver
 * has got.
 */
extern bool lease_release_run(const Lease *lease);

/*
 * Settle the leases on later messages of the key of one that is being settled:
 * they are given back if this transaction commits.
 */
extern void lease_end_run(LeaseRef ref);

/* Give back all LEASE_PROCESS leases of this process, in order of id; called at its exit. */
extern void lease_release_process(void);

/* The lease on a message of a queue; false if there is none. */
extern bool lease_find(QueueShared *q, int64 id, Lease *lease);

/*
 * Copy timed leases in this database that have ended by a time, up to max, in
 * order of id, so that of those on one key the first comes first; returns how
 * many.  *next is when the next one ends, DT_NOEND if there is
 * none.
 */
extern int	lease_expired(TimestampTz now, Lease *leases, int max, TimestampTz *next);

/*
 * Copy timed leases of a queue that a receiver may take over by now, up to
 * max, in order of id; returns how many.  due() says from when on.  The queue's next_expiry
 * becomes a lower bound of those times, these leases' included.
 */
typedef TimestampTz (*LeaseDue) (const Lease *lease, void *arg);
extern int	lease_overdue(QueueShared *q, TimestampTz now, LeaseDue due, void *arg,
						  Lease *leases, int max);

/* Give back leases in this database of processes that are gone. */
extern void lease_sweep(void);

/* Held leases that point into a segment, up to max; returns how many. */
extern int	lease_in_segment(QueueShared *q, int segment, LeaseRef *refs, int max);

/*
 * Move a lease's message.  lease_begin_move takes HELD to MOVING, false if it
 * is not HELD; lease_move adds the new place, and comes before other processes
 * can see the message there.  The lease covers both places until the
 * transaction has ended.
 */
extern bool lease_begin_move(LeaseRef ref, Lease *lease);
extern void lease_move(LeaseRef ref, const LeasePlace *place);

/*
 * Free the slots of a queue that was dropped or purged; false if a transaction
 * still owns one.  The caller holds the queue's lock, or has its tables locked
 * exclusively.
 */
extern bool lease_forget_queue(QueueShared *q);

#endif							/* QUEUE_ENGINE_LEASE_H */
