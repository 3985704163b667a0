/*
 * ids.h
 *		Message ids.
 */
#ifndef QUEUE_ENGINE_IDS_H
#define QUEUE_ENGINE_IDS_H

#include "storage/s_lock.h"

/* The increment of every queue's sequence. */
#define IDS_RESERVED	1000

/* The ids reserved for a queue: from next up to, but not including, limit. */
typedef struct IdRange
{
	slock_t		mutex;			/* guards the rest */
	int64		next;
	int64		limit;
} IdRange;

extern void ids_init(IdRange *range);

/* Forget what is reserved, as the element is given up. */
extern void ids_reset(IdRange *range);

/*
 * n rising ids, greater than all given out before; not always consecutive.
 * Locks the queue's table where more have to be reserved.  Errors: 55000 if
 * the sequence is not as queue.create() made it, 42704 if the queue was
 * dropped.
 */
extern void ids_allocate(IdRange *range, Oid queue, const char *name, Oid sequence,
						 int n, int64 *ids);

#endif							/* QUEUE_ENGINE_IDS_H */
