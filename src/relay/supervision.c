/*
 * supervision.c
 *		Shared slots of the relays' workers, and the supervision of those.
 *
 * A relay has as many slots as workers, from when the maintenance worker first
 * sees its row until it sees the row gone, so counters outlive restarts of the
 * workers.  What a slot has counted that goes before is added to the first.
 *
 *		no worker --start--> starting --attach--> attached --exit--> no worker
 *
 * "stop" asks a worker to end, whether it is starting or attached; who sets
 * it also sends SIGTERM.  An end without it counts as a failure, and the next
 * start waits for longer each time; unless the worker has seen itself that it
 * was started with what does not hold any more.
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "background.h"
#include "backoff.h"
#include "catalog/pg_authid.h"
#include "engine/extension.h"
#include "engine/registry.h"
#include "engine/round.h"
#include "guc.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "relay/anchor.h"
#include "relay/configuration.h"
#include "relay/supervision.h"
#include "sinks/text.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* A worker that lived this long did not fail to start. */
#define LIVED_LONG			(60 * USECS_PER_SEC)

/* Restarts wait from this to that. */
#define RESTART_FIRST		(1 * USECS_PER_SEC)
#define RESTART_LAST		(60 * USECS_PER_SEC)

/* A worker we have no handle of that has not attached by then never will. */
#define ATTACH_WITHIN		(60 * USECS_PER_SEC)

RelayShared *relay_shared = NULL;

static RelaySlot *attached = NULL;

/* Whether this worker's end, should it come now, is a failure; or its own choice. */
static bool failing = false;
static bool leaving = false;

/* In the maintenance worker: handles of the workers it started, by slot. */
static BackgroundWorkerHandle **handles = NULL;

Size
relay_shmem_size(void)
{
	return add_size(offsetof(RelayShared, slots),
					mul_size(queue_max_relays, sizeof(RelaySlot)));
}

void
relay_shmem_init(void)
{
	bool		found;

	relay_shared = ShmemInitStruct("queue relays", relay_shmem_size(), &found);
	if (found)
		return;

	memset(relay_shared, 0, relay_shmem_size());
	LWLockInitialize(&relay_shared->lock, queue_state->lwlock_tranche);
	for (int i = 0; i < queue_max_relays; i++)
	{
		RelaySlot  *slot = &relay_shared->slots[i];

		pg_atomic_init_u32(&slot->activity, RELAY_STOPPED);
		pg_atomic_init_u32(&slot->in_flight, 0);
		pg_atomic_init_u64(&slot->published, 0);
		pg_atomic_init_u64(&slot->failed, 0);
		pg_atomic_init_u64(&slot->dropped, 0);
		pg_atomic_init_u64(&slot->oldest, 0);
	}
}

/* The caller holds the lock. */
RelaySlot *
relay_slot_find(Oid dboid, const char *name, int number)
{
	Assert(LWLockHeldByMe(&relay_shared->lock));
	for (int i = 0; i < queue_max_relays; i++)
	{
		RelaySlot  *slot = &relay_shared->slots[i];

		if (slot->dboid == dboid && slot->number == number &&
			strcmp(NameStr(slot->name), name) == 0)
			return slot;
	}
	return NULL;
}

/*
 * How many relays a role may have slots for.  Each is a process, too, of
 * those that all databases and parallel queries need.
 */
int
relay_role_limit(void)
{
	int			half = Min(queue_max_relays, max_worker_processes) / 2;

	return queue_max_relays_per_role >= 0 ? queue_max_relays_per_role : Max(half, 1);
}

/*
 * How many slots a role has, those of a database left out.  The caller holds
 * the lock.
 */
int
relay_slots_of(Oid owner, Oid except_dboid)
{
	int			n = 0;

	for (int i = 0; i < queue_max_relays; i++)
	{
		RelaySlot  *slot = &relay_shared->slots[i];

		if (OidIsValid(slot->dboid) && slot->owner == owner && slot->dboid != except_dboid)
			n++;
	}
	return n;
}

