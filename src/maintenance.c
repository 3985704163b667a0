/*
 * maintenance.c
 *		The worker that looks after the queues of one database.
 *
 * It works in rounds: expired leases, segments, relays, old rows.  Each piece
 * has transactions of its own, and an error in one is reported and leaves the
 * others be.  Between rounds it sleeps, holding no lock and no snapshot, until
 * the earliest time something is due or somebody asks for an earlier round.
 */
#include "postgres.h"

#include <signal.h>

#include "access/relation.h"
#include "access/xact.h"
#include "catalog.h"
#include "executor/spi.h"
#include "guc.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "reclaim.h"
#include "relay.h"
#include "settle.h"
#include "storage/bufmgr.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/lwlock.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "worker.h"
#include "compat.h"

/* Between rounds, in milliseconds: with traffic, and without. */
#define ACTIVE_INTERVAL_MS	2000
#define IDLE_INTERVAL_MS	10000

/* So that nothing that is always due makes us spin. */
#define MIN_INTERVAL_MS		10

/* Between searches for old rows, and before a failed piece of work is retried. */
#define CLEANUP_INTERVAL_MS	60000
#define RETRY_INTERVAL_MS	5000

/* Rows of queue.inbox deleted in one transaction. */
#define INBOX_BATCH			10000

/*
 * Work for the database as a whole.  run returns when it wants to be run
 * again, DT_NOEND if it does not mind and DT_NOBEGIN if it is not done.
 */
typedef struct Work
{
	const char *activity;
	TimestampTz (*run) (void);
	int			interval_ms;	/* between runs, at least */
	TimestampTz not_before;
} Work;

/* What the worker knows of one queue. */
typedef struct QueueWatch
{
	Oid			relid;			/* hash key */
	NameData	name;
	bool		listed;			/* by this round */
	QueueShared *shared;		/* NULL: not maintained yet */
	uint32		generation;
	uint64		traffic;		/* when last maintained */
	TimestampTz maintained_at;
	TimestampTz due;			/* another round, even without traffic */
	TimestampTz not_before;		/* after an error */
} QueueWatch;

static HTAB *watches = NULL;

/* For the error context, what is being done. */
static void
describe_activity(void *arg)
{
	errcontext("queue maintenance: %s", (const char *) arg);
}

/* Do a piece of work.  An error is reported, and false returned. */
static bool
attempt(const char *activity, void (*work) (void *), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorContextCallback callback;
	volatile bool done = true;

	callback.callback = describe_activity;
	callback.arg = (void *) activity;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	pgstat_report_activity(STATE_RUNNING, activity);

	PG_TRY();
	{
		work(arg);
	}
	PG_CATCH();
	{
		/* As autovacuum does when a table's turn fails. */
		HOLD_INTERRUPTS();
		EmitErrorReport();
		LWLockReleaseAll();
		AbortOutOfAnyTransaction();
		FlushErrorState();
		RESUME_INTERRUPTS();
		done = false;
	}
	PG_END_TRY();

	error_context_stack = callback.previous;
	pgstat_report_activity(STATE_IDLE, NULL);
	MemoryContextSwitchTo(context);
	return done;
}

static void
begin_transaction(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
}

