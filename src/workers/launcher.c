/*
 * launcher.c
 *		Starts a maintenance worker in every database that has the extension.
 *
 * Which databases those are is found out by trying: see database.c.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_database.h"
#include "compat.h"
#include "engine/problem.h"
#include "engine/registry.h"
#include "engine/round.h"
#include "guc.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "workers/database.h"
#include "workers/launcher.h"
#include "workers/transaction.h"

/* A database that stays without its worker is logged this often. */
#define WARN_INTERVAL_MS	(5 * 60 * 1000)

/*
 * After so many failures in a row they are logged: a single one may be a
 * pg_terminate_backend().
 */
#define WARN_FAILURES		3

/* Wait of the postmaster before it starts the launcher again. */
#define RESTART_SECONDS		5

/* Databases yet to be tried, and the worker registered last for each element. */
static List *untried = NIL;
static BackgroundWorkerHandle *handles[MAX_DATABASES];

/*
 * Read pg_database: all databases, and those a worker can and should connect
 * to.  Lists in the current memory context.
 */
static void
read_databases(List **all, List **connectable)
{
	MemoryContext context = CurrentMemoryContext;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	*all = *connectable = NIL;
	worker_begin();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext old = MemoryContextSwitchTo(context);
		bool		connect = form->datallowconn && !form->datistemplate && !DATABASE_IS_INVALID(form);

		*all = lappend_oid(*all, form->oid);
		if (connect)
			*connectable = lappend_oid(*connectable, form->oid);
		MemoryContextSwitchTo(old);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	worker_end();
}

/* Databases that have queues in shared memory, once for each queue. */
static List *
databases_with_queues(void)
{
	List	   *result = NIL;

	LWLockAcquire(&queue_state->registry_lock, LW_SHARED);
	for (int i = 0; i < queue_max_queues; i++)
	{
		if (OidIsValid(queue_state->queues[i].relid))
			result = lappend_oid(result, queue_state->queues[i].dboid);
	}
	LWLockRelease(&queue_state->registry_lock);
	return result;
}

/* Notice workers that ended before they could attach. */
static void
reap_workers(void)
{
	for (int i = 0; i < MAX_DATABASES; i++)
	{
		pid_t		pid;

		if (handles[i] == NULL ||
			GetBackgroundWorkerPid(handles[i], &pid) != BGWH_STOPPED)
			continue;
		pfree(handles[i]);
		handles[i] = NULL;
		database_not_started(i, PROBLEM_FAILURE);
	}
}

/* A database's name for a message, in the current memory context. */
static char *
database_name(Oid dboid)
{
	MemoryContext context = CurrentMemoryContext;
	char	   *name = NULL;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	worker_begin();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while (name == NULL && HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		if (form->oid == dboid)
			name = MemoryContextStrdup(context, NameStr(form->datname));
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	worker_end();
	return name ? name : psprintf("%u", dboid);
}

/* Log which databases have no worker: at once, and again every WARN_INTERVAL_MS. */
static void
warn_of_problems(TimestampTz *next)
{
	static DatabaseInfo warned[MAX_DATABASES];	/* not_before: the next
												 * warning */
	TimestampTz now = GetCurrentTimestamp();

	for (int i = 0; i < MAX_DATABASES; i++)
	{
		DatabaseInfo db;
		char	   *name;

		if (!database_read(i, &db) || db.blockers > 0 ||
			(db.problem == PROBLEM_FAILURE && db.failures < WARN_FAILURES))
			db.problem = PROBLEM_NONE;

		if (db.problem != PROBLEM_NONE &&
			(db.problem != warned[i].problem || db.since != warned[i].since ||
			 now >= warned[i].not_before))
		{
			name = database_name(db.dboid);
			if (db.problem == PROBLEM_NO_SLOT)
				ereport(WARNING,
						(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
						 errmsg("out of background worker slots for queue maintenance in database \"%s\"", name),
						 errdetail("Whether it has queues is not known; if so, nobody looks after them."),
						 errhint("You might need to increase max_worker_processes, now %d.",
								 max_worker_processes)));
			else
				ereport(WARNING,
						(errcode(ERRCODE_INTERNAL_ERROR),
						 errmsg("queue maintenance does not run in database \"%s\"", name),
						 errdetail("Its worker failed %d times in a row, and is started again in a while.",
								   db.failures)));
			warned[i].not_before = TimestampTzPlusMilliseconds(now, WARN_INTERVAL_MS);
		}
		warned[i].problem = db.problem;
		warned[i].since = db.since;
		if (db.problem != PROBLEM_NONE)
			*next = Min(*next, warned[i].not_before);
	}
}

/* Log that there are more databases than can be looked after, every WARN_INTERVAL_MS. */
static void
warn_too_many(Oid dboid)
{
	static TimestampTz next_warning = DT_NOBEGIN;
	TimestampTz now = GetCurrentTimestamp();

	if (now < next_warning)
		return;
	ereport(WARNING,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("too many databases for queue maintenance in database \"%s\"",
					database_name(dboid)),
			 errdetail("At most %d are looked after at the same time.", MAX_DATABASES)));
	next_warning = TimestampTzPlusMilliseconds(now, WARN_INTERVAL_MS);
}

