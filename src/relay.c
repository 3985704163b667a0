/*
 * relay.c
 *		A relay's worker: publish the messages of a queue through a sink.
 *
 * A message in hand is leased to this process, and is on one of four lists:
 *
 *		             publish()            SINK_CONFIRMED
 *		PENDING ------------------> SENT ----------------> DONE --> deleted
 *		   ^  ^                      | |
 *		   |  +---- SINK_UNTRIED, ---+ |  SINK_REFUSED
 *		   |        connection lost    |
 *		   +---------------------------+------------------> FAILED --> deferred
 *		      with a key, to be tried      without a key,              or dead
 *		      again after the back-off     or for the last time        letters
 *
 * (SINK_SETTLED takes it off at once: the sink has deleted it.)  PENDING is
 * kept in the order of claiming and passed through in that order; a message
 * that cannot go now holds back those of its key behind it and nobody else.
 * So a key's messages leave in order, whatever was refused or lost between.
 * What a sink has in flight when one of the same key is refused cannot be
 * called back; with strict_order a key has only one message in flight.
 *
 * A refused message with a key stays in hand, for its followers have to wait
 * for it and must not overtake it should this process end.  One without a key
 * goes to the deferred messages like anyone's failed message.
 *
 * The connection is either open or waited for: no claims then, and all in
 * hand stays there.  A lost connection is never an attempt.
 *
 * No transaction is open but in claim(), settle() and the sink for this very
 * database.  The process ends by SIGTERM or by an error, and gives its leases
 * back then; a changed relay or server means a new process or connection.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_database.h"
#include "catalog/pg_foreign_server.h"
#include "claim.h"
#include "common/hashfn.h"
#include "foreign/foreign.h"
#include "fmgr.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "relay.h"
#include "settle.h"
#include "sinks/sink.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "wake.h"
#include "compat.h"

/* Attempts to connect are apart from this to that. */
#define CONNECT_FIRST	(500 * USECS_PER_MSEC)
#define CONNECT_LAST	(30 * USECS_PER_SEC)

/* Confirmed messages wait for company before they are deleted. */
#define SETTLE_WITHIN	(20 * USECS_PER_MSEC)

/* In hand at most: so many windows, and so many bytes. */
#define HAND_WINDOWS	4
#define HAND_BYTES		(64 * 1024 * 1024)

/* Without free leases, claim again after this. */
#define CLAIM_AGAIN		(1 * USECS_PER_SEC)

/* Messages claimed together share their memory. */
typedef struct Batch
{
	MemoryContext context;
	int			nitems;			/* still in hand */
} Batch;

/*
 * A key some messages in hand have, by its hash.  Two keys of the same hash
 * wait for each other, which does no harm.
 */
typedef struct Key
{
	uint64		hash;
	int			nitems;
	int			nsent;
	uint64		held_back;		/* in this pass */
} Key;

typedef struct Item
{
	SinkItem	base;
	dlist_node	node;
	uint64		number;			/* in the order of claiming */
	Batch	   *batch;
	Key		   *key;			/* NULL: none */
	Size		bytes;
	TimestampTz retry_at;		/* 0: now */
	char	   *error;			/* of the last refusal, malloc'ed by the batch */
} Item;

static RelaySlot *slot;
static RelayConfig *relay;
static SinkConfig sink_config;
static const SinkRoutine *routine;
static Sink *sink;				/* NULL: not connected */

static dlist_head pending = DLIST_STATIC_INIT(pending);
static dlist_head sent = DLIST_STATIC_INIT(sent);
static dlist_head done = DLIST_STATIC_INIT(done);
static dlist_head failed = DLIST_STATIC_INIT(failed);
static int	nhand;
static int	nsent;
static int	ndone;
static Size hand_bytes;
static HTAB *keys;
static uint64 last_number;
static uint64 pass;

/* What the relay and its queue are set to. */
static bool strict_order;
static int	max_attempts;
static int64 backoff;
static int64 backoff_max;

static int	claim_size;			/* what the next claim asks for */
static TimestampTz claim_at;	/* none before this */
static int	connect_failures;
static TimestampTz connect_at;
static TimestampTz settle_at;	/* the first of done has waited then */
static bool moved;				/* something happened: look again at once */
static volatile bool server_changed;

