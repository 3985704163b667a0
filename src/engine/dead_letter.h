/*
 * dead_letter.h
 *		Dead letters: queue.dead.
 */
#ifndef QUEUE_ENGINE_DEAD_LETTER_H
#define QUEUE_ENGINE_DEAD_LETTER_H

#include "engine/registry.h"
#include "message.h"

/* Columns of queue.dead. */
enum
{
	Anum_dead_relid = 1,
	Anum_dead_attempts,
	Anum_dead_id,
	Anum_dead_died_at,
	Anum_dead_enqueued_at,
	Anum_dead_expires_at,
	Anum_dead_priority,
	Anum_dead_key,
	Anum_dead_headers,
	Anum_dead_payload,
	Anum_dead_body,
	Anum_dead_reason,
	Anum_dead_error,
	Natts_dead = Anum_dead_error
};

/* Insert a message in queue.dead. */
extern void dead_letter_insert(QueueShared *q, const Message *message, const char *reason,
							   const char *error);

/* Delete all dead letters of a queue; returns how many. */
extern int64 dead_letter_delete_all(Oid relid);

/*
 * Send up to max dead letters of a queue again, oldest first, and delete them,
 * in this transaction.  max is -1 for all.  Returns how many.
 */
extern int64 dead_letter_redrive(Queue *queue, int64 max);

#endif							/* QUEUE_ENGINE_DEAD_LETTER_H */
