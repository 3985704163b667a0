/*
 * problem.h
 *		What the workers of a database could not do, for queue.maintenance.
 *
 * One entry for each activity and queue; InvalidOid stands for the database as
 * a whole.  All is about the current database and raises nothing.
 */
#ifndef QUEUE_ENGINE_PROBLEM_H
#define QUEUE_ENGINE_PROBLEM_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"

#define PROBLEM_ACTIVITY_SIZE	64
#define PROBLEM_ERROR_SIZE		256

typedef struct Problem
{
	Oid			dboid;			/* InvalidOid: not in use */
	Oid			relid;			/* a queue's table, or InvalidOid */
	char		activity[PROBLEM_ACTIVITY_SIZE];
	char		error[PROBLEM_ERROR_SIZE];
	int			sqlstate;
	int			failures;		/* in a row */
	TimestampTz first_failed_at;
	TimestampTz last_failed_at;
	TimestampTz retry_at;
} Problem;

extern Size problem_shmem_size(void);
extern void problem_shmem_init(void);

/*
 * An activity has failed, again if there is an entry already; retry_at is when
 * it is tried again.
 */
extern void problem_report(Oid relid, const char *activity, int sqlstate,
						   const char *error, TimestampTz retry_at);

/* It has succeeded again. */
extern void problem_solved(Oid relid, const char *activity);

/* A queue is gone; or with InvalidOid, everything of this database. */
extern void problem_forget(Oid relid);

/* All of this database, in the current memory context; returns how many. */
extern int	problem_list(Problem **problems);

/* Forget all databases but these. */
extern void problem_keep_databases(List *dboids);

#endif							/* QUEUE_ENGINE_PROBLEM_H */
