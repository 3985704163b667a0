/*
 * wake.c
 *		Waking those who wait for messages.
 *
 * A sender notes which queues it sent to; once its commit is visible it wakes
 * one waiting process per message by its latch.  Nothing on that path
 * allocates or raises.  A process that waits first registers and then looks,
 * so that a commit between the two wakes it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "compat.h"
#include "engine/lease.h"
#include "engine/registry.h"
#include "engine/wake.h"
#include "guc.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/memutils.h"

/* Woken at once while a spinlock is held; more take another turn. */
#define WAKE_BATCH		32

typedef enum WaitState
{
	WAIT_NONE,
	WAIT_LISTED,				/* in the queue's list */
	WAIT_WOKEN					/* taken off it, latch set */
} WaitState;

/* One for each process, guarded by wait_mutex of the queue it waits for. */
typedef struct WaitSlot
{
	WaitState	state;
	int			prev;
	int			next;
} WaitSlot;

/* What this transaction has to tell at its commit. */
typedef struct PendingWake
{
	QueueShared *q;
	uint32		generation;
	SubTransactionId subid;
	int			messages;
	int			delayed;		/* sent, and counted as deferred */
	int			deferred;
	int			dead;
	bool		purged;
	bool		dropped;
	TimestampTz due_at;			/* DT_NOEND if nothing was deferred */
} PendingWake;

static WaitSlot *wait_slots = NULL;
static QueueShared *waiting_for = NULL;

static PendingWake *pending = NULL;
static int	npending = 0;
static int	max_pending = 0;

Size
wake_shmem_size(void)
{
	return mul_size(MaxBackends, sizeof(WaitSlot));
}

void
wake_shmem_init(bool found)
{
	bool		mine;

	wait_slots = ShmemInitStruct("queue waiters", wake_shmem_size(), &mine);
	if (!found)
		memset(wait_slots, 0, wake_shmem_size());
}

/* Take a process off the queue's list; wait_mutex is held. */
static void
unlist(QueueShared *q, int procno)
{
	WaitSlot   *slot = &wait_slots[procno];

	if (slot->prev >= 0)
		wait_slots[slot->prev].next = slot->next;
	else
		q->wait_head = slot->next;
	if (slot->next >= 0)
		wait_slots[slot->next].prev = slot->prev;
	else
		q->wait_tail = slot->prev;
	pg_atomic_fetch_sub_u32(&q->nwaiting, 1);
}

void
wake_waiters(QueueShared *q, int n)
{
	/* Pairs with the barrier in wait_begin: they see our message, or we them. */
	pg_memory_barrier();

	while (n > 0 && pg_atomic_read_u32(&q->nwaiting) > 0)
	{
		int			procnos[WAKE_BATCH];
		int			woken = 0;

		SpinLockAcquire(&q->wait_mutex);
		while (woken < Min(n, WAKE_BATCH) && q->wait_head >= 0)
		{
			int			procno = q->wait_head;

			unlist(q, procno);
			wait_slots[procno].state = WAIT_WOKEN;
			procnos[woken++] = procno;
		}
		SpinLockRelease(&q->wait_mutex);

		if (woken == 0)
			break;
		for (int i = 0; i < woken; i++)
			SetLatch(&ProcGlobal->allProcs[procnos[i]].procLatch);
		n -= woken;
	}
}

void
wake_database(void)
{
	if (queue_state == NULL)
		return;
	for (int i = 0; i < queue_max_queues; i++)
	{
		QueueShared *q = &queue_state->queues[i];

		if (q->dboid != MyDatabaseId)
			continue;
		pg_atomic_write_u64(&q->next_due, 0);
		wake_waiters(q, INT_MAX);
	}
}

static void
stop_waiting_at_exit(int code, Datum arg)
{
	wait_end(false);
}

void
wait_begin(QueueShared *q)
{
	WaitSlot   *slot = &wait_slots[MY_PROCNO];

	static bool exit_registered = false;

	if (!exit_registered)
	{
		before_shmem_exit(stop_waiting_at_exit, (Datum) 0);
		exit_registered = true;
	}
	if (waiting_for != NULL && waiting_for != q)
		wait_end(false);

	SpinLockAcquire(&q->wait_mutex);
	if (waiting_for == NULL || slot->state != WAIT_LISTED)
	{
		slot->state = WAIT_LISTED;
		slot->next = -1;
		slot->prev = q->wait_tail;
		if (q->wait_tail >= 0)
			wait_slots[q->wait_tail].next = MY_PROCNO;
		else
			q->wait_head = MY_PROCNO;
		q->wait_tail = MY_PROCNO;
		pg_atomic_fetch_add_u32(&q->nwaiting, 1);
	}
	SpinLockRelease(&q->wait_mutex);
	waiting_for = q;
	pg_memory_barrier();
}

void
wait_end(bool took)
{
	QueueShared *q = waiting_for;
	WaitSlot   *slot;
	bool		woken;

	if (q == NULL)
		return;
	waiting_for = NULL;
	slot = &wait_slots[MY_PROCNO];

	SpinLockAcquire(&q->wait_mutex);
	if (slot->state == WAIT_LISTED)
		unlist(q, MY_PROCNO);
	woken = (slot->state == WAIT_WOKEN);
	slot->state = WAIT_NONE;
	SpinLockRelease(&q->wait_mutex);

	if (woken && !took)
		wake_waiters(q, 1);
}

