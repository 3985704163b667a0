/*
 * frontier.h
 *		The scan frontier: which tuples of the segments are judged next.
 */
#ifndef QUEUE_ENGINE_FRONTIER_H
#define QUEUE_ENGINE_FRONTIER_H

#include "engine/scan.h"
#include "storage/block.h"

/* Lease messages from the segments into scan->claims. */
extern void frontier_claim(ClaimScan *scan);

/*
 * Copies of the live tuples of a page that no lease points to, at most
 * MaxHeapTuplesPerPage; returns how many.  With returned, messages of returned
 * leases are among them.
 */
extern int	frontier_page_tuples(Relation rel, BlockNumber block, Snapshot snapshot,
								 bool returned, HeapTuple *tuples);

#endif							/* QUEUE_ENGINE_FRONTIER_H */
