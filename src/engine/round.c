/*
 * round.c
 *		When the maintenance worker of a database has its next round.
 */
#include "postgres.h"

#include "compat.h"
#include "engine/bound.h"
#include "engine/round.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/shmem.h"

/*
 * dboid and procno are written by workers/database.c under its lock, and read
 * without it: a stale value sets a latch for nothing.  next_round is lowered
 * by any process, and raised by the worker, without a lock.
 */
typedef struct DatabaseRound
{
	pg_atomic_uint32 dboid;		/* InvalidOid: not in use */
	pg_atomic_uint32 procno;	/* of the worker, or NO_PROCNO */
	TimeBound	next_round;		/* when the next round comes at the latest */
} DatabaseRound;

#define NO_PROCNO	PG_UINT32_MAX

static DatabaseRound *rounds = NULL;

Size
round_shmem_size(void)
{
	return sizeof(DatabaseRound) * MAX_DATABASES;
}

void
round_shmem_init(void)
{
	bool		found;

	rounds = ShmemInitStruct("queue rounds", round_shmem_size(), &found);
	if (found)
		return;
	for (int i = 0; i < MAX_DATABASES; i++)
	{
		pg_atomic_init_u32(&rounds[i].dboid, InvalidOid);
		pg_atomic_init_u32(&rounds[i].procno, NO_PROCNO);
		bound_init(&rounds[i].next_round, DT_NOEND);
	}
}

Oid
round_database(int element)
{
	return pg_atomic_read_u32(&rounds[element].dboid);
}

int
round_find(Oid dboid)
{
	static int	last = 0;

	if (rounds == NULL)
		return -1;
	if (round_database(last) == dboid)
		return last;
	for (int i = 0; i < MAX_DATABASES; i++)
	{
		if (round_database(i) == dboid)
		{
			last = i;
			return i;
		}
	}
	return -1;
}

void
round_enter(int element, Oid dboid)
{
	DatabaseRound *round = &rounds[element];

	bound_write(&round->next_round, DT_NOEND);
	pg_atomic_write_u32(&round->procno, NO_PROCNO);
	pg_atomic_write_u32(&round->dboid, dboid);
}

void
round_attach(int element)
{
	bound_write(&rounds[element].next_round, DT_NOEND);
	pg_atomic_write_u32(&rounds[element].procno, MY_PROCNO);
}

void
round_detach(int element)
{
	pg_atomic_write_u32(&rounds[element].procno, NO_PROCNO);
}

void
maintenance_wake_by(Oid dboid, TimestampTz when)
{
	int			element = round_find(dboid);
	uint32		procno;

	/*
	 * Pairs with round_begin: the worker sees what is to be done, or we see
	 * that the bound was raised.
	 */
	pg_memory_barrier();
	if (element < 0 || !bound_lower(&rounds[element].next_round, when))
		return;
	procno = pg_atomic_read_u32(&rounds[element].procno);
	if (procno != NO_PROCNO)
		SetLatch(&ProcGlobal->allProcs[procno].procLatch);
}

void
maintenance_wake(Oid dboid)
{
	maintenance_wake_by(dboid, DT_NOBEGIN);
}

void
round_begin(int element)
{
	/* A full barrier; pairs with the one in maintenance_wake_by. */
	(void) bound_raise(&rounds[element].next_round);
}

TimestampTz
round_next(int element, TimestampTz planned)
{
	(void) bound_lower(&rounds[element].next_round, planned);
	return bound_read(&rounds[element].next_round);
}
