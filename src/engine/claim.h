/*
 * claim.h
 *		Take messages from a queue: what receive, pop and the relays share.
 */
#ifndef QUEUE_ENGINE_CLAIM_H
#define QUEUE_ENGINE_CLAIM_H

#include "engine/lease.h"
#include "engine/registry.h"
#include "message.h"

/*
 * Lease up to max messages, in order of id, into an array palloc'd in the
 * current memory context; returns how many.  Together they have at most
 * max_bytes in memory, or there is just one.  lease, in microseconds, is for
 * LEASE_TIMED only.  Needs a transaction and an active snapshot, and holds weak
 * locks on the tables read until its end.  Should the transaction abort, the
 * leases are returned.  For LEASE_PROCESS the caller must see to it that
 * lease_release_process is called at its exit (before_shmem_exit).  Errors:
 * 53400 if queue.max_leases, or what the queue's owner may have of them, is
 * used up and nothing was leased.
 */
extern int	claim_messages(Queue *queue, LeaseKind kind, int64 lease, int max,
						   Size max_bytes, Message **messages);

/* For max_bytes. */
#define CLAIM_UNLIMITED	SIZE_MAX

/* When to search the queue again without being woken, DT_NOEND if never. */
extern TimestampTz claim_next_look(QueueShared *q);

#endif							/* QUEUE_ENGINE_CLAIM_H */
