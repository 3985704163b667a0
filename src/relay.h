/*
 * relay.h
 *		Relays: worker processes that publish a queue's messages.
 */
#ifndef QUEUE_RELAY_H
#define QUEUE_RELAY_H

#include "catalog.h"
#include "nodes/pg_list.h"

extern Size relay_shmem_size(void);
extern void relay_shmem_init(bool found);

extern PGDLLEXPORT void queue_relay_main(Datum arg);

/*
 * Called by the maintenance worker outside a transaction, at each of its
 * rounds: start and stop relay workers as queue.relay says.  Returns when it
 * wants to be called again (a restart is due), DT_NOEND if it does not mind.
 */
extern TimestampTz relay_supervise(void);

/* Terminate all relay workers of a database; does not wait. */
extern void relay_stop_database(Oid dboid);

/* Whether any relay worker of a database is still attached. */
extern bool relay_running(Oid dboid);

/*
 * The rest is between the relay's own files.
 */

#define RELAY_ERROR_SIZE	512
#define RELAY_BATCH			500 /* the option's default */

typedef enum RelayActivity
{
	RELAY_STOPPED,
	RELAY_RUNNING,
	RELAY_IDLE,
	RELAY_BACKING_OFF
} RelayActivity;

/* One relay that should run or did, for as long as its row exists. */
typedef struct RelaySlot
{
	/* Under the lock of RelayShared. */
	Oid			dboid;			/* InvalidOid: free */
	NameData	name;
	uint64		config;			/* fingerprint of what it was started with */
	Oid			owner;
	uint32		generation;		/* differs for each start */
	bool		starting;		/* asked for, not attached yet */
	bool		stop;			/* told to end */
	pid_t		pid;			/* 0: no worker */
	int			failures;		/* ends in succession nobody asked for */
	TimestampTz started_at;		/* when last asked for, or attached */
	TimestampTz restart_at;
	TimestampTz last_error_at;	/* 0: none */
	char		last_error[RELAY_ERROR_SIZE];

	/* Written by the worker alone. */
	pg_atomic_uint32 activity;	/* RelayActivity */
	pg_atomic_uint32 in_flight; /* published and not confirmed */
	pg_atomic_uint64 published;
	pg_atomic_uint64 failed;	/* refusals for the message's own sake */
	pg_atomic_uint64 oldest;	/* enqueued_at of the oldest in hand, or 0 */
} RelaySlot;

typedef struct RelayShared
{
	LWLock		lock;
	RelaySlot	slots[FLEXIBLE_ARRAY_MEMBER];
} RelayShared;

extern RelayShared *relay_shared;

/* relay_slot.c */
extern RelaySlot *relay_slot_find(Oid dboid, const char *name);
extern RelaySlot *relay_attach(int slotno);
extern void relay_set_failing(bool value);
extern void relay_report_error(RelaySlot *slot, const char *text);
extern void relay_wake_at_commit(void);
extern int64 relay_backoff(int failures, int64 first, int64 last);

/* The sinks there are. */
typedef enum RelayKind
{
	RELAY_SQL = 1 << 0,
	RELAY_POSTGRES = 1 << 1,
	RELAY_AMQP = 1 << 2
} RelayKind;

/* A row of queue.relay. */
typedef struct RelayConfig
{
	char	   *name;
	Oid			queue;
	char	   *server;			/* NULL: none */
	List	   *options;		/* of DefElem, string values */
	Oid			owner;
	bool		paused;
	uint64		fingerprint;
} RelayConfig;

/* Columns of queue.relay. */
enum
{
	Anum_relay_name = 1,
	Anum_relay_queue,
	Anum_relay_server,
	Anum_relay_options,
	Anum_relay_owner,
	Anum_relay_paused,
	Natts_relay = Anum_relay_paused
};

/* relay_option.c: all need a transaction */
extern List *relay_config_list(void);
extern RelayConfig *relay_config_find(const char *name);
extern List *relay_options_parse(Datum jsonb);
extern void relay_options_check(RelayKind kind, List *options);
extern const char *relay_kind_name(RelayKind kind);
extern bool relay_kind_of_server(Oid fdwid, RelayKind *kind);
extern Oid	relay_procedure(const char *name, Oid owner, bool *batch);

#endif							/* QUEUE_RELAY_H */
