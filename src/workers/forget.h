/*
 * forget.h
 *		Forgetting dedup keys whose window is over.
 */
#ifndef QUEUE_WORKERS_FORGET_H
#define QUEUE_WORKERS_FORGET_H

#include "workers/reclaim.h"

/*
 * A task of a queue, like those of reclaim.h: make a bucket if none is empty,
 * and empty those that have expired.
 */
extern void forget_keys(ReclaimRound *round);

#endif							/* QUEUE_WORKERS_FORGET_H */
