/*
 * dead_letter.h
 *		Dead letters: queue.dead.
 */
#ifndef QUEUE_ENGINE_DEAD_LETTER_H
#define QUEUE_ENGINE_DEAD_LETTER_H

#include "engine/registry.h"
#include "message.h"
#include "utils/snapshot.h"

/* Columns of queue.dead. */
enum
{
	Anum_dead_relid = 1,
	Anum_dead_attempts,
	Anum_dead_id,
	Anum_dead_died_at,
	Anum_dead_enqueued_at,
	Anum_dead_expires_at,
	Anum_dead_key_hash,
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
extern void dead_letter_insert(Queue *queue, const Message *message, const char *reason,
							   const char *error);

/*
 * The first dead letter of a key by which the key is stopped, as a snapshot
 * shows it; false if there is none.
 */
extern bool dead_letter_of_key(Oid relid, int64 hash, Snapshot snapshot, int64 *id);

/* Delete dead letters of a queue, of one key unless it is NULL; returns how many. */
extern int64 dead_letter_delete(Oid relid, const text *key);

/*
 * Send up to max dead letters of a queue again, oldest first, of one key
 * unless it is NULL, and delete them, in this transaction.  max is -1 for all.
 * Returns how many.
 */
extern int64 dead_letter_redrive(Queue *queue, const text *key, int64 max);

#endif							/* QUEUE_ENGINE_DEAD_LETTER_H */
