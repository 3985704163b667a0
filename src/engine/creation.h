/*
 * creation.h
 *		Making new segments.
 */
#ifndef QUEUE_ENGINE_CREATION_H
#define QUEUE_ENGINE_CREATION_H

/*
 * DDL: add an empty segment to a queue, in the current transaction.  False if
 * the queue is gone or, unless wait is set, locked.
 */
extern bool segment_create(Oid parent, bool wait);

#endif							/* QUEUE_ENGINE_CREATION_H */
