/*
 * backoff.h
 *		How long to wait after a failure, in whatever unit the caller has.
 */
#ifndef QUEUE_BACKOFF_H
#define QUEUE_BACKOFF_H

/*
 * The wait after this many failures in a row: first after the first, doubled
 * by each further one, and last at most.
 */
extern int64 backoff_delay(int failures, int64 first, int64 last);

/*
 * Half of a wait and a random part of the other half, so that what failed
 * together is not tried together.
 */
extern int64 backoff_jitter(int64 delay);

#endif							/* QUEUE_BACKOFF_H */
