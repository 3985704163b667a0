/*
 * scan.c
 *		One search for messages to lease: what it has found so far.
 */
#include "postgres.h"

#include "access/relation.h"
#include "engine/scan.h"
#include "engine/segment.h"
#include "utils/rel.h"

Claim *
scan_add_claim(ClaimScan *scan, LeaseRef ref, int64 id, int attempts, int segment)
{
	Claim	   *claim;

	if (scan->nclaims == scan->max_claims)
	{
		scan->max_claims = Max(16, scan->max_claims * 2);
		scan->claims = scan->claims == NULL ?
			palloc(sizeof(Claim) * scan->max_claims) :
			repalloc_huge(scan->claims, sizeof(Claim) * scan->max_claims);
	}
	claim = &scan->claims[scan->nclaims++];
	claim->ref = ref;
	claim->id = id;
	claim->attempts = attempts;
	claim->segment = segment;
	claim->keyed = false;
	claim->hash = 0;
	claim->tuple = NULL;
	claim->message = NULL;
	return claim;
}

Relation
scan_open(ClaimScan *scan, int segno)
{
	if (scan->rels[segno] == NULL && !scan->gone[segno])
	{
		scan->rels[segno] = segment_open(scan->q, segno, AccessShareLock);
		scan->gone[segno] = (scan->rels[segno] == NULL);
	}
	return scan->rels[segno];
}

void
scan_close(ClaimScan *scan)
{
	for (int i = 0; i < lengthof(scan->rels); i++)
	{
		if (scan->rels[i] != NULL)
			relation_close(scan->rels[i], AccessShareLock);
	}
}
