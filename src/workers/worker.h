/*
 * worker.h
 *		Background workers, and how DDL makes them step aside.
 */
#ifndef QUEUE_WORKERS_WORKER_H
#define QUEUE_WORKERS_WORKER_H

#include "datatype/timestamp.h"

/* launcher.c: one per cluster. */
extern Size launcher_shmem_size(void);
extern void launcher_shmem_init(bool found);
extern void launcher_register(void);
extern PGDLLEXPORT void queue_launcher_main(Datum arg);

/* At commit of this transaction, have the launcher look at a database. */
extern void launcher_poke_at_commit(Oid dboid);

/*
 * Stop all our workers of a database, and keep them stopped until this
 * transaction ends.  Then the launcher looks at the database again.
 */
extern void launcher_block_database(Oid dboid);

/* Whether a database has a maintenance worker that found the extension. */
extern bool launcher_database_running(Oid dboid);

/*
 * For the maintenance worker: claim the database before connecting to it,
 * false if it is blocked or has a worker; and report that it has the
 * extension.
 */
extern bool launcher_attach(Oid dboid);
extern void launcher_report_running(void);

/*
 * Wake a database's maintenance worker now, or no later than a time.
 * Cheap, raises nothing, may be called with locks held.
 */
extern void maintenance_wake(Oid dboid);
extern void maintenance_wake_by(Oid dboid, TimestampTz when);

/*
 * For the maintenance worker: nothing is asked for any more, before it looks
 * for work; and when to do so again, at the time planned or earlier if asked.
 */
extern void maintenance_begin_round(void);
extern TimestampTz maintenance_next_round(TimestampTz planned);

/* maintenance.c: one per database that has the extension. */
extern PGDLLEXPORT void queue_maintenance_main(Datum arg);

/* ddl.c: the ProcessUtility hook. */
extern void ddl_init(void);

#endif							/* QUEUE_WORKERS_WORKER_H */
