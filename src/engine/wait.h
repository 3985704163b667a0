/*
 * wait.h
 *		Processes that wait for messages, and waking them.
 */
#ifndef QUEUE_ENGINE_WAIT_H
#define QUEUE_ENGINE_WAIT_H

#include "port/atomics.h"
#include "storage/s_lock.h"

/* The processes that wait for messages of one queue, linked through their wait slots. */
typedef struct WaitList
{
	slock_t		mutex;
	int			head;			/* under mutex, like tail */
	int			tail;
	pg_atomic_uint32 n;			/* changed under mutex; read without, see
								 * wake_waiters */
} WaitList;

extern Size wait_shmem_size(void);
extern void wait_shmem_init(void);
extern void wait_list_init(WaitList *list);

/* Wake up to n waiters now.  Safe after commit: raises nothing. */
extern void wake_waiters(WaitList *list, int n);

/*
 * Wait for messages: wait_begin, then search, then WaitLatch; wait_end when
 * done, whether woken or not.  A process waits for one queue at a time.
 * wait_end(true) says a message was taken; with false, a wake-up that this
 * process got goes to the next waiter.  So it does if the process was woken and
 * waits on, having found a message that a limit kept from it: wait_in_vain.
 */
extern void wait_begin(WaitList *list);
extern void wait_in_vain(void);
extern void wait_end(bool took);

#endif							/* QUEUE_ENGINE_WAIT_H */
