/*
 * dead_letter.h
 *		Dead letters: queue.dead_letter.
 */
#ifndef QUEUE_DEAD_LETTER_H
#define QUEUE_DEAD_LETTER_H

#include "claim.h"

/* Insert a message in queue.dead_letter. */
extern void dead_letter_insert(Queue *queue, Message *message, const char *reason,
							   const char *error);

/* Delete all dead letters of a queue; returns how many. */
extern int64 dead_letter_delete_all(Oid relid);

/*
 * Send up to max dead letters of a queue again, oldest first, deleting them in
 * this transaction.  max is -1 for all.
 */
extern int64 dead_letter_redrive(Queue *queue, int64 max);

#endif							/* QUEUE_DEAD_LETTER_H */
