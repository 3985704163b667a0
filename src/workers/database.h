/*
 * database.h
 *		Databases: which of them have a maintenance worker.
 */
#ifndef QUEUE_WORKERS_DATABASE_H
#define QUEUE_WORKERS_DATABASE_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"

typedef enum DatabaseState
{
	DATABASE_UNKNOWN,			/* to be tried, once not_before has come */
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

/* What is known of a database. */
typedef struct DatabaseInfo
{
	Oid			dboid;
	DatabaseState state;
	int			pid;			/* of its worker, 0 if none */
	int			blockers;		/* transactions that keep workers away */
	int			failures;		/* in a row */
	DatabaseProblem problem;
	TimestampTz since;			/* it has been running, or not */
	TimestampTz not_before;		/* of the next start */
} DatabaseInfo;

extern Size database_shmem_size(void);
extern void database_shmem_init(void);
extern void database_init(void);

/* Copy what is known of an element; false if there is nothing to tell. */
extern bool database_read(int element, DatabaseInfo *info);

/* Whether a database has a maintenance worker that found the extension. */
extern bool database_running(Oid dboid);

/* At commit of this transaction, have the launcher try a database. */
extern void database_poke_at_commit(Oid dboid);

/*
 * Stop all the extension's workers in a database, and keep them stopped until
 * this transaction ends.  Then the launcher tries the database again.
 */
extern void database_block(Oid dboid);

/*
 * For the maintenance worker: become the database's before connecting to it,
 * false if that is blocked or has a worker; report that it has the extension;
 * and its element, for round.h.
 */
extern bool database_attach(Oid dboid);
extern void database_report_running(void);
extern int	database_element(void);

/*
 * For the launcher: report that it has started; whether all databases are to
 * be tried again; choose one to start a worker in, whose element is returned
 * and STARTING; and report that the worker was not started.
 *
 * database_choose takes those of the untried databases that it comes to off
 * the list.  -1 if there is none now: *next is brought forward to when there
 * is, and *full says that no element was free for the first untried one.
 */
extern void database_attach_launcher(void);
extern bool database_rescan(void);
extern int	database_choose(List *connectable, List **untried, TimestampTz *next, bool *full);
extern void database_not_started(int element, DatabaseProblem problem);

#endif							/* QUEUE_WORKERS_DATABASE_H */
