/*
 * transaction.h
 *		Transactions of our workers: their settings.
 */
#ifndef QUEUE_WORKERS_TRANSACTION_H
#define QUEUE_WORKERS_TRANSACTION_H

#include "compat.h"
#include "storage/lockdefs.h"

/*
 * Begin a transaction with an active snapshot, as the role that connected and
 * with settings that nobody else has a say in.  What a database, a role or
 * code run by an earlier transaction has set does not count.  worker_end
 * commits it and returns to the memory context worker_begin was called in;
 * after an error that is up to who catches it.
 */
extern void worker_begin(void);
extern void worker_end(void);

/*
 * A worker waits for nobody's lock: with one these raise 55P03, or say so by
 * false.  A table is locked with its indexes and its toast table, so that
 * what opens those later does not wait either.  A table that is gone is not
 * locked by anyone.
 */
extern bool worker_try_lock(Oid relid, LOCKMODE lockmode);
extern void worker_lock(Oid relid, LOCKMODE lockmode);
pg_noreturn extern void worker_report_locked(Oid relid);

/* For where that was not seen to: the lock_timeout, in milliseconds. */
extern const char *worker_lock_timeout;

#endif							/* QUEUE_WORKERS_TRANSACTION_H */
