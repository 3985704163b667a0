/*
 * maintenance.c
 *		The worker that looks after the queues of one database.
 *
 * It works in rounds: expired leases, segments, relays, old rows.  Each piece
 * has transactions of its own and waits for no lock.  One that fails is shown
 * in queue.maintenance and tried again after a wait of its own; the others go
 * on.  Between rounds the worker sleeps, holding no lock and no snapshot,
 * until something is due or a process asks for an earlier round.
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "background.h"
#include "backoff.h"
#include "compat.h"
#include "engine/bucket.h"
#include "engine/extension.h"
#include "engine/problem.h"
#include "engine/registry.h"
#include "engine/round.h"
#include "engine/tables.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "relay/relay.h"
#include "stop_point.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "workers/cleanup.h"
#include "workers/database.h"
#include "workers/expiry.h"
#include "workers/forget.h"
#include "workers/maintenance.h"
#include "workers/reclaim.h"
#include "workers/transaction.h"

/* Between rounds, in milliseconds: with traffic, and without. */
#define ACTIVE_INTERVAL_MS	2000
#define IDLE_INTERVAL_MS	10000

/* At least this long between rounds, even if something is always due. */
#define MIN_INTERVAL_MS		10

/* At least this long between visits to a queue that asks for a segment or a sweep. */
#define WANTED_INTERVAL_MS	100

/* Between rounds while there is something to truncate. */
#define RECLAIM_INTERVAL_MS	2000

/* Between searches for old rows. */
#define CLEANUP_INTERVAL_MS	60000

/* Wait after a first failure, and at most; shorter if only a lock was not free. */
#define FAILURE_FIRST_MS	5000
#define FAILURE_LAST_MS		300000
#define LOCKED_FIRST_MS		1000
#define LOCKED_LAST_MS		30000

/*
 * lock_timeout, for locks that cannot be had without waiting, as on rows of
 * the catalogs that GRANT has changed: with many such queues, others must not
 * wait long.
 */
#define LOCK_TIMEOUT_MS		"100"

/* When to do again what failed. */
typedef struct Backoff
{
	int			failures;		/* in a row */
	TimestampTz not_before;
} Backoff;

/*
 * Work for the database as a whole.  run returns when it is to be run again,
 * DT_NOEND at the usual time, and DT_NOBEGIN at once, as it is not done.
 */
typedef struct Work
{
	const char *activity;
	TimestampTz (*run) (void);
	int			interval_ms;	/* between runs, at least */
	TimestampTz not_before;
	TimestampTz due;
	Backoff		backoff;
} Work;

/* What is done for a queue, in this order. */
typedef enum QueueTask
{
	TASK_OPEN,
	TASK_RECLAIM,
	TASK_PROVIDE,
	TASK_SWEEP,
	TASK_STRAGGLERS,
	TASK_FORGET,
	NTASKS
} QueueTask;

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
	ReclaimRound round;
	Backoff		backoff[NTASKS];
} QueueWatch;

static HTAB *watches = NULL;

/* For the error context, what is being done. */
static void
describe_activity(void *arg)
{
	errcontext("queue maintenance: %s", (const char *) arg);
}

/* A piece of work failed: when to try again. */
static void
back_off(Backoff *backoff, int sqlstate)
{
	bool		locked = (sqlstate == ERRCODE_LOCK_NOT_AVAILABLE);
	int64		delay;

	backoff->failures++;
	delay = locked ? backoff_delay(backoff->failures, LOCKED_FIRST_MS, LOCKED_LAST_MS) :
		backoff_delay(backoff->failures, FAILURE_FIRST_MS, FAILURE_LAST_MS);
	backoff->not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), delay);
}

/*
 * Do a piece of work, for a queue or with InvalidOid for the database.  An
 * error is reported, and logged unless it is only that a lock was not free,
 * and false returned.
 */
