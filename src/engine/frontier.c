/*
 * frontier.c
 *		The scan frontier: which tuples of the segments are judged next.
 *
 * All verdicts of one claim are as of one snapshot taken at its start, and
 * the notes are gone through before the cursor is moved: so of two messages
 * sent one after the other the later is never leased without the earlier.
 *
 * Lock order: the queue's lock, then a page, then the lease table's
 * spinlocks.  Tables are opened before the queue's lock is taken.
 */
#include "postgres.h"

#include "access/xact.h"
#include "engine/frontier.h"
#include "engine/reader.h"
#include "engine/tuple.h"
#include "miscadmin.h"
#include "stop_point.h"
#include "storage/bufmgr.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* How soon a tuple is judged again that one of several transactions has locked. */
#define LOOK_INTERVAL	100000	/* microseconds */

/* Pages judged before the queue's lock is released for a moment. */
#define PAGES_AT_ONCE	128

/* Results of scan_notes and scan_forward other than a segment to be opened. */
#define SCAN_DONE		(-1)
#define SCAN_INTERRUPTED (-2)

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
		if (tuple_judge(header, snapshot, buffer, &xid) != VERDICT_LIVE)
			continue;

		/*
		 * heap_delete locks the page exclusively, so no lease has ended by
		 * deletion since the verdict.
		 */
		state = lease_state(RelationGetRelid(rel), &tid, tuple_message_id(header));
		if (state == LEASE_FREE || (returned && state == LEASE_RETURNED))
			tuples[n++] = tuple_copy(header, ItemIdGetLength(item),
									 RelationGetRelid(rel), block, off);
	}
	UnlockReleaseBuffer(buffer);
	return n;
}

/*
 * Take the key of a live tuple, if it has one and keys are limited: then, or
 * if it waits for its turn, true.  noted: it was passed before, so that a turn
 * of its key may have been in vain.
 */
static bool
take_key(ClaimScan *scan, int segno, HeapTupleHeader header, SegmentPlace place, bool noted,
		 int *keyno, bool *waits)
{
	KeyPlace	where = key_place(scan->q, segno, place);
	int64		id = tuple_message_id(header);
	int64		hash;

	*keyno = -1;
	*waits = false;
	if (!scan->keyed || !tuple_key_hash(header, &hash))
		return true;
	switch (key_meet(scan->q, hash, &scan->rule, &where, noted, keyno))
	{
		case KEY_TAKEN:
			break;
		case KEY_WAITS:
			*waits = true;
			break;
		case KEY_NO_SPACE:

			/* The cursor stops here; a note must not keep it from moving. */
			*waits = noted && notes_add(&scan->q->reader.notes, segno, place, place, id,
										InvalidTransactionId, scan->now + LOOK_INTERVAL, false);
			scan->out_of_keys = !*waits;
			return *waits;
	}
	return true;
}

/*
 * A tuple cannot be judged yet.  If that is because somebody deletes it, or has
 * it locked, its key waits for it in an ordered queue: *held.  False if there
 * is no space to remember that.
 */
static bool
hold_key(ClaimScan *scan, int segno, HeapTupleHeader header, SegmentPlace place, bool *held)
{
	KeyPlace	where = key_place(scan->q, segno, place);
	int64		hash;

	*held = false;
	if (likely(!scan->settings->ordered) || !tuple_key_hash(header, &hash) ||
		!tuple_inserted(header, scan->snapshot))
		return true;
	*held = key_wait(scan->q, hash, &where, false);
	return *held;
}

/*
 * Note a tuple that cannot be judged yet, unless there is no space for that.
 * note is the one by which the scan has come to it, or NULL.
 */
static bool
note_tuple(ClaimScan *scan, int segno, HeapTupleHeader header, SegmentPlace place, TransactionId xid,
		   const Note *note)
{
	bool		held = note != NULL && note->held;

	/* The cursor stops for want of space; a note stays one. */
	if (!held && !hold_key(scan, segno, header, place, &held) && note == NULL)
	{
		scan->out_of_keys = true;
		return false;
	}
	return notes_add(&scan->q->reader.notes, segno, place, place, tuple_message_id(header), xid,
					 TransactionIdIsValid(xid) ? 0 : scan->now + LOOK_INTERVAL, held);
}

/* A tuple that was noted is gone: its key may have waited for it. */
static void
let_key_go(ClaimScan *scan, HeapTupleHeader header)
{
	int64		hash;

	if (unlikely(scan->settings->ordered) && tuple_key_hash(header, &hash))
		key_gone(scan->q, hash);
}

