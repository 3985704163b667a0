/*
 * hand.c
 *		The messages a relay's worker has in hand.
 */
#include "postgres.h"

#include "backoff.h"
#include "compat.h"
#include "message.h"
#include "relay/hand.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* In hand at most: so many windows. */
#define HAND_WINDOWS	4

void
hand_init(Hand *hand)
{
	HASHCTL		ctl = {.keysize = sizeof(uint64),.entrysize = sizeof(HandKey)};

	memset(hand, 0, sizeof(Hand));
	dlist_init(&hand->pending);
	dlist_init(&hand->sent);
	dlist_init(&hand->done);
	dlist_init(&hand->failed);
	hand->keys = hash_create("queue relay keys", 256, &ctl, HASH_ELEM | HASH_BLOBS);
	suspicion_init(&hand->suspicion);
}

/*
 * Into the hand, and out of it
 */

HandBatch *
hand_batch(MemoryContext context)
{
	HandBatch  *batch = MemoryContextAlloc(context, sizeof(HandBatch));

	batch->context = context;
	batch->nitems = 0;
	return batch;
}

static Size
size_of(const struct varlena *value)
{
	return value ? VARSIZE_ANY(value) : 0;
}

/* The entry of a key, made if there is none. */
static HandKey *
find_key(Hand *hand, const text *name)
{
	uint64		hash = (uint64) message_key_hash(name);
	bool		found;
	HandKey    *key = hash_search(hand->keys, &hash, HASH_ENTER, &found);

	if (!found)
	{
		key->nitems = key->nsent = 0;
		key->held_back = 0;
	}
	return key;
}

void
hand_take(Hand *hand, HandBatch *batch, const Message *message)
{
	HandItem   *item = MemoryContextAllocZero(batch->context, sizeof(HandItem));

	item->base.message = message;
	item->number = ++hand->last_number;
	item->batch = batch;
	item->ready = !hand->rules.transform;
	item->bytes = sizeof(HandItem) + sizeof(Message) + size_of(message->key) +
		size_of(message->headers) + size_of(message->payload) + size_of(message->body);
	if (message->key)
	{
		item->key = find_key(hand, message->key);
		item->key->nitems++;
	}
	suspicion_take(&item->suspect, message->attempts);
	batch->nitems++;
	hand->changes++;
	hand->nitems++;
	hand->bytes += item->bytes;
	dlist_push_tail(&hand->pending, &item->node);
}

/* Forget an item that is settled and on no list. */
static void
drop(Hand *hand, HandItem *item)
{
	HandBatch  *batch = item->batch;

	if (item->key && --item->key->nitems == 0)
		hash_search(hand->keys, &item->key->hash, HASH_REMOVE, NULL);
	hand->nitems--;
	hand->bytes -= item->bytes;
	hand->made_bytes -= item->made_bytes;
	if (item->made)
		pfree(item->made);
	if (--batch->nitems == 0)
		MemoryContextDelete(batch->context);
}

void
hand_forget(Hand *hand)
{
	while (!dlist_is_empty(&hand->done))
		drop(hand, dlist_container(HandItem, node, dlist_pop_head_node(&hand->done)));
	while (!dlist_is_empty(&hand->failed))
		drop(hand, dlist_container(HandItem, node, dlist_pop_head_node(&hand->failed)));
	hand->ndone = hand->ndropped = 0;
	hand->changes++;
}

void
hand_drop_pending(Hand *hand, bool (*is_gone) (const HandItem *item))
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &hand->pending)
	{
		HandItem   *item = dlist_container(HandItem, node, iter.cur);

		if (!is_gone(item))
			continue;
		dlist_delete(iter.cur);
		drop(hand, item);
		hand->changes++;
	}
	hand->next = NULL;
}

int
hand_space(const Hand *hand)
{
	return hand->bytes < HAND_BYTES ? Max(HAND_WINDOWS * hand->rules.window - hand->nitems, 0) : 0;
}

Size
hand_space_bytes(const Hand *hand)
{
	return hand->bytes < HAND_BYTES ? HAND_BYTES - hand->bytes : 0;
}

/*
 * Which goes next
 */