static bool
attempt(Backoff *backoff, Oid relid, const char *activity, const char *details,
		void (*work) (void *), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorContextCallback callback;
	volatile bool done = true;

	callback.callback = describe_activity;
	callback.arg = (void *) details;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	pgstat_report_activity(STATE_RUNNING, details);

	PG_TRY();
	{
		work(arg);
	}
	PG_CATCH();
	{
		ErrorData  *error =
			background_failed(context, geterrcode() != ERRCODE_LOCK_NOT_AVAILABLE);

		back_off(backoff, error->sqlerrcode);
		problem_report(relid, activity, error->sqlerrcode, error->message, backoff->not_before);
		FreeErrorData(error);
		done = false;
	}
	PG_END_TRY();

	error_context_stack = callback.previous;
	if (done && backoff->failures > 0)
	{
		backoff->failures = 0;
		problem_solved(relid, activity);
	}
	pgstat_report_activity(STATE_IDLE, NULL);
	MemoryContextSwitchTo(context);
	return done;
}

static Work works[] = {
	{"settling expired leases", expire_leases, 0},
	{"supervising relays", relay_supervise, 0},
	{"removing old rows of queue.inbox", cleanup_inbox, CLEANUP_INTERVAL_MS},
	{"removing old rows of queue.idempotency", cleanup_idempotency, CLEANUP_INTERVAL_MS},
	{"removing old rows of queue.inbox_version", cleanup_versions, CLEANUP_INTERVAL_MS},
	{"removing what is left of dropped queues", cleanup_dropped_queues, CLEANUP_INTERVAL_MS},
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
	return pg_atomic_read_u64(&q->lane.appended) +
		counter_read(&q->counters, COUNTER_ACKED) + counter_read(&q->counters, COUNTER_FAILED);
}

static void
open_queue(void *arg)
{
	QueueWatch *watch = arg;

	watch->shared = reclaim_open(&watch->round, &watch->generation);
	if (watch->shared)
		watch->traffic = queue_traffic(watch->shared);
}

/* The other tasks. */
typedef struct TaskRun
{
	void		(*run) (ReclaimRound *round);
	ReclaimRound *round;
} TaskRun;

static void
run_task(void *arg)
{
	TaskRun    *task = arg;

	task->run(task->round);
}

/* Do one of a queue's tasks unless it has to wait.  False if it is not done. */
static bool
do_task(QueueWatch *watch, QueueTask task)
{
	static const struct
	{
		const char *activity;
		void		(*run) (ReclaimRound *round);
	}			tasks[NTASKS] = {
		[TASK_OPEN] = {"opening the queue", NULL},
		[TASK_RECLAIM] = {"truncating drained segments", reclaim_segments},
		[TASK_PROVIDE] = {"providing an empty segment", reclaim_provide},
		[TASK_SWEEP] = {"sweeping", reclaim_sweep},
		[TASK_STRAGGLERS] = {"moving stragglers", reclaim_stragglers},
		[TASK_FORGET] = {"forgetting dedup keys", forget_keys},
	};
	TaskRun		run = {tasks[task].run, &watch->round};
	char	   *details;

	if (watch->backoff[task].failures > 0 &&
		GetCurrentTimestamp() < watch->backoff[task].not_before)
		return false;
	details = psprintf("%s, queue \"%s\"", tasks[task].activity, NameStr(watch->name));
	return attempt(&watch->backoff[task], watch->relid, tasks[task].activity, details,
				   task == TASK_OPEN ? open_queue : run_task,
				   task == TASK_OPEN ? (void *) watch : (void *) &run);
}

