/*
 * queue.c
 *		Entry point of the library.
 */
#include "postgres.h"

#include "engine/lease.h"
#include "engine/registry.h"
#include "engine/shmem.h"
#include "engine/wake.h"
#include "fmgr.h"
#include "guc.h"
#include "miscadmin.h"
#include "sql/object.h"
#include "workers/worker.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

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

	shmem_init();
	launcher_register();
	ddl_init();
	object_init();
	catalog_init();
	lease_init();
	wake_init();
}
