/*
 * frontier.c
 *		The scan frontier: which tuples of the segments are judged next.
 *
 * Invariant: every committed, unleased message in a segment lies at or after
 * the segment's cursor or within a range noted in looks[].  A claimer judges
 * the tuples of a page under a share lock and publishes the cursor before it
 * lets go of the page; what it cannot judge yet it notes.  A sender whose
 * tuple lies before the cursor notes it itself (segment_appended).
 *
 * All verdicts of one claim are as of one snapshot taken at its start, and
 * the notes are gone through before the cursor is moved: so of two messages
 * sent one after the other the later is never leased without the earlier.
 *
 * Lock order: the queue's lock, then a page, then the lease table's
 * spinlocks.  Tables are opened before the queue's lock is taken.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/multixact.h"
#include "access/relation.h"
#include "access/subtrans.h"
#include "access/transam.h"
#include "access/xact.h"
#include "engine/frontier.h"
#include "engine/segment.h"
#include "miscadmin.h"
#include "stop_point.h"
#include "storage/bufmgr.h"
#include "storage/procarray.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* How soon a tuple held by one of several transactions is looked at again. */
#define LOOK_INTERVAL	100000	/* microseconds */

/* Pages judged before others get a turn with the queue's lock. */
#define PAGES_AT_ONCE	128

/* Results of scan_looks and scan_forward other than a segment to be opened. */
#define SCAN_DONE		(-1)
#define SCAN_INTERRUPTED (-2)

/*
 * The transaction whose end decides about this one in progress: the whole of
 * it, lest each subtransaction take a note of its own.
 */
static TransactionId
top_level(TransactionId xid)
{
	if (TransactionIdIsCurrentTransactionId(xid))
		return GetTopTransactionId();
	return SubTransGetTopmostTransaction(xid);
}

Verdict
frontier_judge(HeapTupleHeader tuple, Snapshot snapshot, Buffer buffer,
			   TransactionId *wait_for)
{
	TransactionId xid;

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

	/* Has anybody deleted or locked it? */
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
frontier_copy_tuple(HeapTupleHeader header, uint32 len, Oid relid, BlockNumber block, OffsetNumber off)
{
	HeapTuple	tuple = palloc(HEAPTUPLESIZE + len);

	tuple->t_len = len;
	tuple->t_tableOid = relid;
	ItemPointerSet(&tuple->t_self, block, off);
	tuple->t_data = (HeapTupleHeader) ((char *) tuple + HEAPTUPLESIZE);
	memcpy(tuple->t_data, header, len);
	return tuple;
}

int
frontier_page_tuples(Relation rel, BlockNumber block, Snapshot snapshot, bool returned,
					 HeapTuple *tuples)
{
	Buffer		buffer = ReadBuffer(rel, block);
	int			n = 0;
	Page		page;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buffer);
	for (OffsetNumber off = FirstOffsetNumber;
		 off <= (PageIsNew(page) ? 0 : PageGetMaxOffsetNumber(page)); off++)
	{
		ItemId		item = PageGetItemId(page, off);
		HeapTupleHeader header;
		ItemPointerData tid;
		TransactionId xid;
		LeaseState	state;

		if (!ItemIdIsNormal(item))
			continue;
		header = (HeapTupleHeader) PageGetItem(page, item);
		ItemPointerSet(&tid, block, off);
		if (frontier_judge(header, snapshot, buffer, &xid) != VERDICT_LIVE)
			continue;

		/* A lease cannot end by deletion while we have the page locked. */
		state = lease_state(RelationGetRelid(rel), &tid, frontier_tuple_id(header));
		if (state == LEASE_FREE || (returned && state == LEASE_RETURNED))
			tuples[n++] = frontier_copy_tuple(header, ItemIdGetLength(item),
											  RelationGetRelid(rel), block, off);
	}
	UnlockReleaseBuffer(buffer);
	return n;
}

/* Put a note in its place; there must be room for it. */
static void
insert_look(QueueShared *q, LookAgain *look)
{
	int			n = pg_atomic_read_u32(&q->nlooks);
	int			i = n;

	while (i > 0 && q->looks[i - 1].first_id > look->first_id)
	{
		q->looks[i] = q->looks[i - 1];
		i--;
	}
	q->looks[i] = *look;
	pg_atomic_write_u32(&q->nlooks, n + 1);
}

static void
delete_look(QueueShared *q, int i)
{
	int			n = pg_atomic_read_u32(&q->nlooks);

	memmove(&q->looks[i], &q->looks[i + 1], (n - i - 1) * sizeof(LookAgain));
	pg_atomic_write_u32(&q->nlooks, n - 1);
}

