/*
 * tuple.h
 *		Tuples in their pages: which are messages that can be leased.
 */
#ifndef QUEUE_ENGINE_TUPLE_H
#define QUEUE_ENGINE_TUPLE_H

#include "access/htup_details.h"
#include "access/tupmacs.h"
#include "message.h"
#include "storage/buf.h"
#include "utils/snapshot.h"

typedef enum Verdict
{
	VERDICT_LIVE,				/* committed, not deleted or locked */
	VERDICT_DEAD,				/* never to be judged again */
	VERDICT_WAIT				/* depends on a transaction in progress */
} Verdict;

/*
 * A message's id is the first column of every table it can be in, once that
 * has been checked (table_check_columns).  A dead row that is older than a
 * change of the columns can have none: then 0, which is no message's id.
 */
static inline int64
tuple_message_id(HeapTupleHeader tuple)
{
	if (unlikely(HeapTupleHeaderGetNatts(tuple) == 0 ||
				 ((tuple->t_infomask & HEAP_HASNULL) && att_isnull(0, tuple->t_bits))))
		return 0;
	return *(int64 *) ((char *) tuple + tuple->t_hoff);
}

/* The hash of a message's key; false if it has none.  The tuple is of a queue's table. */
static inline bool
tuple_key_hash(HeapTupleHeader tuple, int64 *hash)
{
	if (HeapTupleHeaderGetNatts(tuple) < Anum_message_key_hash ||
		((tuple->t_infomask & HEAP_HASNULL) &&
		 (att_isnull(Anum_message_id - 1, tuple->t_bits) ||
		  att_isnull(Anum_message_enqueued_at - 1, tuple->t_bits) ||
		  att_isnull(Anum_message_key_hash - 1, tuple->t_bits))))
		return false;
	*hash = ((int64 *) ((char *) tuple + tuple->t_hoff))[Anum_message_key_hash - 1];
	return true;
}

/* Whether a tuple's insertion had ended as of a snapshot, whatever came of it. */
extern bool tuple_inserted(HeapTupleHeader tuple, Snapshot snapshot);

/*
 * Judge a tuple as of a snapshot.  Its page must be locked, shared at least.
 * With VERDICT_WAIT *wait_for is the transaction to wait for, invalid if it
 * is one of several.
 */
extern Verdict tuple_judge(HeapTupleHeader tuple, Snapshot snapshot, Buffer buffer,
						   TransactionId *wait_for);

/* Copy a tuple off its page, into the current memory context. */
extern HeapTuple tuple_copy(HeapTupleHeader header, uint32 len, Oid relid,
							BlockNumber block, OffsetNumber off);

#endif							/* QUEUE_ENGINE_TUPLE_H */
