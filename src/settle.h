/*
 * settle.h
 *		End leases: acknowledge, fail, reject.  No check of rights here.
 *
 * Each works in the current transaction and takes effect at its commit.
 * Returns false, having done nothing, when the receipt's lease has ended.
 */
#ifndef QUEUE_SETTLE_H
#define QUEUE_SETTLE_H

#include "lease.h"

/* Delete the message. */
extern bool settle_ack(int64 receipt);

/*
 * Count a failed attempt.  The message comes back after delay microseconds,
 * -1 meaning the queue's back-off; or goes to the dead letters, with reason
 * "max_attempts", if this was delivery number max_attempts (0: the queue's
 * setting).
 */
extern bool settle_fail(int64 receipt, int64 delay, const char *error, int max_attempts);

/* Move the message to the dead letters. */
extern bool settle_reject(int64 receipt, const char *reason, const char *error);

/* Maintenance: fail the leases that have expired; returns when to come again. */
extern TimestampTz settle_expired(void);

#endif							/* QUEUE_SETTLE_H */
