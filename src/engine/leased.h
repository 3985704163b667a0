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
 * Judge the message of a lease as of a snapshot; VERDICT_DEAD also if its
 * place is empty or holds another one.  *copy is a copy of a live one, else
 * NULL.  rel is the table of the lease's place, locked.
 */
extern Verdict leased_fetch(Relation rel, Lease *lease, Snapshot snapshot, HeapTuple *copy);

/*
 * Delete the message of a lease: TM_Ok, TM_Deleted if it is gone, or if
 * another transaction has it locked and wait is false, TM_BeingModified.  A
 * copy is in *copy, if that is not NULL; its toasted values can be read until
 * the transaction ends.  rel is locked for writing.
 */
extern TM_Result leased_delete(Relation rel, Lease *lease, bool wait, HeapTuple *copy);

#endif							/* QUEUE_ENGINE_LEASED_H */
