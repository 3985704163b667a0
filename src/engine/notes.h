/*
 * notes.h
 *		Notes: tuples a reader has passed without a verdict.
 *
 * A reader's notes are guarded by the queue's lock, which the caller of all of
 * these holds: exclusively where they change, shared for notes_contain.
 */
#ifndef QUEUE_ENGINE_NOTES_H
#define QUEUE_ENGINE_NOTES_H

#include "datatype/timestamp.h"
#include "engine/place.h"
#include "port/atomics.h"
#include "utils/snapshot.h"

/* When all are taken the cursors stop. */
#define MAX_NOTES		512

/*
 * A range of tuples that depends on a transaction, xid, that had not ended.
 * With an invalid xid the range is due once not_before has come.
 */
typedef struct Note
{
	SegmentPlace first;
	SegmentPlace last;			/* inclusive */
	int64		first_id;		/* message id at first, for ordering */
	TimestampTz not_before;
	TransactionId xid;
	int			segment;
	bool		held;			/* their keys know that they wait */
} Note;

typedef struct Notes
{
	pg_atomic_uint32 n;			/* read without the lock by notes_any */
	Note		notes[MAX_NOTES + 1];	/* by first_id; one to spare, see
										 * notes_put_back */
} Notes;

extern void notes_init(Notes *notes);
extern void notes_reset(Notes *notes);

/* Whether there are any; a hint without the lock. */
extern bool notes_any(Notes *notes);

/*
 * Note a range, growing the one there may be for the same transaction in the
 * same segment.  held: in an ordered queue their keys know that they wait.
 * False if all notes are taken.
 */
extern bool notes_add(Notes *notes, int segno, SegmentPlace first, SegmentPlace last,
					  int64 first_id, TransactionId xid, TimestampTz not_before, bool held);

/* How many there are; and one of them, by ascending id. */
extern int	notes_count(Notes *notes);
extern const Note *notes_get(Notes *notes, int i);

/* Take one out, to judge its tuples; and put back what is left of it, from a place on. */
extern Note notes_take(Notes *notes, int i);
extern void notes_put_back(Notes *notes, Note note, SegmentPlace from);

/* Whether the transaction it depends on has not ended as a snapshot shows it. */
extern bool note_in_progress(const Note *note, Snapshot snapshot);

/* Drop what is noted of a segment. */
extern void notes_forget_segment(Notes *notes, int segno);

/* Whether a place is noted. */
extern bool notes_contain(Notes *notes, int segno, SegmentPlace place);

/*
 * Make notes due whose transaction has ended, before its xid can be another's.
 */
extern void notes_refresh(Notes *notes);

#endif							/* QUEUE_ENGINE_NOTES_H */