/*
 * Note a range, growing the one there may be for the same transaction in the
 * same segment.  False if there is no room.  The queue's lock is held.
 */
static bool
note(QueueShared *q, int segno, SegmentPlace first, SegmentPlace last,
	 int64 first_id, TransactionId xid, TimestampTz not_before)
{
	int			n = pg_atomic_read_u32(&q->nlooks);
	LookAgain	look;

	if (TransactionIdIsValid(xid))
	{
		for (int i = n - 1; i >= 0; i--)
		{
			LookAgain  *old = &q->looks[i];

			if (old->segment != segno || !TransactionIdEquals(old->xid, xid))
				continue;
			old->first = Min(old->first, first);
			old->last = Max(old->last, last);
			if (first_id < old->first_id)
			{
				look = *old;
				look.first_id = first_id;
				delete_look(q, i);
				insert_look(q, &look);
			}
			return true;
		}
	}
	if (n >= QUEUE_MAX_LOOKS)
		return false;

	look.first = first;
	look.last = last;
	look.first_id = first_id;
	look.not_before = not_before;
	look.xid = xid;
	look.segment = segno;
	insert_look(q, &look);
	return true;
}

void
frontier_remember(QueueShared *q, int segno, SegmentPlace first, SegmentPlace last,
				  int64 first_id, TransactionId xid)
{
	SegmentShared *seg = &q->segments[segno];

	LWLockAcquire(&q->lock, LW_EXCLUSIVE);
	if (!note(q, segno, first, last, first_id, xid, 0) &&
		first < pg_atomic_read_u64(&seg->cursor))
	{
		/* No room: have the cursor come by again. */
		pg_atomic_write_u64(&seg->cursor, first);
		pg_atomic_fetch_add_u64(&seg->appended, 1);
		pg_atomic_fetch_add_u64(&q->appended, 1);
	}
	LWLockRelease(&q->lock);
}

void
frontier_forget_segment(QueueShared *q, int segno)
{
	for (int i = pg_atomic_read_u32(&q->nlooks) - 1; i >= 0; i--)
	{
		if (q->looks[i].segment == segno)
			delete_look(q, i);
	}
}

bool
frontier_noted(QueueShared *q, int segno, SegmentPlace place)
{
	for (int i = pg_atomic_read_u32(&q->nlooks) - 1; i >= 0; i--)
	{
		LookAgain  *look = &q->looks[i];

		if (look->segment == segno && look->first <= place && place <= look->last)
			return true;
	}
	return false;
}

void
frontier_refresh_notes(QueueShared *q)
{
	LWLockAcquire(&q->lock, LW_EXCLUSIVE);
	for (int i = pg_atomic_read_u32(&q->nlooks) - 1; i >= 0; i--)
	{
		LookAgain  *look = &q->looks[i];

		if (TransactionIdIsValid(look->xid) && !TransactionIdIsInProgress(look->xid))
		{
			look->xid = InvalidTransactionId;
			look->not_before = 0;
		}
	}
	LWLockRelease(&q->lock);
}

Claim *
frontier_add_claim(ClaimScan *scan, LeaseRef ref, int64 id, int attempts, int segment)
{
	Claim	   *claim;

	if (scan->nclaims == scan->space)
	{
		scan->space = Max(16, scan->space * 2);
		scan->claims = scan->claims == NULL ?
			palloc(sizeof(Claim) * scan->space) :
			repalloc_huge(scan->claims, sizeof(Claim) * scan->space);
	}
	claim = &scan->claims[scan->nclaims++];
	claim->ref = ref;
	claim->id = id;
	claim->attempts = attempts;
	claim->segment = segment;
	claim->tuple = NULL;
	claim->message = NULL;
	return claim;
}

/* Lease a live tuple.  False if the scan can take no more. */
static bool
claim_tuple(ClaimScan *scan, int segno, HeapTupleHeader header, uint32 len,
			BlockNumber block, OffsetNumber off)
{
	LeasePlace	place = {.relid = scan->q->segments[segno].relid,.segment = segno};
	int64		id = frontier_tuple_id(header);
	LeaseRef	ref;
	Claim	   *claim;

	ItemPointerSet(&place.tid, block, off);
	switch (lease_take(scan->q, &place, id, 1, scan->kind, scan->now, scan->expires_at, &ref))
	{
		case LEASE_TAKEN:
			break;
		case LEASE_TAKEN_ALREADY:
			return true;
		case LEASE_NONE_FREE:
			scan->out_of_leases = true;
			return false;
	}
	claim = frontier_add_claim(scan, ref, id, 1, segno);
	claim->tuple = frontier_copy_tuple(header, len, place.relid, block, off);
	return true;
}

