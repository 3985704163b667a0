/*
 * insert.h
 *		Insertion of messages at the tail of a queue.
 */
#ifndef QUEUE_ENGINE_INSERT_H
#define QUEUE_ENGINE_INSERT_H

#include "engine/registry.h"
#include "message.h"

/*
 * Insert messages, and make them known to readers and, at commit, to waiters.
 * Their enqueued_at is filled in, and the defaults that the queue's owner has
 * set.  Values of the messages may be toasted.  The queue's table and the tail
 * are locked RowExclusive until the transaction ends.
 */
extern void insert_message(Queue *queue, Message *message);
extern void insert_batch(Queue *queue, int n, Message *messages);

/*
 * In an ordered queue places must ascend as ids do: only one transaction at a
 * time is between these two, in which it allocates ids and inserts messages
 * with them.  An error ends it, too.  Elsewhere they do nothing; locked is what
 * the first one has returned.
 */
extern bool insert_lock_order(Queue *queue);
extern void insert_unlock_order(Queue *queue, bool locked);

/*
 * Check messages that are deferred instead of inserted against the constraints
 * of the queue's owner, and give them the owner's defaults.
 */
extern void insert_check(Queue *queue, int n, Message *messages);

#endif							/* QUEUE_ENGINE_INSERT_H */
