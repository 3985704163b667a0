/*
 * relay.h
 *		Relays: worker processes that publish a queue's messages.
 */
#ifndef QUEUE_RELAY_RELAY_H
#define QUEUE_RELAY_RELAY_H

#include "engine/registry.h"
#include "nodes/pg_list.h"

extern Size relay_shmem_size(void);
extern void relay_shmem_init(void);

extern PGDLLEXPORT void queue_relay_main(Datum arg);

/*
 * Called by the maintenance worker outside a transaction, at each of its
 * rounds: start and stop relay workers as queue.relay_definition says.
 * Returns when it wants to be called again (a restart is due), DT_NOEND if it
 * does not mind.
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

/* Options' defaults, the latter in seconds. */
#define RELAY_BATCH			500
#define RELAY_CONFIRM_TIMEOUT 60

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
	bool		trouble;		/* last_error is why nothing goes on, or was */
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

/* The sinks there are. */
typedef enum RelayKind
{
	RELAY_SQL = 1 << 0,
	RELAY_POSTGRES = 1 << 1,
	RELAY_AMQP = 1 << 2
} RelayKind;

/* A row of queue.relay_definition, and what it refers to. */
typedef struct RelayConfig
{
	char	   *name;
	Oid			anchor;			/* a type; see relay_anchor.c */
	Oid			queue;
	Oid			server;			/* InvalidOid: none */
	Oid			procedure;		/* InvalidOid: none */
	Datum		given;			/* options as they are in the row, jsonb */
	List	   *options;		/* of DefElem, string values */
	Oid			owner;
	bool		superuser;		/* the owner is one */
	bool		paused;
	uint64		fingerprint;
	const char *problem;		/* why it cannot run; NULL if it can */

	bool		depends_on_queue;

	/* What the row has of names, for a dump or pg_upgrade to carry on. */
	char	   *server_name;
	char	   *procedure_name;
} RelayConfig;

/* Columns of queue.relay_definition. */
enum
{
	Anum_relay_name = 1,
	Anum_relay_anchor,
	Anum_relay_queue,
	Anum_relay_server,
	Anum_relay_procedure,
	Anum_relay_options,
	Anum_relay_paused,
	Natts_relay = Anum_relay_paused
};

/* relay_slot.c */
extern RelaySlot *relay_slot_find(Oid dboid, const char *name);
extern int	relay_slots_of(Oid owner, Oid except_dboid);
extern int	relay_role_limit(void);
extern RelaySlot *relay_attach(int slotno);
extern void relay_set_failing(bool value);

/*
 * Note an error.  Trouble keeps the relay from its work, until it is cleared;
 * other errors are of a message and stay for who wants to know.
 */
extern void relay_report_error(RelaySlot *slot, const char *text, bool trouble);
extern void relay_clear_trouble(RelaySlot *slot);
extern void relay_wake_at_commit(void);

/* relay_option.c: all need a transaction */
extern List *relay_config_list(void);
extern RelayConfig *relay_config_find(const char *name);
extern List *relay_options_parse(Datum jsonb);
extern void relay_options_check(RelayKind kind, List *options);
extern void relay_options_check_enough(RelayKind kind, List *options);
extern const char *relay_kind_name(RelayKind kind);
extern bool relay_kind_of_server(Oid fdwid, RelayKind *kind);

/* An option that is a time, in microseconds; -1 if it is none. */
extern int64 relay_option_time(const char *value);

/*
 * Read the options of a relay's server and user mapping.  Returns a hash of
 * them; or 0, with the reason in error, if the server is of no use.
 */
extern uint64 relay_server_options(const RelayConfig *relay, List **server_options,
								   List **mapping_options, RelayKind *kind, char *error);
extern const struct SinkRoutine *relay_sink(RelayKind kind);

/* The procedure of a name as a user gives it, in his search_path. */
extern Oid	relay_procedure_find(const char *name);

/* Raises an error unless a relay of this owner may call it. */
extern void relay_procedure_check(Oid procedure, Oid owner, bool *batch);

/* relay_anchor.c: see there */
extern Oid	relay_anchor_create(const char *name, Oid owner, const RelayConfig *relay);
extern void relay_anchor_drop(Oid anchor);
extern void relay_anchor_depend(Oid anchor, Oid classid, Oid was, Oid is);
extern void relay_anchor_read(RelayConfig *relay);
extern bool relay_anchors_follow(void);

/* For the object access hook: a type is being dropped; something was altered. */
extern void relay_anchor_dropped(Oid type);
extern void relay_object_altered(Oid classid);

/* relay_session.c: what a worker's session is like. */
extern void relay_session_begin(const RelayConfig *relay);
extern void relay_session_reset(void);

#endif							/* QUEUE_RELAY_RELAY_H */