static inline bool
scan_full(ClaimScan *scan)
{
	return scan->nclaims >= scan->max || scan->out_of_leases;
}

/*
 * Judge the tuples of one page from an offset on, up to last.  Returns the
 * offset to go on from: beyond the page's tuples, or the first one not dealt
 * with because the scan is full or the notes are.  As the cursor's own scan
 * (advance) it publishes the cursor before it lets go of the page.
 */
static OffsetNumber
scan_page(ClaimScan *scan, int segno, BlockNumber block, OffsetNumber off,
		  OffsetNumber last, bool advance, bool *stopped)
{
	QueueShared *q = scan->q;
	SegmentShared *seg = &q->segments[segno];
	Buffer		buffer = ReadBuffer(scan->rels[segno], block);
	Page		page;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buffer);
	if (PageIsNew(page))
		last = InvalidOffsetNumber;
	else if (last > PageGetMaxOffsetNumber(page))
		last = PageGetMaxOffsetNumber(page);

	*stopped = false;
	for (; off <= last; off++)
	{
		ItemId		item = PageGetItemId(page, off);
		HeapTupleHeader header;
		TransactionId xid;

		if (scan_full(scan))
		{
			*stopped = true;
			break;
		}
		if (!ItemIdIsNormal(item))
			continue;
		header = (HeapTupleHeader) PageGetItem(page, item);
		switch (frontier_judge(header, scan->snapshot, buffer, &xid))
		{
			case VERDICT_DEAD:
				break;
			case VERDICT_LIVE:
				if (!claim_tuple(scan, segno, header, ItemIdGetLength(item), block, off))
					*stopped = true;
				break;
			case VERDICT_WAIT:
				if (!note(q, segno, MakePlace(block, off), MakePlace(block, off),
						  frontier_tuple_id(header), xid,
						  TransactionIdIsValid(xid) ? 0 : scan->now + LOOK_INTERVAL))
					*stopped = true;
				break;
		}
		if (*stopped)
			break;
	}

	if (advance)
	{
		SegmentPlace next;

		/* The last page known stays the cursor's: more may come to it. */
		if (!*stopped && block + 1 < pg_atomic_read_u32(&seg->nblocks))
			next = MakePlace(block + 1, FirstOffsetNumber);
		else
			next = MakePlace(block, off);
		pg_atomic_write_u64(&seg->cursor, next);
	}
	UnlockReleaseBuffer(buffer);
	return off;
}

/* Put back what is left of a note, to be looked at again. */
static void
put_back_look(QueueShared *q, LookAgain *look, SegmentPlace from)
{
	look->first = from;
	look->xid = InvalidTransactionId;
	look->not_before = 0;
	insert_look(q, look);
}

