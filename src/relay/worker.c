/*
 * worker.c
 *		A relay's worker: publish the messages of a queue through a sink.
 *
 * A message in hand is leased to this process, and is on one of four lists:
 *
 *		             publish()            SINK_CONFIRMED
 *		PENDING ------------------> SENT ----------------> DONE --> deleted
 *		   ^  ^    SINK_UNTRIED,     | |
 *		   |  +--- SINK_DOUBTED, ----+ |  SINK_REFUSED
 *		   |        connection lost    |
 *		   +---------------------------+------------------> FAILED --> deferred
 *		      with a key, to be tried      without a key,              or dead
 *		      again after the back-off     or for the last time        letters
 *
 * (SINK_SETTLED takes it off at once: the sink has deleted it.)  PENDING is
 * kept in the order of claiming and passed through in that order; a message
 * that cannot go now holds back those of its key behind it and nobody else.
 * So a key's messages leave in order, whatever was refused or lost between.
 * What is in flight when one of the same key is refused cannot be called back;
 * so a key has one message in flight at most, unless the sink publishes all or
 * nothing of what is in flight, or the option strict_order is off.
 *
 * A refused message with a key stays in hand, for its followers have to wait
 * for it and must not overtake it should this process end.  One without a key
 * goes to the deferred messages like anyone's failed message.
 *
 * The connection is either open or waited for: no claims then, and all in
 * hand stays there.  A lost connection is no attempt, unless it is found to be
 * a message's doing (relay_suspicion.c).
 *
 * No transaction is open but in claim(), settle() and the sink for this very
 * database.  The process ends by SIGTERM or by an error, and gives its leases
 * back then; a changed relay or server means a new process or connection.
 */
#include "postgres.h"

#include <math.h>

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "common/hashfn.h"
#include "compat.h"
#include "engine/claim.h"
#include "engine/settle.h"
#include "engine/wake.h"
#include "guc.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "relay/item.h"
#include "relay/relay.h"
#include "sinks/text.h"
#include "stop_point.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/* Attempts to connect are apart from this to that. */
#define CONNECT_FIRST	(500 * INT64CONST(1000))
#define CONNECT_LAST	(30 * USECS_PER_SEC)

/* Confirmed messages wait for company before they are deleted. */
#define SETTLE_WITHIN	(20 * INT64CONST(1000))

/* In hand at most: so many windows, and so many bytes. */
#define HAND_WINDOWS	4
#define HAND_BYTES		(64 * 1024 * 1024)

/* The first claim, when nobody knows how large messages are. */
#define CLAIM_FIRST		4

/* Look at the queue that often for what wakes nobody. */
#define SLEEP_MAX		(1 * USECS_PER_SEC)

/* Without free leases, claim again after this. */
#define CLAIM_AGAIN		(1 * USECS_PER_SEC)

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
static QueueShared *queue_shared;
static bool strict_order;
static int	max_attempts;
static int64 backoff;
static int64 backoff_max;

static int	claim_size;			/* what the next claim asks for */
static TimestampTz claim_at;	/* none before this, after an error; else 0 */
static int	connect_failures;
static TimestampTz connect_at;
static TimestampTz connected_at;
static TimestampTz verdict_at;	/* of the latest, or since when one is due */
static int64 confirm_timeout;
static bool works;				/* something came of this connection */
static TimestampTz settle_at;	/* the first of done has waited then */
static bool moved;				/* something happened: look again at once */
static bool server_changed;		/* perhaps */
static uint64 server_hash;		/* of the options connected with */

/* Put an item where its number belongs in pending. */
static void
put_back(RelayItem *item)
{
	dlist_iter	iter;

	dlist_foreach(iter, &pending)
	{
		if (dlist_container(RelayItem, node, iter.cur)->number > item->number)
		{
			dlist_insert_before(iter.cur, &item->node);
			return;
		}
	}
	dlist_push_tail(&pending, &item->node);
}

/* Forget an item that is settled and on no list. */
static void
drop_item(RelayItem *item)
{
	Batch	   *batch = item->batch;

	if (item->key && --item->key->nitems == 0)
		hash_search(keys, &item->key->hash, HASH_REMOVE, NULL);
	nhand--;
	claim_at = 0;				/* its lease is free */
	hand_bytes -= item->bytes;
	if (--batch->nitems == 0)
		MemoryContextDelete(batch->context);
}

