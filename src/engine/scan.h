/*
 * scan.h
 *		One search for messages to lease: what it has found so far.
 */
#ifndef QUEUE_ENGINE_SCAN_H
#define QUEUE_ENGINE_SCAN_H

#include "access/htup.h"
#include "engine/keys.h"
#include "engine/lease.h"
#include "engine/limit.h"
#include "engine/settings.h"
#include "message.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

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
	bool		keyed;			/* its key is limited, and was taken for it */
	int64		hash;			/* of that key */
	Message    *message;
} Claim;

typedef struct ClaimScan
{
	QueueShared *q;
	Oid			relid;			/* the queue's table */
	uint32		generation;		/* q's when the scan began */
	Snapshot	snapshot;		/* every verdict is as of this */
	const QueueSettings *settings;
	bool		keyed;			/* keys are limited */
	KeyRule		rule;			/* if so */
	LeaseKind	kind;
	TimestampTz now;
	TimestampTz expires_at;
	int			max;
	int			nclaims;
	int			max_claims;		/* of claims, as allocated */
	Claim	   *claims;
	bool		out_of_leases;	/* stopped as no lease slot was free */
	bool		out_of_keys;	/* or no slot of a key */
	Limits		limits;
	int			turn;			/* 1: the queue's own table comes last */
	int			pages_left;		/* before the queue's lock is released */
	Relation	rels[QUEUE_MAX_SEGMENTS];	/* opened so far */
	bool		gone[QUEUE_MAX_SEGMENTS];
} ClaimScan;

/* Whether the scan can take no more. */
static inline bool
scan_full(const ClaimScan *scan)
{
	return scan->nclaims >= scan->max || scan->out_of_leases || scan->out_of_keys ||
		scan->limits.stopped;
}

/* The next element of scan->claims, cleared, for a lease just taken. */
extern Claim *scan_add_claim(ClaimScan *scan, LeaseRef ref, int64 id, int attempts,
							 int segment);

/* A segment's table, open until scan_close; NULL if it is gone. */
extern Relation scan_open(ClaimScan *scan, int segno);

/* Close what the scan has opened. */
extern void scan_close(ClaimScan *scan);

#endif							/* QUEUE_ENGINE_SCAN_H */
