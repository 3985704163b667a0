/*
 * wait.c
 *		Processes that wait for messages, and waking them.
 *
 * A process that waits enters the list first and searches then, so that a
 * commit between the two wakes it.  Waking allocates nothing and raises
 * nothing.
 */
#include "postgres.h"

#include "compat.h"
#include "engine/wait.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "storage/spin.h"

/* Processes taken off a list while its spinlock is held once. */
#define WAKE_BATCH		32

typedef enum WaitState
{
	WAIT_NONE,
	WAIT_LISTED,				/* in the list */
	WAIT_WOKEN					/* taken off it, latch set */
} WaitState;

/* One for each process, guarded by the mutex of the list it waits in, or waited in last. */
typedef struct WaitSlot
{
	WaitState	state;
	int			prev;
	int			next;
} WaitSlot;

static WaitSlot *wait_slots = NULL;
static WaitList *waiting_for = NULL;

/* Whether a message was there that this process was not to have. */
static bool in_vain = false;

Size
wait_shmem_size(void)
{
	return mul_size(MaxBackends, sizeof(WaitSlot));
}

void
wait_shmem_init(void)
{
	bool		found;

	wait_slots = ShmemInitStruct("queue waiters", wait_shmem_size(), &found);
	if (!found)
		memset(wait_slots, 0, wait_shmem_size());
}

void
wait_list_init(WaitList *list)
{
	SpinLockInit(&list->mutex);
	list->head = list->tail = -1;
	pg_atomic_init_u32(&list->n, 0);
}

/* Take a process off a list, whose mutex is held. */
static void
unlist(WaitList *list, int procno)
{
	WaitSlot   *slot = &wait_slots[procno];

	Assert(SPINLOCK_IS_TAKEN(&list->mutex));
	if (slot->prev >= 0)
		wait_slots[slot->prev].next = slot->next;
	else
		list->head = slot->next;
	if (slot->next >= 0)
		wait_slots[slot->next].prev = slot->prev;
	else
		list->tail = slot->prev;
	pg_atomic_fetch_sub_u32(&list->n, 1);
}

void
wake_waiters(WaitList *list, int n)
{
	/*
	 * Pairs with the barrier in wait_begin: a waiter sees the message, or we
	 * see the waiter.
	 */
	pg_memory_barrier();

	while (n > 0 && pg_atomic_read_u32(&list->n) > 0)
	{
		int			procnos[WAKE_BATCH];
		int			woken = 0;

		SpinLockAcquire(&list->mutex);
		while (woken < Min(n, WAKE_BATCH) && list->head >= 0)
		{
			int			procno = list->head;

			unlist(list, procno);
			wait_slots[procno].state = WAIT_WOKEN;
			procnos[woken++] = procno;
		}
		SpinLockRelease(&list->mutex);

		if (woken == 0)
			break;

		/* Without the mutex: a process that has gone on is woken for nothing. */
		for (int i = 0; i < woken; i++)
			SetLatch(&ProcGlobal->allProcs[procnos[i]].procLatch);
		n -= woken;
	}
}

static void
stop_waiting_at_exit(int code, Datum arg)
{
	wait_end(false);
}

void
wait_begin(WaitList *list)
{
	WaitSlot   *slot = &wait_slots[MY_PROCNO];
	static bool exit_registered = false;

	if (!exit_registered)
	{
		before_shmem_exit(stop_waiting_at_exit, (Datum) 0);
		exit_registered = true;
	}
	if (waiting_for != NULL && waiting_for != list)
		wait_end(false);

	SpinLockAcquire(&list->mutex);
	if (waiting_for == NULL || slot->state != WAIT_LISTED)
	{
		slot->state = WAIT_LISTED;
		slot->next = -1;
		slot->prev = list->tail;
		if (list->tail >= 0)
			wait_slots[list->tail].next = MY_PROCNO;
		else
			list->head = MY_PROCNO;
		list->tail = MY_PROCNO;
		pg_atomic_fetch_add_u32(&list->n, 1);
	}
	SpinLockRelease(&list->mutex);
	waiting_for = list;

	/*
	 * Pairs with the barrier in wake_waiters: a process that commits from
	 * here on sees us in the list, and we see what was committed before.
	 */
	pg_memory_barrier();
}

void
wait_in_vain(void)
{
	in_vain = (waiting_for != NULL);
}

void
wait_end(bool took)
{
	WaitList   *list = waiting_for;
	WaitSlot   *slot;
	bool		woken;

	if (list == NULL)
		return;
	waiting_for = NULL;
	slot = &wait_slots[MY_PROCNO];

	SpinLockAcquire(&list->mutex);
	if (slot->state == WAIT_LISTED)
		unlist(list, MY_PROCNO);
	woken = (slot->state == WAIT_WOKEN) || in_vain;
	slot->state = WAIT_NONE;
	SpinLockRelease(&list->mutex);
	in_vain = false;

	if (woken && !took)
		wake_waiters(list, 1);
}
