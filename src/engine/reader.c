/*
 * reader.c
 *		Where a reader of a queue's segments is in them.
 *
 * A claimer judges the tuples of a page under a share lock and publishes the
 * cursor before it lets go of the page; what it cannot judge yet it notes.  A
 * sender whose tuple lies before the cursor notes that tuple itself.
 */
#include "postgres.h"

#include "access/xact.h"
#include "engine/reader.h"

static void
set_to_start(QueueShared *q, int segno)
{
	Assert(LWLockHeldByMeInMode(&q->lock, LW_EXCLUSIVE));
	notes_forget_segment(&q->reader.notes, segno);
	pg_atomic_write_u64(&q->reader.segments[segno].cursor, FIRST_PLACE);
}

void
reader_restart_segment(QueueShared *q, int segno)
{
	set_to_start(q, segno);
	pg_atomic_write_u64(&q->reader.passed_id, 0);
}

void
reader_skip_segment(QueueShared *q, int segno)
{
	set_to_start(q, segno);
	q->reader.segments[segno].scanned = pg_atomic_read_u64(&q->segments[segno].appended);
}

void
reader_pass(QueueShared *q, int64 id)
{
	Assert(LWLockHeldByMeInMode(&q->lock, LW_EXCLUSIVE));
	if (id > (int64) pg_atomic_read_u64(&q->reader.passed_id))
		pg_atomic_write_u64(&q->reader.passed_id, (uint64) id);
}

int64
reader_passed(QueueShared *q, Snapshot snapshot)
{
	Notes	   *notes = &q->reader.notes;
	int64		passed;

	LWLockAcquire(&q->lock, LW_SHARED);
	passed = q->reader.scanned == pg_atomic_read_u64(&q->lane.appended) ? PG_INT64_MAX :
		(int64) pg_atomic_read_u64(&q->reader.passed_id);
	for (int i = 0; i < notes_count(notes) && notes_get(notes, i)->first_id <= passed; i++)
	{
		const Note *note = notes_get(notes, i);

		if (!note->held && !note_in_progress(note, snapshot))
			passed = note->first_id - 1;
	}
	LWLockRelease(&q->lock);
	return passed;
}

/*
 * First the number of blocks, then the segment's count, then the lane's.  The
 * additions are full barriers; they pair with the read barriers in
 * scan_forward, which reads the three in the other order.
 */
void
reader_found(QueueShared *q, int segno, SegmentPlace place)
{
	Segment    *seg = &q->segments[segno];

	space_raise_blocks(&seg->space, PlaceBlock(place) + 1);
	pg_atomic_fetch_add_u64(&seg->appended, 1);
	pg_atomic_fetch_add_u64(&q->lane.appended, 1);
}

void
reader_note(QueueShared *q, int segno, SegmentPlace first, SegmentPlace last,
			int64 first_id, TransactionId xid, bool held)
{
	Segment    *seg = &q->segments[segno];
	pg_atomic_uint64 *cursor = &q->reader.segments[segno].cursor;

	LWLockAcquire(&q->lock, LW_EXCLUSIVE);
	if (!notes_add(&q->reader.notes, segno, first, last, first_id, xid, 0, held) &&
		first < pg_atomic_read_u64(cursor))
	{
		/* All notes are taken: set the cursor back. */
		pg_atomic_write_u64(cursor, first);
		pg_atomic_write_u64(&q->reader.passed_id, 0);
		pg_atomic_fetch_add_u64(&seg->appended, 1);
		pg_atomic_fetch_add_u64(&q->lane.appended, 1);
	}
	LWLockRelease(&q->lock);
}

void
reader_appended(QueueShared *q, int segno, SegmentPlace first, SegmentPlace last,
				int64 first_id)
{
	/*
	 * Pairs with scan_page, by the lock of the page that the tuples are in by
	 * now.  A claimer that locks the page after us sees them there; one that
	 * locked it before us wrote its cursor before it released the page, so
	 * that the cursor read here is past the tuples, and we note them.
	 */
	reader_found(q, segno, last);
	if (first < pg_atomic_read_u64(&q->reader.segments[segno].cursor))
		reader_note(q, segno, first, last, first_id, GetTopTransactionId(), false);
}

void
reader_refresh_notes(QueueShared *q)
{
	LWLockAcquire(&q->lock, LW_EXCLUSIVE);
	notes_refresh(&q->reader.notes);
	LWLockRelease(&q->lock);
}
