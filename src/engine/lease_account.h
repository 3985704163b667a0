/*
 * lease_account.h
 *		What the leases of one queue have in common: counts, a list, a bound.
 *
 * The functions for lease.c take a queue by the number of its element, which
 * is what slots keep.
 */
#ifndef QUEUE_ENGINE_LEASE_ACCOUNT_H
#define QUEUE_ENGINE_LEASE_ACCOUNT_H

#include "engine/shared.h"

extern Size lease_account_shmem_size(void);
extern void lease_account_shmem_init(void);

/*
 * Reset the account of an element that is given up, under the queue's lock; no
 * leases are left.
 */
extern void lease_account_reset(QueueShared *q);

/*
 * How many more leases the queues of this one's owner may have, up to n.
 * Claims at the same time can pass the limit together, as it is read without a
 * lock.
 */
extern int	lease_allowance(QueueShared *q, int n);

/* The bound of when a lease of the queue may be taken over. */
extern TimestampTz lease_next_look(QueueShared *q);

/* Lower it to a time, once the lease is HELD. */
extern void lease_look_by(QueueShared *q, TimestampTz when);

/* Raise it before the leases are read; and set it to always due. */
extern void lease_raise_look(QueueShared *q);
extern void lease_look_now(QueueShared *q);

/* How many returned leases a queue has: a hint, some or none. */
extern int	lease_count_returned(QueueShared *q);

/* How many leases point into a segment; final only with its table locked exclusively. */
extern int	lease_count_in_segment(QueueShared *q, int segno);

/*
 * For lease.c: count slots in use, and leases that point into a segment; put a
 * slot at the end of the list of returned leases, and take the first one off
 * it, -1 if there is none.  The caller owns the slot, or does then.
 */
extern void account_count(int queue, int32 change);
extern void account_count_in_segment(int queue, int segno, int32 change);
extern void account_return(int queue, int slotno, int64 id);
extern int	account_take_returned(int queue);

#endif							/* QUEUE_ENGINE_LEASE_ACCOUNT_H */
