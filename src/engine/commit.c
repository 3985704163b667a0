/*
 * commit.c
 *		What a transaction makes known of its queues once it has committed.
 *
 * A sender records which queues it sent to; once its rows are visible it
 * counts them and wakes one waiting process per message by its latch.  Nothing
 * on that path allocates or raises.
 */
#include "postgres.h"

#include "access/xact.h"
#include "engine/commit.h"
#include "engine/keys.h"
#include "engine/lease.h"
#include "engine/lease_end.h"
#include "engine/registry.h"
#include "engine/round.h"
#include "guc.h"
#include "miscadmin.h"
#include "utils/memutils.h"

/* What this transaction, or a subtransaction of it, makes known of a queue at commit. */
typedef struct PendingNews
{
	QueueShared *q;
	uint32		generation;
	SubTransactionId subid;
	int			messages;
	int			delayed;		/* sent, and counted as deferred */
	int			deferred;
	int			dead;
	bool		unparked;
	int			key_limit;		/* 0: as it was */
	bool		purged;
	bool		dropped;
	TimestampTz due_at;			/* DT_NOEND if nothing was deferred */
} PendingNews;

static PendingNews *pending = NULL;
static int	npending = 0;
static int	max_pending = 0;

/* This transaction's entry for a queue, made if need be. */
static PendingNews *
pending_news(QueueShared *q)
{
	PendingNews *news;

	for (int i = npending - 1; i >= 0; i--)
	{
		if (pending[i].q == q && pending[i].subid == GetCurrentSubTransactionId())
			return &pending[i];
	}
	if (npending == max_pending)
	{
		int			n = Max(8, max_pending * 2);

		if (pending == NULL)
			pending = MemoryContextAlloc(TopMemoryContext, n * sizeof(PendingNews));
		else
			pending = repalloc(pending, n * sizeof(PendingNews));
		max_pending = n;
	}
	news = &pending[npending++];
	news->q = q;
	news->generation = pg_atomic_read_u32(&q->generation);
	news->subid = GetCurrentSubTransactionId();
	news->messages = news->delayed = news->deferred = news->dead = 0;
	news->unparked = news->purged = news->dropped = false;
	news->key_limit = 0;
	news->due_at = DT_NOEND;
	return news;
}

void
commit_sent(QueueShared *q, int n)
{
	pending_news(q)->messages += n;
}

void
commit_delayed(QueueShared *q, int n)
{
	pending_news(q)->delayed += n;
}

void
commit_dropped(QueueShared *q)
{
	pending_news(q)->dropped = true;
}

void
commit_due(QueueShared *q, TimestampTz due_at)
{
	PendingNews *news = pending_news(q);

	news->deferred++;
	news->due_at = Min(news->due_at, due_at);
}

void
commit_dead(QueueShared *q, int n)
{
	pending_news(q)->dead += n;
}

void
commit_unpark(QueueShared *q, int key_limit)
{
	PendingNews *news = pending_news(q);

	news->unparked = true;
	if (key_limit > 0)
		news->key_limit = key_limit;
}

void
commit_purged(QueueShared *q)
{
	pending_news(q)->purged = true;
}

/* Make known what this transaction has done to a queue.  Raises nothing. */
static void
tell(PendingNews *news)
{
	QueueShared *q = news->q;

	if (pg_atomic_read_u32(&q->generation) != news->generation)
		return;
	if (news->dropped)
	{
		wake_waiters(&q->waiters, INT_MAX);
		queue_forget(q->dboid, q->relid);
		return;
	}
	if (news->purged)
	{
		/* The tables are still locked, so nothing was leased since. */
		keys_forget(q);
		(void) lease_forget_queue(q);
		counter_write(&q->counters, COUNTER_READY, 0);
		counter_write(&q->counters, COUNTER_DEFERRED, 0);
	}
	if (news->delayed > 0)
		counter_add(&q->counters, COUNTER_SENT, news->delayed);
	if (news->messages > 0)
	{
		counter_add(&q->counters, COUNTER_SENT, news->messages);
		counter_add(&q->counters, COUNTER_READY, news->messages);

		/* The rows are visible; wake_waiters has the barrier. */
		wake_waiters(&q->waiters, news->messages);
	}
	if (news->dead != 0)
		counter_add(&q->counters, COUNTER_DEAD, news->dead);
	if (news->due_at != DT_NOEND)
	{
		counter_add(&q->counters, COUNTER_DEFERRED, news->deferred);

		/*
		 * The rows have become visible, under ProcArrayLock, before this
		 * reads the bound.  Pairs with bound_raise in due_claim: the snapshot
		 * taken after that shows them, or we see the bound raised.  All
		 * waiters are woken, as they sleep until the time they read.
		 */
		if (bound_lower(&q->next_due, news->due_at))
			wake_waiters(&q->waiters, INT_MAX);
	}
	if (news->unparked)
	{
		int			cursor = 0;

		keys_unpark(q, &cursor, INT_MAX, news->key_limit);
	}
}

static void
commit_xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			for (int i = 0; i < npending; i++)
				tell(&pending[i]);
			npending = 0;
			break;
		case XACT_EVENT_ABORT:
			npending = 0;
			wait_end(false);
			break;
		case XACT_EVENT_PREPARE:

			/* COMMIT PREPARED wakes all waiters, see workers/ddl.c. */
			npending = 0;
			break;
		default:
			break;
	}
}

/* A subtransaction has committed: what it makes known is its parent's. */
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
		PendingNews *news = NULL;

		for (int j = kept - 1; j >= 0 && pending[j].subid >= parent && news == NULL; j--)
		{
			if (pending[j].q == pending[i].q)
				news = &pending[j];
		}
		if (news != NULL)
		{
			if (pending[i].purged)
				news->messages = news->delayed = news->deferred = 0;
			news->unparked |= pending[i].unparked;
			if (pending[i].key_limit > 0)
				news->key_limit = pending[i].key_limit;
			news->purged |= pending[i].purged;
			news->messages += pending[i].messages;
			news->delayed += pending[i].delayed;
			news->deferred += pending[i].deferred;
			news->dead += pending[i].dead;
			news->dropped |= pending[i].dropped;
			news->due_at = Min(news->due_at, pending[i].due_at);
			continue;
		}
		pending[kept] = pending[i];
		pending[kept++].subid = parent;
	}
	npending = kept;
}

static void
commit_subxact_callback(SubXactEvent event, SubTransactionId subid,
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
commit_prepared(bool rolled_back)
{
	if (queue_state == NULL)
		return;
	lease_finish_prepared();

	LWLockAcquire(&queue_state->registry_lock, LW_SHARED);
	for (int i = 0; i < queue_max_queues; i++)
	{
		QueueShared *q = &queue_state->queues[i];

		if (!OidIsValid(q->relid) || q->dboid != MyDatabaseId)
			continue;

		/* Messages whose deletion was rolled back are found by a sweep only. */
		if (rolled_back)
			pg_atomic_write_u32(&q->wants_sweep, 1);

		/* A search that raises the bound after this sees the rows. */
		bound_write(&q->next_due, DT_NOBEGIN);
		wake_waiters(&q->waiters, INT_MAX);
	}
	LWLockRelease(&queue_state->registry_lock);
	if (rolled_back)
		maintenance_wake(MyDatabaseId);
}

void
commit_init(void)
{
	RegisterXactCallback(commit_xact_callback, NULL);
	RegisterSubXactCallback(commit_subxact_callback, NULL);
}
