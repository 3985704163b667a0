/*
 * sink.h
 *		What a relay and a sink know of each other.
 *
 * A sink carries messages to one kind of broker.  It is a library of its own,
 * queue_<kind>.so, loaded by the one worker that needs it; its function
 * queue_sink() returns the table of callbacks below.  It calls back through
 * pointers only, so it links nothing of queue.so.
 *
 * What happens in which order
 *
 *	open()		connects.
 *	encode()	is called for each message that may go, and appends what is to
 *				be published of it to a buffer.  The relay sees to it that it
 *				is not too large, and puts encoded messages together to a call:
 *				no more items and bytes than the sink takes in one.
 *	publish()	takes a call.  Its items are in flight until there is a verdict
 *				on each of them.
 *	poll()		moves things on, and reports verdicts; again and again, as soon
 *				as what wait() named has happened, and now and then besides.
 *	close()		hangs up.  Items in flight are the relay's again, which
 *				publishes them anew: a sink tries nothing a second time.
 *
 * What the sink says of itself, as the result of publish() and poll()
 *
 *	SINK_READY		another call may come.
 *	SINK_FULL		none may come until poll() says SINK_READY.
 *	SINK_BLOCKED	the same, and the other side has told it to wait: there is
 *					no limit to the time until a verdict meanwhile.
 *	SINK_LOST		the connection is of no more use, and what was in flight
 *					may have to do with it.
 *	SINK_STUCK		the same, and nothing speaks against what was in flight but that
 *					there was no answer in time, or a request to come later: it
 *					counts against an item if others get through.
 *	SINK_ENDED		the same as SINK_LOST, for reasons that have nothing to do with that.
 *	SINK_BLAMED		the same as SINK_LOST, and by what the other side says one of the items
 *					in flight is to blame.
 *
 * With the last four the reason is in error, and close() is what comes next.
 * Which item broke a connection, and what follows for it, the relay finds out:
 * it publishes fewer, and those it suspects alone.
 *
 * Rules
 *
 *	Waiting: only open() may wait, only by the process's latch, checking for
 *	interrupts, and for some seconds at most.  close() may wait for threads of
 *	its own to end, not for the other side.  publish(), poll() and wait() send
 *	and read what goes at once.  (A disk of this machine is no other side, and
 *	sql's work is done in poll().)
 *
 *	Memory: open() runs in the connection's context, which lives until after
 *	close(); encode(), publish(), poll() and wait() run in one that is reset
 *	when they return, and put what is to stay in Sink.context.  Items, their
 *	messages and the config are the relay's: an item is gone with its verdict,
 *	what encode() made with the return of publish().  A sink that needs it
 *	longer makes a copy.
 *
 *	Errors: PostgreSQL's errors must not be raised where a library's function
 *	is on the stack: a callback of a library notes what it was told, and the
 *	sink acts on that when it is back.  verdict() and complain() can raise
 *	errors too.  An error in encode() is a refusal of the message; one
 *	anywhere else ends the worker, which is started again.  close() raises none.
 *
 *	Threads: those of a library have all signals blocked, call nothing of
 *	PostgreSQL and nothing of the relay's, and see no item, message or config:
 *	only copies that malloc() made.  What they have to tell they leave in a
 *	queue of the library's, and make a descriptor readable that wait() names.
 *	When close() has returned, none of them uses what was ours.
 */
#ifndef QUEUE_RELAY_SINK_H
#define QUEUE_RELAY_SINK_H

#include "datatype/timestamp.h"
#include "lib/stringinfo.h"
#include "message.h"
#include "port.h"
#include "storage/latch.h"

#define SINK_MAGIC		0x51534e4b
#define SINK_VERSION	4

#define SINK_ERROR_SIZE 512

/* Longest message any sink takes, every buffer made of it being below 1 GB. */
#define SINK_MAX_MESSAGE (128 * 1024 * 1024)

/* Bytes of a call at most, if the sink names no limit. */
#define SINK_CALL_BYTES (16 * 1024 * 1024)

typedef struct SinkItem
{
	const struct Message *message;
	int			failures;		/* how often this worker had it refused */
	const char *data;			/* what encode() appended, in publish() only */
	Size		size;			/* of that */
	uint64		tag;			/* the sink's own */
} SinkItem;

typedef enum SinkVerdict
{
	SINK_CONFIRMED,				/* it is the broker's now: delete it */
	SINK_SETTLED,				/* the sink has deleted it as well */
	SINK_REFUSED,				/* for the message's own sake */
	SINK_UNTRIED				/* publish it again, nothing counted */
} SinkVerdict;

typedef enum SinkState
{
	SINK_READY,
	SINK_FULL,
	SINK_BLOCKED,
	SINK_LOST,
	SINK_STUCK,
	SINK_ENDED,
	SINK_BLAMED
} SinkState;

