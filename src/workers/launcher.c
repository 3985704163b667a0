/*
 * launcher.c
 *		Starts a maintenance worker in every database that has the extension.
 *
 * Which databases those are cannot be seen from outside: a worker connects,
 * looks, and exits at once where there is no extension.  So the launcher
 * tries every database once when it starts, and later those that CREATE
 * EXTENSION, CREATE DATABASE or the end of a block point out.
 *
 *	 UNKNOWN --launcher--> STARTING --attach--> PROBING --> RUNNING
 *		^  ^                  |                    |           |
 *		|  +--- failed -------+--------------------+-----------+
 *		+------ poke -------- ABSENT <-- exit 0 ---+-----------+
 *
 * A worker that finds its database in another state than STARTING is not
 * wanted and exits, so that there is never more than one.
 */
#include "postgres.h"

#include <signal.h>

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "backoff.h"
#include "catalog/pg_database.h"
#include "compat.h"
#include "engine/registry.h"
#include "fmgr.h"
#include "funcapi.h"
#include "guc.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "port/atomics.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "relay/relay.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "workers/problem.h"
#include "workers/transaction.h"
#include "workers/worker.h"

/* Databases kept in mind; where there is no extension they give way. */
#define MAX_DATABASES		256

/* Workers at most that are starting or have yet to look for the extension. */
#define MAX_PROBES			3

/* Wait after the first failure of a worker, doubled by each further one. */
#define MIN_BACKOFF_MS		1000
#define MAX_BACKOFF_MS		60000

/* A database that stays without its worker is in the log this often. */
#define WARN_INTERVAL_MS	(5 * 60 * 1000)

/* A worker that fails may be one that was terminated; so often it is not. */
#define WARN_FAILURES		3

/* Wait of the postmaster before it starts the launcher again. */
#define RESTART_SECONDS		5

/* How long DDL waits for our workers, in milliseconds. */
#define BLOCK_TIMEOUT_MS	5000
#define BLOCK_POLL_MS		10

typedef enum DatabaseState
{
	DATABASE_UNKNOWN,			/* to be looked at, once not_before has come */
	DATABASE_STARTING,			/* a worker is registered, or about to be */
	DATABASE_PROBING,			/* attached, has yet to look */
	DATABASE_RUNNING,
	DATABASE_ABSENT				/* without the extension */
} DatabaseState;

/* Why a database has no worker. */
typedef enum DatabaseProblem
{
	PROBLEM_NONE,
	PROBLEM_NO_SLOT,			/* max_worker_processes */
	PROBLEM_FAILURE				/* it ended with an error */
} DatabaseProblem;

/* Guarded by LauncherShared.lock, but for the atomics. */
typedef struct DatabaseShared
{
	pg_atomic_uint32 dboid;		/* InvalidOid: not in use */
	pg_atomic_uint32 procno;	/* of the attached worker; stale is harmless */
	pg_atomic_uint64 next_round;	/* when it comes at the latest */
	DatabaseState state;
	int			pid;			/* of the attached worker, 0 if none */
	int			blockers;		/* transactions that keep workers away */
	int			failures;		/* in a row */
	DatabaseProblem problem;	/* until one has run */
	TimestampTz since;			/* it has been running, or not */
	bool		poked;			/* since the worker attached */
	TimestampTz attached_at;
	TimestampTz not_before;		/* of the next start */
} DatabaseShared;

typedef struct LauncherShared
{
	LWLock		lock;
	pg_atomic_uint32 procno;	/* of the launcher, or NO_PROCNO */
	bool		rescan;			/* a database found no place in the array */
	DatabaseShared databases[MAX_DATABASES];
} LauncherShared;

#define NO_PROCNO	PG_UINT32_MAX

static LauncherShared *launcher = NULL;

/* What this transaction is to undo or do at its end; in its own memory. */
static List *blocked_databases = NIL;
static List *poked_databases = NIL;

/* In a maintenance worker, its database. */
static DatabaseShared *my_database = NULL;

PG_FUNCTION_INFO_V1(queue_start_workers);
PG_FUNCTION_INFO_V1(queue_database_list);

Size
launcher_shmem_size(void)
{
	return sizeof(LauncherShared);
}

