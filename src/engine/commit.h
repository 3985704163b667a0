/*
 * commit.h
 *		What a transaction makes known of its queues once it has committed.
 */
#ifndef QUEUE_ENGINE_COMMIT_H
#define QUEUE_ENGINE_COMMIT_H

#include "engine/shared.h"

extern void commit_init(void);

/*
 * Each of the following is recorded, and made known when this transaction
 * commits; not if it, or the subtransaction, aborts.
 */

/* n messages were sent: count them, and wake up to n waiters. */
extern void commit_sent(QueueShared *q, int n);

/* n messages were sent with a delay: count them. */
extern void commit_delayed(QueueShared *q, int n);

/* A deferred message of the queue is due at this time. */
extern void commit_due(QueueShared *q, TimestampTz due_at);

/* The queue has n more dead letters, or fewer. */
extern void commit_dead(QueueShared *q, int n);

/*
 * Keys of the queue that waited may go on: let them have a turn.  With
 * key_limit that is how many leases each may have.
 */
extern void commit_unpark(QueueShared *q, int key_limit);

/* All its messages were deleted, its tables locked exclusively. */
extern void commit_purged(QueueShared *q);

/* The queue was dropped: wake all waiters, and give its element up. */
extern void commit_dropped(QueueShared *q);

/*
 * After COMMIT or ROLLBACK PREPARED, as the callbacks ran at PREPARE, when
 * nothing that was sent was visible: do now for all queues of this database
 * what is to be done.
 */
extern void commit_prepared(bool rolled_back);

#endif							/* QUEUE_ENGINE_COMMIT_H */
