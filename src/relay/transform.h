/*
 * transform.h
 *		The function of a relay's owner that messages go through.
 *
 * It takes a queue.message and returns one, which is published in its stead;
 * or NULL, and the message is dropped.
 */
#ifndef QUEUE_RELAY_TRANSFORM_H
#define QUEUE_RELAY_TRANSFORM_H

#include "message.h"

/*
 * The function of a name, as a user gives it in his search_path.  An error if
 * there is none that takes one queue.message.
 */
extern Oid	transform_find(const char *name);

/* Raise an error unless it is one for a relay of this owner. */
extern void transform_check(Oid function, Oid owner);

typedef enum TransformResult
{
	TRANSFORM_MADE,
	TRANSFORM_DROPPED,
	TRANSFORM_REFUSED
} TransformResult;

/*
 * Between these two messages can be transformed, in a transaction that cannot
 * write.  A call is ended after so many microseconds.
 */
extern void transform_begin(Oid function, Oid owner, int64 timeout);
extern void transform_end(void);

/*
 * What becomes of a message: another, one chunk of so many bytes in this memory
 * context; or it is dropped; or refused, with the reason, in a buffer of
 * SINK_ERROR_SIZE.
 */
extern TransformResult transform_message(const Message *message, int failures, MemoryContext context,
										 Message **made, Size *bytes, char *error);

#endif							/* QUEUE_RELAY_TRANSFORM_H */