void
launcher_shmem_init(bool found)
{
	bool		mine;

	launcher = ShmemInitStruct("queue launcher", launcher_shmem_size(), &mine);
	if (found)
		return;

	memset(launcher, 0, launcher_shmem_size());
	LWLockInitialize(&launcher->lock, queue_state->lwlock_tranche);
	pg_atomic_init_u32(&launcher->procno, NO_PROCNO);
	for (int i = 0; i < MAX_DATABASES; i++)
	{
		pg_atomic_init_u32(&launcher->databases[i].dboid, InvalidOid);
		pg_atomic_init_u32(&launcher->databases[i].procno, NO_PROCNO);
		pg_atomic_init_u64(&launcher->databases[i].next_round, DT_NOEND);
	}
}

/* Wake a process that may have gone meanwhile; its successor won't mind. */
static void
wake_process(pg_atomic_uint32 *procno)
{
	uint32		number = pg_atomic_read_u32(procno);

	if (number != NO_PROCNO)
		SetLatch(&ProcGlobal->allProcs[number].procLatch);
}

/* The element of a database, NULL if there is none.  Works without the lock. */
static DatabaseShared *
find_database(Oid dboid)
{
	static int	last = 0;

	if (launcher == NULL)
		return NULL;
	if (pg_atomic_read_u32(&launcher->databases[last].dboid) == dboid)
		return &launcher->databases[last];
	for (int i = 0; i < MAX_DATABASES; i++)
	{
		if (pg_atomic_read_u32(&launcher->databases[i].dboid) == dboid)
		{
			last = i;
			return &launcher->databases[i];
		}
	}
	return NULL;
}

/*
 * The element of a database, made if there is none: in the place of one
 * without the extension if need be.  NULL if all are wanted.  The lock is held.
 */
static DatabaseShared *
enter_database(Oid dboid)
{
	DatabaseShared *db = find_database(dboid);

	if (db)
		return db;
	for (int i = 0; i < MAX_DATABASES; i++)
	{
		DatabaseShared *other = &launcher->databases[i];

		if (!OidIsValid(pg_atomic_read_u32(&other->dboid)))
		{
			db = other;
			break;
		}
		if (db == NULL && other->state == DATABASE_ABSENT && other->blockers == 0)
			db = other;
	}
	if (db == NULL)
		return NULL;

	db->state = DATABASE_UNKNOWN;
	db->blockers = db->failures = 0;
	db->problem = PROBLEM_NONE;
	db->since = GetCurrentTimestamp();
	db->poked = false;
	db->not_before = DT_NOBEGIN;
	pg_atomic_write_u64(&db->next_round, DT_NOEND);
	pg_atomic_write_u32(&db->procno, NO_PROCNO);
	pg_atomic_write_u32(&db->dboid, dboid);
	return db;
}

/* A worker failed, or did not start: try again later.  The lock is held. */
static void
back_off(DatabaseShared *db, DatabaseProblem problem)
{
	if (db->problem == PROBLEM_NONE)
		db->since = GetCurrentTimestamp();
	db->problem = problem;
	db->failures++;
	db->not_before =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
									backoff_delay(db->failures, MIN_BACKOFF_MS, MAX_BACKOFF_MS));
	db->state = DATABASE_UNKNOWN;
}

/*
 * For DDL
 */

/* Have the launcher look at a database.  May run after commit: raises nothing. */
static void
poke(Oid dboid)
{
	DatabaseShared *db;

	LWLockAcquire(&launcher->lock, LW_EXCLUSIVE);
	db = enter_database(dboid);
	if (db == NULL)
		launcher->rescan = true;
	else
	{
		/* A worker that has looked already goes again when it exits. */
		db->poked = true;
		if (db->state == DATABASE_ABSENT)
			db->state = DATABASE_UNKNOWN;
	}
	LWLockRelease(&launcher->lock);
	wake_process(&launcher->procno);
}

/* End this transaction's blocks.  May run after commit: raises nothing. */
static void
unblock_databases(void)
{
	ListCell   *lc;

	foreach(lc, blocked_databases)
	{
		DatabaseShared *db;

		LWLockAcquire(&launcher->lock, LW_EXCLUSIVE);
		db = find_database(lfirst_oid(lc));
		Assert(db && db->blockers > 0);
		if (db && db->blockers > 0)
			db->blockers--;
		LWLockRelease(&launcher->lock);
		poke(lfirst_oid(lc));
	}
	blocked_databases = NIL;
}

static void
launcher_xact_callback(XactEvent event, void *arg)
{
	ListCell   *lc;

	switch (event)
	{
		case XACT_EVENT_COMMIT:
			foreach(lc, poked_databases)
				poke(lfirst_oid(lc));
			poked_databases = NIL;
			unblock_databases();
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			poked_databases = NIL;
			unblock_databases();
			break;
		default:
			break;
	}
}

