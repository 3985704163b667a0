/*
 * backoff.c
 *		How long to wait after a failure, in whatever unit the caller has.
 */
#include "postgres.h"

#include "backoff.h"
#include "common/pg_prng.h"

int64
backoff_delay(int failures, int64 first, int64 last)
{
	int			doublings = failures > 1 ? Min(failures - 1, 62) : 0;

	/* Compared before it is doubled, which could overflow. */
	return first > (last >> doublings) ? last : first << doublings;
}

int64
backoff_jitter(int64 delay)
{
	return delay / 2 + (int64) (pg_prng_double(&pg_global_prng_state) * (delay / 2));
}
