/*
 * constrained.h
 *		Queues whose owner has added constraints, defaults, generated columns
 *		or indexes: insertion in such a table.
 */
#ifndef QUEUE_ENGINE_CONSTRAINED_H
#define QUEUE_ENGINE_CONSTRAINED_H

#include "access/htup.h"
#include "message.h"
#include "utils/rel.h"

typedef struct Constrained Constrained;

/* Whether a table of a queue has anything of the kind. */
extern bool constrained_needed(Relation rel);

/*
 * Prepare to insert in it; queue is the queue's own table.  The following
 * functions run the owner's code with the owner's rights; the caller has the
 * table locked.
 */
extern Constrained *constrained_begin(Relation rel, Oid queue);

/*
 * The tuple of a message: completed with defaults, which the message is given
 * too, and generated columns, and checked.
 */
extern HeapTuple constrained_form(Constrained *constrained, Message *message);

/* Make the index entries of such a tuple once it is inserted. */
extern void constrained_index(Constrained *constrained, HeapTuple tuple);

extern void constrained_end(Constrained *constrained);

#endif							/* QUEUE_ENGINE_CONSTRAINED_H */
