/*
 * reclaim.h
 *		Getting a queue's space back, and finding what came past the engine.
 */
#ifndef QUEUE_RECLAIM_H
#define QUEUE_RECLAIM_H

#include "catalog.h"

/*
 * One round of maintenance for a queue, in transactions of its own: truncate
 * drained segments, have one ready to rotate into, sweep for rows that came
 * by other ways, move stragglers.  Call it outside a transaction.  Returns
 * when another round is due even if there is no traffic.
 */
extern TimestampTz reclaim_queue(Oid relid);

#endif							/* QUEUE_RECLAIM_H */
