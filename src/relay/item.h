/*
 * item.h
 *		A message a relay's worker has in hand, and what it is suspected of.
 */
#ifndef QUEUE_RELAY_ITEM_H
#define QUEUE_RELAY_ITEM_H

#include "lib/ilist.h"
#include "relay/sink.h"

/* Messages claimed together share their memory. */
typedef struct Batch
{
	MemoryContext context;
	int			nitems;			/* still in hand */
} Batch;

/*
 * A key some messages in hand have, by its hash.  Two keys of the same hash
 * wait for each other, which does no harm.
 */
typedef struct Key
{
	uint64		hash;
	int			nitems;
	int			nsent;
	uint64		held_back;		/* in this pass */
} Key;

typedef struct RelayItem
{
	SinkItem	base;
	dlist_node	node;
	uint64		number;			/* in the order of claiming */
	Batch	   *batch;
	Key		   *key;			/* NULL: none */
	Size		bytes;
	TimestampTz retry_at;		/* 0: now */
	char	   *error;			/* of the last refusal */

	/* relay_suspicion.c */
	int			losses;			/* connections lost with it in flight, in a row */
	int			losses_alone;	/* of those, with nothing else in flight */
	TimestampTz suspected_at;	/* when it was to go alone first */
} RelayItem;

/* How a connection ended with messages in flight. */
typedef enum Loss
{
	LOSS_ERROR,					/* closed, reset, or an error that may be theirs */
	LOSS_TIMEOUT,				/* no verdict came in time */
	LOSS_INNOCENT				/* for reasons that have nothing to do with them */
} Loss;

/* A message was claimed that has failed before, or one of its batch has. */
extern void suspicion_take(RelayItem *item);
extern void suspicion_doubt(RelayItem *item);

/* Messages that may be in flight now, of the window. */
extern int	suspicion_window(int window);

/* Whether an item has to be in flight without another. */
extern bool suspicion_alone(const RelayItem *item);

/* Whether another message should go first, this one having been lost more often. */
extern bool suspicion_waits(const RelayItem *item, int fewest);
extern bool suspicion_wants_witness(void);

/* The other side has confirmed a message. */
extern void suspicion_confirmed(int window);

/*
 * A connection that had been open was lost with n items in flight.  To be
 * called once, and then for each; the latter says whether it is to count as a
 * refusal of that message.
 */
extern void suspicion_begin_loss(int n, Loss loss);
extern bool suspicion_lost(RelayItem *item, int n, Loss loss, int max_attempts);

#endif							/* QUEUE_RELAY_ITEM_H */
