/*
 * turn.h
 *		The turns of keys: messages that have waited for others of their key.
 */
#ifndef QUEUE_ENGINE_TURN_H
#define QUEUE_ENGINE_TURN_H

#include "engine/scan.h"

/* Lease messages of keys that are ready, into scan->claims. */
extern void turns_claim(ClaimScan *scan);

/*
 * Check the claims from a number on whose keys were taken in an ordered queue:
 * those that may not go yet, because of an earlier message in queue.deferred
 * or a dead letter, are taken back.  Returns how many.
 */
extern int	turns_check(ClaimScan *scan, int from);

/*
 * The cursors may have moved: keys whose next message was in queue.deferred,
 * and might have had earlier ones beyond the cursors, are ready.
 */
extern void turns_wake(ClaimScan *scan);

/*
 * Have the message of a returned lease, read and checked by this transaction,
 * wait for its key's turn.  False if it has no key that is limited.
 */
extern bool turns_return(ClaimScan *scan, Relation rel, const Lease *lease, HeapTuple tuple);

#endif							/* QUEUE_ENGINE_TURN_H */
