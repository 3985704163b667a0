/*
 * supervision.h
 *		The shared slots of the relays' workers.
 */
#ifndef QUEUE_RELAY_SUPERVISION_H
#define QUEUE_RELAY_SUPERVISION_H

#include "compat.h"
#include "port/atomics.h"
#include "relay/relay.h"
#include "storage/lwlock.h"

#define RELAY_ERROR_SIZE	512

typedef enum RelayActivity
{
	RELAY_STOPPED,
	RELAY_RUNNING,
	RELAY_IDLE,
	RELAY_BACKING_OFF
} RelayActivity;

/* A worker of a relay that should run or did, for as long as its row says so. */
typedef struct RelaySlot
{
	/* Under the lock of RelayShared. */
	Oid			dboid;			/* InvalidOid: free */
	NameData	name;
	int			number;			/* of the relay's workers, from 0 */
	uint64		config;			/* fingerprint of what it was started with */
	Oid			owner;
	uint32		generation;		/* differs for each start */
	bool		starting;		/* asked for, not attached yet */
	bool		stop;			/* told to end */
	pid_t		pid;			/* 0: no worker */
	int			failures;		/* ends in succession nobody asked for */
	TimestampTz started_at;		/* when last asked for, or attached */
	TimestampTz restart_at;
	bool		trouble;		/* last_error is why nothing goes on, or was */
	TimestampTz last_error_at;	/* 0: none */
	char		last_error[RELAY_ERROR_SIZE];

	/* Written by the worker alone. */
	pg_atomic_uint32 activity;	/* RelayActivity */
	pg_atomic_uint32 in_flight; /* published and not confirmed */
	pg_atomic_uint64 published;
	pg_atomic_uint64 failed;	/* refusals for the message's own sake */
	pg_atomic_uint64 dropped;	/* by the transform */
	pg_atomic_uint64 oldest;	/* enqueued_at of the oldest in hand, or 0 */
} RelaySlot;

typedef struct RelayShared
{
	LWLock		lock;
	RelaySlot	slots[FLEXIBLE_ARRAY_MEMBER];
} RelayShared;

extern RelayShared *relay_shared;

/* The first two: under the lock of RelayShared. */
extern RelaySlot *relay_slot_find(Oid dboid, const char *name, int number);
extern int	relay_slots_of(Oid owner, Oid except_dboid);
extern int	relay_role_limit(void);

/* What a worker is called in lists of processes. */
extern void relay_worker_name(const char *relay, int number, char *out, Size size);

extern RelaySlot *relay_attach(int slotno);
extern void relay_set_failing(bool value);

/* End this worker, as its relay is not what it was started for: nothing went wrong. */
pg_noreturn extern void relay_leave(void);

/*
 * Note an error.  Trouble keeps the relay from its work, until it is cleared;
 * other errors are of a message and stay for who wants to know.
 */
extern void relay_report_error(RelaySlot *slot, const char *text, bool trouble);
extern void relay_clear_trouble(RelaySlot *slot);

#endif							/* QUEUE_RELAY_SUPERVISION_H */
