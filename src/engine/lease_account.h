/*
 * lease_account.h
 *		What the leases of one queue have in common: counts, a list, a bound.
 *
 * A queue is known by the number of its element here where lease.c asks, as
 * that is what slots keep.
 */
#ifndef QUEUE_ENGINE_LEASE_ACCOUNT_H
#define QUEUE_ENGINE_LEASE_ACCOUNT_H

#include "engine/shared.h"

extern Size lease_account_shmem_size(void);
extern void lease_account_shmem_init(void);

/* A queue's element is to be another queue's; it has no leases any more. */
extern void lease_account_reset(QueueShared *q);

/* How many more leases the queues of this one's owner may have, up to n. */
extern int	lease_allowance(QueueShared *q, int n);

/* When receivers of a queue have to look for overdue leases, a lower bound. */
extern TimestampTz lease_next_look(QueueShared *q);

/* See to it that they look by a time, the lease being in shared memory by now. */
extern void lease_look_by(QueueShared *q, TimestampTz when);

/* Raise the bound, to look then; and have all of them looked at. */
extern void lease_raise_look(QueueShared *q);
extern void lease_look_now(QueueShared *q);

/* How many leases of a queue have been given back: a hint, some or none. */
extern int	lease_count_returned(QueueShared *q);

/* How many leases point into a segment; final only with its table locked exclusively. */
extern int	lease_count_in_segment(QueueShared *q, int segno);

/*
 * For lease.c: count slots in use, and leases that point into a segment; put a
 * slot at the end of the list of those given back, and take the first one off
 * it, -1 if there is none.  All by who owns the slot.
 */
extern void account_count(int queue, int32 change);
extern void account_count_in_segment(int queue, int segno, int32 change);
extern void account_return(int queue, int slotno);
extern int	account_take_returned(int queue);

#endif							/* QUEUE_ENGINE_LEASE_ACCOUNT_H */