/* Note an error; the caller holds the lock. */
static void
note_error(RelaySlot *slot, const char *text, bool trouble)
{
	Assert(LWLockHeldByMeInMode(&relay_shared->lock, LW_EXCLUSIVE));
	text_clean(slot->last_error, RELAY_ERROR_SIZE, text, strlen(text), GetDatabaseEncoding());
	slot->last_error_at = GetCurrentTimestamp();
	slot->trouble = trouble;
}

void
relay_report_error(RelaySlot *slot, const char *text, bool trouble)
{
	LWLockAcquire(&relay_shared->lock, LW_EXCLUSIVE);
	note_error(slot, text, trouble);
	LWLockRelease(&relay_shared->lock);
}

void
relay_clear_trouble(RelaySlot *slot)
{
	LWLockAcquire(&relay_shared->lock, LW_EXCLUSIVE);
	slot->trouble = false;
	slot->last_error[0] = '\0';
	slot->last_error_at = 0;
	LWLockRelease(&relay_shared->lock);
}

/* Note an end of the worker; the caller holds the lock. */
static void
note_end(RelaySlot *slot, bool failed)
{
	TimestampTz now = GetCurrentTimestamp();

	Assert(LWLockHeldByMeInMode(&relay_shared->lock, LW_EXCLUSIVE));
	if (slot->stop || !failed || now - slot->started_at > LIVED_LONG)
		slot->failures = 0;
	if (failed)
		slot->failures++;

	slot->restart_at = slot->stop ? 0 :
		now + backoff_jitter(backoff_delay(slot->failures, RESTART_FIRST, RESTART_LAST));
	if (!slot->stop && !leaving && !slot->trouble)
		note_error(slot, "the worker was ended", true);
	slot->pid = 0;
	slot->starting = slot->stop = false;
	pg_atomic_write_u32(&slot->activity, RELAY_STOPPED);
	pg_atomic_write_u32(&slot->in_flight, 0);
	pg_atomic_write_u64(&slot->oldest, 0);
}

void
relay_set_failing(bool value)
{
	failing = value;
}

void
relay_leave(void)
{
	failing = false;
	leaving = true;
	proc_exit(0);
}

static void
relay_detach(int code, Datum arg)
{
	Oid			dboid = attached->dboid;

	LWLockAcquire(&relay_shared->lock, LW_EXCLUSIVE);
	note_end(attached, failing);
	LWLockRelease(&relay_shared->lock);
	maintenance_wake(dboid);
}

/*
 * Make a slot this worker's, as whoever started it said in bgw_extra.  NULL
 * if we are not wanted any more.
 */
RelaySlot *
relay_attach(int slotno)
{
	RelaySlot  *slot = &relay_shared->slots[slotno];
	uint32		generation;
	Oid			ended_in = InvalidOid;

	memcpy(&generation, MyBgworkerEntry->bgw_extra, sizeof(generation));

	LWLockAcquire(&relay_shared->lock, LW_EXCLUSIVE);
	if (slot->generation != generation || !slot->starting)
		slot = NULL;
	else if (slot->stop)
	{
		note_end(slot, false);
		ended_in = slot->dboid;
		slot = NULL;
	}
	else
	{
		slot->starting = false;
		slot->pid = MyProcPid;
		slot->started_at = GetCurrentTimestamp();
		attached = slot;
		failing = true;
		before_shmem_exit(relay_detach, (Datum) 0);
	}
	LWLockRelease(&relay_shared->lock);

	/* Another worker may be wanted in its place. */
	if (OidIsValid(ended_in))
		maintenance_wake(ended_in);
	return slot;
}

/* Ask a worker to end; the caller holds the lock. */
static void
stop_worker(RelaySlot *slot)
{
	Assert(LWLockHeldByMeInMode(&relay_shared->lock, LW_EXCLUSIVE));
	if (slot->starting || slot->pid != 0)
		slot->stop = true;
	if (slot->pid != 0)
		kill(slot->pid, SIGTERM);
}

