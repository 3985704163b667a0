/*
 * filter.h
 *		Filters: sets of hashes in shared memory that sometimes say yes too often.
 *
 * A fixed number of them, of a fixed size, is there for all queues: who has
 * none looks things up.
 */
#ifndef QUEUE_ENGINE_FILTER_H
#define QUEUE_ENGINE_FILTER_H

extern Size filter_shmem_size(void);
extern void filter_shmem_init(void);

/* An empty filter, by its number, or 0 if there is none; and give it back. */
extern int	filter_take(void);
extern void filter_give_back(int filter);

/*
 * Add a hash; and whether it may have been added.  Who asks must hold a lock
 * that who has added that hash held.
 */
extern void filter_add(int filter, uint64 hash);
extern bool filter_may_have(int filter, uint64 hash);

#endif							/* QUEUE_ENGINE_FILTER_H */