void
launcher_poke_at_commit(Oid dboid)
{
	MemoryContext old;

	if (launcher == NULL)
		return;
	old = MemoryContextSwitchTo(TopTransactionContext);
	poked_databases = list_append_unique_oid(poked_databases, dboid);
	MemoryContextSwitchTo(old);
}

/* Terminate what workers a database has; true if there are none. */
static bool
stop_workers(Oid dboid)
{
	DatabaseShared *db;
	int			pid;

	/* Under the lock, as a worker clears its pid under it before it exits. */
	LWLockAcquire(&launcher->lock, LW_SHARED);
	db = find_database(dboid);
	pid = db ? db->pid : 0;
	if (pid != 0)
		kill(pid, SIGTERM);
	LWLockRelease(&launcher->lock);

	/* After the maintenance worker, which might start more of them. */
	relay_stop_database(dboid);
	return pid == 0 && !relay_running(dboid);
}

void
launcher_block_database(Oid dboid)
{
	DatabaseShared *db;
	MemoryContext old;
	TimestampTz deadline;

	if (launcher == NULL || list_member_oid(blocked_databases, dboid))
		return;

	old = MemoryContextSwitchTo(TopTransactionContext);
	LWLockAcquire(&launcher->lock, LW_EXCLUSIVE);
	db = enter_database(dboid);
	if (db)
	{
		blocked_databases = lappend_oid(blocked_databases, dboid);
		db->blockers++;
	}
	LWLockRelease(&launcher->lock);
	MemoryContextSwitchTo(old);

	/* Not kept in mind, so it has no workers. */
	if (db == NULL)
		return;

	/* One that will not go makes the statement fail in its own words. */
	deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), BLOCK_TIMEOUT_MS);
	while (!stop_workers(dboid) && GetCurrentTimestamp() < deadline)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 BLOCK_POLL_MS, WAIT_EVENT("QueueStopWorkers"));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

bool
launcher_database_running(Oid dboid)
{
	DatabaseShared *db = find_database(dboid);

	return db != NULL && db->state == DATABASE_RUNNING;
}

/*
 * The end of the extension's script: this database has it from now on.
 * Without shared_preload_libraries there is nobody to tell.
 */
Datum
queue_start_workers(PG_FUNCTION_ARGS)
{
	launcher_poke_at_commit(MyDatabaseId);
	PG_RETURN_VOID();
}

Datum
queue_database_list(PG_FUNCTION_ARGS)
{
	static const char *const states[] = {"waiting", "starting", "starting", "running"};
	static const char *const problems[] = {
		NULL, "out of background worker slots", "the worker failed, see the server log"
	};
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	shmem_require();
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < MAX_DATABASES; i++)
	{
		DatabaseShared db;
		Datum		values[8] = {0};
		bool		isnull[8] = {false};

		LWLockAcquire(&launcher->lock, LW_SHARED);
		db = launcher->databases[i];
		LWLockRelease(&launcher->lock);
		if (!OidIsValid(pg_atomic_read_u32(&db.dboid)) || db.state == DATABASE_ABSENT)
			continue;

		values[0] = ObjectIdGetDatum(pg_atomic_read_u32(&db.dboid));
		values[1] = CStringGetTextDatum(db.blockers > 0 ? "blocked" : states[db.state]);
		values[2] = Int32GetDatum(db.pid);
		isnull[2] = (db.pid == 0);
		isnull[3] = isnull[7] = (db.problem == PROBLEM_NONE);
		if (db.problem != PROBLEM_NONE)
			values[3] = CStringGetTextDatum(problems[db.problem]);
		isnull[4] = (db.problem != PROBLEM_NO_SLOT);
		if (db.problem == PROBLEM_NO_SLOT)
			values[4] = CStringGetTextDatum("max_worker_processes");
		values[5] = Int32GetDatum(db.problem == PROBLEM_NONE ? 0 : db.failures);
		values[6] = TimestampTzGetDatum(db.since);
		values[7] = TimestampTzGetDatum(db.not_before);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, isnull);
	}
	return (Datum) 0;
}

/*
 * For maintenance workers and those who wake them
 */

