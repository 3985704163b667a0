/*
 * wake.h
 *		Waking those who wait for messages.
 */
#ifndef QUEUE_ENGINE_WAKE_H
#define QUEUE_ENGINE_WAKE_H

#include "engine/shmem.h"

extern Size wake_shmem_size(void);
extern void wake_shmem_init(bool found);
extern void wake_init(void);

/* At commit of this transaction: count n messages sent, wake up to n waiters. */
extern void wake_at_commit(QueueShared *q, int n);

/* At commit: count n messages sent that are to be received later. */
extern void wake_delayed_at_commit(QueueShared *q, int n);

/* At commit: tell everyone that the queue is gone, and forget it. */
extern void wake_drop_at_commit(QueueShared *q);

/* At commit: a deferred message of the queue is due at this time. */
extern void wake_due_at_commit(QueueShared *q, TimestampTz due_at);

/* At commit: the queue has n more dead letters, or fewer. */
extern void wake_dead_at_commit(QueueShared *q, int n);

/* At commit: the queue is empty. */
extern void wake_purged_at_commit(QueueShared *q);

/* Wake up to n waiters now.  Safe after commit: raises nothing. */
extern void wake_waiters(QueueShared *q, int n);

/* Wake all waiters of this database (after COMMIT PREPARED). */
extern void wake_database(void);

/*
 * Wait for messages: wait_begin, then look, then WaitLatch; wait_end when
 * done, whether woken or not.  A process waits for one queue at a time.
 * wait_end(true) says a message was taken; with false, a wake-up spent on us
 * is handed to the next waiter.
 */
extern void wait_begin(QueueShared *q);
extern void wait_end(bool took);

#endif							/* QUEUE_ENGINE_WAKE_H */