static void
end_transaction(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/* Run one statement, and return the number of rows it was about. */
static uint64
execute(const char *query)
{
	uint64		rows;

	SPI_connect();
	if (SPI_execute(query, false, 0) < 0)
		elog(ERROR, "SPI_execute failed: %s", query);
	rows = SPI_processed;
	SPI_finish();
	return rows;
}

static TimestampTz
settle_leases(void)
{
	TimestampTz next;

	begin_transaction();
	next = settle_expired();
	end_transaction();
	return next;
}

/* Delete rows of queue.inbox that nobody will ask for again, some at a time. */
static TimestampTz
trim_inbox(void)
{
	Relation	rel;
	BlockNumber nblocks;
	uint64		deleted = 0;

	begin_transaction();
	rel = relation_open(extension_relation("inbox"), AccessShareLock);
	nblocks = RelationGetNumberOfBlocks(rel);
	relation_close(rel, NoLock);
	if (nblocks > 0)
		deleted = execute(psprintf("DELETE FROM queue.inbox WHERE ctid = ANY (ARRAY("
								   "SELECT ctid FROM queue.inbox"
								   " WHERE accepted_at < now() - interval '%d minutes'"
								   " ORDER BY accepted_at LIMIT %d))",
								   queue_inbox_retention, INBOX_BATCH));
	end_transaction();
	return deleted < INBOX_BATCH ? DT_NOEND : DT_NOBEGIN;
}

/* Remove what is left of queues dropped by DROP TABLE. */
static TimestampTz
remove_dropped_queues(void)
{
	begin_transaction();
	execute("WITH gone AS ("
			"DELETE FROM queue.queue q WHERE NOT EXISTS"
			" (SELECT FROM pg_catalog.pg_class c WHERE c.oid = q.relid) RETURNING q.relid)"
			" DELETE FROM queue.deferred d USING gone WHERE d.relid = gone.relid");
	queue_forget_dropped(false);
	end_transaction();
	return DT_NOEND;
}

static Work works[] = {
	{"settling expired leases", settle_leases, 0},
	{"supervising relays", relay_supervise, 0},
	{"removing old rows of queue.inbox", trim_inbox, CLEANUP_INTERVAL_MS},
	{"removing what is left of dropped queues", remove_dropped_queues, CLEANUP_INTERVAL_MS},
};

/* Argument and result of a piece of work, for attempt(). */
typedef struct WorkRun
{
	Work	   *work;
	TimestampTz next;
} WorkRun;

static void
run_work(void *arg)
{
	WorkRun    *run = arg;

	run->next = run->work->run();
}

/* A queue's traffic so far: any change says that there may be something to do. */
static uint64
queue_traffic(QueueShared *q)
{
	return pg_atomic_read_u64(&q->appended) + pg_atomic_read_u64(&q->acked) +
		pg_atomic_read_u64(&q->failed);
}

static void
maintain_queue(void *arg)
{
	QueueWatch *watch = arg;
	Queue	   *queue;

	begin_transaction();
	queue = queue_by_relid(watch->relid);
	if (queue)
	{
		watch->shared = queue->shared;
		watch->generation = queue->generation;
		watch->traffic = queue_traffic(queue->shared);
	}
	end_transaction();

	watch->due = queue ? reclaim_queue(watch->relid) : DT_NOEND;
}

/* Maintain a queue if it is time.  Returns when to look at it again. */
static TimestampTz
visit_queue(QueueWatch *watch)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz due = DT_NOBEGIN;
	bool		active = false;

	if (now < watch->not_before)
		return watch->not_before;
	if (watch->shared &&
		pg_atomic_read_u32(&watch->shared->generation) == watch->generation &&
		pg_atomic_read_u32(&watch->shared->wants_segment) == 0)
	{
		due = watch->due;
		active = (queue_traffic(watch->shared) != watch->traffic);
		if (active)
			due = Min(due, TimestampTzPlusMilliseconds(watch->maintained_at, ACTIVE_INTERVAL_MS));
	}
	if (now < due)
		return due;

	if (!attempt(psprintf("maintaining queue \"%s\"", NameStr(watch->name)), maintain_queue, watch))
	{
		watch->not_before = TimestampTzPlusMilliseconds(now, RETRY_INTERVAL_MS);
		return watch->not_before;
	}
	watch->maintained_at = GetCurrentTimestamp();

	/* Where there was traffic there will be more; elsewhere idle rounds tell. */
	if (active)
		return Min(watch->due,
				   TimestampTzPlusMilliseconds(watch->maintained_at, ACTIVE_INTERVAL_MS));
	return watch->due;
}

/*
 * Bring what is known of queues up to date, and return it as a list.  If there is no extension (any more)
 * this database needs no worker; CREATE EXTENSION will ask for one.
 */
