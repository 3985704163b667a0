/*
 * suspicion.c
 *		Find the message that breaks connections, and blame no other.
 *
 * A connection lost is nobody's fault at first.  A message that was in flight
 * at two losses in a row is suspect and goes alone from then on; most are
 * confirmed then, and above suspicion again.  Whether one that is lost alone
 * is at fault, or the other side takes nothing at all, another message tells:
 * after a loss the one that was lost least often goes next, and if that is
 * confirmed, the suspect's next loss counts as a refusal.  After max_attempts
 * of those it is a dead letter, like any message that is refused.
 *
 * If there is no other to tell, because all that wait have its key, a loss
 * counts when the suspect has been lost alone as often as that already and for
 * SUSPECT_LONG: a broker that opens connections for so long and drops them at
 * this message again and again.  A timeout alone never counts without a
 * witness, as a broker that stores nothing looks like that.  A connection that
 * cannot be opened, or that the other side ends for reasons of its own, never
 * makes anybody suspect.
 *
 * Besides, a loss halves what may be in flight, for batches that cannot be
 * dealt with in time; confirmations double it again.
 */
#include "postgres.h"

#include "relay/item.h"
#include "utils/timestamp.h"

/* Losses in a row after which a message goes alone. */
#define SUSPECT_AFTER	2

/* How long one without a witness is under suspicion at least. */
#define SUSPECT_LONG	(60 * USECS_PER_SEC)

/* Messages in flight at most; 0: no limit but the window. */
static int	limit = 0;
static int	confirmed_at_limit = 0;

/* Whether a message has been confirmed since the last loss. */
static bool witness = true;

void
suspicion_take(RelayItem *item)
{
	/* It has failed before: one more loss is enough. */
	if (item->base.message->attempts > 1)
		item->losses = SUSPECT_AFTER - 1;
}

void
suspicion_doubt(RelayItem *item)
{
	item->losses = Max(item->losses, SUSPECT_AFTER);
	if (item->suspected_at == 0)
		item->suspected_at = GetCurrentTimestamp();
}

int
suspicion_window(int window)
{
	return limit > 0 ? Min(limit, window) : window;
}

bool
suspicion_alone(const RelayItem *item)
{
	return item->losses >= SUSPECT_AFTER;
}

bool
suspicion_wants_witness(void)
{
	return !witness;
}

bool
suspicion_waits(const RelayItem *item, int fewest)
{
	return !witness && item->losses_alone > fewest;
}

void
suspicion_confirmed(int window)
{
	witness = true;
	if (limit > 0 && ++confirmed_at_limit >= limit)
	{
		limit *= 2;
		confirmed_at_limit = 0;
		if (limit >= window)
			limit = 0;
	}
}

void
suspicion_begin_loss(int n, Loss loss)
{
	if (n > 1 && loss != LOSS_INNOCENT)
	{
		limit = Max(n / 2, 1);
		confirmed_at_limit = 0;
	}
}

bool
suspicion_lost(RelayItem *item, int n, Loss loss, int max_attempts)
{
	bool		was_suspect = suspicion_alone(item);
	bool		told = witness;
	TimestampTz now = GetCurrentTimestamp();

	if (loss == LOSS_INNOCENT)
		return false;
	witness = false;
	if (++item->losses == SUSPECT_AFTER)
		item->suspected_at = now;
	if (n > 1 || !was_suspect)
		return false;

	item->losses_alone++;
	return told ||
		(loss == LOSS_ERROR && item->losses_alone > max_attempts &&
		 now - item->suspected_at > SUSPECT_LONG);
}