/* Lease a live tuple, whose page is still locked.  False if the scan can take no more. */
static bool
claim_tuple(ClaimScan *scan, int segno, HeapTupleHeader header, uint32 len,
			BlockNumber block, OffsetNumber off, bool noted)
{
	LeasePlace	place = {.relid = scan->q->segments[segno].relid,.segment = segno};
	int64		id = tuple_message_id(header);
	LeaseRef	ref;
	LeaseTaking taking;
	Claim	   *claim;
	int			keyno;
	bool		waits;

	lease_reserve();
	if (!take_key(scan, segno, header, MakePlace(block, off), noted, &keyno, &waits))
		return false;
	if (waits)
		return true;
	ItemPointerSet(&place.tid, block, off);
	taking = lease_take(scan->q, &place, id, 1, scan->kind, scan->now, scan->expires_at, keyno,
						&scan->limits, &ref);
	if (taking != LEASE_TAKEN)
	{
		if (keyno >= 0)
			key_leave(keyno, -1);
		scan->out_of_leases |= (taking == LEASE_NONE_FREE);
		return taking == LEASE_TAKEN_ALREADY;
	}
	claim = scan_add_claim(scan, ref, id, 1, segno);
	claim->keyed = (keyno >= 0 && tuple_key_hash(header, &claim->hash));
	claim->tuple = tuple_copy(header, len, place.relid, block, off);
	return true;
}

/*
 * Judge the tuples of one page from an offset on, up to last.  Returns the
 * offset to go on from: beyond the page's tuples, or the first one not dealt
 * with because the scan is full or the notes are.  The caller holds the
 * queue's lock; with a note it judges that one's tuples, else it moves the cursor.
 */
static OffsetNumber
scan_page(ClaimScan *scan, int segno, BlockNumber block, OffsetNumber off,
		  OffsetNumber last, const Note *note, bool *stopped)
{
	QueueShared *q = scan->q;
	Segment    *seg = &q->segments[segno];
	Buffer		buffer;
	Page		page;
	int64		passed = 0;

	Assert(LWLockHeldByMeInMode(&q->lock, LW_EXCLUSIVE));
	buffer = ReadBuffer(scan->rels[segno], block);
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
		switch (tuple_judge(header, scan->snapshot, buffer, &xid))
		{
			case VERDICT_DEAD:
				if (note != NULL)
					let_key_go(scan, header);
				break;
			case VERDICT_LIVE:
				if (!claim_tuple(scan, segno, header, ItemIdGetLength(item), block, off, note != NULL))
					*stopped = true;
				break;
			case VERDICT_WAIT:
				if (!note_tuple(scan, segno, header, MakePlace(block, off), xid, note))
					*stopped = true;
				break;
		}
		if (*stopped)
			break;
		passed = tuple_message_id(header);
	}

	if (note == NULL)
	{
		SegmentPlace next;

		if (unlikely(scan->settings->ordered))
			reader_pass(q, passed);

		/* The cursor stays in the last page: more tuples may come to it. */
		if (!*stopped && block + 1 < space_blocks(&seg->space))
			next = MakePlace(block + 1, FirstOffsetNumber);
		else
			next = MakePlace(block, off);

		/* Before the page is released: pairs with reader_appended. */
		pg_atomic_write_u64(&q->reader.segments[segno].cursor, next);
	}
	UnlockReleaseBuffer(buffer);
	return off;
}