/* Put an item where its number belongs in pending. */
static void
put_back(Item *item)
{
	dlist_iter	iter;

	dlist_foreach(iter, &pending)
	{
		if (dlist_container(Item, node, iter.cur)->number > item->number)
		{
			dlist_insert_before(iter.cur, &item->node);
			return;
		}
	}
	dlist_push_tail(&pending, &item->node);
}

/* Forget an item that is settled and on no list. */
static void
drop_item(Item *item)
{
	Batch	   *batch = item->batch;

	if (item->key && --item->key->nitems == 0)
		hash_search(keys, &item->key->hash, HASH_REMOVE, NULL);
	nhand--;
	hand_bytes -= item->bytes;
	if (--batch->nitems == 0)
		MemoryContextDelete(batch->context);
}

/* Take an item off the list of those in flight. */
static void
unsend(Item *item)
{
	dlist_delete(&item->node);
	nsent--;
	if (item->key)
		item->key->nsent--;
}

/* Count a refusal and decide what is next for the message. */
static void
refused(Item *item, const char *text)
{
	int			attempts = item->base.message->attempts + item->base.failures;

	pg_atomic_fetch_add_u64(&slot->failed, 1);
	relay_report_error(slot, text);

	item->error = MemoryContextStrdup(item->batch->context, text);
	if (item->key == NULL || attempts >= max_attempts)
	{
		dlist_push_tail(&failed, &item->node);
		return;
	}
	item->retry_at = GetCurrentTimestamp() +
		Min(backoff_max, backoff << Min(item->base.failures, 20));
	item->base.failures++;
	put_back(item);
}

/* A sink says what became of an item. */
static void
sink_verdict(SinkItem *base, SinkVerdict verdict, const char *text)
{
	Item	   *item = (Item *) base;

	moved = true;
	unsend(item);
	if (verdict == SINK_CONFIRMED || verdict == SINK_SETTLED)
		connect_failures = 0;

	/* This pass may yet come to others of its key. */
	if (item->key && (verdict == SINK_REFUSED || verdict == SINK_UNTRIED))
		item->key->held_back = pass;

	switch (verdict)
	{
		case SINK_CONFIRMED:
			if (ndone++ == 0)
				settle_at = GetCurrentTimestamp() + SETTLE_WITHIN;
			dlist_push_tail(&done, &item->node);
			break;
		case SINK_SETTLED:
			pg_atomic_fetch_add_u64(&slot->published, 1);
			drop_item(item);
			break;
		case SINK_REFUSED:
			refused(item, text);
			break;
		case SINK_UNTRIED:
			put_back(item);
			break;
	}
}

/* Hang up; what was in flight is pending again, in its order. */
static void
disconnect(void)
{
	if (sink)
		routine->close(sink);
	sink = NULL;
	while (!dlist_is_empty(&sent))
	{
		/* From the last to the first: each finds its place at the head. */
		Item	   *item = dlist_tail_element(Item, node, &sent);

		unsend(item);
		put_back(item);
	}
}

/* The broker cannot be reached or not be used: try again later. */
static void
back_off(const char *error)
{
	disconnect();
	connect_failures++;
	connect_at = GetCurrentTimestamp() +
		relay_backoff(connect_failures, CONNECT_FIRST, CONNECT_LAST);

	/* In the log once, not at each attempt. */
	if (strcmp(slot->last_error, error) != 0 || connect_failures == 1)
		ereport(LOG, (errmsg("relay \"%s\" cannot publish: %s", relay->name, error)));
	relay_report_error(slot, error);
}

