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

#include "relay/suspicion.h"
#include "utils/timestamp.h"

/* Losses in a row after which a message goes alone. */
#define SUSPECT_AFTER	2

/* How long one without a witness is under suspicion at least. */
#define SUSPECT_LONG	(60 * USECS_PER_SEC)

void
suspicion_init(Suspicion *suspicion)
{
	suspicion->limit = 0;
	suspicion->confirmed_at_limit = 0;
	suspicion->witness = true;
}

void
suspicion_take(Suspect *suspect, int attempts)
{
	/* It has failed before: one more loss is enough. */
	if (attempts > 1)
		suspect->losses = SUSPECT_AFTER - 1;
}

void
suspicion_doubt(Suspect *suspect)
{
	suspect->losses = Max(suspect->losses, SUSPECT_AFTER);
	if (suspect->suspected_at == 0)
		suspect->suspected_at = GetCurrentTimestamp();
}

int
suspicion_window(const Suspicion *suspicion, int window)
{
	return suspicion->limit > 0 ? Min(suspicion->limit, window) : window;
}

bool
suspicion_alone(const Suspect *suspect)
{
	return suspect->losses >= SUSPECT_AFTER;
}

bool
suspicion_waits(const Suspicion *suspicion, const Suspect *suspect, int fewest)
{
	return !suspicion->witness && suspect->losses_alone > fewest;
}

void
suspicion_confirmed(Suspicion *suspicion, int window)
{
	suspicion->witness = true;
	if (suspicion->limit > 0 && ++suspicion->confirmed_at_limit >= suspicion->limit)
	{
		suspicion->limit *= 2;
		suspicion->confirmed_at_limit = 0;
		if (suspicion->limit >= window)
			suspicion->limit = 0;
	}
}

void
suspicion_begin_loss(Suspicion *suspicion, int n, Loss loss)
{
	if (n > 1 && loss != LOSS_INNOCENT)
	{
		suspicion->limit = Max(n / 2, 1);
		suspicion->confirmed_at_limit = 0;
	}
}

bool
suspicion_lost(Suspicion *suspicion, Suspect *suspect, int n, Loss loss, int max_attempts)
{
	bool		was_suspect = suspicion_alone(suspect);
	bool		told = suspicion->witness;
	TimestampTz now = GetCurrentTimestamp();

	if (loss == LOSS_INNOCENT)
		return false;
	suspicion->witness = false;
	if (++suspect->losses == SUSPECT_AFTER)
		suspect->suspected_at = now;
	if (n > 1 || !was_suspect)
		return false;

	suspect->losses_alone++;
	return told ||
		(loss == LOSS_ERROR && suspect->losses_alone > max_attempts &&
		 now - suspect->suspected_at > SUSPECT_LONG);
}
