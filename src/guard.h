/*
 * guard.h
 *		Work whose failure is not the caller's.
 */
#ifndef QUEUE_GUARD_H
#define QUEUE_GUARD_H

/*
 * Do work in a subtransaction of its own.  If it fails that is rolled back and
 * false returned, with the error in the current memory context.  A cancel, a
 * shutdown and a lack of resources are raised again, as they are not the
 * work's own.
 */
extern bool guard_run(void (*work) (void *arg), void *arg, ErrorData **error);

#endif							/* QUEUE_GUARD_H */
