/*
 * database.c
 *		Databases: which of them have a maintenance worker.
 *
 * Which databases have the extension cannot be seen from outside: a worker
 * connects, looks, and exits at once where there is none.  So the launcher
 * tries every database once when it starts, and later those that CREATE
 * EXTENSION, CREATE DATABASE or the end of a block point out.
 *
 *	 UNKNOWN --launcher--> STARTING --attach--> PROBING --> RUNNING
 *		^  ^                  |                    |           |
 *		|  +--- failed -------+--------------------+-----------+
 *		+------ poke -------- ABSENT <-- exit 0 ---+-----------+
 *
 * A worker that finds its database in another state than STARTING exits, so
 * that there is never more than one.
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "backoff.h"
#include "compat.h"
#include "engine/round.h"
#include "engine/shared.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "relay/relay.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "workers/database.h"

/* Workers at most that are starting or have yet to look for the extension. */
#define MAX_PROBES			3

/* Wait after the first failure of a worker, doubled by each further one. */
#define MIN_BACKOFF_MS		1000
#define MAX_BACKOFF_MS		60000

/* How long DDL waits for workers to exit, in milliseconds. */
#define BLOCK_TIMEOUT_MS	5000
#define BLOCK_POLL_MS		10

/*
 * Guarded by DatabasesShared.lock; state is read without it as a hint
 * (database_running).  round_database says which database it is.
 */
typedef struct DatabaseShared
{
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

typedef struct DatabasesShared
{
	LWLock		lock;
	pg_atomic_uint32 launcher;	/* procno or NO_PROCNO, see wake_launcher */
	bool		rescan;			/* a database found no place in the array */
	DatabaseShared databases[MAX_DATABASES];
} DatabasesShared;

#define NO_PROCNO	PG_UINT32_MAX

static DatabasesShared *shared = NULL;

/* Databases this transaction is to unblock, or to poke, at its end; in its own memory. */
static List *blocked_databases = NIL;
static List *poked_databases = NIL;

/* In a maintenance worker, its database's element. */
static int	my_element = -1;

PG_FUNCTION_INFO_V1(queue_start_workers);
PG_FUNCTION_INFO_V1(queue_database_list);

Size
database_shmem_size(void)
{
	return sizeof(DatabasesShared);
}

void
database_shmem_init(void)
{
	bool		found;

	shared = ShmemInitStruct("queue databases", database_shmem_size(), &found);
	if (found)
		return;

	memset(shared, 0, database_shmem_size());
	LWLockInitialize(&shared->lock, queue_state->lwlock_tranche);
	pg_atomic_init_u32(&shared->launcher, NO_PROCNO);
}

/* Wake the launcher.  If it has exited meanwhile, another process is woken for nothing. */
static void
wake_launcher(void)
{
	uint32		procno = pg_atomic_read_u32(&shared->launcher);

	if (procno != NO_PROCNO)
		SetLatch(&ProcGlobal->allProcs[procno].procLatch);
}

/*
 * The element of a database, made if there is none: in the place of one
 * without the extension if need be.  -1 if none can be replaced.  The caller
 * holds the lock.
 */
static int
enter_database(Oid dboid)
{
	int			element = round_find(dboid);
	DatabaseShared *db;

	Assert(LWLockHeldByMeInMode(&shared->lock, LW_EXCLUSIVE));
	if (element >= 0)
		return element;
	for (int i = 0; i < MAX_DATABASES; i++)
	{
		DatabaseShared *other = &shared->databases[i];

		if (!OidIsValid(round_database(i)))
		{
			element = i;
			break;
		}
		if (element < 0 && other->state == DATABASE_ABSENT && other->blockers == 0)
			element = i;
	}
	if (element < 0)
		return -1;

	db = &shared->databases[element];
	db->state = DATABASE_UNKNOWN;
	db->blockers = db->failures = 0;
	db->problem = PROBLEM_NONE;
	db->since = GetCurrentTimestamp();
	db->poked = false;
	db->not_before = DT_NOBEGIN;
	round_enter(element, dboid);
	return element;
}

/* A worker failed, or did not start: try again later. */
static void
back_off(DatabaseShared *db, DatabaseProblem problem)
{
	Assert(LWLockHeldByMeInMode(&shared->lock, LW_EXCLUSIVE));
	if (db->problem == PROBLEM_NONE)
		db->since = GetCurrentTimestamp();
	db->problem = problem;
	db->failures++;
	db->not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												 backoff_delay(db->failures, MIN_BACKOFF_MS, MAX_BACKOFF_MS));
	db->state = DATABASE_UNKNOWN;
}

