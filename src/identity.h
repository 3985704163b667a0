/*
 * identity.h
 *		Message ids.
 */
#ifndef QUEUE_IDENTITY_H
#define QUEUE_IDENTITY_H

#include "catalog.h"

/* The first of n consecutive ids, greater than all handed out before. */
extern int64 identity_allocate(Queue *queue, int n);

#endif							/* QUEUE_IDENTITY_H */