void
relay_worker_name(const char *relay, int number, char *out, Size size)
{
	if (number == 0)
		snprintf(out, size, "queue relay %s", relay);
	else
		snprintf(out, size, "queue relay %s #%d", relay, number + 1);
}

/* Ask the postmaster for a worker; the caller holds the lock. */
static void
start_worker(RelaySlot *slot)
{
	BackgroundWorker worker = {0};
	int			slotno = slot - relay_shared->slots;

	Assert(LWLockHeldByMeInMode(&relay_shared->lock, LW_EXCLUSIVE));
	slot->generation++;
	slot->started_at = GetCurrentTimestamp();
	slot->starting = true;
	slot->stop = false;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = Int32GetDatum(slotno);
	worker.bgw_notify_pid = MyProcPid;
	strlcpy(worker.bgw_library_name, "queue", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "queue_relay_main", sizeof(worker.bgw_function_name));
	relay_worker_name(NameStr(slot->name), slot->number, worker.bgw_name, BGW_MAXLEN);
	strlcpy(worker.bgw_type, "queue relay", BGW_MAXLEN);
	memcpy(worker.bgw_extra, &slot->generation, sizeof(slot->generation));

	if (handles[slotno])
		pfree(handles[slotno]);
	handles[slotno] = NULL;
	if (!RegisterDynamicBackgroundWorker(&worker, &handles[slotno]))
	{
		note_end(slot, true);
		note_error(slot, "no background worker is free: increase max_worker_processes", true);
	}
}

/* Whether a worker we asked for has ended without attaching. */
static bool
never_attached(RelaySlot *slot)
{
	BackgroundWorkerHandle *handle = handles[slot - relay_shared->slots];
	pid_t		pid;

	if (handle)
		return GetBackgroundWorkerPid(handle, &pid) == BGWH_STOPPED;
	return GetCurrentTimestamp() - slot->started_at > ATTACH_WITHIN;
}

/*
 * Give a relay's worker a slot if it has none, and its owner not too many; the
 * caller holds the lock.
 */
static RelaySlot *
assign_slot(RelayConfig *relay, int number)
{
	RelaySlot  *slot = relay_slot_find(MyDatabaseId, relay->name, number);

	Assert(LWLockHeldByMeInMode(&relay_shared->lock, LW_EXCLUSIVE));
	if (slot == NULL && !relay->superuser &&
		relay_slots_of(relay->owner, InvalidOid) >= relay_role_limit())
		return NULL;

	for (int i = 0; slot == NULL && i < queue_max_relays; i++)
	{
		RelaySlot  *unused = &relay_shared->slots[i];

		if (OidIsValid(unused->dboid))
			continue;
		slot = unused;
		slot->dboid = MyDatabaseId;
		namestrcpy(&slot->name, relay->name);
		slot->number = number;
		slot->owner = relay->owner;
		slot->config = 0;
		slot->failures = 0;
		slot->trouble = false;
		slot->restart_at = slot->last_error_at = 0;
		slot->last_error[0] = '\0';
		pg_atomic_write_u64(&slot->published, 0);
		pg_atomic_write_u64(&slot->failed, 0);
		pg_atomic_write_u64(&slot->dropped, 0);
	}
	return slot;
}

/* Take a slot from a relay; the caller holds the lock. */
static void
free_slot(RelaySlot *slot)
{
	RelaySlot  *first = relay_slot_find(slot->dboid, NameStr(slot->name), 0);

	Assert(LWLockHeldByMeInMode(&relay_shared->lock, LW_EXCLUSIVE));
	if (first && first != slot)
	{
		pg_atomic_fetch_add_u64(&first->published, pg_atomic_read_u64(&slot->published));
		pg_atomic_fetch_add_u64(&first->failed, pg_atomic_read_u64(&slot->failed));
		pg_atomic_fetch_add_u64(&first->dropped, pg_atomic_read_u64(&slot->dropped));
	}
	slot->dboid = InvalidOid;
	slot->number = 0;
	namestrcpy(&slot->name, "");
}

