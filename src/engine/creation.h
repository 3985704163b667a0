/*
 * creation.h
 *		Making new segments.
 */
#ifndef QUEUE_ENGINE_CREATION_H
#define QUEUE_ENGINE_CREATION_H

#include "nodes/parsenodes.h"

/*
 * DDL: add an empty segment to a queue, in the current transaction.  False if
 * the queue is gone or, unless wait is set, locked.
 */
extern bool segment_create(Oid parent, bool wait);

/*
 * A name for a table or an index: base, mark and the lowest number that is
 * free, in transactions in progress too, so that we need not wait.
 */
extern char *creation_free_name(const char *base, char mark, Oid namespace);

/* A storage parameter that is off. */
extern DefElem *creation_off(char *namespace, char *option);

#endif							/* QUEUE_ENGINE_CREATION_H */
