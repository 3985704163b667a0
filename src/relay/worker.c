/*
 * worker.c
 *		A relay's worker: publish the messages of a queue through a sink.
 *
 * Each turn publishes what may go, collects what became of it, settles that
 * in a transaction, and claims more.  The connection is either open or waited
 * for: no claims then, and all in hand stays there.  A lost connection is no
 * attempt, unless it is found to be a message's doing (suspicion.c).
 *
 * No transaction is open but in claim(), settle() and the sink for this very
 * database.  The process ends by SIGTERM or by an error, and gives its leases
 * back then; a changed relay or server means a new process or connection.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "compat.h"
#include "backoff.h"
#include "engine/claim.h"
#include "engine/extension.h"
#include "engine/settle.h"
#include "engine/wait.h"
#include "guc.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "relay/hand.h"
#include "relay/relay.h"
#include "sinks/text.h"
#include "stop_point.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
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

static Hand hand;

/* What the relay and its queue are set to. */
static QueueShared *queue_shared;
static bool strict_order;
static int64 confirm_timeout;

static int	claim_size;			/* what the next claim asks for */
static TimestampTz claim_at;	/* none before this, after an error; else 0 */
static int	connect_failures;
static TimestampTz connect_at;
static TimestampTz connected_at;
static TimestampTz verdict_at;	/* of the latest, or since when one is due */
static bool works;				/* something came of this connection */
static TimestampTz settle_at;	/* the first of done has waited then */
static bool moved;				/* something happened: look again at once */
static bool server_changed;		/* perhaps */
static uint64 server_hash;		/* of the options connected with */

/* Have a text be valid here, whoever wrote it. */
static void
clean(char *out, const char *text)
{
	text_clean(out, SINK_ERROR_SIZE, text, strlen(text), GetDatabaseEncoding());
}

/* Show that n messages were refused. */
static void
report_refusals(int n, const char *error)
{
	pg_atomic_fetch_add_u64(&slot->failed, n);
	relay_report_error(slot, error, false);
}

