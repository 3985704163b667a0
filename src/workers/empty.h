/*
 * empty.h
 *		Emptying tables as a whole, whatever snapshots there are.
 */
#ifndef QUEUE_WORKERS_EMPTY_H
#define QUEUE_WORKERS_EMPTY_H

#include "utils/rel.h"

/*
 * Empty a table that this transaction has locked exclusively.  TRUNCATE would
 * run its owner's triggers, and empty the copies of subscribers too.
 */
extern void empty_table(Relation rel);

#endif							/* QUEUE_WORKERS_EMPTY_H */
