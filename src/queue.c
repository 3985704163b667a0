/*
 * queue.c
 *		Entry point of the library.
 */
#include "postgres.h"

#include "engine/bucket.h"
#include "engine/commit.h"
#include "engine/filter.h"
#include "engine/keys.h"
#include "engine/lease_account.h"
#include "engine/lease_end.h"
#include "engine/lease_slot.h"
#include "engine/leased_place.h"
#include "engine/problem.h"
#include "engine/registry.h"
#include "engine/round.h"
#include "engine/shared.h"
#include "engine/wait.h"
#include "fmgr.h"
#include "guc.h"
#include "miscadmin.h"
#include "relay/relay.h"
#include "sql/object.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "workers/database.h"
#include "workers/ddl.h"
#include "workers/launcher.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

/*
 * The parts of shared memory.  Each file asks for its own and fills it in, the
 * first one first: it makes the tranche of the others' locks.
 */
static const struct
{
	Size		(*size) (void);
	void		(*init) (void);
}			shared_parts[] = {
	{shared_shmem_size, shared_shmem_init},
	{leased_place_shmem_size, leased_place_shmem_init},
	{lease_account_shmem_size, lease_account_shmem_init},
	{keys_shmem_size, keys_shmem_init},
	{lease_shmem_size, lease_shmem_init},
	{wait_shmem_size, wait_shmem_init},
	{round_shmem_size, round_shmem_init},
	{database_shmem_size, database_shmem_init},
	{relay_shmem_size, relay_shmem_init},
	{problem_shmem_size, problem_shmem_init},
	{filter_shmem_size, filter_shmem_init},
	{bucket_shmem_size, bucket_shmem_init},
};

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

static void
queue_shmem_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	for (int i = 0; i < lengthof(shared_parts); i++)
	{
		Size		size = shared_parts[i].size();

		RequestAddinShmemSpace(MAXALIGN(size));
	}
}

static void
queue_shmem_startup(void)
{
	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	for (int i = 0; i < lengthof(shared_parts); i++)
		shared_parts[i].init();
	LWLockRelease(AddinShmemInitLock);
}

/*
 * Without shared_preload_libraries there is no shared memory: the settings
 * exist, and every function that needs it raises an error that says so.
 */
void
_PG_init(void)
{
	guc_init();

	if (!process_shared_preload_libraries_in_progress)
		return;

	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = queue_shmem_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = queue_shmem_startup;

	launcher_register();
	database_init();
	ddl_init();
	object_init();
	registry_init();
	lease_end_init();
	commit_init();
	bucket_init();
}
