/*
 * problem.h
 *		What the workers of a database could not do, for queue.maintenance.
 *
 * One entry for each activity and queue; InvalidOid stands for the database as
 * a whole.  All is about the current database and raises nothing.
 */
#ifndef QUEUE_WORKERS_PROBLEM_H
#define QUEUE_WORKERS_PROBLEM_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"

extern Size problem_shmem_size(void);
extern void problem_shmem_init(bool found);

/* Something has failed, in a row with what is there of it already. */
extern void problem_report(Oid relid, const char *activity, int sqlstate,
						   const char *error, TimestampTz retry_at);

/* It works again. */
extern void problem_solved(Oid relid, const char *activity);

/* A queue is gone; or with InvalidOid, everything of this database. */
extern void problem_forget(Oid relid);

/* Forget all databases but these. */
extern void problem_keep_databases(List *dboids);

#endif							/* QUEUE_WORKERS_PROBLEM_H */