/* Runs once the process has left the array that DROP DATABASE looks at. */
static void
detach(int code, Datum arg)
{
	DatabaseShared *db = my_database;
	TimestampTz now = GetCurrentTimestamp();

	LWLockAcquire(&launcher->lock, LW_EXCLUSIVE);
	db->pid = 0;
	pg_atomic_write_u32(&db->procno, NO_PROCNO);

	/* It had been well for a while: that is no further failure in a row. */
	if (db->state == DATABASE_RUNNING &&
		TimestampDifferenceExceeds(db->attached_at, now, MAX_BACKOFF_MS))
		db->failures = 0;

	if (code != 0 && db->blockers == 0)
		back_off(db, PROBLEM_FAILURE);
	else if (code != 0 || db->poked)
		db->state = DATABASE_UNKNOWN;
	else
		db->state = DATABASE_ABSENT;
	LWLockRelease(&launcher->lock);
	wake_process(&launcher->procno);
}

bool
launcher_attach(Oid dboid)
{
	DatabaseShared *db;
	bool		claimed = false;

	LWLockAcquire(&launcher->lock, LW_EXCLUSIVE);
	db = find_database(dboid);
	if (db && db->state == DATABASE_STARTING)
	{
		if (db->blockers > 0)
			db->state = DATABASE_UNKNOWN;
		else
		{
			claimed = true;
			db->state = DATABASE_PROBING;
			db->pid = MyProcPid;
			db->poked = false;
			db->attached_at = GetCurrentTimestamp();
			pg_atomic_write_u64(&db->next_round, DT_NOEND);
			pg_atomic_write_u32(&db->procno, MY_PROCNO);
		}
	}
	LWLockRelease(&launcher->lock);

	if (claimed)
	{
		my_database = db;
		on_shmem_exit(detach, (Datum) 0);
	}
	return claimed;
}

void
launcher_report_running(void)
{
	LWLockAcquire(&launcher->lock, LW_EXCLUSIVE);
	my_database->state = DATABASE_RUNNING;
	my_database->problem = PROBLEM_NONE;
	my_database->since = GetCurrentTimestamp();
	LWLockRelease(&launcher->lock);

	/* It may have been waiting to look at other databases. */
	wake_process(&launcher->procno);
}

/* Bring the next round forward; false if it was to come by then anyway. */
static bool
hasten_round(DatabaseShared *db, TimestampTz when)
{
	uint64		next_round = pg_atomic_read_u64(&db->next_round);

	do
	{
		if ((TimestampTz) next_round <= when)
			return false;
	} while (!pg_atomic_compare_exchange_u64(&db->next_round, &next_round, (uint64) when));
	return true;
}

void
maintenance_wake_by(Oid dboid, TimestampTz when)
{
	DatabaseShared *db = find_database(dboid);

	if (db && hasten_round(db, when))
		wake_process(&db->procno);
}

void
maintenance_wake(Oid dboid)
{
	maintenance_wake_by(dboid, 0);
}

void
maintenance_begin_round(void)
{
	pg_atomic_exchange_u64(&my_database->next_round, DT_NOEND);
}

TimestampTz
maintenance_next_round(TimestampTz planned)
{
	(void) hasten_round(my_database, planned);
	return (TimestampTz) pg_atomic_read_u64(&my_database->next_round);
}

/*
 * The launcher itself
 */

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
		bool		connect = form->datallowconn && !form->datistemplate;

#ifdef DATCONNLIMIT_INVALID_DB
		/* What an interrupted DROP DATABASE leaves. */
		if (database_is_invalid_form(form))
			connect = false;
#endif
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
		DatabaseShared *db = &launcher->databases[i];
		pid_t		pid;

		if (handles[i] == NULL ||
			GetBackgroundWorkerPid(handles[i], &pid) != BGWH_STOPPED)
			continue;
		pfree(handles[i]);
		handles[i] = NULL;

		LWLockAcquire(&launcher->lock, LW_EXCLUSIVE);
		if (db->state == DATABASE_STARTING)
			back_off(db, PROBLEM_FAILURE);
		LWLockRelease(&launcher->lock);
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

