/*
 * flight.h
 *		Items in flight, in the order they left in, each known by a number.
 *
 * For sinks whose other side answers with numbers (delivery tags), or in the
 * order it was spoken to.  Numbers begin with 1 for each connection.
 */
#ifndef QUEUE_SINKS_FLIGHT_H
#define QUEUE_SINKS_FLIGHT_H

#include "relay/sink.h"

typedef struct Flight
{
	int			window;
	uint64		first;			/* the oldest number that may be in flight */
	uint64		next;			/* the next one to be given out */
	SinkItem  **items;			/* by number modulo window; NULL: has landed */
} Flight;

/* For at most so many items at a time, in the current memory context. */
extern void flight_init(Flight *flight, int window);

/* How many more there is space for. */
extern int	flight_space(const Flight *flight);

/* An item has left: give it the next number, its tag. */
extern void flight_add(Flight *flight, SinkItem *item);

/* The item of a number, and let it land; NULL if it is not in flight. */
extern SinkItem *flight_land(Flight *flight, uint64 number);

/* The item of a number, which stays in flight; NULL if it is not. */
extern SinkItem *flight_find(const Flight *flight, uint64 number);

#endif							/* QUEUE_SINKS_FLIGHT_H */
