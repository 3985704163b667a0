/*
 * flight.c
 *		Items in flight, in the order they left in, each known by a number.
 */
#include "postgres.h"

#include "sinks/flight.h"

void
flight_init(Flight *flight, int window)
{
	flight->window = window;
	flight->first = flight->next = 1;
	flight->items = palloc0(window * sizeof(SinkItem *));
}

int
flight_space(const Flight *flight)
{
	return flight->window - (int) (flight->next - flight->first);
}

void
flight_add(Flight *flight, SinkItem *item)
{
	Assert(flight_space(flight) > 0);
	item->tag = flight->next++;
	flight->items[item->tag % flight->window] = item;
}

SinkItem *
flight_find(const Flight *flight, uint64 number)
{
	if (number < flight->first || number >= flight->next)
		return NULL;
	return flight->items[number % flight->window];
}

SinkItem *
flight_land(Flight *flight, uint64 number)
{
	SinkItem   *item = flight_find(flight, number);

	if (item)
		flight->items[number % flight->window] = NULL;
	while (flight->first < flight->next && flight->items[flight->first % flight->window] == NULL)
		flight->first++;
	return item;
}
