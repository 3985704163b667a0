/*
 * inbox.h
 *		What has been accepted once, and is not to be accepted again.
 */
#ifndef QUEUE_ENGINE_INBOX_H
#define QUEUE_ENGINE_INBOX_H

/*
 * Who remembers: a queue, of what relays bring it from a source, or a role, of
 * what one of its consumers has taken.
 */
typedef struct InboxOwner
{
	Oid			queue;			/* InvalidOid if it is a role */
	text	   *role;			/* its name, empty if it is a queue */
	text	   *consumer;		/* or the source */
} InboxOwner;

/*
 * Enter the names of n messages, as Datums of text, in queue.inbox for this
 * many microseconds.  fresh[i] is whether the i-th was not there, nor earlier
 * among them; returns how many were not.  Waits for transactions that have
 * entered or are renewing one of them; raises 40001 if the transaction's
 * snapshot does not show what they have done.
 */
extern int	inbox_enter(const InboxOwner *owner, int n, const Datum *names, int64 ttl, bool *fresh);

/* How long what a relay brings is remembered, and what a consumer takes by default. */
extern int64 inbox_retention(void);

/* The name of the calling role, whose entries are its own. */
extern text *inbox_role(void);

#endif							/* QUEUE_ENGINE_INBOX_H */