/* Bring a relay's worker to what its row says; the caller holds the lock. */
static void
supervise_one(RelayConfig *relay, int number, TimestampTz now, TimestampTz *next)
{
	RelaySlot  *slot = assign_slot(relay, number);

	Assert(LWLockHeldByMeInMode(&relay_shared->lock, LW_EXCLUSIVE));
	if (slot == NULL)
		return;					/* all in use: queue.relays says so */

	if (slot->starting && slot->pid == 0 && never_attached(slot))
		note_end(slot, true);

	if (slot->starting || slot->pid != 0)
	{
		if (relay->paused || relay->problem || slot->config != relay->fingerprint)
			stop_worker(slot);
		if (slot->starting)
			*next = Min(*next, now + ATTACH_WITHIN);
		return;
	}

	if (relay->paused)
	{
		slot->failures = 0;
		slot->restart_at = 0;
		return;
	}
	if (slot->config != relay->fingerprint)
		slot->restart_at = 0;
	if (slot->restart_at > now)
	{
		*next = Min(*next, slot->restart_at);
		return;
	}

	slot->config = relay->fingerprint;
	slot->owner = relay->owner;
	if (relay->problem)
	{
		note_error(slot, relay->problem, true);
		note_end(slot, true);
	}
	else
		start_worker(slot);
	if (slot->restart_at > now)
		*next = Min(*next, slot->restart_at);
}

TimestampTz
relay_supervise(void)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context;
	List	   *relays = NIL;
	ListCell   *cell;
	bool		followed = true;
	TimestampTz next = DT_NOEND;
	TimestampTz now;

	if (relay_shared == NULL)
		return DT_NOEND;
	if (handles == NULL)
		handles = MemoryContextAllocZero(TopMemoryContext,
										 queue_max_relays * sizeof(BackgroundWorkerHandle *));

	context = AllocSetContextCreate(caller, "queue relays", ALLOCSET_SMALL_SIZES);
	background_begin();
	MemoryContextSwitchTo(context);
	if (extension_exists())
	{
		followed = relay_anchors_follow();
		relays = relay_config_list();
	}
	background_end();
	MemoryContextSwitchTo(TopMemoryContext);	/* handles live there */

	now = GetCurrentTimestamp();
	if (!followed)
		next = now + USECS_PER_SEC;
	LWLockAcquire(&relay_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < queue_max_relays; i++)
	{
		RelaySlot  *slot = &relay_shared->slots[i];
		bool		exists = false;

		if (slot->dboid != MyDatabaseId)
			continue;
		foreach(cell, relays)
		{
			RelayConfig *relay = lfirst(cell);

			exists |= strcmp(relay->name, NameStr(slot->name)) == 0 && slot->number < relay->workers;
		}
		if (exists)
			continue;
		if (slot->starting && slot->pid == 0 && never_attached(slot))
			note_end(slot, true);
		if (slot->starting || slot->pid != 0)
			stop_worker(slot);
		else
			free_slot(slot);
	}
	foreach(cell, relays)
	{
		RelayConfig *relay = lfirst(cell);

		for (int number = 0; number < relay->workers; number++)
			supervise_one(relay, number, now, &next);
	}
	LWLockRelease(&relay_shared->lock);

	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	return next;
}

void
relay_stop_database(Oid dboid)
{
	if (relay_shared == NULL)
		return;
	LWLockAcquire(&relay_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < queue_max_relays; i++)
	{
		if (relay_shared->slots[i].dboid == dboid)
			stop_worker(&relay_shared->slots[i]);
	}
	LWLockRelease(&relay_shared->lock);
}

bool
relay_running(Oid dboid)
{
	bool		running = false;

	if (relay_shared == NULL)
		return false;
	LWLockAcquire(&relay_shared->lock, LW_SHARED);
	for (int i = 0; i < queue_max_relays; i++)
	{
		RelaySlot  *slot = &relay_shared->slots[i];

		running |= slot->dboid == dboid && (slot->starting || slot->pid != 0);
	}
	LWLockRelease(&relay_shared->lock);
	return running;
}
