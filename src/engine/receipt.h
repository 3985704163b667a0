/*
 * receipt.h
 *		What leases are called outside.
 */
#ifndef QUEUE_ENGINE_RECEIPT_H
#define QUEUE_ENGINE_RECEIPT_H

/* Receipts are below 2^53, as greater numbers do not survive JSON. */
#define RECEIPT_BITS	53

#define RECEIPT_KEYS	4

/*
 * A permutation of the numbers from 0 to 2^53 - 1, another one for other keys;
 * and back.  What cannot be a receipt is decoded as 0.
 */
extern int64 receipt_encode(const uint64 *keys, uint64 number);
extern uint64 receipt_decode(const uint64 *keys, int64 receipt);

#endif							/* QUEUE_ENGINE_RECEIPT_H */