/* Read the server's options; false, with the reason, if it is of no use. */
static bool
read_server(char *error)
{
	ForeignServer *server = GetForeignServerByName(relay->server, true);
	RelayKind	kind;

	if (server == NULL)
		snprintf(error, SINK_ERROR_SIZE, "server \"%s\" does not exist", relay->server);
	else if (!relay_kind_of_server(server->fdwid, &kind))
		snprintf(error, SINK_ERROR_SIZE, "server \"%s\" is not one a relay can publish to", relay->server);
#if PG_VERSION_NUM >= 160000
	else if (object_aclcheck(ForeignServerRelationId, server->serverid, relay->owner, ACL_USAGE) != ACLCHECK_OK)
#else
	else if (pg_foreign_server_aclcheck(server->serverid, relay->owner, ACL_USAGE) != ACLCHECK_OK)
#endif
		snprintf(error, SINK_ERROR_SIZE, "permission denied for server \"%s\"", relay->server);
	else
	{
		bool		mapped = SearchSysCacheExists2(USERMAPPINGUSERSERVER,
												   ObjectIdGetDatum(relay->owner),
												   ObjectIdGetDatum(server->serverid)) ||
			SearchSysCacheExists2(USERMAPPINGUSERSERVER,
								  ObjectIdGetDatum(InvalidOid),
								  ObjectIdGetDatum(server->serverid));

		sink_config.server = server->options;
		sink_config.mapping = mapped ?
			GetUserMapping(relay->owner, server->serverid)->options : NIL;
		if (routine == NULL)
		{
			char	   *library = psprintf("$libdir/queue_%s", relay_kind_name(kind));
			SinkInit	init = (SinkInit) load_external_function(library, "queue_sink", true, NULL);

			routine = init();
			if (routine->magic != SINK_MAGIC || routine->version != SINK_VERSION)
				ereport(ERROR,
						(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						 errmsg("library \"%s\" is not of this version of queue", library)));
		}
		return true;
	}
	return false;
}

/* Try to connect. */
static void
connect(MemoryContext context)
{
	char		error[SINK_ERROR_SIZE] = "";
	bool		ok = true;

	pg_atomic_write_u32(&slot->activity, RELAY_BACKING_OFF);
	MemoryContextReset(context);
	server_changed = false;
	if (relay->server)
	{
		StartTransactionCommand();
		MemoryContextSwitchTo(context);
		ok = read_server(error);
		CommitTransactionCommand();
	}
	else
		routine = &sql_sink;

	MemoryContextSwitchTo(context);
	if (ok)
		sink = routine->open(&sink_config, error);
	MemoryContextSwitchTo(TopMemoryContext);
	if (sink == NULL)
		back_off(error);
	moved = true;
}

/*
 * Publish what is pending and may go now.  Returns whether that was all, as
 * opposed to the sink having no room; sets the time of the next retry.
 */
static bool
publish(TimestampTz *next_retry)
{
	TimestampTz now = GetCurrentTimestamp();
	dlist_mutable_iter iter;

	pass++;
	*next_retry = DT_NOEND;
	dlist_foreach_modify(iter, &pending)
	{
		Item	   *item = dlist_container(Item, node, iter.cur);
		Key		   *key = item->key;

		if (key && (key->held_back == pass || (strict_order && key->nsent > 0)))
		{
			key->held_back = pass;
			continue;
		}
		if (item->retry_at > now)
		{
			key->held_back = pass;
			*next_retry = Min(*next_retry, item->retry_at);
			continue;
		}

		/* Move it before: publish() may know its fate at once. */
		dlist_delete(&item->node);
		dlist_push_tail(&sent, &item->node);
		nsent++;
		if (key)
			key->nsent++;
		if (!routine->publish(sink, &item->base))
		{
			unsend(item);
			put_back(item);
			return false;
		}
		moved = true;
	}
	return true;
}