/*
 * For DDL
 */

/* Have the launcher try a database.  May run after commit: raises nothing. */
static void
poke(Oid dboid)
{
	int			element;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	element = enter_database(dboid);
	if (element < 0)
		shared->rescan = true;
	else
	{
		DatabaseShared *db = &shared->databases[element];

		/* For a worker that has looked already: see detach. */
		db->poked = true;
		if (db->state == DATABASE_ABSENT)
			db->state = DATABASE_UNKNOWN;
	}
	LWLockRelease(&shared->lock);
	wake_launcher();
}

/* End this transaction's blocks.  May run after commit: raises nothing. */
static void
unblock_databases(void)
{
	ListCell   *lc;

	foreach(lc, blocked_databases)
	{
		int			element;

		LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
		element = round_find(lfirst_oid(lc));
		Assert(element >= 0 && shared->databases[element].blockers > 0);
		if (element >= 0 && shared->databases[element].blockers > 0)
			shared->databases[element].blockers--;
		LWLockRelease(&shared->lock);
		poke(lfirst_oid(lc));
	}
	blocked_databases = NIL;
}

static void
database_xact_callback(XactEvent event, void *arg)
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
database_poke_at_commit(Oid dboid)
{
	MemoryContext old;

	if (shared == NULL)
		return;
	old = MemoryContextSwitchTo(TopTransactionContext);
	poked_databases = list_append_unique_oid(poked_databases, dboid);
	MemoryContextSwitchTo(old);
}

/* Terminate what workers a database has; true if there are none. */
static bool
stop_workers(Oid dboid)
{
	int			element;
	int			pid;

	/* Under the lock, under which a worker clears its pid before it exits. */
	LWLockAcquire(&shared->lock, LW_SHARED);
	element = round_find(dboid);
	pid = element >= 0 ? shared->databases[element].pid : 0;
	if (pid != 0)
		kill(pid, SIGTERM);
	LWLockRelease(&shared->lock);

	/* After the maintenance worker, which might start more of them. */
	relay_stop_database(dboid);
	return pid == 0 && !relay_running(dboid);
}

