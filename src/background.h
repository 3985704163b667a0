/*
 * background.h
 *		Background workers: their role, and their transactions.
 */
#ifndef QUEUE_BACKGROUND_H
#define QUEUE_BACKGROUND_H

/*
 * Become the role the worker connected as, whatever session_authorization a
 * database or code that was run has set.
 */
extern void background_user(void);

/*
 * A transaction with an active snapshot.  background_end commits it and
 * returns to the memory context background_begin was called in.
 */
extern void background_begin(void);
extern void background_end(void);

/*
 * After an error, in PG_CATCH: end the transaction and all that it held, and
 * return the error in this memory context.  report: write it to the log.
 */
extern ErrorData *background_failed(MemoryContext context, bool report);

#endif							/* QUEUE_BACKGROUND_H */
