/*
 * suspicion.h
 *		Find the message that breaks connections, and blame no other.
 */
#ifndef QUEUE_RELAY_SUSPICION_H
#define QUEUE_RELAY_SUSPICION_H

#include "datatype/timestamp.h"

/* What a message in hand is suspected of. */
typedef struct Suspect
{
	int			losses;			/* connections lost with it in flight, in a
								 * row */
	int			losses_alone;	/* of those, with nothing else in flight */
	TimestampTz suspected_at;	/* when it was to go alone first */
} Suspect;

/* What is known of all. */
typedef struct Suspicion
{
	int			limit;			/* messages in flight at most; 0: no limit but
								 * the window */
	int			confirmed_at_limit;
	bool		witness;		/* a message has been confirmed since the last
								 * loss */
} Suspicion;

/* How a connection ended with messages in flight. */
typedef enum Loss
{
	LOSS_ERROR,					/* closed, reset, or an error that may be
								 * theirs */
	LOSS_TIMEOUT,				/* no verdict came in time */
	LOSS_INNOCENT				/* for reasons that have nothing to do with
								 * them */
} Loss;

extern void suspicion_init(Suspicion *suspicion);

/* A message was claimed that has failed before, or one of its batch has. */
extern void suspicion_take(Suspect *suspect, int attempts);
extern void suspicion_doubt(Suspect *suspect);

/* Messages that may be in flight now, of the window. */
extern int	suspicion_window(const Suspicion *suspicion, int window);

/* Whether a message has to be in flight without another. */
extern bool suspicion_alone(const Suspect *suspect);

/* Whether another message should go first, this one having been lost more often. */
extern bool suspicion_waits(const Suspicion *suspicion, const Suspect *suspect, int fewest);

/* The other side has confirmed a message. */
extern void suspicion_confirmed(Suspicion *suspicion, int window);

/*
 * A connection that had been open was lost with n messages in flight.  To be
 * called once, and then for each; the latter says whether it is to count as a
 * refusal of that message.
 */
extern void suspicion_begin_loss(Suspicion *suspicion, int n, Loss loss);
extern bool suspicion_lost(Suspicion *suspicion, Suspect *suspect, int n, Loss loss,
						   int max_attempts);

#endif							/* QUEUE_RELAY_SUSPICION_H */
