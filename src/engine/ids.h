/*
 * ids.h
 *		Message ids.
 */
#ifndef QUEUE_ENGINE_IDS_H
#define QUEUE_ENGINE_IDS_H

#include "engine/registry.h"

/* n rising ids, greater than all handed out before; not always consecutive. */
extern void identity_allocate(Queue *queue, int n, int64 *ids);

#endif							/* QUEUE_ENGINE_IDS_H */