/* Take an item off the list of those in flight. */
static void
unsend(RelayItem *item)
{
	dlist_delete(&item->node);
	nsent--;
	if (item->key)
		item->key->nsent--;
}

/*
 * Count a refusal and decide what is next for the message.  One that breaks
 * connections stays in hand, where it is known for that.
 */
static void
refused(RelayItem *item, const char *text, bool keep)
{
	int			attempts = item->base.message->attempts + item->base.failures;
	char		clean[SINK_ERROR_SIZE];
	double		wait;

	text_clean(clean, sizeof(clean), text, strlen(text), GetDatabaseEncoding());
	pg_atomic_fetch_add_u64(&slot->failed, 1);
	relay_report_error(slot, clean, false);

	item->error = MemoryContextStrdup(item->batch->context, clean);
	if ((item->key == NULL && !keep) || attempts >= max_attempts)
	{
		dlist_push_tail(&failed, &item->node);
		return;
	}
	wait = ldexp(backoff, attempts - 1);
	item->retry_at = GetCurrentTimestamp() + (int64) Min((double) backoff_max, wait);
	item->base.failures++;
	put_back(item);
}

/* A sink says what became of an item. */
static void
sink_verdict(SinkItem *base, SinkVerdict verdict, const char *text)
{
	RelayItem	   *item = (RelayItem *) base;

	moved = true;
	unsend(item);
	verdict_at = GetCurrentTimestamp();
	works = true;
	if (verdict == SINK_CONFIRMED || verdict == SINK_SETTLED)
	{
		connect_failures = 0;
		suspicion_confirmed(sink_config.window);
	}

	/* This pass may yet come to others of its key. */
	else if (item->key)
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
			refused(item, text, false);
			break;
		case SINK_DOUBTED:
			suspicion_doubt(item);
			put_back(item);
			break;
		case SINK_UNTRIED:
			put_back(item);
			break;
	}
}

/* A sink has something to say that it can go on with. */
static void
sink_complaint(const char *text)
{
	relay_report_error(slot, text, true);
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
		RelayItem	   *item = dlist_tail_element(RelayItem, node, &sent);

		unsend(item);
		put_back(item);
	}
}

/* A connection that was open is lost, and with it what was in flight. */
static void
lose_flight(Loss loss, const char *error)
{
	int			n = nsent;

	suspicion_begin_loss(n, loss);
	while (!dlist_is_empty(&sent))
	{
		RelayItem  *item = dlist_tail_element(RelayItem, node, &sent);

		unsend(item);
		if (suspicion_lost(item, n, loss, max_attempts))
			refused(item, error, true);
		else
			put_back(item);
	}
}

/* The broker cannot be reached or not be used: try again later. */
static void
back_off(const char *text, Loss loss)
{
	char		error[SINK_ERROR_SIZE];

	if (text[0] == '\0')
		text = "connection lost";
	text_clean(error, sizeof(error), text, strlen(text), GetDatabaseEncoding());

	/* What stood that long says nothing of what failed before. */
	if (sink && GetCurrentTimestamp() - connected_at > CONNECT_LAST)
		connect_failures = 0;
	if (sink)
		lose_flight(loss, error);
	disconnect();
	connect_failures++;
	connect_at = GetCurrentTimestamp() +
		relay_backoff(connect_failures, CONNECT_FIRST, CONNECT_LAST);

	/* In the log once, not at each attempt. */
	if (strcmp(slot->last_error, error) != 0 || connect_failures == 1)
		ereport(LOG, (errmsg("relay \"%s\" cannot publish: %s", relay->name, error)));
	relay_report_error(slot, error, true);
}

/* Whether the server's options are not those we have connected with. */
static bool
server_differs(void)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "queue relay server",
												  ALLOCSET_SMALL_SIZES);
	char		error[SINK_ERROR_SIZE];
	List	   *server;
	List	   *mapping;
	RelayKind	kind;
	bool		differs;

	server_changed = false;
	StartTransactionCommand();
	MemoryContextSwitchTo(context);
	differs = OidIsValid(relay->server) &&
		relay_server_options(relay, &server, &mapping, &kind, error) != server_hash;
	CommitTransactionCommand();
	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextDelete(context);
	return differs;
}

