/*
 * notes.c
 *		Notes: tuples a reader has passed without a verdict.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "engine/notes.h"
#include "storage/procarray.h"
#include "utils/snapmgr.h"

void
notes_init(Notes *notes)
{
	pg_atomic_init_u32(&notes->n, 0);
}

void
notes_reset(Notes *notes)
{
	pg_atomic_write_u32(&notes->n, 0);
}

int
notes_count(Notes *notes)
{
	return pg_atomic_read_u32(&notes->n);
}

bool
notes_any(Notes *notes)
{
	return notes_count(notes) > 0;
}

const Note *
notes_get(Notes *notes, int i)
{
	Assert(i >= 0 && i < notes_count(notes));
	return &notes->notes[i];
}

/* Insert a note by ascending id; an element must be free. */
static void
insert_note(Notes *notes, const Note *note)
{
	int			n = notes_count(notes);
	int			i = n;

	Assert(n < lengthof(notes->notes));
	while (i > 0 && notes->notes[i - 1].first_id > note->first_id)
	{
		notes->notes[i] = notes->notes[i - 1];
		i--;
	}
	notes->notes[i] = *note;
	pg_atomic_write_u32(&notes->n, n + 1);
}

Note
notes_take(Notes *notes, int i)
{
	int			n = notes_count(notes);
	Note		note = *notes_get(notes, i);

	memmove(&notes->notes[i], &notes->notes[i + 1], (n - i - 1) * sizeof(Note));
	pg_atomic_write_u32(&notes->n, n - 1);
	return note;
}

/*
 * notes[] has one element to spare for this: while a note is taken out, new
 * notes of its tuples can have taken all of the others.
 */
void
notes_put_back(Notes *notes, Note note, SegmentPlace from)
{
	note.first = from;
	note.xid = InvalidTransactionId;
	note.not_before = 0;
	insert_note(notes, &note);
}

bool
notes_add(Notes *notes, int segno, SegmentPlace first, SegmentPlace last,
		  int64 first_id, TransactionId xid, TimestampTz not_before, bool held)
{
	int			n = notes_count(notes);
	Note		note;

	if (TransactionIdIsValid(xid))
	{
		for (int i = n - 1; i >= 0; i--)
		{
			Note	   *old = &notes->notes[i];

			if (old->segment != segno || !TransactionIdEquals(old->xid, xid) || old->held != held)
				continue;
			old->first = Min(old->first, first);
			old->last = Max(old->last, last);
			if (first_id < old->first_id)
			{
				note = notes_take(notes, i);
				note.first_id = first_id;
				insert_note(notes, &note);
			}
			return true;
		}
	}
	if (n >= MAX_NOTES)
		return false;

	note.first = first;
	note.last = last;
	note.first_id = first_id;
	note.not_before = not_before;
	note.xid = xid;
	note.segment = segno;
	note.held = held;
	insert_note(notes, &note);
	return true;
}

bool
note_in_progress(const Note *note, Snapshot snapshot)
{
	return TransactionIdIsValid(note->xid) &&
		(TransactionIdIsCurrentTransactionId(note->xid) ||
		 XidInMVCCSnapshot(note->xid, snapshot));
}

void
notes_forget_segment(Notes *notes, int segno)
{
	for (int i = notes_count(notes) - 1; i >= 0; i--)
	{
		if (notes->notes[i].segment == segno)
			(void) notes_take(notes, i);
	}
}

bool
notes_contain(Notes *notes, int segno, SegmentPlace place)
{
	for (int i = notes_count(notes) - 1; i >= 0; i--)
	{
		const Note *note = &notes->notes[i];

		if (note->segment == segno && note->first <= place && place <= note->last)
			return true;
	}
	return false;
}

void
notes_refresh(Notes *notes)
{
	for (int i = notes_count(notes) - 1; i >= 0; i--)
	{
		Note	   *note = &notes->notes[i];

		if (TransactionIdIsValid(note->xid) && !TransactionIdIsInProgress(note->xid))
		{
			note->xid = InvalidTransactionId;
			note->not_before = 0;
		}
	}
}