/* Register a maintenance worker for a database that is STARTING. */
static void
start_worker(int number)
{
	Oid			dboid = round_database(number);
	BackgroundWorker worker = {0};
	MemoryContext old;
	bool		registered;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = MyProcPid;
	worker.bgw_main_arg = ObjectIdGetDatum(dboid);
	strlcpy(worker.bgw_library_name, "queue", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "queue_maintenance_main", sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_type, "queue maintenance", sizeof(worker.bgw_type));
	snprintf(worker.bgw_name, sizeof(worker.bgw_name), "queue maintenance for database %u", dboid);

	if (handles[number])
		pfree(handles[number]);
	handles[number] = NULL;
	old = MemoryContextSwitchTo(TopMemoryContext);
	registered = RegisterDynamicBackgroundWorker(&worker, &handles[number]);
	MemoryContextSwitchTo(old);
	if (!registered)
		database_not_started(number, PROBLEM_NO_SLOT);
}

/* Start the workers that are due.  Returns when the next one will be. */
static TimestampTz
launcher_round(void)
{
	TimestampTz next = DT_NOEND;
	List	   *queued;
	List	   *all;
	List	   *connectable;
	ListCell   *lc;
	bool		rescan;
	bool		full;
	int			number;

	reap_workers();
	rescan = database_rescan();

	/* Before pg_database: a database missing there was dropped. */
	queued = databases_with_queues();
	read_databases(&all, &connectable);
	foreach(lc, queued)
	{
		if (!list_member_oid(all, lfirst_oid(lc)))
			queue_forget(lfirst_oid(lc), InvalidOid);
	}
	problem_keep_databases(all);

	if (rescan)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		list_free(untried);
		untried = list_copy(connectable);
		MemoryContextSwitchTo(old);
	}
	while ((number = database_choose(connectable, &untried, &next, &full)) >= 0)
		start_worker(number);
	if (full)
		warn_too_many(linitial_oid(untried));
	warn_of_problems(&next);

	return next;
}

/* Main function of the launcher. */
void
queue_launcher_main(Datum arg)
{
	MemoryContext context;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	SetConfigOption("application_name", "queue launcher", PGC_USERSET, PGC_S_SESSION);
	pgstat_report_activity(STATE_IDLE, NULL);

	database_attach_launcher();

	context = AllocSetContextCreate(TopMemoryContext, "queue launcher", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	for (;;)
	{
		TimestampTz next;
		long		timeout = -1;
		int			events = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH;

		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}

		next = launcher_round();
		MemoryContextReset(context);

		/* With nothing due, wait for a poke only. */
		if (next != DT_NOEND)
		{
			timeout = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), next);
			events |= WL_TIMEOUT;
		}
		(void) WaitLatch(MyLatch, events, timeout, WAIT_EVENT("QueueLauncherMain"));
	}
}

/* Have the postmaster start the launcher; from _PG_init. */
void
launcher_register(void)
{
	BackgroundWorker worker = {0};

	/* Only pg_upgrade may write to a cluster that is being upgraded. */
	if (IsBinaryUpgrade)
		return;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = RESTART_SECONDS;
	strlcpy(worker.bgw_library_name, "queue", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "queue_launcher_main", sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_name, "queue launcher", sizeof(worker.bgw_name));
	strlcpy(worker.bgw_type, "queue launcher", sizeof(worker.bgw_type));
	RegisterBackgroundWorker(&worker);
}