static void
note_server_change(Datum arg, int cacheid, uint32 hashvalue)
{
	server_changed = true;
}

/* The relay's queue; an error if it is gone, or not ours to take from. */
static Queue *
check_queue(void)
{
	Queue	   *queue = queue_by_relid(relay->queue);

	if (queue == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the queue of relay \"%s\" does not exist any more", relay->name)));
	queue_check_rights(queue->relid, NameStr(queue->name), ACL_SELECT | ACL_DELETE);
	return queue;
}

/*
 * Try to connect; the context is the connection's.  The relay's row is read
 * again: what it is to do and whose it is, by the catalogs of this moment.
 */
static void
connect_sink(MemoryContext context)
{
	char		error[SINK_ERROR_SIZE] = "";
	RelayConfig *now;
	bool		ok = true;

	pg_atomic_write_u32(&slot->activity, RELAY_BACKING_OFF);
	if (!slot->trouble)
		relay_report_error(slot, "connecting", true);
	MemoryContextReset(context);
	server_changed = false;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(context);
	now = extension_exists() ? relay_config_find(relay->name) : NULL;
	if (now == NULL || now->paused || now->problem || now->fingerprint != slot->config)
	{
		/* Whoever supervises us decides what is next. */
		relay_set_failing(false);
		proc_exit(0);
	}
	check_queue();
	sink_config.trusted = superuser_arg(relay->owner);
	if (OidIsValid(relay->server))
	{
		RelayKind	kind;

		server_hash = relay_server_options(relay, &sink_config.server, &sink_config.mapping,
										   &kind, error);
		ok = server_hash != 0;
		if (ok && routine == NULL)
			routine = relay_sink(kind);
	}
	else
		routine = &sql_sink;
	PopActiveSnapshot();
	CommitTransactionCommand();

	MemoryContextSwitchTo(context);
	if (ok)
		sink = routine->open(&sink_config, error);
	MemoryContextSwitchTo(TopMemoryContext);
	works = false;
	if (sink == NULL)
		back_off(error, LOSS_INNOCENT);
	connected_at = verdict_at = GetCurrentTimestamp();
	moved = true;
}

/*
 * How often the messages that could go now have been lost alone, at least.
 * Only while we want to see another confirmed than the one just lost.
 */
static int
fewest_losses(TimestampTz now, bool one_per_key)
{
	int			fewest = INT_MAX;
	dlist_iter	iter;

	if (!suspicion_wants_witness())
		return 0;
	pass++;
	dlist_foreach(iter, &pending)
	{
		RelayItem  *item = dlist_container(RelayItem, node, iter.cur);

		if (item->key && (item->key->held_back == pass || (one_per_key && item->key->nsent > 0)))
			continue;
		if (item->retry_at <= now)
			fewest = Min(fewest, item->losses_alone);
		if (item->key)
			item->key->held_back = pass;
	}
	return fewest;
}

/* Whether an item has to be without company in flight. */
static bool
goes_alone(const RelayItem *item)
{
	/* What was refused is better not mixed with what was not. */
	return suspicion_alone(item) || (routine->as_one && item->base.failures > 0);
}

/*
 * Publish what is pending and may go now.  Returns whether that was all, as
 * opposed to the sink having no room; sets the time of the next retry.
 */
