/*
 * frontier.h
 *		The scan frontier: which tuples of the segments are judged next.
 */
#ifndef QUEUE_ENGINE_FRONTIER_H
#define QUEUE_ENGINE_FRONTIER_H

#include "access/htup_details.h"
#include "access/tupmacs.h"
#include "engine/lease.h"
#include "storage/buf.h"
#include "utils/rel.h"
#include "utils/snapshot.h"

typedef enum Verdict
{
	VERDICT_LIVE,				/* committed and nobody's */
	VERDICT_DEAD,				/* never to be looked at again */
	VERDICT_WAIT				/* depends on a transaction in progress */
} Verdict;

struct Message;

/*
 * One leased message: its tuple is a copy in the current memory context,
 * unless it has been read already.
 */
typedef struct Claim
{
	LeaseRef	ref;
	int64		id;
	int			attempts;
	HeapTuple	tuple;
	int			segment;		/* where it was found, or LEASE_IN_DEFERRED */
	struct Message *message;
} Claim;

/* One search for messages to lease. */
typedef struct ClaimScan
{
	QueueShared *q;
	uint32		generation;		/* q's, or it is another queue by now */
	Snapshot	snapshot;		/* every verdict is as of this */
	LeaseKind	kind;
	TimestampTz now;
	TimestampTz expires_at;
	int			max;
	int			nclaims;
	int			space;			/* of claims */
	Claim	   *claims;
	bool		out_of_leases;	/* stopped for want of a lease slot */
	int			turn;			/* 1: the queue's own table comes last */
	int			pages_left;		/* before the queue's lock is let go of */
	Relation	rels[QUEUE_MAX_SEGMENTS];	/* opened so far */
	bool		gone[QUEUE_MAX_SEGMENTS];
} ClaimScan;

/*
 * A message's id is the first column of every table it can be in, once that
 * has been checked (segment_check_columns).  A dead row from before the columns
 * were as they are now can have none: 0 is no message's.
 */
static inline int64
frontier_tuple_id(HeapTupleHeader tuple)
{
	if (unlikely(HeapTupleHeaderGetNatts(tuple) == 0 ||
				 ((tuple->t_infomask & HEAP_HASNULL) && att_isnull(0, tuple->t_bits))))
		return 0;
	return *(int64 *) ((char *) tuple + tuple->t_hoff);
}

/*
 * Judge a tuple as of a snapshot.  Its page must be locked, shared at least.
 * With VERDICT_WAIT *wait_for is the transaction to wait for, invalid if it
 * is one of several.
 */
extern Verdict frontier_judge(HeapTupleHeader tuple, Snapshot snapshot,
							  Buffer buffer, TransactionId *wait_for);

/* Copy a tuple off its page, into the current memory context. */
extern HeapTuple frontier_copy_tuple(HeapTupleHeader header, uint32 len, Oid relid,
									 BlockNumber block, OffsetNumber off);

/* The next element of scan->claims, cleared, for a lease just taken. */
extern Claim *frontier_add_claim(ClaimScan *scan, LeaseRef ref, int64 id, int attempts,
								 int segment);

/*
 * Copies of the live tuples of a page that no lease points to, at most
 * MaxHeapTuplesPerPage; returns how many.  Those given back and not leased
 * again are among them if wanted.
 */
extern int	frontier_page_tuples(Relation rel, BlockNumber block, Snapshot snapshot,
								 bool returned, HeapTuple *tuples);

/* Lease messages from the segments into scan->claims. */
extern void frontier_claim(ClaimScan *scan);

/* A segment's table, open until frontier_close; NULL if it is gone. */
extern Relation frontier_open(ClaimScan *scan, int segno);

/* Close what the scan has opened. */
extern void frontier_close(ClaimScan *scan);

/*
 * See to it that the tuples from first to last are looked at, though the
 * cursor may have passed them; at once, or when the transaction has ended.
 */
extern void frontier_remember(QueueShared *q, int segno, SegmentPlace first,
							  SegmentPlace last, int64 first_id, TransactionId xid);

/*
 * Have notes looked at whose transaction has ended, before its number can
 * mean another one.
 */
extern void frontier_refresh_notes(QueueShared *q);

/* Drop what is noted of a segment; the queue's lock is held exclusively. */
extern void frontier_forget_segment(QueueShared *q, int segno);

/* Whether a place is noted; the queue's lock is held. */
extern bool frontier_noted(QueueShared *q, int segno, SegmentPlace place);

#endif							/* QUEUE_ENGINE_FRONTIER_H */