/* Do all tasks of a queue, and set when it is due again. */
static void
maintain_queue(QueueWatch *watch)
{
	TimestampTz now = GetCurrentTimestamp();

	watch->due = TimestampTzPlusMilliseconds(now, IDLE_INTERVAL_MS);
	watch->round.relid = watch->relid;
	if (do_task(watch, TASK_OPEN))
	{
		if (watch->shared == NULL)
			return;				/* dropped, which the next list will show */
		watch->due = DT_NOEND;
		(void) do_task(watch, TASK_RECLAIM);
		(void) do_task(watch, TASK_PROVIDE);
		(void) do_task(watch, TASK_FORGET);
		if (do_task(watch, TASK_SWEEP))
			watch->due = watch->round.next_sweep;
		if (watch->round.left)
		{
			(void) do_task(watch, TASK_STRAGGLERS);
			watch->due = Min(watch->due, TimestampTzPlusMilliseconds(now, RECLAIM_INTERVAL_MS));
		}
	}
	for (int i = 0; i < NTASKS; i++)
	{
		if (watch->backoff[i].failures > 0)
			watch->due = Min(watch->due, watch->backoff[i].not_before);
	}
	watch->maintained_at = GetCurrentTimestamp();
}

/* When a task is due that *wanted asks for, DT_NOEND if it does not. */
static TimestampTz
wanted_at(QueueWatch *watch, QueueTask task, pg_atomic_uint32 *wanted)
{
	if (pg_atomic_read_u32(wanted) == 0)
		return DT_NOEND;
	return watch->backoff[task].failures > 0 ? watch->backoff[task].not_before :
		TimestampTzPlusMilliseconds(watch->maintained_at, WANTED_INTERVAL_MS);
}

/* When there are dedup keys to forget; a table that was locked is tried again. */
static TimestampTz
forget_at(QueueWatch *watch)
{
	TimestampTz soonest = TimestampTzPlusMilliseconds(watch->maintained_at, ACTIVE_INTERVAL_MS);
	TimestampTz due = buckets_due(watch->shared, watch->generation);

	if (watch->backoff[TASK_FORGET].failures > 0)
		return watch->backoff[TASK_FORGET].not_before;
	return Max(due, soonest);
}

/* Maintain a queue if it is time.  Returns when to look at it again. */
static TimestampTz
visit_queue(QueueWatch *watch)
{
	TimestampTz due = watch->due;
	TimestampTz active_due;
	bool		active = false;

	if (watch->shared && pg_atomic_read_u32(&watch->shared->generation) != watch->generation)
	{
		/* Forgotten, perhaps dropped, perhaps to be loaded again. */
		watch->shared = NULL;
		due = DT_NOBEGIN;
	}
	active_due = TimestampTzPlusMilliseconds(watch->maintained_at, ACTIVE_INTERVAL_MS);
	if (watch->shared)
	{
		TimestampTz segment_due = wanted_at(watch, TASK_PROVIDE, &watch->shared->wants_segment);
		TimestampTz sweep_due = wanted_at(watch, TASK_SWEEP, &watch->shared->wants_sweep);
		TimestampTz forget_due = forget_at(watch);

		active = (queue_traffic(watch->shared) != watch->traffic);
		if (active)
			due = Min(due, active_due);
		due = Min(due, segment_due);
		due = Min(due, sweep_due);
		due = Min(due, forget_due);
	}
	if (GetCurrentTimestamp() < due)
		return due;

	maintain_queue(watch);
	if (watch->shared)
	{
		TimestampTz forget_due = forget_at(watch);

		watch->due = Min(watch->due, forget_due);
	}

	/* A queue with traffic is visited again soon, as there will be more. */
	active_due = TimestampTzPlusMilliseconds(watch->maintained_at, ACTIVE_INTERVAL_MS);
	return active ? Min(watch->due, active_due) : watch->due;
}

/*
 * If there is no extension (any more) this database needs no worker; CREATE
 * EXTENSION will ask for one.
 */
static void
exit_unless_wanted(void)
{
	worker_begin();
	if (!extension_exists())
	{
		queue_forget_dropped(true);
		worker_end();
		problem_forget(InvalidOid);
		proc_exit(0);
	}
	worker_end();
}