static bool
publish(TimestampTz *next_retry)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		one_per_key = strict_order && !routine->as_one;
	int			fewest = fewest_losses(now, one_per_key);
	int			window = suspicion_window(sink_config.window);
	dlist_mutable_iter iter;

	pass++;
	*next_retry = DT_NOEND;
	dlist_foreach_modify(iter, &pending)
	{
		RelayItem	   *item = dlist_container(RelayItem, node, iter.cur);
		Key		   *key = item->key;

		if (key && (key->held_back == pass || (one_per_key && key->nsent > 0)))
		{
			key->held_back = pass;
			continue;
		}
		if (item->retry_at > now || suspicion_waits(item, fewest))
		{
			if (key)
				key->held_back = pass;
			if (item->retry_at > now)
				*next_retry = Min(*next_retry, item->retry_at);
			continue;
		}
		if (nsent >= window ||
			(nsent > 0 && (goes_alone(item) ||
						   goes_alone(dlist_head_element(RelayItem, node, &sent)))))
			return false;

		/* Move it before: publish() may know its fate at once. */
		dlist_delete(&item->node);
		dlist_push_tail(&sent, &item->node);
		if (nsent++ == 0)
			verdict_at = now;
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
		settle_ack(dlist_container(RelayItem, node, iter.cur)->base.message->receipt);
	dlist_foreach(iter, &failed)
	{
		RelayItem	   *item = dlist_container(RelayItem, node, iter.cur);

		/* The lease knows only of the attempts before it was taken. */
		settle_fail(item->base.message->receipt, -1, item->error,
					item->base.message->attempts + item->base.failures, max_attempts);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(TopMemoryContext);
	pgstat_report_stat(false);

	pg_atomic_fetch_add_u64(&slot->published, ndone);
	ndone = 0;
	while (!dlist_is_empty(&done))
		drop_item(dlist_container(RelayItem, node, dlist_pop_head_node(&done)));
	while (!dlist_is_empty(&failed))
		drop_item(dlist_container(RelayItem, node, dlist_pop_head_node(&failed)));
	moved = true;
}

/* Add a message to what is in hand. */
static void
take(Batch *batch, const Message *message)
{
	RelayItem	   *item = MemoryContextAllocZero(batch->context, sizeof(RelayItem));

	item->base.message = message;
	item->number = ++last_number;
	item->batch = batch;
	item->bytes = sizeof(RelayItem) + sizeof(Message) +
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
	suspicion_take(item);
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
		XLogRecPtr	commit;

		if (xid == last || !TransactionIdIsNormal(xid))
			continue;
		last = xid;
		commit = TransactionIdGetCommitLSN(xid);
		upto = Max(upto, commit);
	}
	if (!XLogRecPtrIsInvalid(upto))
		XLogFlush(upto);
}

/*
 * Claim messages; returns how many.  From before we look we are among those
 * who wait for the queue's messages, and stay so if there are none.
 */
