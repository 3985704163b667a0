/*
 * guard.h
 *		Work that may fail for its own sake, and nobody else's.
 */
#ifndef QUEUE_GUARD_H
#define QUEUE_GUARD_H

/*
 * Do work in a subtransaction of its own.  If that fails it is rolled back
 * and false returned, with the error in the current memory context.  A
 * cancel, a shutdown and a lack of resources are raised again: they say
 * nothing of the work.
 */
extern bool guard_run(void (*work) (void *arg), void *arg, ErrorData **error);

#endif							/* QUEUE_GUARD_H */
