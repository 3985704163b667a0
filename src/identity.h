/*
 * identity.h
 *		Message ids.
 */
#ifndef QUEUE_IDENTITY_H
#define QUEUE_IDENTITY_H

#include "catalog.h"

/* n rising ids, greater than all handed out before; not always consecutive. */
extern void identity_allocate(Queue *queue, int n, int64 *ids);

#endif							/* QUEUE_IDENTITY_H */
