/*
 * receipt.h
 *		The names of leases, inside the engine and outside.
 */
#ifndef QUEUE_ENGINE_RECEIPT_H
#define QUEUE_ENGINE_RECEIPT_H

/*
 * The name of one lease, and of none before or after it in the same slot:
 * generation << LEASE_SLOT_BITS | slot number.  0 is no lease.
 */
typedef uint64 LeaseRef;

#define LEASE_SLOT_BITS		20
#define LEASE_MAX_SLOTS		(1 << LEASE_SLOT_BITS)

/* What settling does to the message. */
typedef enum LeaseOutcome
{
	LEASE_ACKED,
	LEASE_FAILED,
	LEASE_EXPIRED,
	LEASE_GONE,					/* nothing: it was gone already */
	LEASE_HANDED_BACK			/* nothing: it waits for an earlier one of its
								 * key */
} LeaseOutcome;

/* Receipts are below 2^53, as greater numbers do not survive JSON. */
#define RECEIPT_BITS	53

#define RECEIPT_KEYS	4

/*
 * Map the numbers from 0 to 2^53 - 1 to each other, one to one, depending on
 * the keys; and back.  What cannot be a receipt is decoded as 0.
 */
extern int64 receipt_encode(const uint64 *keys, uint64 number);
extern uint64 receipt_decode(const uint64 *keys, int64 receipt);

#endif							/* QUEUE_ENGINE_RECEIPT_H */
