/*
 * leased.c
 *		The tuple a lease points to.
 *
 * Once a lease's message is gone another can take its place: ids tell them
 * apart, and are compared under the page's lock.  As long as the page stays
 * pinned a tuple keeps its line pointer, so that the tuple deleted is the one
 * that was compared.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "compat.h"
#include "engine/deferred.h"
#include "engine/leased.h"
#include "stop_point.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"

/*
 * Whether a table has a block.  As long as its lock is held it does not become
 * shorter, and how long it was at least is remembered without a system call.
 */
static bool
has_block(Relation rel, BlockNumber block)
{
	BlockNumber known = RelationGetSmgr(rel)->smgr_cached_nblocks[MAIN_FORKNUM];

	return (known != InvalidBlockNumber && block < known) ||
		block < RelationGetNumberOfBlocks(rel);
}

/* Lock the page of a place, shared: the tuple's line pointer, or NULL and nothing locked. */
static ItemId
lock_tuple(Relation rel, ItemPointer tid, Buffer *buffer)
{
	BlockNumber block = ItemPointerGetBlockNumber(tid);
	OffsetNumber off = ItemPointerGetOffsetNumber(tid);
	Page		page;

	if (!has_block(rel, block))
		return NULL;
	*buffer = ReadBuffer(rel, block);
	LockBuffer(*buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(*buffer);
	if (!PageIsNew(page) && off >= FirstOffsetNumber && off <= PageGetMaxOffsetNumber(page))
	{
		ItemId		item = PageGetItemId(page, off);

		if (ItemIdIsNormal(item))
			return item;
	}
	UnlockReleaseBuffer(*buffer);
	return NULL;
}

/* Whether a tuple whose page is locked is the lease's message. */
static bool
is_message(Relation rel, const Lease *lease, ItemId item, Buffer buffer)
{
	HeapTupleHeader header = (HeapTupleHeader) PageGetItem(BufferGetPage(buffer), item);
	HeapTupleData tuple;

	Assert(PAGE_IS_LOCKED(buffer));
	if (lease->place.segment != LEASE_IN_DEFERRED)
		return tuple_message_id(header) == lease->id;

	tuple.t_len = ItemIdGetLength(item);
	tuple.t_self = lease->place.tid;
	tuple.t_tableOid = RelationGetRelid(rel);
	tuple.t_data = header;
	return deferred_is(rel, &tuple, lease->q->relid, lease->place.due_at, lease->id);
}

/*
 * The same for the message of a lease: NULL also if the place holds another.
 * The table is open, and locked at least as for reading.  A row of
 * queue.deferred that has moved is searched by its key, and lease->place.tid
 * corrected.
 */
static ItemId
lock_leased(Relation rel, Lease *lease, Buffer *buffer)
{
	bool		looked = false;

	Assert(CheckRelationLockedByMe(rel, AccessShareLock, true));
	for (;;)
	{
		ItemId		item = lock_tuple(rel, &lease->place.tid, buffer);

		if (item != NULL)
		{
			if (is_message(rel, lease, item, *buffer))
				return item;
			UnlockReleaseBuffer(*buffer);
		}
		if (lease->place.segment != LEASE_IN_DEFERRED || looked ||
			!deferred_find(rel, lease->q->relid, lease->place.due_at, lease->id,
						   &lease->place.tid))
			return NULL;
		looked = true;
	}
}

/* Copy the tuple whose page is locked, into the current memory context. */
static HeapTuple
copy_leased(Relation rel, const Lease *lease, ItemId item, Buffer buffer)
{
	Assert(PAGE_IS_LOCKED(buffer));
	return tuple_copy((HeapTupleHeader) PageGetItem(BufferGetPage(buffer), item),
					  ItemIdGetLength(item), RelationGetRelid(rel),
					  ItemPointerGetBlockNumber(&lease->place.tid),
					  ItemPointerGetOffsetNumber(&lease->place.tid));
}

Verdict
leased_fetch(Relation rel, Lease *lease, Snapshot snapshot, HeapTuple *copy)
{
	Buffer		buffer;
	ItemId		item = lock_leased(rel, lease, &buffer);
	TransactionId xid;
	Verdict		verdict;

	*copy = NULL;
	if (item == NULL)
		return VERDICT_DEAD;
	verdict = tuple_judge((HeapTupleHeader) PageGetItem(BufferGetPage(buffer), item),
						  snapshot, buffer, &xid);
	if (verdict == VERDICT_LIVE)
		*copy = copy_leased(rel, lease, item, buffer);
	UnlockReleaseBuffer(buffer);
	return verdict;
}

/*
 * Whether the transaction that inserted a tuple has committed, or is this one;
 * *in_progress is set if it has not ended.  A receiver that takes an overdue
 * lease over leases the row it inserts, and that lease can end, or be
 * acknowledged in another session, before the receiver commits.
 */
static bool
is_inserted(HeapTupleHeader header, TransactionId *in_progress)
{
	TransactionId xmin = HeapTupleHeaderGetRawXmin(header);

	*in_progress = InvalidTransactionId;
	if (HeapTupleHeaderXminCommitted(header) || TransactionIdIsCurrentTransactionId(xmin))
		return true;
	if (TransactionIdIsInProgress(xmin))
	{
		*in_progress = xmin;
		return false;
	}
	return TransactionIdDidCommit(xmin);
}

TM_Result
leased_delete(Relation rel, Lease *lease, bool wait, HeapTuple *copy)
{
	Buffer		buffer;
	ItemId		item;
	TransactionId inserter;
	TM_FailureData tmfd;
	TM_Result	result;

	Assert(CheckRelationLockedByMe(rel, RowExclusiveLock, true));
	while ((item = lock_leased(rel, lease, &buffer)) != NULL &&
		   !is_inserted((HeapTupleHeader) PageGetItem(BufferGetPage(buffer), item), &inserter))
	{
		UnlockReleaseBuffer(buffer);
		if (!TransactionIdIsValid(inserter))
			return TM_Deleted;
		if (!wait)
			return TM_BeingModified;
		XactLockTableWait(inserter, NULL, NULL, XLTW_None);
	}
	if (item == NULL)
		return TM_Deleted;
	if (copy != NULL)
		*copy = copy_leased(rel, lease, item, buffer);

	/* Still pinned, the page cannot be pruned, nor the place used again. */
	LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
	STOP_POINT("settle-seen");
	result = heap_delete(rel, &lease->place.tid, GetCurrentCommandId(true), InvalidSnapshot,
						 wait, &tmfd, false);
	ReleaseBuffer(buffer);
	return result;
}