void
database_block(Oid dboid)
{
	int			element;
	MemoryContext old;
	TimestampTz deadline;

	if (shared == NULL || list_member_oid(blocked_databases, dboid))
		return;

	old = MemoryContextSwitchTo(TopTransactionContext);
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	element = enter_database(dboid);
	if (element >= 0)
	{
		blocked_databases = lappend_oid(blocked_databases, dboid);
		shared->databases[element].blockers++;
	}
	LWLockRelease(&shared->lock);
	MemoryContextSwitchTo(old);

	/* Without an element it has no workers. */
	if (element < 0)
		return;

	/* If a worker stays, the statement fails with PostgreSQL's own error. */
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
database_running(Oid dboid)
{
	int			element = round_find(dboid);

	return element >= 0 && shared->databases[element].state == DATABASE_RUNNING;
}

void
database_init(void)
{
	RegisterXactCallback(database_xact_callback, NULL);
}

/*
 * For maintenance workers
 */

/* Runs once the process has left the array that DROP DATABASE looks at. */
static void
detach(int code, Datum arg)
{
	DatabaseShared *db = &shared->databases[my_element];
	TimestampTz now = GetCurrentTimestamp();

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	db->pid = 0;
	round_detach(my_element);

	/* It had run for a while: earlier failures do not count. */
	if (db->state == DATABASE_RUNNING &&
		TimestampDifferenceExceeds(db->attached_at, now, MAX_BACKOFF_MS))
		db->failures = 0;

	if (code != 0 && db->blockers == 0)
		back_off(db, PROBLEM_FAILURE);
	else if (code != 0 || db->poked)
		db->state = DATABASE_UNKNOWN;
	else
		db->state = DATABASE_ABSENT;
	LWLockRelease(&shared->lock);
	wake_launcher();
}

bool
database_attach(Oid dboid)
{
	int			element;
	bool		claimed = false;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	element = round_find(dboid);
	if (element >= 0 && shared->databases[element].state == DATABASE_STARTING)
	{
		DatabaseShared *db = &shared->databases[element];

		if (db->blockers > 0)
			db->state = DATABASE_UNKNOWN;
		else
		{
			claimed = true;
			db->state = DATABASE_PROBING;
			db->pid = MyProcPid;
			db->poked = false;
			db->attached_at = GetCurrentTimestamp();
			round_attach(element);
		}
	}
	LWLockRelease(&shared->lock);

	if (claimed)
	{
		my_element = element;
		on_shmem_exit(detach, (Datum) 0);
	}
	return claimed;
}

void
database_report_running(void)
{
	DatabaseShared *db = &shared->databases[my_element];

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	db->state = DATABASE_RUNNING;
	db->problem = PROBLEM_NONE;
	db->since = GetCurrentTimestamp();
	LWLockRelease(&shared->lock);

	/* The launcher may have been waiting to try other databases. */
	wake_launcher();
}

int
database_element(void)
{
	return my_element;
}

/*
 * For the launcher
 */

void
database_attach_launcher(void)
{
	/* We get no notice of workers that an earlier launcher has registered. */
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	shared->rescan = true;
	for (int i = 0; i < MAX_DATABASES; i++)
	{
		if (shared->databases[i].state == DATABASE_STARTING)
			shared->databases[i].state = DATABASE_UNKNOWN;
	}
	LWLockRelease(&shared->lock);
	pg_atomic_write_u32(&shared->launcher, MY_PROCNO);
}

bool
database_rescan(void)
{
	bool		rescan;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	rescan = shared->rescan;
	shared->rescan = false;
	LWLockRelease(&shared->lock);
	return rescan;
}

int
database_choose(List *connectable, List **untried, TimestampTz *next, bool *full)
{
	TimestampTz now = GetCurrentTimestamp();
	int			probes = 0;
	int			chosen = -1;

	*full = false;
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_DATABASES; i++)
	{
		DatabaseShared *db = &shared->databases[i];
		Oid			dboid = round_database(i);

		if (!OidIsValid(dboid))
			continue;
		if (db->state == DATABASE_STARTING || db->state == DATABASE_PROBING)
			probes++;
		if (db->state != DATABASE_UNKNOWN || db->blockers > 0)
			continue;
		if (!list_member_oid(connectable, dboid))
			round_enter(i, InvalidOid);
		else if (db->not_before > now)
			*next = Min(*next, db->not_before);
		else if (chosen < 0)
			chosen = i;
	}

	/* A worker that has looked wakes the launcher, for the next ones. */
	if (probes >= MAX_PROBES)
		chosen = -1;
	while (chosen < 0 && *untried != NIL && probes < MAX_PROBES)
	{
		Oid			dboid = linitial_oid(*untried);

		if (round_find(dboid) < 0 && list_member_oid(connectable, dboid))
		{
			chosen = enter_database(dboid);
			if (chosen < 0)
			{
				*full = (probes == 0);
				break;
			}
		}
		*untried = list_delete_first(*untried);
	}
	if (chosen >= 0)
		shared->databases[chosen].state = DATABASE_STARTING;
	LWLockRelease(&shared->lock);
	return chosen;
}

void
database_not_started(int element, DatabaseProblem problem)
{
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	if (shared->databases[element].state == DATABASE_STARTING)
		back_off(&shared->databases[element], problem);
	LWLockRelease(&shared->lock);
}

bool
database_read(int element, DatabaseInfo *info)
{
	DatabaseShared *db = &shared->databases[element];

	LWLockAcquire(&shared->lock, LW_SHARED);
	info->dboid = round_database(element);
	info->state = db->state;
	info->pid = db->pid;
	info->blockers = db->blockers;
	info->failures = db->failures;
	info->problem = db->problem;
	info->since = db->since;
	info->not_before = db->not_before;
	LWLockRelease(&shared->lock);
	return OidIsValid(info->dboid) && info->state != DATABASE_ABSENT;
}

/*
 * For SQL
 */

/*
 * The end of the extension's script: this database has it from now on.
 * Without shared_preload_libraries this does nothing.
 */
Datum
queue_start_workers(PG_FUNCTION_ARGS)
{
	database_poke_at_commit(MyDatabaseId);
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
		DatabaseInfo db;
		Datum		values[8] = {0};
		bool		isnull[8] = {false};

		if (!database_read(i, &db))
			continue;

		values[0] = ObjectIdGetDatum(db.dboid);
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
