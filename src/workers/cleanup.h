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

/*
 * Rows that have expired: of queue.inbox, queue.idempotency and
 * queue.inbox_version, and of the latter those of roles that were dropped.
 */
extern TimestampTz cleanup_inbox(void);
extern TimestampTz cleanup_idempotency(void);
extern TimestampTz cleanup_versions(void);

/* What is left of queues whose table is no more. */
extern TimestampTz cleanup_dropped_queues(void);

#endif							/* QUEUE_WORKERS_CLEANUP_H */