/* The item behind one in pending, or the first; NULL at the end. */
static HandItem *
behind(const Hand *hand, HandItem *item)
{
	const dlist_node *end = &hand->pending.head;
	dlist_node *node = item ? item->node.next : hand->pending.head.next;

	return node == end ? NULL : dlist_container(HandItem, node, node);
}

/* Whether one of its key before it has to be dealt with first. */
static bool
follows(const Hand *hand, const HandItem *item)
{
	const HandKey *key = item->key;

	return key &&
		(key->held_back == hand->pass || (hand->rules.one_per_key && key->nsent > 0));
}

/* Hold back those of its key behind it, for the rest of this pass. */
static void
hold_back(const Hand *hand, HandItem *item)
{
	if (item->key)
		item->key->held_back = hand->pass;
}

/*
 * How often the messages that could go now have been lost alone, at least.
 * Only while we want to see another confirmed than the one just lost.
 */
static int
fewest_losses(Hand *hand)
{
	int			fewest = INT_MAX;

	if (hand->suspicion.witness)
		return 0;
	hand->pass++;
	for (HandItem *item = behind(hand, NULL); item; item = behind(hand, item))
	{
		if (follows(hand, item))
			continue;
		if (item->ready && item->retry_at <= hand->pass_began_at)
			fewest = Min(fewest, item->suspect.losses_alone);
		hold_back(hand, item);
	}
	return fewest;
}

void
hand_begin_pass(Hand *hand)
{
	hand->pass_began_at = GetCurrentTimestamp();
	hand->fewest_losses = fewest_losses(hand);
	hand->pass_window = suspicion_window(&hand->suspicion, hand->rules.window);
	hand->pass++;
	hand->next = behind(hand, NULL);
	hand->full = false;
	hand->next_retry = DT_NOEND;
}

void
hand_begin_transforms(Hand *hand)
{
	hand->pass_began_at = GetCurrentTimestamp();
	hand->pass++;
	hand->next = behind(hand, NULL);
}

/*
 * What follows a message that is yet to be transformed waits for it: so what is
 * transformed is not in the way of what it would have to go behind.
 */
HandItem *
hand_next_transform(Hand *hand)
{
	HandItem   *item;

	if (hand->made_bytes >= HAND_BYTES)
		return NULL;
	while ((item = hand->next) != NULL)
	{
		hand->next = behind(hand, item);
		if (item->ready || (item->key && item->key->held_back == hand->pass))
			continue;
		if (item->retry_at <= hand->pass_began_at)
			return item;
		hold_back(hand, item);
	}
	return NULL;
}

void
hand_transformed(Hand *hand, HandItem *item, Message *made, Size bytes)
{
	item->base.message = item->made = made;
	item->ready = true;
	item->made_bytes = bytes;
	item->bytes += bytes;
	hand->bytes += bytes;
	hand->made_bytes += bytes;
	hand->changes++;
}

/* What is on no list any more is to be settled. */
static void
finish(Hand *hand, HandItem *item)
{
	dlist_push_tail(&hand->done, &item->node);
	if (hand->ndone++ == 0)
		hand->done_at = GetCurrentTimestamp();
}

void
hand_dropped(Hand *hand, HandItem *item)
{
	dlist_delete(&item->node);
	hand->changes++;
	hand->ndropped++;
	finish(hand, item);
}

/* Whether an item has to be without company in flight. */
static bool
goes_alone(const Hand *hand, const HandItem *item)
{
	/* What was refused is better not mixed with what was not. */
	return suspicion_alone(&item->suspect) || (hand->rules.as_one && item->base.failures > 0);
}

/* Whether there is space in flight for one more, this one. */
static bool
fits(Hand *hand, const HandItem *item)
{
	if (hand->nsent == 0)
		return true;
	return hand->nsent < hand->pass_window && !goes_alone(hand, item) &&
		!goes_alone(hand, dlist_head_element(HandItem, node, &hand->sent));
}

HandItem *
hand_next(Hand *hand)
{
	HandItem   *item;

	/* What is put back meanwhile is before the next one, or of no matter. */
	while ((item = hand->next) != NULL)
	{
		hand->next = behind(hand, item);
		if (follows(hand, item))
			hold_back(hand, item);
		else if (item->retry_at > hand->pass_began_at)
		{
			hand->next_retry = Min(hand->next_retry, item->retry_at);
			hold_back(hand, item);
		}
		else if (!item->ready)
			hold_back(hand, item);
		else if (suspicion_waits(&hand->suspicion, &item->suspect, hand->fewest_losses))
			hold_back(hand, item);
		else if (fits(hand, item))
			return item;
		else
		{
			hand->full = true;
			return NULL;
		}
	}
	return NULL;
}

