/*
 * tuple.c
 *		Tuples in their pages: which are messages that can be leased.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/multixact.h"
#include "access/subtrans.h"
#include "access/transam.h"
#include "access/xact.h"
#include "compat.h"
#include "engine/tuple.h"
#include "storage/bufmgr.h"
#include "utils/snapmgr.h"

/*
 * The top-level transaction of one in progress: its end decides, and notes are
 * by it, so that subtransactions share one.
 */
static TransactionId
top_level(TransactionId xid)
{
	if (TransactionIdIsCurrentTransactionId(xid))
		return GetTopTransactionId();
	return SubTransGetTopmostTransaction(xid);
}

bool
tuple_inserted(HeapTupleHeader tuple, Snapshot snapshot)
{
	TransactionId xid = HeapTupleHeaderGetRawXmin(tuple);

	return HeapTupleHeaderXminFrozen(tuple) ||
		(!TransactionIdIsCurrentTransactionId(xid) && !XidInMVCCSnapshot(xid, snapshot));
}

Verdict
tuple_judge(HeapTupleHeader tuple, Snapshot snapshot, Buffer buffer, TransactionId *wait_for)
{
	TransactionId xid;

	Assert(PAGE_IS_LOCKED(buffer));
	*wait_for = InvalidTransactionId;

	/* Is its insertion committed? */
	if (!HeapTupleHeaderXminFrozen(tuple))
	{
		xid = HeapTupleHeaderGetRawXmin(tuple);
		if (HeapTupleHeaderXminInvalid(tuple))
			return VERDICT_DEAD;
		if (TransactionIdIsCurrentTransactionId(xid) || XidInMVCCSnapshot(xid, snapshot))
		{
			*wait_for = top_level(xid);
			return VERDICT_WAIT;
		}
		if (!HeapTupleHeaderXminCommitted(tuple))
		{
			if (!TransactionIdDidCommit(xid))
			{
				HeapTupleSetHintBits(tuple, buffer, HEAP_XMIN_INVALID, InvalidTransactionId);
				return VERDICT_DEAD;
			}
			HeapTupleSetHintBits(tuple, buffer, HEAP_XMIN_COMMITTED, xid);
		}
	}

	/* Is it deleted or locked? */
	if (tuple->t_infomask & HEAP_XMAX_INVALID)
		return VERDICT_LIVE;

	xid = HeapTupleHeaderGetRawXmax(tuple);
	if (tuple->t_infomask & HEAP_XMAX_IS_MULTI)
	{
		bool		locked_only = HEAP_XMAX_IS_LOCKED_ONLY(tuple->t_infomask);

		if (MultiXactIdIsRunning(xid, locked_only))
			return VERDICT_WAIT;
		if (locked_only)
			return VERDICT_LIVE;
		xid = HeapTupleGetUpdateXid(tuple);
		if (TransactionIdIsCurrentTransactionId(xid) || XidInMVCCSnapshot(xid, snapshot))
			return VERDICT_WAIT;
		return TransactionIdDidCommit(xid) ? VERDICT_DEAD : VERDICT_LIVE;
	}

	if (TransactionIdIsCurrentTransactionId(xid) || XidInMVCCSnapshot(xid, snapshot))
	{
		*wait_for = top_level(xid);
		return VERDICT_WAIT;
	}
	if (HEAP_XMAX_IS_LOCKED_ONLY(tuple->t_infomask))
		return VERDICT_LIVE;
	if (tuple->t_infomask & HEAP_XMAX_COMMITTED)
		return VERDICT_DEAD;
	if (TransactionIdDidCommit(xid))
	{
		HeapTupleSetHintBits(tuple, buffer, HEAP_XMAX_COMMITTED, xid);
		return VERDICT_DEAD;
	}
	HeapTupleSetHintBits(tuple, buffer, HEAP_XMAX_INVALID, InvalidTransactionId);
	return VERDICT_LIVE;
}

HeapTuple
tuple_copy(HeapTupleHeader header, uint32 len, Oid relid, BlockNumber block, OffsetNumber off)
{
	HeapTuple	tuple = palloc(HEAPTUPLESIZE + len);

	tuple->t_len = len;
	tuple->t_tableOid = relid;
	ItemPointerSet(&tuple->t_self, block, off);
	tuple->t_data = (HeapTupleHeader) ((char *) tuple + HEAPTUPLESIZE);
	memcpy(tuple->t_data, header, len);
	return tuple;
}