/* This transaction's entry for a queue, made if need be. */
static PendingWake *
pending_wake(QueueShared *q)
{
	PendingWake *wake;

	for (int i = npending - 1; i >= 0; i--)
	{
		if (pending[i].q == q && pending[i].subid == GetCurrentSubTransactionId())
			return &pending[i];
	}
	if (npending == max_pending)
	{
		int			n = Max(8, max_pending * 2);

		if (pending == NULL)
			pending = MemoryContextAlloc(TopMemoryContext, n * sizeof(PendingWake));
		else
			pending = repalloc(pending, n * sizeof(PendingWake));
		max_pending = n;
	}
	wake = &pending[npending++];
	wake->q = q;
	wake->generation = pg_atomic_read_u32(&q->generation);
	wake->subid = GetCurrentSubTransactionId();
	wake->messages = wake->delayed = wake->deferred = wake->dead = 0;
	wake->purged = wake->dropped = false;
	wake->due_at = DT_NOEND;
	return wake;
}

void
wake_at_commit(QueueShared *q, int n)
{
	pending_wake(q)->messages += n;
}

void
wake_delayed_at_commit(QueueShared *q, int n)
{
	pending_wake(q)->delayed += n;
}

void
wake_drop_at_commit(QueueShared *q)
{
	pending_wake(q)->dropped = true;
}

void
wake_due_at_commit(QueueShared *q, TimestampTz due_at)
{
	PendingWake *wake = pending_wake(q);

	wake->deferred++;
	wake->due_at = Min(wake->due_at, due_at);
}

void
wake_dead_at_commit(QueueShared *q, int n)
{
	pending_wake(q)->dead += n;
}

void
wake_purged_at_commit(QueueShared *q)
{
	pending_wake(q)->purged = true;
}

static void
wake_commit(PendingWake *wake)
{
	QueueShared *q = wake->q;

	if (pg_atomic_read_u32(&q->generation) != wake->generation)
		return;
	if (wake->dropped)
	{
		wake_waiters(q, INT_MAX);
		queue_forget(q->dboid, q->relid);
		return;
	}
	if (wake->purged)
	{
		/* We still have all tables locked: nobody has leased anything since. */
		(void) lease_forget_queue(q);
		pg_atomic_write_u64(&q->ready, 0);
		pg_atomic_write_u64(&q->deferred, 0);
	}
	if (wake->delayed > 0)
		pg_atomic_fetch_add_u64(&q->sent, wake->delayed);
	if (wake->messages > 0)
	{
		pg_atomic_fetch_add_u64(&q->sent, wake->messages);
		pg_atomic_fetch_add_u64(&q->ready, wake->messages);
		wake_waiters(q, wake->messages);
	}
	if (wake->dead != 0)
		pg_atomic_fetch_add_u64(&q->dead, wake->dead);
	if (wake->due_at != DT_NOEND)
	{
		uint64		old = pg_atomic_read_u64(&q->next_due);

		pg_atomic_fetch_add_u64(&q->deferred, wake->deferred);
		while ((int64) old > wake->due_at)
		{
			if (pg_atomic_compare_exchange_u64(&q->next_due, &old, wake->due_at))
			{
				/* Waiters sleep until the time they knew of. */
				wake_waiters(q, INT_MAX);
				break;
			}
		}
	}
}

static void
wake_xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			for (int i = 0; i < npending; i++)
				wake_commit(&pending[i]);
			npending = 0;
			break;
		case XACT_EVENT_ABORT:
			npending = 0;
			wait_end(false);
			break;
		case XACT_EVENT_PREPARE:

			/* COMMIT PREPARED wakes everyone, see ddl.c. */
			npending = 0;
			break;
		default:
			break;
	}
}

/* What a subtransaction has to tell its parent has to tell now. */
static void
hand_to_parent(SubTransactionId subid, SubTransactionId parent)
{
	int			first = npending;
	int			kept;

	while (first > 0 && pending[first - 1].subid >= subid)
		first--;
	kept = first;
	for (int i = first; i < npending; i++)
	{
		PendingWake *wake = NULL;

		for (int j = kept - 1; j >= 0 && pending[j].subid >= parent && wake == NULL; j--)
		{
			if (pending[j].q == pending[i].q)
				wake = &pending[j];
		}
		if (wake != NULL)
		{
			if (pending[i].purged)
				wake->messages = wake->delayed = wake->deferred = 0;
			wake->purged |= pending[i].purged;
			wake->messages += pending[i].messages;
			wake->delayed += pending[i].delayed;
			wake->deferred += pending[i].deferred;
			wake->dead += pending[i].dead;
			wake->dropped |= pending[i].dropped;
			wake->due_at = Min(wake->due_at, pending[i].due_at);
			continue;
		}
		pending[kept] = pending[i];
		pending[kept++].subid = parent;
	}
	npending = kept;
}

static void
wake_subxact_callback(SubXactEvent event, SubTransactionId subid,
					  SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_COMMIT_SUB)
		hand_to_parent(subid, parent);
	else if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		while (npending > 0 && pending[npending - 1].subid >= subid)
			npending--;

		/* An error that is caught ends a wait, too. */
		wait_end(false);
	}
}

void
wake_init(void)
{
	RegisterXactCallback(wake_xact_callback, NULL);
	RegisterSubXactCallback(wake_subxact_callback, NULL);
}