/* Say in the log which databases have no worker: once, and now and then again. */
static void
warn_of_problems(TimestampTz *next)
{
	static DatabaseShared warned[MAX_DATABASES];	/* not_before: the next warning */
	TimestampTz now = GetCurrentTimestamp();

	for (int i = 0; i < MAX_DATABASES; i++)
	{
		DatabaseShared db;
		Oid			dboid;
		char	   *name;

		LWLockAcquire(&launcher->lock, LW_SHARED);
		db = launcher->databases[i];
		LWLockRelease(&launcher->lock);
		dboid = pg_atomic_read_u32(&db.dboid);
		if (!OidIsValid(dboid) || db.blockers > 0 || db.state == DATABASE_ABSENT ||
			(db.problem == PROBLEM_FAILURE && db.failures < WARN_FAILURES))
			db.problem = PROBLEM_NONE;

		if (db.problem != PROBLEM_NONE &&
			(db.problem != warned[i].problem || db.since != warned[i].since ||
			 now >= warned[i].not_before))
		{
			name = database_name(dboid);
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

/*
 * Choose a database to start a worker in, and make it STARTING.  Returns its
 * element's number, or -1 if there is none now; *next is brought forward to
 * when there is.
 */
static int
choose_database(List *connectable, TimestampTz *next)
{
	static TimestampTz next_warning = DT_NOBEGIN;
	TimestampTz now = GetCurrentTimestamp();
	int			probes = 0;
	int			chosen = -1;
	bool		full = false;

	LWLockAcquire(&launcher->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_DATABASES; i++)
	{
		DatabaseShared *db = &launcher->databases[i];
		Oid			dboid = pg_atomic_read_u32(&db->dboid);

		if (!OidIsValid(dboid))
			continue;
		if (db->state == DATABASE_STARTING || db->state == DATABASE_PROBING)
			probes++;
		if (db->state != DATABASE_UNKNOWN || db->blockers > 0)
			continue;
		if (!list_member_oid(connectable, dboid))
			pg_atomic_write_u32(&db->dboid, InvalidOid);
		else if (db->not_before > now)
			*next = Min(*next, db->not_before);
		else if (chosen < 0)
			chosen = i;
	}

	/* Whoever is waiting for its turn is woken when a worker has looked. */
	if (probes >= MAX_PROBES)
		chosen = -1;
	while (chosen < 0 && untried != NIL && probes < MAX_PROBES)
	{
		Oid			dboid = linitial_oid(untried);

		if (find_database(dboid) == NULL && list_member_oid(connectable, dboid))
		{
			DatabaseShared *db = enter_database(dboid);

			full = (db == NULL);
			if (full)
				break;
			chosen = db - launcher->databases;
		}
		untried = list_delete_first(untried);
	}
	if (chosen >= 0)
		launcher->databases[chosen].state = DATABASE_STARTING;
	LWLockRelease(&launcher->lock);

	if (full && probes == 0 && now >= next_warning)
	{
		ereport(WARNING,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("too many databases for queue maintenance in database \"%s\"",
						database_name(linitial_oid(untried))),
				 errdetail("At most %d are looked after at the same time.", MAX_DATABASES)));
		next_warning = TimestampTzPlusMilliseconds(now, WARN_INTERVAL_MS);
	}
	return chosen;
}

/* Register a maintenance worker for a database that is STARTING. */
static void
start_worker(int number)
{
	DatabaseShared *db = &launcher->databases[number];
	Oid			dboid = pg_atomic_read_u32(&db->dboid);
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
	if (registered)
		return;

	LWLockAcquire(&launcher->lock, LW_EXCLUSIVE);
	if (db->state == DATABASE_STARTING)
		back_off(db, PROBLEM_NO_SLOT);
	LWLockRelease(&launcher->lock);
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
	int			number;

	reap_workers();

	LWLockAcquire(&launcher->lock, LW_EXCLUSIVE);
	rescan = launcher->rescan;
	launcher->rescan = false;
	LWLockRelease(&launcher->lock);

	/* In this order: a database that has queues now existed before. */
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
	while ((number = choose_database(connectable, &next)) >= 0)
		start_worker(number);
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

	/* Workers registered by a launcher before us, we would not hear of. */
	LWLockAcquire(&launcher->lock, LW_EXCLUSIVE);
	launcher->rescan = true;
	for (int i = 0; i < MAX_DATABASES; i++)
	{
		if (launcher->databases[i].state == DATABASE_STARTING)
			launcher->databases[i].state = DATABASE_UNKNOWN;
	}
	LWLockRelease(&launcher->lock);
	pg_atomic_write_u32(&launcher->procno, MY_PROCNO);

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

		/* With nothing due, somebody's poke is all there is to wait for. */
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

	RegisterXactCallback(launcher_xact_callback, NULL);

	/* Nothing may write to a cluster that is being upgraded but pg_upgrade. */
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
