/*
 * round.h
 *		When the maintenance worker of a database has its next round.
 *
 * Any process may ask for an earlier round.  workers/database.c knows which
 * database has which worker.
 */
#ifndef QUEUE_ENGINE_ROUND_H
#define QUEUE_ENGINE_ROUND_H

#include "datatype/timestamp.h"

/* Databases that have an element, at most. */
#define MAX_DATABASES		256

extern Size round_shmem_size(void);
extern void round_shmem_init(void);

/*
 * Wake a database's maintenance worker now, or no later than a time.
 * Cheap, raises nothing, may be called with locks held.
 */
extern void maintenance_wake(Oid dboid);
extern void maintenance_wake_by(Oid dboid, TimestampTz when);

/*
 * For workers/database.c, under its lock: set and read which database an
 * element is for, InvalidOid for none; and find the element of a database, -1
 * if there is none, which is a hint without that lock.
 */
extern void round_enter(int element, Oid dboid);
extern Oid	round_database(int element);
extern int	round_find(Oid dboid);

/* The worker of an element is this process, or none. */
extern void round_attach(int element);
extern void round_detach(int element);

/*
 * For the worker: round_begin forgets what was asked for, and comes before the
 * search for work; round_next says when the next round is, at the time planned
 * or earlier if asked for.
 */
extern void round_begin(int element);
extern TimestampTz round_next(int element, TimestampTz planned);

#endif							/* QUEUE_ENGINE_ROUND_H */
