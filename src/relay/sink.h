/*
 * sink.h
 *		What a relay and a sink know of each other.
 *
 * A sink carries messages to one kind of broker.  It is a library of its own,
 * queue_<kind>.so, loaded by the one worker that needs it; its function
 * queue_sink() returns the table of callbacks below.  It calls back through
 * pointers only, so it links nothing of queue.so.
 *
 * A callback may wait in open() only, and only through the process's latch,
 * checking for interrupts.  No library frame may be on the stack where an
 * error can be raised, and no thread of a library may call PostgreSQL.
 */
#ifndef QUEUE_RELAY_SINK_H
#define QUEUE_RELAY_SINK_H

#include "commands/defrem.h"
#include "message.h"
#include "nodes/pg_list.h"

#define SINK_MAGIC		0x51534e4b
#define SINK_VERSION	2

#define SINK_ERROR_SIZE 512

/* Longest message a sink takes, every buffer made of it being below 1 GB. */
#define SINK_MAX_MESSAGE (128 * 1024 * 1024)

typedef struct SinkItem
{
	const Message *message;
	int			failures;		/* how often this worker had it refused */
	uint64		tag;			/* the sink's own */
} SinkItem;

typedef enum SinkVerdict
{
	SINK_CONFIRMED,				/* it is the broker's now: delete it */
	SINK_SETTLED,				/* the sink has deleted it as well */
	SINK_REFUSED,				/* for the message's own sake */
	SINK_UNTRIED,				/* publish it again, nothing counted */
	SINK_DOUBTED				/* one of several it was with was refused */
} SinkVerdict;

typedef struct SinkConfig
{
	const char *relay;
	const char *queue;
	const char *source;			/* names the queue for good, everywhere */
	Oid			owner;			/* of the relay */
	Oid			procedure;		/* of a relay without a server */
	bool		trusted;		/* the owner is a superuser */
	int			window;			/* messages unconfirmed at most */
	List	   *server;			/* options, lists of DefElem */
	List	   *mapping;
	List	   *options;

	/*
	 * Report what became of an item taken; the item is gone after that.  The
	 * text is in the database's encoding, or is made so.
	 */
	void		(*verdict) (SinkItem *item, SinkVerdict verdict, const char *text);

	/* Show a trouble that is no reason to hang up. */
	void		(*complain) (const char *text);

	/* Delete the message in the current transaction, for SINK_SETTLED. */
	bool		(*settle) (int64 receipt);
} SinkConfig;

/* The first member of a sink's own structure. */
typedef struct Sink
{
	const SinkConfig *config;
	bool		blocked;		/* the other side has told us to wait */
	bool		innocent;		/* whatever ends the connection, no message did */
} Sink;

typedef struct SinkRoutine
{
	uint32		magic;
	uint32		version;

	/* Publishes within this database: no need to flush WAL before. */
	bool		local;

	/*
	 * What is in flight is accepted or refused as one, so that messages of
	 * one key may be in flight together and still arrive in order.
	 */
	bool		as_one;

	/*
	 * Connect.  NULL when that fails, with the reason in error, which has
	 * SINK_ERROR_SIZE bytes and holds no secrets.  The config outlives it.
	 */
	Sink	   *(*open) (const SinkConfig *config, char *error);

	/* Take an item; false if there is no room for it now. */
	bool		(*publish) (Sink *sink, SinkItem *item);

	/*
	 * Move things on without waiting: send what was taken, read what came,
	 * report verdicts.  False when the connection is lost or the broker
	 * unable, with the reason in error; only close() may follow.
	 */
	bool		(*poll) (Sink *sink, char *error);

	/*
	 * What to wait for before poll() is worth calling again: a socket and
	 * WL_SOCKET_ events, or PGINVALID_SOCKET; and a time, or DT_NOEND.
	 */
	pgsocket	(*wait) (Sink *sink, int *events, TimestampTz *until);

	/* Hang up and free everything.  Raises nothing and waits for nothing. */
	void		(*close) (Sink *sink);
} SinkRoutine;

typedef const SinkRoutine *(*SinkInit) (void);

/* The sink in the core. */
extern const SinkRoutine sql_sink;

/* The value of an option, or what it is by default. */
static inline const char *
sink_option(List *options, const char *name, const char *by_default)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *option = (DefElem *) lfirst(cell);

		if (strcmp(option->defname, name) == 0)
			return defGetString(option);
	}
	return by_default;
}

#endif							/* QUEUE_RELAY_SINK_H */
