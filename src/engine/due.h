/*
 * due.h
 *		Claims of deferred messages that are due.
 */
#ifndef QUEUE_ENGINE_DUE_H
#define QUEUE_ENGINE_DUE_H

#include "engine/scan.h"

/* Lease what is due, into scan->claims. */
extern void due_claim(ClaimScan *scan);

#endif							/* QUEUE_ENGINE_DUE_H */