/* Judge the tuples of a note in one page; after an error they are still noted. */
static OffsetNumber
scan_noted_page(ClaimScan *scan, const Note *note, SegmentPlace place, bool *stopped)
{
	BlockNumber block = PlaceBlock(place);
	OffsetNumber last = block == PlaceBlock(note->last) ? PlaceOffset(note->last) : MaxOffsetNumber;
	OffsetNumber off;

	PG_TRY();
	{
		off = scan_page(scan, note->segment, block, PlaceOffset(place), last, note, stopped);
	}
	PG_CATCH();
	{
		notes_put_back(&scan->q->reader.notes, *note, place);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return off;
}

/* Whether a note's tuples can be judged now. */
static bool
note_is_due(const ClaimScan *scan, const Note *note)
{
	return TransactionIdIsValid(note->xid) ? !note_in_progress(note, scan->snapshot) :
		note->not_before <= scan->now;
}

/*
 * Go through the notes whose transaction has ended.  Returns SCAN_DONE or
 * SCAN_INTERRUPTED; or a segment, for the caller to open its table and call
 * again, as no table is opened under the queue's lock.
 */
static int
scan_notes(ClaimScan *scan)
{
	QueueShared *q = scan->q;
	Notes	   *notes = &q->reader.notes;

	Assert(LWLockHeldByMeInMode(&q->lock, LW_EXCLUSIVE));
	for (int i = 0; i < notes_count(notes) && !scan_full(scan);)
	{
		Note		note = *notes_get(notes, i);
		SegmentPlace place;

		if (!note_is_due(scan, &note))
		{
			i++;
			continue;
		}
		if (scan->rels[note.segment] == NULL && !scan->gone[note.segment])
			return note.segment;

		/*
		 * Take the note out and put back what is left of it.  Tuples that
		 * still have to wait get notes of their own on the way.
		 */
		(void) notes_take(notes, i);
		if (scan->gone[note.segment])
			continue;
		place = note.first;
		while (place <= note.last)
		{
			BlockNumber block = PlaceBlock(place);
			OffsetNumber off;
			bool		stopped;

			if (block >= space_blocks(&q->segments[note.segment].space))
				break;
			off = scan_noted_page(scan, &note, place, &stopped);
			if (stopped)
			{
				notes_put_back(notes, note, MakePlace(block, off));
				return SCAN_DONE;
			}
			place = MakePlace(block + 1, FirstOffsetNumber);
			if (--scan->pages_left <= 0 && place <= note.last)
			{
				notes_put_back(notes, note, place);
				return SCAN_INTERRUPTED;
			}
		}

		/* Notes may have moved: start over with those that are due. */
		i = 0;
	}
	return SCAN_DONE;
}

/*
 * Move the cursors of the segments forward, oldest segment first.  Returns
 * what scan_notes does.
 */
static int
scan_forward(ClaimScan *scan)
{
	QueueShared *q = scan->q;
	uint64		appended = pg_atomic_read_u64(&q->lane.appended);

	Assert(LWLockHeldByMeInMode(&q->lock, LW_EXCLUSIVE));
	if (appended == q->reader.scanned || scan_full(scan))
		return SCAN_DONE;

	/*
	 * Pairs with reader_found, which counts in the segment first: what the
	 * lane's count includes, the segments' counts read from here on include.
	 */
	pg_read_barrier();

	for (int i = 0; i < q->lane.nscan; i++)
	{
		/* Every other claim scans the queue's own table, the first, last. */
		int			segno = q->lane.scan_order[(i + scan->turn) % q->lane.nscan];
		Segment    *seg = &q->segments[segno];
		ReaderSegment *mine = &q->reader.segments[segno];
		uint64		seg_appended = pg_atomic_read_u64(&seg->appended);

		if (seg_appended == mine->scanned)
			continue;
		if (scan->gone[segno])
		{
			mine->scanned = seg_appended;
			continue;
		}
		if (scan->rels[segno] == NULL)
			return segno;

		/*
		 * Pairs with reader_found, which raises the number of blocks before
		 * it counts: what seg_appended includes lies below the number read
		 * now.
		 */
		pg_read_barrier();

		for (;;)
		{
			SegmentPlace place = pg_atomic_read_u64(&mine->cursor);
			uint32		nblocks = space_blocks(&seg->space);
			bool		stopped;

			if (PlaceBlock(place) >= nblocks)
				break;
			scan_page(scan, segno, PlaceBlock(place), PlaceOffset(place),
					  MaxOffsetNumber, NULL, &stopped);
			if (stopped)
				return SCAN_DONE;
			if (PlaceBlock(pg_atomic_read_u64(&mine->cursor)) == PlaceBlock(place))
				break;
			if (scan_full(scan))
				return SCAN_DONE;
			if (--scan->pages_left <= 0)
				return SCAN_INTERRUPTED;
		}

		/* As read before the scan: later insertions make a difference. */
		mine->scanned = seg_appended;
	}

	/* All segments are scanned, to the ends they had when this was read. */
	q->reader.scanned = appended;
	return SCAN_DONE;
}

/*
 * Open the table that is probably needed, while the queue's lock is not held.
 * What is read here without it is a hint; scan_forward asks for a table that
 * is missing.
 */
static void
open_ahead(ClaimScan *scan)
{
	QueueShared *q = scan->q;

	Assert(!LWLockHeldByMe(&q->lock));
	if (pg_atomic_read_u64(&q->lane.appended) == q->reader.scanned)
		return;
	for (int i = 0; i < q->lane.nscan; i++)
	{
		int			segno = q->lane.scan_order[i];

		if (pg_atomic_read_u64(&q->segments[segno].appended) != q->reader.segments[segno].scanned)
		{
			(void) scan_open(scan, segno);
			break;
		}
	}
}

void
frontier_claim(ClaimScan *scan)
{
	QueueShared *q = scan->q;

	/* In an ordered queue what plain inserts left there is older. */
	scan->turn = scan->settings->ordered ? 0 : pg_atomic_fetch_add_u32(&q->reader.turn, 1) & 1;
	open_ahead(scan);
	for (;;)
	{
		int			needed;

		CHECK_FOR_INTERRUPTS();
		scan->pages_left = PAGES_AT_ONCE;
		LWLockAcquire(&q->lock, LW_EXCLUSIVE);
		if (pg_atomic_read_u32(&q->generation) != scan->generation)
		{
			/* The queue was dropped while we waited for a table. */
			LWLockRelease(&q->lock);
			break;
		}
		needed = scan_notes(scan);
		STOP_POINT("claim-noted");
		if (needed == SCAN_DONE)
			needed = scan_forward(scan);

		/*
		 * Everything has been judged, so that nothing is left over that was
		 * miscounted.
		 */
		if (needed == SCAN_DONE && !scan_full(scan) && keys_used(q) == 0 && !notes_any(&q->reader.notes) &&
			q->reader.scanned == pg_atomic_read_u64(&q->lane.appended))
			counter_write(&q->counters, COUNTER_READY, 0);
		LWLockRelease(&q->lock);
		if (needed == SCAN_DONE)
			break;
		if (needed == SCAN_INTERRUPTED)
			continue;
		(void) scan_open(scan, needed);
	}
}
