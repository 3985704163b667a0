/*
 * problem.c
 *		What the workers of a database could not do, for queue.maintenance.
 */
#include "postgres.h"

#include "engine/problem.h"
#include "engine/shared.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

/* Entries for all databases; what finds no place is in the log only. */
#define MAX_PROBLEMS	512

typedef struct ProblemShared
{
	LWLock		lock;
	Problem		problems[MAX_PROBLEMS];
} ProblemShared;

static ProblemShared *shared = NULL;

Size
problem_shmem_size(void)
{
	return sizeof(ProblemShared);
}

void
problem_shmem_init(void)
{
	bool		found;

	shared = ShmemInitStruct("queue problems", problem_shmem_size(), &found);
	if (found)
		return;

	memset(shared, 0, problem_shmem_size());
	LWLockInitialize(&shared->lock, queue_state->lwlock_tranche);
}

/* Copy a text, cut where a character ends. */
static void
copy_clipped(char *to, const char *from, int size)
{
	int			length = pg_mbcliplen(from, strlen(from), size - 1);

	memcpy(to, from, length);
	to[length] = '\0';
}

/* An entry, or a free one if there is none; NULL if all are taken. */
static Problem *
find_problem(Oid relid, const char *activity)
{
	Problem    *unused = NULL;

	Assert(LWLockHeldByMeInMode(&shared->lock, LW_EXCLUSIVE));
	for (int i = 0; i < MAX_PROBLEMS; i++)
	{
		Problem    *problem = &shared->problems[i];

		if (problem->dboid == MyDatabaseId && problem->relid == relid &&
			strcmp(problem->activity, activity) == 0)
			return problem;
		if (unused == NULL && !OidIsValid(problem->dboid))
			unused = problem;
	}
	return unused;
}

void
problem_report(Oid relid, const char *activity, int sqlstate, const char *error,
			   TimestampTz retry_at)
{
	TimestampTz now = GetCurrentTimestamp();
	char		clipped[PROBLEM_ACTIVITY_SIZE];
	Problem    *problem;

	if (shared == NULL)
		return;
	copy_clipped(clipped, activity, PROBLEM_ACTIVITY_SIZE);

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	problem = find_problem(relid, clipped);
	if (problem != NULL)
	{
		if (!OidIsValid(problem->dboid))
		{
			problem->dboid = MyDatabaseId;
			problem->relid = relid;
			strlcpy(problem->activity, clipped, PROBLEM_ACTIVITY_SIZE);
			problem->failures = 0;
			problem->first_failed_at = now;
		}
		copy_clipped(problem->error, error ? error : "", PROBLEM_ERROR_SIZE);
		problem->sqlstate = sqlstate;
		problem->failures++;
		problem->last_failed_at = now;
		problem->retry_at = retry_at;
	}
	LWLockRelease(&shared->lock);
}

/* Free entries of this database: of a queue or all, of an activity or all. */
static void
forget(Oid relid, bool any_relid, const char *activity)
{
	if (shared == NULL)
		return;
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_PROBLEMS; i++)
	{
		Problem    *problem = &shared->problems[i];

		if (problem->dboid == MyDatabaseId &&
			(any_relid || problem->relid == relid) &&
			(activity == NULL || strncmp(problem->activity, activity, PROBLEM_ACTIVITY_SIZE - 1) == 0))
			problem->dboid = InvalidOid;
	}
	LWLockRelease(&shared->lock);
}

void
problem_solved(Oid relid, const char *activity)
{
	forget(relid, false, activity);
}

void
problem_forget(Oid relid)
{
	forget(relid, !OidIsValid(relid), NULL);
}

void
problem_keep_databases(List *dboids)
{
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_PROBLEMS; i++)
	{
		if (!list_member_oid(dboids, shared->problems[i].dboid))
			shared->problems[i].dboid = InvalidOid;
	}
	LWLockRelease(&shared->lock);
}

int
problem_list(Problem **problems)
{
	int			n = 0;

	*problems = palloc(sizeof(Problem) * MAX_PROBLEMS);
	LWLockAcquire(&shared->lock, LW_SHARED);
	for (int i = 0; i < MAX_PROBLEMS; i++)
	{
		if (shared->problems[i].dboid == MyDatabaseId)
			(*problems)[n++] = shared->problems[i];
	}
	LWLockRelease(&shared->lock);
	return n;
}
