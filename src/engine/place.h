/*
 * place.h
 *		Places in a segment, ordered as its tuples are.
 */
#ifndef QUEUE_ENGINE_PLACE_H
#define QUEUE_ENGINE_PLACE_H

#include "storage/block.h"
#include "storage/itemptr.h"
#include "storage/off.h"

typedef uint64 SegmentPlace;

#define MakePlace(block, offset) (((SegmentPlace) (block) << 16) | (offset))
#define PlaceBlock(place)	((BlockNumber) ((place) >> 16))
#define PlaceOffset(place)	((OffsetNumber) ((place) & 0xFFFF))

/* Where a segment begins. */
#define FIRST_PLACE			MakePlace(0, FirstOffsetNumber)

static inline SegmentPlace
place_of_tid(const ItemPointerData *tid)
{
	return MakePlace(ItemPointerGetBlockNumberNoCheck(tid),
					 ItemPointerGetOffsetNumberNoCheck(tid));
}

#endif							/* QUEUE_ENGINE_PLACE_H */
