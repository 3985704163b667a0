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
 * A segment begins anew, under the queue's lock: read it from its start; or
 * take it for read, as it is empty.
 */
extern void reader_restart_segment(QueueShared *q, int segno);
extern void reader_skip_segment(QueueShared *q, int segno);

/*
 * Tuples were put in a segment up to a place: have the cursor look for them.
 */
extern void reader_found(QueueShared *q, int segno, SegmentPlace place);

/*
 * See to it that the tuples from first to last are looked at, though the
 * cursor may have passed them; at once, or when the transaction has ended.
 */
extern void reader_remember(QueueShared *q, int segno, SegmentPlace first,
							SegmentPlace last, int64 first_id, TransactionId xid);

/*
 * Tell the readers of tuples this transaction inserted in a segment, from
 * place first to place last.
 */
extern void reader_appended(QueueShared *q, int segno, SegmentPlace first,
							SegmentPlace last, int64 first_id);

/* Have notes looked at whose transaction has ended (see notes_refresh). */
extern void reader_refresh_notes(QueueShared *q);

#endif							/* QUEUE_ENGINE_READER_H */
