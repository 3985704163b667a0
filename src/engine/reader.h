/*
 * reader.h
 *		Where a reader of a queue's segments is in them.
 *
 * Invariant: every committed, unleased message in a segment lies at or after
 * the reader's cursor there, or within a range that it has noted.
 */
#ifndef QUEUE_ENGINE_READER_H
#define QUEUE_ENGINE_READER_H

#include "engine/shared.h"

/*
 * A segment begins anew: set the cursor to its start; the other also counts it
 * as scanned, as it is empty.  The caller holds the queue's lock exclusively.
 */
extern void reader_restart_segment(QueueShared *q, int segno);
extern void reader_skip_segment(QueueShared *q, int segno);

/* Count an insertion in a segment, up to a place, so that claimers scan on. */
extern void reader_found(QueueShared *q, int segno, SegmentPlace place);

/*
 * Note the tuples from first to last, which the cursor may have passed.  They
 * are judged when transaction xid has ended, or at once if it is invalid.
 * first_id is the id of the message at first; held as in notes_add.  Takes the
 * queue's lock.
 */
extern void reader_note(QueueShared *q, int segno, SegmentPlace first, SegmentPlace last,
						int64 first_id, TransactionId xid, bool held);

/*
 * Make tuples known that this transaction has inserted in a segment, from
 * place first to place last.  May take the queue's lock.
 */
extern void reader_appended(QueueShared *q, int segno, SegmentPlace first,
							SegmentPlace last, int64 first_id);

/*
 * The cursors have passed a message of an ordered queue, whose ids ascend as
 * places do.  The caller holds the queue's lock exclusively.
 */
extern void reader_pass(QueueShared *q, int64 id);

/*
 * The id up to which the keys of all messages that a snapshot shows know of
 * them: the cursors have passed them, and none is noted that nobody has judged
 * since its transaction ended.  PG_INT64_MAX if that is all.  Takes the queue's
 * lock.
 */
extern int64 reader_passed(QueueShared *q, Snapshot snapshot);

/* Make notes due whose transaction has ended (see notes_refresh). */
extern void reader_refresh_notes(QueueShared *q);

#endif							/* QUEUE_ENGINE_READER_H */
