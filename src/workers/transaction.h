/*
 * transaction.h
 *		Transactions of workers: their settings and locks.
 */
#ifndef QUEUE_WORKERS_TRANSACTION_H
#define QUEUE_WORKERS_TRANSACTION_H

#include "compat.h"
#include "storage/lockdefs.h"

/*
 * Begin a transaction with an active snapshot, as the role that connected and
 * with fixed settings, whatever a database, a role or code run by an earlier
 * transaction has set.  worker_end commits it and returns to the memory
 * context worker_begin was called in; after an error the code that catches it
 * does both.
 */
extern void worker_begin(void);
extern void worker_end(void);

/*
 * A worker waits for no lock: if one is not free the first of these returns
 * false, and the others raise 55P03.  A table is locked with its indexes and
 * its toast table, so that opening those later does not wait either.  True if
 * the table is gone.
 */
extern bool worker_try_lock(Oid relid, LOCKMODE lockmode);
extern void worker_lock(Oid relid, LOCKMODE lockmode);
pg_noreturn extern void worker_report_locked(Oid relid);

/* The lock_timeout of these transactions, in milliseconds, for other locks. */
extern const char *worker_lock_timeout;

#endif							/* QUEUE_WORKERS_TRANSACTION_H */
