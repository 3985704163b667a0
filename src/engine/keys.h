/*
 * keys.h
 *		Keys whose messages go out in order, or only so many at a time.
 *
 * A key is known by its hash.  It has a slot as long as messages of it are on
 * lease, or wait because of that; waiting messages are remembered by the part
 * of the segments they lie in, however many they are.
 *
 * The slot and what waits are guarded by a lock of its bucket; a queue's list
 * of keys that are ready by a spinlock, which comes after.
 */
#ifndef QUEUE_ENGINE_KEYS_H
#define QUEUE_ENGINE_KEYS_H

#include "engine/shared.h"

/* A place among all of a queue's segments, which are read by ascending sequence. */
typedef struct KeyPlace
{
	uint64		sequence;		/* the segment's */
	SegmentPlace place;
} KeyPlace;

static inline bool
key_place_before(KeyPlace a, KeyPlace b)
{
	return a.sequence != b.sequence ? a.sequence < b.sequence : a.place < b.place;
}

/*
 * The place in a segment; the caller has the queue's lock, the segment's table
 * locked, or a lease that points into it.
 */
static inline KeyPlace
key_place(QueueShared *q, int segno, SegmentPlace place)
{
	KeyPlace	result;

	result.sequence = q->segments[segno].sequence;
	result.place = place;
	return result;
}

/* Waiting messages of a key: they lie from first to last, others between them. */
typedef struct KeyWaiting
{
	bool		in_deferred;	/* perhaps in queue.deferred too */
	int			n;				/* in the segments; 0: none */
	KeyPlace	first;
	KeyPlace	last;
} KeyWaiting;

/* How a claim takes keys. */
typedef struct KeyRule
{
	uint64		claim;			/* this one, and no other */
	int			limit;			/* messages of a key on lease */
	bool		ordered;		/* limit holds for receivers, not for messages */
} KeyRule;

typedef enum KeyMeeting
{
	KEY_TAKEN,					/* a lease is to begin, or key_leave called */
	KEY_WAITS,					/* the message is remembered */
	KEY_NO_SPACE				/* it cannot be, as all slots are in use */
} KeyMeeting;

/* A key in the hands of a claim: it alone takes messages of it. */
typedef struct KeyTurn
{
	QueueShared *q;
	int			keyno;			/* -1: none */
	int64		hash;
	int			leased;			/* when the turn began */
	KeyWaiting	waiting;		/* taken off the slot, to be put back */
	int64		awaits;			/* 0 when it begins */
} KeyTurn;

extern Size keys_shmem_size(void);
extern void keys_shmem_init(void);

/* A number for a claim. */
extern uint64 key_claim(void);

/*
 * A claim meets a message of a key, in the order of places: take the key, to
 * lease the message, or remember that it waits; with ready as key_wait does.
 */
extern KeyMeeting key_meet(QueueShared *q, int64 hash, const KeyRule *rule,
						   const KeyPlace *place, bool ready, int *keyno);

/*
 * Remember a message that waits, in queue.deferred if place is NULL.  With
 * ready its key gets a turn, if it may have one.  False if there is no space.
 */
extern bool key_wait(QueueShared *q, int64 hash, const KeyPlace *place, bool ready);

/* A message its key may have waited for is gone: have the key take its turn. */
extern void key_gone(QueueShared *q, int64 hash);

/* Remember that a message waits whose lease ends; raises nothing. */
extern void key_wait_again(int keyno, const KeyPlace *place);

/*
 * Have a lease begin on a message that waits, whatever else is on lease: to
 * move it, not to hand it out.  False if the key has a turn, or is to have one.
 */
extern bool key_join(QueueShared *q, int64 hash, int *keyno);

/*
 * A lease on a message of a key begins in a slot of the leases, or ends.  -1
 * for slotno if it has not begun.  May be called with locks held.
 */
extern void key_enter(int keyno, int slotno);
extern void key_leave(int keyno, int slotno);

/* The hash of a key that this process has a lease of. */
extern int64 key_hash(int keyno);

/* How many leases it has. */
extern int	key_leased(int keyno);

/* Slots of leases of the same key that were taken after this one, up to max. */
extern int	key_later(int keyno, int slotno, int *slots, int max);

/* Whether keys of a queue are ready for a turn, how many have a slot: hints. */
extern int	keys_ready(QueueShared *q);
extern int	keys_used(QueueShared *q);

/* Begin the turn of the first ready key; false if there is none. */
extern bool key_turn_begin(QueueShared *q, uint64 claim, KeyTurn *turn);

/* A lease is to begin on a message of the key, or key_leave is called. */
extern void key_turn_take(KeyTurn *turn);

/* Whether messages of the key were met in the segments since it began. */
extern bool key_turn_news(const KeyTurn *turn);

/*
 * End it: turn->waiting is what is left.  With again the key is ready at once;
 * with an id in turn->awaits when the cursors have passed that (keys_passed).
 */
extern void key_turn_end(KeyTurn *turn, bool again);

/*
 * The cursors have passed all ids up to this one: keys that await that are
 * ready.  Returns the lowest id that one still awaits, PG_INT64_MAX if none.
 */
extern int64 keys_passed(QueueShared *q, int64 passed);

/*
 * Let waiting keys of a queue that may have a turn have one: from the slot
 * *cursor on, which is moved, up to max of them.  With limit that is how many
 * leases they may have from now on.
 */
extern void keys_unpark(QueueShared *q, int *cursor, int max, int limit);

/* Whether a waiting message of a queue is known: its key has a turn to come. */
extern bool key_knows(QueueShared *q, int64 hash, const KeyPlace *place);

/* Forget what waits in a queue that is dropped or purged. */
extern void keys_forget(QueueShared *q);

/* End the turns of processes that are gone. */
extern void keys_sweep(void);

/* A copy of a slot in use, for statistics. */
typedef struct KeyCopy
{
	QueueShared *q;
	int64		hash;
	int			leased;
	int			lease;			/* slot of its first lease, -1 if none */
	int			waiting;		/* messages in the segments */
	TimestampTz since;			/* when one began to wait; 0: none does */
} KeyCopy;

/* Go through all keys, as lease_next does through leases. */
extern bool keys_next(int *cursor, KeyCopy *copy);

#endif							/* QUEUE_ENGINE_KEYS_H */