/* Bring what is known of queues up to date. */
static void
list_queues(void *arg)
{
	HASH_SEQ_STATUS status;
	QueueWatch *watch;
	ListCell   *lc;

	worker_begin();
	worker_lock(extension_relation("queue_definition"), AccessShareLock);
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
			memset(watch, 0, sizeof(QueueWatch));
			watch->relid = relid;
			watch->due = DT_NOBEGIN;
		}
		namestrcpy(&watch->name, name);
		watch->listed = true;
	}
	worker_end();

	hash_seq_init(&status, watches);
	while ((watch = hash_seq_search(&status)) != NULL)
	{
		if (watch->listed)
			continue;
		problem_forget(watch->relid);
		hash_search(watches, &watch->relid, HASH_REMOVE, NULL);
	}
}

/* The queues as a list, as a scan of the hash table must not outlive a transaction. */
static List *
watched_queues(void)
{
	HASH_SEQ_STATUS status;
	QueueWatch *watch;
	List	   *result = NIL;

	hash_seq_init(&status, watches);
	while ((watch = hash_seq_search(&status)) != NULL)
		result = lappend(result, watch);
	return result;
}

/* Do what is due.  Returns when the next round should come. */
static TimestampTz
maintenance_round(void)
{
	TimestampTz next = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), IDLE_INTERVAL_MS);
	TimestampTz earliest;
	static Backoff listing = {0};
	List	   *queues;
	ListCell   *lc;

	STOP_POINT("maintenance");
	round_begin(database_element());
	exit_unless_wanted();

	/*
	 * If queue.queue_definition is locked, the queues are those of the last
	 * round.
	 */
	if (listing.failures == 0 || GetCurrentTimestamp() >= listing.not_before)
		(void) attempt(&listing, InvalidOid, "listing queues", "listing queues", list_queues, NULL);
	if (listing.failures > 0)
		next = Min(next, listing.not_before);

	for (int i = 0; i < lengthof(works); i++)
	{
		WorkRun		run = {&works[i], DT_NOEND};
		Work	   *work = &works[i];
		TimestampTz now = GetCurrentTimestamp();

		if (now >= work->not_before)
		{
			work->not_before = TimestampTzPlusMilliseconds(now, work->interval_ms);
			if (!attempt(&work->backoff, InvalidOid, work->activity, work->activity,
						 run_work, &run))
				work->not_before = run.next = work->backoff.not_before;
			else if (run.next == DT_NOBEGIN)
				work->not_before = now;
			work->due = Max(run.next, work->not_before);
		}
		next = Min(next, work->due);
	}

	queues = watched_queues();
	foreach(lc, queues)
	{
		TimestampTz due = visit_queue(lfirst(lc));

		next = Min(next, due);
	}
	earliest = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), MIN_INTERVAL_MS);

	pgstat_report_stat(true);
	return Max(next, earliest);
}

/* Sleep until a time, or until a process asks for an earlier round. */
static void
sleep_until(TimestampTz planned)
{
	for (;;)
	{
		TimestampTz next;
		TimestampTz now;

		/* Before round_next reads the bound, so that no request is lost. */
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}

		next = round_next(database_element(), planned);
		now = GetCurrentTimestamp();
		if (next <= now)
			break;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 TimestampDifferenceMilliseconds(now, next),
						 WAIT_EVENT("QueueMaintenanceMain"));
	}
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

	/* Before connecting, as DDL must not meet the connection. */
	if (!database_attach(dboid))
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(dboid, InvalidOid, 0);
	SetConfigOption("application_name", "queue maintenance", PGC_USERSET, PGC_S_SESSION);
	tables_nowait = true;

	watches = hash_create("watched queues", 64, &ctl, HASH_ELEM | HASH_BLOBS);
	context = AllocSetContextCreate(TopMemoryContext, "queue maintenance", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	worker_lock_timeout = LOCK_TIMEOUT_MS;
	exit_unless_wanted();
	problem_forget(InvalidOid);
	database_report_running();

	for (;;)
	{
		TimestampTz next = maintenance_round();

		MemoryContextSwitchTo(context);
		MemoryContextReset(context);
		sleep_until(next);
	}
}
