/*
 * cleanup.h
 *		Rows of the extension's own tables that are not needed any more.
 *
 * Each returns when it is to be called again: DT_NOEND at the usual time,
 * DT_NOBEGIN at once, as it is not done.  Call it outside a transaction.
 */
#ifndef QUEUE_WORKERS_CLEANUP_H
#define QUEUE_WORKERS_CLEANUP_H

#include "datatype/timestamp.h"

/* Rows of queue.inbox older than queue.inbox_retention. */
extern TimestampTz cleanup_inbox(void);

/* What is left of queues whose table is no more. */
extern TimestampTz cleanup_dropped_queues(void);

#endif							/* QUEUE_WORKERS_CLEANUP_H */
