/*
 * insert.h
 *		Insertion of messages at the tail of a queue.
 */
#ifndef QUEUE_ENGINE_INSERT_H
#define QUEUE_ENGINE_INSERT_H

#include "engine/registry.h"
#include "message.h"

/*
 * Insert messages, and tell the readers and, at commit, those who wait.  The
 * time of sending is filled in, and what the queue's owner has set as
 * defaults.  Values of the messages may be toasted.
 */
extern void insert_message(Queue *queue, Message *message);
extern void insert_batch(Queue *queue, int n, Message *messages);

/*
 * See to it that messages which are not inserted now, but deferred, hold to
 * what the queue's owner demands, and give them the defaults he set.
 */
extern void insert_check(Queue *queue, int n, Message *messages);

#endif							/* QUEUE_ENGINE_INSERT_H */
