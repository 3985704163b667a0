/*
 * filter.c
 *		Filters: sets of hashes in shared memory that sometimes say yes too often.
 *
 * A Bloom filter whose four bits for a hash are in one word.  With half a
 * million hashes it is wrong once in 100 times, with two million in 6.  Memory
 * of a filter that was never taken is never touched.
 */
#include "postgres.h"

#include "engine/filter.h"
#include "port/atomics.h"
#include "storage/shmem.h"

#define FILTERS			32
#define FILTER_WORDS	(1024 * 1024 / sizeof(uint64))

typedef struct FilterShared
{
	/*
	 * 1: taken; by compare-and-swap, so that the words are one process's
	 * then.
	 */
	pg_atomic_uint32 taken[FILTERS];

	/* Bits are set without a lock. */
	pg_atomic_uint64 words[FILTERS][FILTER_WORDS];
} FilterShared;

static FilterShared *shared = NULL;

Size
filter_shmem_size(void)
{
	return sizeof(FilterShared);
}

void
filter_shmem_init(void)
{
	bool		found;

	shared = ShmemInitStruct("queue filters", filter_shmem_size(), &found);
	if (found)
		return;
	for (int i = 0; i < FILTERS; i++)
		pg_atomic_init_u32(&shared->taken[i], 0);
}

int
filter_take(void)
{
	for (int i = 0; i < FILTERS; i++)
	{
		uint32		unused = 0;

		if (!pg_atomic_compare_exchange_u32(&shared->taken[i], &unused, 1))
			continue;
		for (int j = 0; j < FILTER_WORDS; j++)
			pg_atomic_init_u64(&shared->words[i][j], 0);
		return i + 1;
	}
	return 0;
}

void
filter_give_back(int filter)
{
	if (filter != 0)
		pg_atomic_exchange_u32(&shared->taken[filter - 1], 0);
}

static inline pg_atomic_uint64 *
word_of(int filter, uint64 hash)
{
	return &shared->words[filter - 1][(hash >> 32) % FILTER_WORDS];
}

static inline uint64
bits_of(uint64 hash)
{
	return UINT64CONST(1) << (hash & 63) | UINT64CONST(1) << ((hash >> 6) & 63) |
		UINT64CONST(1) << ((hash >> 12) & 63) | UINT64CONST(1) << ((hash >> 18) & 63);
}

void
filter_add(int filter, uint64 hash)
{
	pg_atomic_fetch_or_u64(word_of(filter, hash), bits_of(hash));
}

bool
filter_may_have(int filter, uint64 hash)
{
	return (pg_atomic_read_u64(word_of(filter, hash)) & bits_of(hash)) == bits_of(hash);
}
