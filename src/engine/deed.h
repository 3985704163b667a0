/*
 * deed.h
 *		What this transaction did to leases, to be undone or finished at its end.
 */
#ifndef QUEUE_ENGINE_DEED_H
#define QUEUE_ENGINE_DEED_H

#include "engine/receipt.h"

typedef enum LeaseAction
{
	LEASE_DID_TAKE,				/* a new or renewed lease */
	LEASE_DID_CHECK,			/* a returned one is being checked */
	LEASE_DID_REMOVE,			/* a returned one's message is moved away */
	LEASE_DID_SETTLE,
	LEASE_DID_MOVE,
	LEASE_DID_DOOM				/* ended one that another is settling */
} LeaseAction;

typedef struct LeaseDeed
{
	LeaseRef	ref;
	LeaseAction action;
	LeaseOutcome outcome;		/* of LEASE_DID_SETTLE */
	bool		moved;			/* of LEASE_DID_MOVE: it has another place */
	bool		ended;			/* of LEASE_DID_SETTLE: its time was over */
	SubTransactionId subid;
} LeaseDeed;

/*
 * Reserve memory for one deed more, so that deed_add cannot fail: it may be
 * called with locks held.
 */
extern void deed_reserve(void);

extern LeaseDeed *deed_add(LeaseRef ref, LeaseAction action);

/* The latest deed on a lease, NULL if there is none; and remove it, false if there is none. */
extern LeaseDeed *deed_latest(LeaseRef ref);
extern bool deed_forget(LeaseRef ref);

/* The number of deeds, in order; one of them; and forget all but the first n. */
extern int	deeds_count(void);
extern LeaseDeed *deed_get(int i);
extern void deeds_truncate(int n);

/* The number of a subtransaction's first deed; and make its deeds its parent's. */
extern int	deeds_of_subtransaction(SubTransactionId subid);
extern void deeds_to_parent(SubTransactionId subid, SubTransactionId parent);

#endif							/* QUEUE_ENGINE_DEED_H */