/* Judge the tuples of a note in one page; after an error it is still noted. */
static OffsetNumber
scan_noted_page(ClaimScan *scan, LookAgain *look, SegmentPlace place, bool *stopped)
{
	BlockNumber block = PlaceBlock(place);
	OffsetNumber last = block == PlaceBlock(look->last) ? PlaceOffset(look->last) : MaxOffsetNumber;
	OffsetNumber off;

	PG_TRY();
	{
		off = scan_page(scan, look->segment, block, PlaceOffset(place), last, false, stopped);
	}
	PG_CATCH();
	{
		put_back_look(scan->q, look, place);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return off;
}

/*
 * Go through the notes whose transaction has ended.  A table that is not
 * open yet is asked for by returning its segment.
 */
static int
scan_looks(ClaimScan *scan)
{
	QueueShared *q = scan->q;

	for (int i = 0; i < pg_atomic_read_u32(&q->nlooks) && !scan_full(scan);)
	{
		LookAgain	look = q->looks[i];
		SegmentPlace place;

		if (TransactionIdIsValid(look.xid) ?
			(TransactionIdIsCurrentTransactionId(look.xid) ||
			 XidInMVCCSnapshot(look.xid, scan->snapshot)) :
			look.not_before > scan->now)
		{
			i++;
			continue;
		}
		if (scan->rels[look.segment] == NULL && !scan->gone[look.segment])
			return look.segment;

		/*
		 * Take the note out and put back what is left of it.  Tuples that
		 * still have to wait get notes of their own on the way.
		 */
		delete_look(q, i);
		if (scan->gone[look.segment])
			continue;
		place = look.first;
		while (place <= look.last)
		{
			BlockNumber block = PlaceBlock(place);
			OffsetNumber off;
			bool		stopped;

			if (block >= pg_atomic_read_u32(&q->segments[look.segment].nblocks))
				break;
			off = scan_noted_page(scan, &look, place, &stopped);
			if (stopped)
			{
				put_back_look(q, &look, MakePlace(block, off));
				return SCAN_DONE;
			}
			place = MakePlace(block + 1, FirstOffsetNumber);
			if (--scan->pages_left <= 0 && place <= look.last)
			{
				put_back_look(q, &look, place);
				return SCAN_INTERRUPTED;
			}
		}

		/* Notes may have moved: start over with those that are due. */
		i = 0;
	}
	return SCAN_DONE;
}

/* Move the cursors of the segments forward, oldest segment first. */
static int
scan_forward(ClaimScan *scan)
{
	QueueShared *q = scan->q;
	uint64		appended = pg_atomic_read_u64(&q->appended);

	if (appended == q->scanned || scan_full(scan))
		return SCAN_DONE;

	for (int i = 0; i < q->nscan; i++)
	{
		/* The queue's own table is first in order, but only by turns. */
		int			segno = q->scan_order[(i + scan->turn) % q->nscan];
		SegmentShared *seg = &q->segments[segno];
		uint64		seg_appended = pg_atomic_read_u64(&seg->appended);

		if (seg_appended == seg->scanned)
			continue;
		if (scan->gone[segno])
		{
			seg->scanned = seg_appended;
			continue;
		}
		if (scan->rels[segno] == NULL)
			return segno;
		pg_read_barrier();

		for (;;)
		{
			SegmentPlace place = pg_atomic_read_u64(&seg->cursor);
			uint32		nblocks = pg_atomic_read_u32(&seg->nblocks);
			bool		stopped;

			if (PlaceBlock(place) >= nblocks)
				break;
			scan_page(scan, segno, PlaceBlock(place), PlaceOffset(place),
					  MaxOffsetNumber, true, &stopped);
			if (stopped)
				return SCAN_DONE;
			if (PlaceBlock(pg_atomic_read_u64(&seg->cursor)) == PlaceBlock(place))
				break;
			if (scan_full(scan))
				return SCAN_DONE;
			if (--scan->pages_left <= 0)
				return SCAN_INTERRUPTED;
		}
		seg->scanned = seg_appended;
	}

	/* All segments are scanned to their ends. */
	q->scanned = appended;
	return SCAN_DONE;
}

Relation
frontier_open(ClaimScan *scan, int segno)
{
	if (scan->rels[segno] == NULL && !scan->gone[segno])
	{
		scan->rels[segno] = segment_open(scan->q, segno, AccessShareLock);
		scan->gone[segno] = (scan->rels[segno] == NULL);
	}
	return scan->rels[segno];
}

/* Open the table that is probably needed, while no lock is held. */
static void
open_ahead(ClaimScan *scan)
{
	QueueShared *q = scan->q;

	if (pg_atomic_read_u64(&q->appended) == q->scanned)
		return;
	for (int i = 0; i < q->nscan; i++)
	{
		int			segno = q->scan_order[i];
		SegmentShared *seg = &q->segments[segno];

		if (pg_atomic_read_u64(&seg->appended) != seg->scanned)
		{
			(void) frontier_open(scan, segno);
			break;
		}
	}
}

void
frontier_claim(ClaimScan *scan)
{
	QueueShared *q = scan->q;

	scan->turn = pg_atomic_fetch_add_u32(&q->turn, 1) & 1;
	open_ahead(scan);
	for (;;)
	{
		int			needed;

		CHECK_FOR_INTERRUPTS();
		scan->pages_left = PAGES_AT_ONCE;
		LWLockAcquire(&q->lock, LW_EXCLUSIVE);
		if (pg_atomic_read_u32(&q->generation) != scan->generation)
		{
			/* Dropped while we waited for a table. */
			LWLockRelease(&q->lock);
			break;
		}
		needed = scan_looks(scan);
		STOP_POINT("claim-noted");
		if (needed == SCAN_DONE)
			needed = scan_forward(scan);
		if (needed == SCAN_DONE && !scan_full(scan) && q->scanned == pg_atomic_read_u64(&q->appended))
			pg_atomic_write_u64(&q->ready, 0);
		LWLockRelease(&q->lock);
		if (needed == SCAN_DONE)
			break;
		if (needed == SCAN_INTERRUPTED)
			continue;
		(void) frontier_open(scan, needed);
	}
}

void
frontier_close(ClaimScan *scan)
{
	for (int i = 0; i < lengthof(scan->rels); i++)
	{
		if (scan->rels[i] != NULL)
			relation_close(scan->rels[i], AccessShareLock);
	}
}
