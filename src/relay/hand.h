/*
 * hand.h
 *		The messages a relay's worker has in hand.
 *
 * A message in hand is leased to the process, and is on one of four lists:
 *
 *		            hand_send()           hand_confirmed()
 *		PENDING ------------------> SENT ------------------> DONE --> deleted
 *		   ^  ^   hand_put_back(),   | |
 *		   |  +-- hand_doubted(), ---+ |  hand_refused()
 *		   |      hand_lost()          |
 *		   +---------------------------+--------------------> FAILED --> deferred
 *		      with a key, to be tried      without a key,                or dead
 *		      again after the back-off     or for the last time          letters
 *
 * (hand_settled() takes it off at once: it has been deleted already.)  PENDING
 * is kept in the order of claiming and passed through in that order; a message
 * that cannot go now holds back those of its key behind it and nobody else.
 * So a key's messages leave in order, whatever was refused or lost between.
 * What is in flight when one of the same key is refused cannot be called back;
 * so a key has one message in flight at most, unless the rules say otherwise.
 *
 * Where messages are to be transformed one is pending until it is, and does not
 * go; what it became is sent in its stead, as often as it has to be.  One that
 * is dropped is DONE.
 *
 * A refused message with a key stays in hand, for its followers have to wait
 * for it and must not overtake it should this process end.  One without a key
 * goes to the deferred messages like anyone's failed message.
 */
#ifndef QUEUE_RELAY_HAND_H
#define QUEUE_RELAY_HAND_H

#include "lib/ilist.h"
#include "relay/sink.h"
#include "relay/suspicion.h"
#include "utils/hsearch.h"

/* In hand at most, but for a message that is larger alone. */
#define HAND_BYTES		(64 * 1024 * 1024)

/* Messages claimed together share their memory. */
typedef struct HandBatch
{
	MemoryContext context;
	int			nitems;			/* still in hand */
} HandBatch;

/*
 * A key some messages in hand have, by its hash.  Two keys of the same hash
 * wait for each other, which does no harm.
 */
typedef struct HandKey
{
	uint64		hash;
	int			nitems;
	int			nsent;
	uint64		held_back;		/* in this pass */
} HandKey;

typedef struct HandItem
{
	SinkItem	base;
	dlist_node	node;
	uint64		number;			/* in the order of claiming */
	HandBatch  *batch;
	bool		ready;			/* transformed, or that is not wanted */
	struct Message *made;		/* by the transform; NULL: none */
	Size		made_bytes;
	HandKey    *key;			/* NULL: none */
	Size		bytes;
	TimestampTz retry_at;		/* 0: now */
	char	   *error;			/* of the last refusal */
	Suspect		suspect;
} HandItem;

/* What the relay, its sink and its queue want; the worker sets it. */
typedef struct HandRules
{
	int			window;			/* messages in flight at most */
	bool		one_per_key;	/* one of a key in flight at a time */
	bool		as_one;			/* all in flight succeed or fail as one */
	bool		transform;		/* messages are to be transformed */
	int			max_attempts;
	int64		backoff;
	int64		backoff_max;
} HandRules;

typedef struct Hand
{
	HandRules	rules;

	dlist_head	pending;
	dlist_head	sent;
	dlist_head	done;
	dlist_head	failed;
	int			nitems;			/* on all of them */
	int			nsent;
	int			ndone;
	int			ndropped;		/* of them */
	TimestampTz done_at;		/* when the first of done was */
	Size		bytes;
	Size		made_bytes;		/* of them, by the transform */
	uint64		changes;		/* raised by each of them */

	HTAB	   *keys;
	uint64		last_number;
	Suspicion	suspicion;

	/* The pass through PENDING under way, or the last one. */
	uint64		pass;
	HandItem   *next;			/* NULL: at the end */
	TimestampTz pass_began_at;
	int			pass_window;
	int			fewest_losses;
	bool		full;			/* it ended before a message that could go */
	TimestampTz next_retry;		/* of a message it came to, or DT_NOEND */
} Hand;

extern void hand_init(Hand *hand);

/*
 * A batch of claimed messages, all in this memory context, which goes with the
 * last of them; and each of them, in the order they are to leave in.
 */
extern HandBatch *hand_batch(MemoryContext context);
extern void hand_take(Hand *hand, HandBatch *batch, const struct Message *message);

/* How much more may be taken; nothing if either is 0. */
extern int	hand_space(const Hand *hand);
extern Size hand_space_bytes(const Hand *hand);

/*
 * Pass through what is to be transformed, as long as there is space for what it
 * becomes: what to transform next, whose memory is then the hand's and one
 * chunk; or which is to be dropped; or, once it was sent, refused.
 */
extern void hand_begin_transforms(Hand *hand);
extern HandItem *hand_next_transform(Hand *hand);
extern void hand_transformed(Hand *hand, HandItem *item, struct Message *made, Size bytes);
extern void hand_dropped(Hand *hand, HandItem *item);

/*
 * Pass through what is pending: hand_next() is the next message that may go
 * now, to be sent before it is called again.  NULL at the end, or, with full
 * set, when no more may be in flight.
 */
extern void hand_begin_pass(Hand *hand);
extern HandItem *hand_next(Hand *hand);
extern void hand_send(Hand *hand, HandItem *item);

/*
 * What became of a message in flight.  A doubted one goes alone from now on; a
 * refused one that is to be kept stays in hand, with a key or without.
 */
extern void hand_confirmed(Hand *hand, HandItem *item);
extern void hand_settled(Hand *hand, HandItem *item);
extern void hand_put_back(Hand *hand, HandItem *item);
extern void hand_doubted(Hand *hand, HandItem *item);
extern void hand_refused(Hand *hand, HandItem *item, const char *error, bool keep);

/*
 * The last in flight, NULL if there is none: put back from there, each finds
 * its place at the head of what is pending.
 */
extern HandItem *hand_last_sent(Hand *hand);

/*
 * What became of all in flight: nothing is known, and nothing counted; or a
 * connection was lost with them.  That returns how many it was a refusal of.
 */
extern void hand_put_all_back(Hand *hand);
extern int	hand_lost(Hand *hand, Loss loss, const char *error);

/* All that is done or failed has been settled. */
extern void hand_forget(Hand *hand);

/* Forget what is pending and of which this is true; to be called between two passes. */
extern void hand_drop_pending(Hand *hand, bool (*is_gone) (const HandItem *item));

/* When the oldest message in hand was sent to the queue, about; or 0. */
extern TimestampTz hand_oldest(Hand *hand);

#endif							/* QUEUE_RELAY_HAND_H */
