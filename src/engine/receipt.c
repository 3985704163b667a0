/*
 * receipt.c
 *		The names of leases outside the engine.
 *
 * A receipt is the number of a lease, passed through a Feistel network (Luby
 * and Rackoff, 1988) with the finalizer of MurmurHash3 as its function.  That
 * hides which slot it is for and which receipt comes next; and a receipt that
 * was damaged, by a float's precision say, becomes the name of a lease that in
 * all probability does not exist.  It is no cryptography: rights decide who
 * may settle a queue's messages.
 */
#include "postgres.h"

#include "engine/receipt.h"

/* Halves: 27 bits and 26. */
#define RIGHT_BITS		26
#define RIGHT_MASK		((UINT64CONST(1) << RIGHT_BITS) - 1)
#define LEFT_MASK		((UINT64CONST(1) << (RECEIPT_BITS - RIGHT_BITS)) - 1)

static inline uint64
mix(uint64 half, uint64 key)
{
	uint64		h = half ^ key;

	h ^= h >> 33;
	h *= UINT64CONST(0xff51afd7ed558ccd);
	h ^= h >> 33;
	h *= UINT64CONST(0xc4ceb9fe1a85ec53);
	h ^= h >> 33;
	return h;
}

int64
receipt_encode(const uint64 *keys, uint64 number)
{
	uint64		left = number >> RIGHT_BITS;
	uint64		right = number & RIGHT_MASK;

	for (int i = 0; i < RECEIPT_KEYS; i += 2)
	{
		left ^= mix(right, keys[i]) & LEFT_MASK;
		right ^= mix(left, keys[i + 1]) & RIGHT_MASK;
	}
	return (int64) (left << RIGHT_BITS | right);
}

uint64
receipt_decode(const uint64 *keys, int64 receipt)
{
	uint64		left = (uint64) receipt >> RIGHT_BITS;
	uint64		right = (uint64) receipt & RIGHT_MASK;

	if (receipt < 0 || receipt >> RECEIPT_BITS != 0)
		return 0;
	for (int i = RECEIPT_KEYS - 2; i >= 0; i -= 2)
	{
		right ^= mix(left, keys[i + 1]) & RIGHT_MASK;
		left ^= mix(right, keys[i]) & LEFT_MASK;
	}
	return left << RIGHT_BITS | right;
}