void
hand_send(Hand *hand, HandItem *item)
{
	dlist_delete(&item->node);
	dlist_push_tail(&hand->sent, &item->node);
	hand->changes++;
	hand->nsent++;
	if (item->key)
		item->key->nsent++;
}

/*
 * What becomes of what was sent
 */

/* Take an item off the list of those in flight. */
static void
unsend(Hand *hand, HandItem *item)
{
	dlist_delete(&item->node);
	hand->changes++;
	hand->nsent--;
	if (item->key)
		item->key->nsent--;
}

/* Put an item where its number belongs in pending. */
static void
make_pending(Hand *hand, HandItem *item)
{
	dlist_iter	iter;

	/* This pass may yet come to others of its key. */
	hold_back(hand, item);
	dlist_foreach(iter, &hand->pending)
	{
		if (dlist_container(HandItem, node, iter.cur)->number > item->number)
		{
			dlist_insert_before(iter.cur, &item->node);
			return;
		}
	}
	dlist_push_tail(&hand->pending, &item->node);
}

void
hand_confirmed(Hand *hand, HandItem *item)
{
	unsend(hand, item);
	suspicion_confirmed(&hand->suspicion, hand->rules.window);
	finish(hand, item);
}

void
hand_settled(Hand *hand, HandItem *item)
{
	unsend(hand, item);
	suspicion_confirmed(&hand->suspicion, hand->rules.window);
	drop(hand, item);
}

void
hand_put_back(Hand *hand, HandItem *item)
{
	unsend(hand, item);
	make_pending(hand, item);
}

void
hand_doubted(Hand *hand, HandItem *item)
{
	suspicion_doubt(&item->suspect);
	hand_put_back(hand, item);
}

void
hand_refused(Hand *hand, HandItem *item, const char *error, bool keep)
{
	const HandRules *rules = &hand->rules;
	int			attempts = item->base.message->attempts + item->base.failures;

	unsend(hand, item);
	item->error = MemoryContextStrdup(item->batch->context, error);
	if ((item->key == NULL && !keep) || attempts >= rules->max_attempts)
	{
		hold_back(hand, item);
		dlist_push_tail(&hand->failed, &item->node);
		return;
	}
	item->retry_at = GetCurrentTimestamp() +
		backoff_delay(attempts, rules->backoff, rules->backoff_max);
	item->base.failures++;
	make_pending(hand, item);
}

HandItem *
hand_last_sent(Hand *hand)
{
	return dlist_is_empty(&hand->sent) ? NULL : dlist_tail_element(HandItem, node, &hand->sent);
}

void
hand_put_all_back(Hand *hand)
{
	HandItem   *item;

	while ((item = hand_last_sent(hand)) != NULL)
		hand_put_back(hand, item);
}

int
hand_lost(Hand *hand, Loss loss, const char *error)
{
	int			n = hand->nsent;
	int			nrefused = 0;
	HandItem   *item;

	suspicion_begin_loss(&hand->suspicion, n, loss);
	while ((item = hand_last_sent(hand)) != NULL)
	{
		if (suspicion_lost(&hand->suspicion, &item->suspect, n, loss, hand->rules.max_attempts))
		{
			/* It is known here for what it does. */
			hand_refused(hand, item, error, true);
			nrefused++;
		}
		else
			hand_put_back(hand, item);
	}
	return nrefused;
}

TimestampTz
hand_oldest(Hand *hand)
{
	dlist_head *lists[] = {&hand->pending, &hand->sent, &hand->done, &hand->failed};
	TimestampTz oldest = 0;

	/* Each list is in order, or nearly so. */
	for (int i = 0; i < lengthof(lists); i++)
	{
		const Message *message;

		if (dlist_is_empty(lists[i]))
			continue;
		message = dlist_head_element(HandItem, node, lists[i])->base.message;
		if (oldest == 0 || message->enqueued_at < oldest)
			oldest = message->enqueued_at;
	}
	return oldest;
}