static int
claim(int max)
{
	MemoryContext context;
	Batch	   *batch;
	Message    *messages;
	Size		before = hand_bytes;
	Queue	   *queue;
	int			n;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	queue = check_queue();
	queue_shared = queue->shared;
	backoff = queue->backoff;
	backoff_max = queue->backoff_max;
	max_attempts = atoi(sink_option(relay->options, "max_attempts", "0"));
	if (max_attempts == 0)
		max_attempts = queue->max_attempts;

	wait_begin(queue_shared);
	context = AllocSetContextCreate(CurTransactionContext, "queue relay batch", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	n = claim_messages(queue, LEASE_PROCESS, 0, max, HAND_BYTES - hand_bytes, &messages);
	if (n > 0 && !routine->local)
		flush_commits(messages, n);
	MemoryContextSetParent(context, TopMemoryContext);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(TopMemoryContext);
	if (n == 0)
	{
		MemoryContextDelete(context);
		return 0;
	}

	STOP_POINT("relay-claimed");

	/* Ours from here on, to be given back when the process ends. */
	batch = MemoryContextAlloc(context, sizeof(Batch));
	batch->context = context;
	batch->nitems = 0;
	for (int i = 0; i < n; i++)
		take(batch, &messages[i]);
	wait_end(true);

	size_next_claim(n, hand_bytes - before);
	moved = true;
	return n;
}

/* Claim as much as there is room for. */
static void
claim_more(void)
{
	int			max = Min(claim_size, HAND_WINDOWS * sink_config.window - nhand);
	TimestampTz now = GetCurrentTimestamp();

	if (max <= 0 || hand_bytes >= HAND_BYTES || now < claim_at)
	{
		wait_end(false);
		return;
	}
	claim_at = 0;

	PG_TRY();
	{
		claim(max);
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		/* What is in hand goes on without, and may well have them all. */
		if (geterrcode() != ERRCODE_CONFIGURATION_LIMIT_EXCEEDED)
			PG_RE_THROW();
		MemoryContextSwitchTo(TopMemoryContext);
		edata = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
		MemoryContextSwitchTo(TopMemoryContext);
		if (nhand == 0)
			relay_report_error(slot, edata->message, true);
		FreeErrorData(edata);
		claim_at = now + CLAIM_AGAIN;
	}
	PG_END_TRY();
}

/* Show others how things are. */
static void
report_activity(void)
{
	dlist_head *lists[] = {&pending, &sent, &done, &failed};
	TimestampTz oldest = 0;

	/* Each list is in order, or nearly so. */
	for (int i = 0; i < lengthof(lists); i++)
	{
		const Message *message;

		if (dlist_is_empty(lists[i]))
			continue;
		message = dlist_head_element(RelayItem, node, lists[i])->base.message;
		if (oldest == 0 || message->enqueued_at < oldest)
			oldest = message->enqueued_at;
	}
	pg_atomic_write_u64(&slot->oldest, oldest);
	pg_atomic_write_u32(&slot->in_flight, nsent);
	pg_atomic_write_u32(&slot->activity,
						sink == NULL ? RELAY_BACKING_OFF :
						nhand > 0 ? RELAY_RUNNING :
						claim_at != 0 ? RELAY_BACKING_OFF : RELAY_IDLE);
}

/* Sleep until something happens, or until a time. */
static void
sleep_until(TimestampTz until)
{
	int			events = 0;
	pgsocket	socket = PGINVALID_SOCKET;
	TimestampTz now;
	long		timeout;

	if (sink)
	{
		TimestampTz due;

		socket = routine->wait(sink, &events, &due);
		until = Min(until, due);
		if (nsent > 0 && !routine->local)
			until = Min(until, verdict_at + confirm_timeout);
	}
	else
		until = Min(until, connect_at);

	/* Bounded on both sides: before 17 infinity makes the difference wrap. */
	now = GetCurrentTimestamp();
	if (until <= now)
		timeout = 0;
	else
		timeout = until > now + SLEEP_MAX ? SLEEP_MAX / 1000 : TimestampDifferenceMilliseconds(now, until);
	if (timeout > 0 || socket != PGINVALID_SOCKET)
		(void) WaitLatchOrSocket(MyLatch,
								 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH |
								 (socket == PGINVALID_SOCKET ? 0 : events),
								 socket, timeout, WAIT_EVENT("QueueRelayMain"));
	ResetLatch(MyLatch);
}

/*
 * Without a verdict for too long the connection is as good as lost, unless the
 * other side has told us to wait.  If all is well, past trouble is over.
 */
static void
check_verdicts(void)
{
	TimestampTz now = GetCurrentTimestamp();

	if (sink->blocked)
		verdict_at = now;
	else if (nsent > 0 && !routine->local && now - verdict_at >= confirm_timeout)
	{
		char		error[SINK_ERROR_SIZE];

		snprintf(error, sizeof(error), "no confirmation within " INT64_FORMAT " s",
				 confirm_timeout / USECS_PER_SEC);
		back_off(error, LOSS_TIMEOUT);
	}
	else if (slot->trouble && claim_at == 0 && (works || nhand == 0))
		relay_clear_trouble(slot);
}

/* One turn: connect, publish, collect, settle, claim. */
static void
turn(MemoryContext connection)
{
	TimestampTz next_retry = DT_NOEND;
	TimestampTz now = GetCurrentTimestamp();
	char		error[SINK_ERROR_SIZE] = "";
	bool		all = false;

	moved = false;

	if (server_changed && server_differs())
	{
		disconnect();
		connect_at = 0;
	}
	if (sink == NULL && now >= connect_at)
		connect_sink(connection);
	if (sink)
	{
		all = publish(&next_retry);
		report_activity();

		/* What takes us long is not the other side's time. */
		verdict_at += GetCurrentTimestamp() - now;
		if (!routine->poll(sink, error))
			back_off(error, sink->innocent ? LOSS_INNOCENT : LOSS_ERROR);
		else
			check_verdicts();
	}

	now = GetCurrentTimestamp();

	/* Little by little if there is time, in larger pieces if not. */
	if (!dlist_is_empty(&failed) ||
		(ndone > 0 && (ndone >= sink_config.window / 2 || now >= settle_at ||
					   (nsent == 0 && dlist_is_empty(&pending)))))
		settle();

	if (sink && all)
		claim_more();
	else
		wait_end(false);

	verdict_at += GetCurrentTimestamp() - now;
	report_activity();
	if (!moved)
	{
		TimestampTz until = next_retry;

		if (ndone > 0)
			until = Min(until, settle_at);
		if (sink && all && claim_at != 0)
			until = Min(until, claim_at);
		else if (sink && all && queue_shared)
		{
			TimestampTz look = claim_next_look(queue_shared);

			until = Min(until, look);
		}
		pgstat_report_stat(nhand == 0);
		sleep_until(until);
	}
	else
		ResetLatch(MyLatch);

	/* While nothing else makes us, see what has changed of the server. */
	if (sink == NULL)
	{
		StartTransactionCommand();
		CommitTransactionCommand();
	}
}

/*
 * At the process's end give back all it has leased: not by the lists, as an
 * error may have come before a message was on one.  A transaction under way
 * has been aborted by then.
 */
static void
give_back(int code, Datum arg)
{
	if (sink)
		routine->close(sink);
	sink = NULL;
	lease_release_process();
}

/* What a queue is called by those who recognise its messages later. */
static char *
source_name(Oid queue)
{
	return psprintf(UINT64_FORMAT "/%u/%u", GetSystemIdentifier(), MyDatabaseId, queue);
}

/* Read what we are to do; false if we are not needed any more. */
static bool
read_config(void)
{
	Queue	   *queue = NULL;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(TopMemoryContext);
	if (extension_exists())
		relay = relay_config_find(NameStr(slot->name));
	if (relay)
		queue = queue_by_relid(relay->queue);
	PopActiveSnapshot();
	if (queue == NULL || relay->paused || relay->problem || relay->fingerprint != slot->config)
	{
		CommitTransactionCommand();
		return false;
	}
	sink_config.relay = relay->name;
	sink_config.queue = pstrdup(NameStr(queue->name));
	sink_config.source = source_name(relay->queue);
	sink_config.owner = relay->owner;
	sink_config.procedure = relay->procedure;
	sink_config.trusted = superuser_arg(relay->owner);
	sink_config.window = atoi(sink_option(relay->options, "batch", CppAsString2(RELAY_BATCH)));
	sink_config.options = relay->options;
	sink_config.verdict = sink_verdict;
	sink_config.complain = sink_complaint;
	sink_config.settle = settle_ack;
	(void) parse_bool(sink_option(relay->options, "strict_order", "true"), &strict_order);
	confirm_timeout = relay_option_time(sink_option(relay->options, "confirm_timeout",
													CppAsString2(RELAY_CONFIRM_TIMEOUT)));
	confirm_timeout = Max(confirm_timeout, USECS_PER_SEC);
	CommitTransactionCommand();
	MemoryContextSwitchTo(TopMemoryContext);
	return true;
}

/* Work until the process is ended, or is not needed. */
static void
run(void)
{
	HASHCTL		ctl = {.keysize = sizeof(uint64),.entrysize = sizeof(Key)};
	MemoryContext connection;

	keys = hash_create("queue relay keys", 256, &ctl, HASH_ELEM | HASH_BLOBS);
	connection = AllocSetContextCreate(TopMemoryContext, "queue relay connection",
									   ALLOCSET_DEFAULT_SIZES);
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, note_server_change, (Datum) 0);
	CacheRegisterSyscacheCallback(USERMAPPINGOID, note_server_change, (Datum) 0);
	relay_set_failing(false);
	if (!read_config())
		return;
	relay_session_begin(relay);
	pgstat_report_activity(STATE_IDLE, NULL);
	claim_size = Min(CLAIM_FIRST, sink_config.window);

	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		turn(connection);
	}
}

void
queue_relay_main(Datum arg)
{
	uint32		flags = 0;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();

	/* Callbacks before connecting are called after that of the transactions. */
	slot = relay_attach(DatumGetInt32(arg));
	if (slot == NULL)
		proc_exit(0);
	before_shmem_exit(give_back, (Datum) 0);
#ifdef BGWORKER_BYPASS_ROLELOGINCHECK
	flags = BGWORKER_BYPASS_ROLELOGINCHECK;
#endif
	BackgroundWorkerInitializeConnectionByOid(slot->dboid, slot->owner, flags);

	MemoryContextSwitchTo(TopMemoryContext);
	PG_TRY();
	{
		run();
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		/* Tell why; who called us does the rest. */
		relay_set_failing(true);
		MemoryContextSwitchTo(TopMemoryContext);
		edata = CopyErrorData();
		LWLockReleaseAll();
		AbortOutOfAnyTransaction();
		relay_report_error(slot, edata->message, true);
		PG_RE_THROW();
	}
	PG_END_TRY();
	proc_exit(0);
}