/* A sink says what became of an item. */
static void
sink_verdict(SinkItem *base, SinkVerdict verdict, const char *text)
{
	HandItem   *item = (HandItem *) base;
	char		error[SINK_ERROR_SIZE];

	moved = true;
	verdict_at = GetCurrentTimestamp();
	works = true;
	if (verdict == SINK_CONFIRMED || verdict == SINK_SETTLED)
		connect_failures = 0;

	switch (verdict)
	{
		case SINK_CONFIRMED:
			if (hand.ndone == 0)
				settle_at = GetCurrentTimestamp() + SETTLE_WITHIN;
			hand_confirmed(&hand, item);
			break;
		case SINK_SETTLED:
			pg_atomic_fetch_add_u64(&slot->published, 1);
			hand_settled(&hand, item);
			claim_at = 0;		/* its lease is free */
			break;
		case SINK_REFUSED:
			clean(error, text);
			report_refusals(1, error);
			hand_refused(&hand, item, error, false);
			break;
		case SINK_DOUBTED:
			hand_doubted(&hand, item);
			break;
		case SINK_UNTRIED:
			hand_put_back(&hand, item);
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
	hand_put_all_back(&hand);
}

/* The broker cannot be reached or not be used: try again later. */
static void
back_off(const char *text, Loss loss)
{
	char		error[SINK_ERROR_SIZE];

	if (text[0] == '\0')
		text = "connection lost";
	clean(error, text);

	/* What stood that long says nothing of what failed before. */
	if (sink && GetCurrentTimestamp() - connected_at > CONNECT_LAST)
		connect_failures = 0;
	if (sink)
	{
		int			nrefused = hand_lost(&hand, loss, error);

		if (nrefused > 0)
			report_refusals(nrefused, error);
	}
	disconnect();
	connect_failures++;
	connect_at = GetCurrentTimestamp() +
		backoff_jitter(backoff_delay(connect_failures, CONNECT_FIRST, CONNECT_LAST));

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
	if (routine)
	{
		hand.rules.as_one = routine->as_one;
		hand.rules.one_per_key = strict_order && !routine->as_one;
	}
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
 * Publish what is pending and may go now.  Returns whether that was all, as
 * opposed to there being no space in flight.
 */
static bool
publish(void)
{
	HandItem   *item;

	hand_begin_pass(&hand);
	while ((item = hand_next(&hand)) != NULL)
	{
		/* Sent before it is: publish() may know its fate at once. */
		hand_send(&hand, item);
		if (hand.nsent == 1)
			verdict_at = hand.pass_began_at;
		if (!routine->publish(sink, &item->base))
		{
			hand_put_back(&hand, item);
			return false;
		}
		moved = true;
	}
	return !hand.full;
}

/* In one transaction, delete what is confirmed and let go of what failed. */
static void
settle(void)
{
	dlist_iter	iter;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	dlist_foreach(iter, &hand.done)
		settle_ack(dlist_container(HandItem, node, iter.cur)->base.message->receipt);
	dlist_foreach(iter, &hand.failed)
	{
		HandItem   *item = dlist_container(HandItem, node, iter.cur);

		/* The lease knows only of the attempts before it was taken. */
		settle_fail(item->base.message->receipt, -1, item->error,
					item->base.message->attempts + item->base.failures,
					hand.rules.max_attempts);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(TopMemoryContext);
	pgstat_report_stat(false);

	pg_atomic_fetch_add_u64(&slot->published, hand.ndone);
	hand_forget(&hand);
	claim_at = 0;				/* leases are free */
	moved = true;
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
	claim_size = Min(claim_size, hand.rules.window);
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
	HandBatch  *batch;
	Message    *messages;
	Size		before = hand.bytes;
	Queue	   *queue;
	int			n;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	queue = check_queue();
	queue_shared = queue->shared;
	hand.rules.backoff = queue->backoff;
	hand.rules.backoff_max = queue->backoff_max;
	hand.rules.max_attempts = atoi(sink_option(relay->options, "max_attempts", "0"));
	if (hand.rules.max_attempts == 0)
		hand.rules.max_attempts = queue->max_attempts;

	wait_begin(&queue_shared->waiters);
	context = AllocSetContextCreate(CurTransactionContext, "queue relay batch", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	n = claim_messages(queue, LEASE_PROCESS, 0, max, hand_space_bytes(&hand), &messages);
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
	batch = hand_batch(context);
	for (int i = 0; i < n; i++)
		hand_take(&hand, batch, &messages[i]);
	wait_end(true);

	size_next_claim(n, hand.bytes - before);
	moved = true;
	return n;
}

/* Claim as much as there is room for. */
static void
claim_more(void)
{
	int			space = hand_space(&hand);
	int			max = Min(claim_size, space);
	TimestampTz now = GetCurrentTimestamp();

	if (max <= 0 || now < claim_at)
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
		if (hand.nitems == 0)
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
	pg_atomic_write_u64(&slot->oldest, hand_oldest(&hand));
	pg_atomic_write_u32(&slot->in_flight, hand.nsent);
	pg_atomic_write_u32(&slot->activity,
						sink == NULL ? RELAY_BACKING_OFF :
						hand.nitems > 0 ? RELAY_RUNNING :
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
		if (hand.nsent > 0 && !routine->local)
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
	else if (hand.nsent > 0 && !routine->local && now - verdict_at >= confirm_timeout)
	{
		char		error[SINK_ERROR_SIZE];

		snprintf(error, sizeof(error), "no confirmation within " INT64_FORMAT " s",
				 confirm_timeout / USECS_PER_SEC);
		back_off(error, LOSS_TIMEOUT);
	}
	else if (slot->trouble && claim_at == 0 && (works || hand.nitems == 0))
		relay_clear_trouble(slot);
}

/* One turn: connect, publish, collect, settle, claim. */
static void
turn(MemoryContext connection)
{
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
		all = publish();
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
	if (!dlist_is_empty(&hand.failed) ||
		(hand.ndone > 0 && (hand.ndone >= hand.rules.window / 2 || now >= settle_at ||
					   (hand.nsent == 0 && dlist_is_empty(&hand.pending)))))
		settle();

	if (sink && all)
		claim_more();
	else
		wait_end(false);

	verdict_at += GetCurrentTimestamp() - now;
	report_activity();
	if (!moved)
	{
		TimestampTz until = sink ? hand.next_retry : DT_NOEND;

		if (hand.ndone > 0)
			until = Min(until, settle_at);
		if (sink && all && claim_at != 0)
			until = Min(until, claim_at);
		else if (sink && all && queue_shared)
		{
			TimestampTz look = claim_next_look(queue_shared);

			until = Min(until, look);
		}
		pgstat_report_stat(hand.nitems == 0);
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
	hand.rules.window = sink_config.window;
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
	MemoryContext connection;

	hand_init(&hand);
	connection = AllocSetContextCreate(TopMemoryContext, "queue relay connection",
									   ALLOCSET_DEFAULT_SIZES);
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, note_server_change, (Datum) 0);
	CacheRegisterSyscacheCallback(USERMAPPINGOID, note_server_change, (Datum) 0);
	relay_set_failing(false);
	if (!read_config())
		return;
	relay_session_begin(relay);
	pgstat_report_activity(STATE_IDLE, NULL);
	claim_size = Min(CLAIM_FIRST, hand.rules.window);

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
