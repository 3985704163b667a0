/*
 * worker.h
 *		Background workers of one database, and how DDL makes them step aside.
 */
#ifndef QUEUE_WORKER_H
#define QUEUE_WORKER_H

#include "catalog.h"

/* launcher.c: one per cluster. */
extern Size launcher_shmem_size(void);
extern void launcher_shmem_init(bool found);
extern void launcher_register(void);
extern PGDLLEXPORT void queue_launcher_main(Datum arg);

/* At commit of this transaction, have the launcher look at this database. */
extern void launcher_poke_at_commit(void);

/* Stop all our workers of a database and keep them stopped, until allowed. */
extern void launcher_block_database(Oid dboid);
extern void launcher_allow_database(Oid dboid);

/* maintenance.c: one per database that has the extension. */
extern PGDLLEXPORT void queue_maintenance_main(Datum arg);

/*
 * Wake this database's maintenance worker now, or no later than a time.
 * Cheap, raises nothing, may be called with locks held.
 */
extern void maintenance_wake(Oid dboid);
extern void maintenance_wake_by(Oid dboid, TimestampTz when);

/* ddl.c: the ProcessUtility hook. */
extern void ddl_init(void);

#endif							/* QUEUE_WORKER_H */
