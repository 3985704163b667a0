/*
 * dedup.h
 *		Dedup keys: messages that were sent before.
 */
#ifndef QUEUE_ENGINE_DEDUP_H
#define QUEUE_ENGINE_DEDUP_H

#include "engine/bucket_table.h"
#include "engine/registry.h"
#include "message.h"

/* As in the IETF draft on the Idempotency-Key header. */
#define ERRCODE_DEDUP_IN_PROGRESS	MAKE_SQLSTATE('Q', 'M', '4', '0', '9')
#define ERRCODE_DEDUP_MISMATCH		MAKE_SQLSTATE('Q', 'M', '4', '2', '2')

typedef enum DedupOutcome
{
	DEDUP_NEW,					/* entered: the message is to be sent */
	DEDUP_DUPLICATE,			/* sent before, by a transaction that has
								 * committed, or this one */
	DEDUP_IN_PROGRESS			/* a transaction that has not ended is sending
								 * it */
} DedupOutcome;

/*
 * Make the entry for a message that is to be sent with this key, or none; its
 * id is set when it is entered.  False if the message is not to be recognised.
 * Errors: 22023 bad key, 55000 the queue has no dedup keys.
 */
extern bool dedup_entry(Queue *queue, NullableDatum key, const Message *message,
						BucketEntry *entry);

/*
 * Looking keys up and entering them.  While it is open, tables are locked, so
 * it is ended before anything is waited for.
 */
typedef struct Dedup Dedup;

extern Dedup *dedup_begin(Queue *queue);
extern void dedup_end(Dedup *dedup);

/*
 * Enter a key unless it is there.  Waits for no other sender.  For a duplicate
 * *id is that of the first message; raises QM422 if that was another message.
 * In progress, *xid is the transaction.
 */
extern DedupOutcome dedup_enter(Dedup *dedup, const BucketEntry *entry, int64 *id,
								TransactionId *xid);

/*
 * Wait for the transaction that is sending a message, with nothing open; or
 * raise QM409.
 */
extern void dedup_await(Queue *queue, const BucketEntry *entry, TransactionId xid, bool wait);

/*
 * For maintenance, which has the buckets' tables locked: make known what has
 * come meanwhile.  False if there are no keys.
 */
extern bool dedup_refresh(Queue *queue);

#endif							/* QUEUE_ENGINE_DEDUP_H */