static List *
list_queues(void)
{
	MemoryContext context = CurrentMemoryContext;
	HASH_SEQ_STATUS status;
	QueueWatch *watch;
	List	   *result = NIL;
	ListCell   *lc;

	begin_transaction();
	if (!extension_exists())
	{
		queue_forget_dropped(true);
		end_transaction();
		proc_exit(0);
	}

	hash_seq_init(&status, watches);
	while ((watch = hash_seq_search(&status)) != NULL)
		watch->listed = false;

	foreach(lc, queue_list())
	{
		Oid			relid = lfirst_oid(lc);
		char	   *name = get_rel_name(relid);
		bool		found;

		if (name == NULL)
			continue;
		watch = hash_search(watches, &relid, HASH_ENTER, &found);
		if (!found)
		{
			watch->shared = NULL;
			watch->maintained_at = watch->not_before = 0;
		}
		namestrcpy(&watch->name, name);
		watch->listed = true;
	}

	end_transaction();
	MemoryContextSwitchTo(context);

	/* A list, as a scan of the hash table must not outlive a transaction. */
	hash_seq_init(&status, watches);
	while ((watch = hash_seq_search(&status)) != NULL)
	{
		if (watch->listed)
			result = lappend(result, watch);
		else
			hash_search(watches, &watch->relid, HASH_REMOVE, NULL);
	}
	return result;
}

/* Do what is due.  Returns when the next round should come. */
static TimestampTz
maintenance_round(void)
{
	TimestampTz next = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), IDLE_INTERVAL_MS);
	List	   *queues;
	ListCell   *lc;

	maintenance_begin_round();
	queues = list_queues();

	for (int i = 0; i < lengthof(works); i++)
	{
		WorkRun		run = {&works[i], DT_NOEND};
		TimestampTz now = GetCurrentTimestamp();
		int			pause = works[i].interval_ms;

		if (now < works[i].not_before)
			continue;
		if (!attempt(works[i].activity, run_work, &run))
			pause = RETRY_INTERVAL_MS;
		else if (run.next == DT_NOBEGIN)
			pause = 0;
		works[i].not_before = TimestampTzPlusMilliseconds(now, pause);
		next = Min(next, Max(run.next, works[i].not_before));
	}
	foreach(lc, queues)
		next = Min(next, visit_queue(lfirst(lc)));

	pgstat_report_stat(true);
	return Max(next, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), MIN_INTERVAL_MS));
}

/* Sleep until a time, or until somebody wants a round earlier. */
static void
sleep_until(TimestampTz planned)
{
	for (;;)
	{
		TimestampTz next;
		TimestampTz now;

		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}

		next = maintenance_next_round(planned);
		now = GetCurrentTimestamp();
		if (next <= now)
			break;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 TimestampDifferenceMilliseconds(now, next),
						 WAIT_EVENT("QueueMaintenanceMain"));
	}
}

/* Settings a database or role may have that must not govern our own work. */
static void
override_settings(void)
{
	static const char *const settings[][2] = {
		{"search_path", ""},
		{"application_name", "queue maintenance"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"statement_timeout", "0"},
		{"lock_timeout", "0"},
		{"idle_in_transaction_session_timeout", "0"},
#if PG_VERSION_NUM >= 170000
		{"transaction_timeout", "0"},
#endif
	};

	for (int i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
}

/* Main function of a maintenance worker; its argument is the database. */
void
queue_maintenance_main(Datum arg)
{
	Oid			dboid = DatumGetObjectId(arg);
	HASHCTL		ctl = {.keysize = sizeof(Oid),.entrysize = sizeof(QueueWatch)};
	MemoryContext context;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();

	/* Before the connection, which is what DDL must not meet. */
	if (!launcher_attach(dboid))
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(dboid, InvalidOid, 0);
	override_settings();

	watches = hash_create("watched queues", 64, &ctl, HASH_ELEM | HASH_BLOBS);
	context = AllocSetContextCreate(TopMemoryContext, "queue maintenance", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	list_queues();
	launcher_report_running();

	for (;;)
	{
		TimestampTz next = maintenance_round();

		MemoryContextSwitchTo(context);
		MemoryContextReset(context);
		sleep_until(next);
	}
}