/* In one transaction, delete what is confirmed and let go of what failed. */
static void
settle(void)
{
	dlist_iter	iter;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	dlist_foreach(iter, &done)
		settle_ack(dlist_container(Item, node, iter.cur)->base.message->receipt);
	dlist_foreach(iter, &failed)
	{
		Item	   *item = dlist_container(Item, node, iter.cur);

		settle_fail(item->base.message->receipt, -1, item->error,
					max_attempts);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(TopMemoryContext);
	pgstat_report_stat(false);

	pg_atomic_fetch_add_u64(&slot->published, ndone);
	ndone = 0;
	while (!dlist_is_empty(&done))
		drop_item(dlist_container(Item, node, dlist_pop_head_node(&done)));
	while (!dlist_is_empty(&failed))
		drop_item(dlist_container(Item, node, dlist_pop_head_node(&failed)));
	moved = true;
}

/* Add a message to what is in hand. */
static void
take(Batch *batch, const Message *message)
{
	Item	   *item = MemoryContextAllocZero(batch->context, sizeof(Item));

	item->base.message = message;
	item->number = ++last_number;
	item->batch = batch;
	item->bytes = sizeof(Item) + sizeof(Message) +
		(message->key ? VARSIZE_ANY(message->key) : 0) +
		(message->headers ? VARSIZE_ANY(message->headers) : 0) +
		(message->payload ? VARSIZE_ANY(message->payload) : 0) +
		(message->body ? VARSIZE_ANY(message->body) : 0);
	if (message->key)
	{
		uint64		hash = hash_bytes_extended((unsigned char *) VARDATA_ANY(message->key),
											   VARSIZE_ANY_EXHDR(message->key), 0);
		bool		found;

		item->key = hash_search(keys, &hash, HASH_ENTER, &found);
		if (!found)
		{
			item->key->nitems = item->key->nsent = 0;
			item->key->held_back = 0;
		}
		item->key->nitems++;
	}
	batch->nitems++;
	nhand++;
	hand_bytes += item->bytes;
	dlist_push_tail(&pending, &item->node);
}

/*
 * Have the next claim ask for as many messages as there is room for, by what
 * these weighed.  What the first ones will weigh nobody knows, so it starts
 * low and doubles.
 */
static void
size_next_claim(int n, Size bytes)
{
	Size		fitting = HAND_BYTES / 2 / Max(bytes / n, 1);

	if (n == claim_size)
		claim_size *= 2;
	claim_size = Min(claim_size, sink_config.window);
	claim_size = Max(Min(claim_size, fitting), 1);
}

/*
 * The WAL of these messages' transactions is to be on disk before anybody
 * else learns of them: a crash could take an asynchronous commit back.
 */
static void
flush_commits(const Message *messages, int n)
{
	TransactionId last = InvalidTransactionId;
	XLogRecPtr	upto = InvalidXLogRecPtr;

	for (int i = 0; i < n; i++)
	{
		TransactionId xid = messages[i].xmin;

		if (xid == last || !TransactionIdIsNormal(xid))
			continue;
		last = xid;
		upto = Max(upto, TransactionIdGetCommitLSN(xid));
	}
	if (!XLogRecPtrIsInvalid(upto))
		XLogFlush(upto);
}

/*
 * Claim messages.  Returns false if there are none; the queue is then waited
 * for.  The process ends if the queue is no more.
 */
static bool
claim(int max, QueueShared **shared)
{
	Batch	   *batch;
	MemoryContext context;
	Message    *messages;
	Size		before = hand_bytes;
	volatile int n = 0;
	Queue	   *queue;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	queue = queue_by_relid(relay->queue);
	if (queue == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the queue of relay \"%s\" does not exist any more", relay->name)));
	queue_check_rights(queue->relid, NameStr(queue->name), ACL_SELECT | ACL_DELETE);
	*shared = queue->shared;
	backoff = queue->backoff;
	backoff_max = queue->backoff_max;
	max_attempts = atoi(sink_option(relay->options, "max_attempts", "0"));
	if (max_attempts == 0)
		max_attempts = queue->max_attempts;

	context = AllocSetContextCreate(TopMemoryContext, "queue relay batch", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	n = claim_messages(queue, LEASE_PROCESS, DT_NOEND, max, &messages);

	PopActiveSnapshot();
	CommitTransactionCommand();

	/* Ours from here on, to be given back at the process's end. */
	batch = MemoryContextAlloc(context, sizeof(Batch));
	batch->context = context;
	batch->nitems = 0;
	for (int i = 0; i < n; i++)
		take(batch, &messages[i]);
	MemoryContextSwitchTo(TopMemoryContext);

	if (n == 0)
	{
		MemoryContextDelete(context);
		return false;
	}
	size_next_claim(n, hand_bytes - before);
	if (!routine->local)
		flush_commits(messages, n);
	moved = true;
	return true;
}
