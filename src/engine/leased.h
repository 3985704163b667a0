/*
 * leased.h
 *		The tuple a lease points to.
 */
#ifndef QUEUE_ENGINE_LEASED_H
#define QUEUE_ENGINE_LEASED_H

#include "access/tableam.h"
#include "engine/lease.h"
#include "engine/tuple.h"
#include "utils/rel.h"

/*
 * Read the message of a lease.  VERDICT_DEAD also if its place is empty or
 * holds another one.  A copy of a live one is in *copy.
 */
extern Verdict leased_fetch(Relation rel, Lease *lease, Snapshot snapshot, HeapTuple *copy);

/*
 * Delete the message of a lease.  TM_Deleted also if it is there no more.  A
 * copy is in *copy, if wanted; its toasted values can be read until the
 * transaction ends.
 */
extern TM_Result leased_delete(Relation rel, Lease *lease, bool wait, HeapTuple *copy);

#endif							/* QUEUE_ENGINE_LEASED_H */