/* What holds for items in flight together. */
typedef enum SinkOrder
{
	/*
	 * Each is accepted or refused for itself: the relay has no two of one key
	 * in flight, unless option strict_order is off.
	 */
	SINK_ORDER_NONE,

	/*
	 * Those of one key are accepted in the order they were published in, and
	 * none behind one that was refused: these are SINK_UNTRIED.
	 */
	SINK_ORDER_KEY,

	/*
	 * A call is accepted or refused as one, and there is one in flight at a
	 * time: the sink is SINK_FULL then.
	 */
	SINK_ORDER_AS_ONE
} SinkOrder;

/* Workers a relay may have. */
#define SINK_MAX_WORKERS	16

/* The options of every relay: the first member of each struct of options. */
typedef struct SinkOptions
{
	int			batch;
	int			max_attempts;	/* 0: the queue's */
	int64		confirm_timeout;	/* microseconds */
	bool		strict_order;	/* for SINK_ORDER_NONE */
	int			workers;
	Oid			transform;		/* a function; InvalidOid: none */
	bool		password_required;	/* of a user mapping that has this option */
} SinkOptions;

typedef struct SinkConfig
{
	const char *relay;
	const char *queue;
	const char *source;			/* names the queue for good, everywhere */
	Oid			owner;			/* of the relay */
	int			worker;			/* which of the relay's, from 0 */
	bool		trusted;		/* the owner is a superuser, or one has said
								 * that no password is required */
	int			window;			/* messages unconfirmed at most */
	const void *options;		/* of the server, the mapping and the relay: a
								 * struct of sinks/options */

	/*
	 * Report what became of an item in flight; or of several that were
	 * accepted or refused as one, in the order they were published in.  When
	 * several were refused the relay publishes each of them alone, to see
	 * which it was.  The text, of SINK_REFUSED only, is in the database's
	 * encoding, or is made so.
	 */
	void		(*verdict) (SinkItem **items, int n, SinkVerdict verdict, const char *text);

	/* Show a trouble that is no reason to hang up. */
	void		(*complain) (const char *text);
} SinkConfig;

/* The first member of a sink's own structure; open() fills it in. */
typedef struct Sink
{
	const SinkConfig *config;

	/* What it takes: 0 for any number of items, or for the limits above. */
	int			call_items;		/* of one call */
	Size		call_bytes;		/* of one call, unless it is of a single item */
	Size		item_bytes;		/* of one item */

	MemoryContext context;		/* the connection's; the relay sets it */
} Sink;

/* What a sink waits for. */
typedef struct SinkSocket
{
	pgsocket	socket;
	int			events;			/* WL_SOCKET_... */
} SinkSocket;

typedef struct SinkWait
{
	TimestampTz until;			/* a time, DT_NOEND as it comes */
	int			nsockets;
	int			max_sockets;
	SinkSocket *sockets;
} SinkWait;

typedef struct SinkRoutine
{
	uint32		magic;
	uint32		version;

	/* Publishes within this database: no need to flush WAL before. */
	bool		local;

	SinkOrder	order;

	/*
	 * Connect.  NULL when that fails, with the reason in error, which has
	 * SINK_ERROR_SIZE bytes, as everywhere, and holds no secrets.  The config
	 * outlives the sink.
	 */
	Sink	   *(*open) (const SinkConfig *config, char *error);

	/*
	 * Append to out what is to be published of a message, and nothing else of
	 * out is to be touched.  False, with the reason, if that cannot be.  It
	 * changes nothing of the sink: the message may not come to be published.
	 * NULL: publish() needs nothing of it.
	 */
	bool		(*encode) (Sink *sink, const SinkItem *item, StringInfo out, char *error);

	/*
	 * Take a call of one item or more.  The array is the relay's; what was
	 * encoded of the items lies one behind the other, in their order.
	 */
	SinkState	(*publish) (Sink *sink, SinkItem **items, int n, char *error);

	/*
	 * Move things on without waiting: send what was taken, read what came,
	 * report verdicts.
	 */
	SinkState	(*poll) (Sink *sink, char *error);

	/*
	 * Say what to wait for before poll() is worth calling again: sockets and
	 * other descriptors, each by one sink_wait_for(), any number of them and
	 * others each time; and a time in until, DT_NOBEGIN for at once.  Which
	 * of them it was poll() is not told.
	 */
	void		(*wait) (Sink *sink, SinkWait *wait);

	/* Hang up and free what is not memory of the connection's context. */
	void		(*close) (Sink *sink);
} SinkRoutine;

typedef const SinkRoutine *(*SinkInit) (void);

/* The sink in the core. */
extern const SinkRoutine sql_sink;

/* For wait(): wait for events of a socket too. */
static inline void
sink_wait_for(SinkWait *wait, pgsocket socket, int events)
{
	if (wait->nsockets >= wait->max_sockets)
	{
		wait->max_sockets *= 2;
		wait->sockets = repalloc(wait->sockets, wait->max_sockets * sizeof(SinkSocket));
	}
	wait->sockets[wait->nsockets].socket = socket;
	wait->sockets[wait->nsockets++].events = events;
}

/* The reason for which encode() or the relay refuses a message; false. */
static inline bool
sink_too_large(char *error)
{
	strlcpy(error, "message is too large for a relay", SINK_ERROR_SIZE);
	return false;
}

#endif							/* QUEUE_RELAY_SINK_H */
