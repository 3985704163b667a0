/*
 * worker.c
 *		A relay's worker: publish the messages of a queue through a sink.
 *
 * Each turn transforms what may go, collects what became of what went before, publishes,
 * settles in a transaction, and claims more.  Without a connection there are no claims,
 * and all in hand stays there.  A lost connection is no attempt, unless it is
 * found to be a message's doing (suspicion.c).
 *
 * No transaction is open but in claim(), transform(), settle() and the sink for
 * this very database.  The process ends by SIGTERM or by an error, and gives its leases
 * back then; a changed relay or server means a new process or connection.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "background.h"
#include "compat.h"
#include "engine/claim.h"
#include "engine/extension.h"
#include "engine/settle.h"
#include "engine/wait.h"
#include "guc.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "relay/connection.h"
#include "relay/hand.h"
#include "relay/options.h"
#include "relay/server.h"
#include "relay/session.h"
#include "relay/supervision.h"
#include "relay/transform.h"
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

/* Confirmed messages wait for company before they are deleted. */
#define SETTLE_WITHIN	(20 * INT64CONST(1000))

/* The first claim, when nobody knows how large messages are. */
#define CLAIM_FIRST		4

/* Without free leases, claim again after this. */
#define CLAIM_AGAIN		(1 * USECS_PER_SEC)

/* Messages are transformed for so long until what is in flight has its turn. */
#define TRANSFORM_TIME	(50 * INT64CONST(1000))

static RelaySlot *slot;
static RelayConfig *relay;
static SinkConfig sink_config;
static const SinkRoutine *routine;
static Hand hand;

/* What the relay and its queue are set to. */
static QueueShared *queue_shared;
static const SinkOptions *options;	/* of any kind of sink */

static int	claim_size;			/* what the next claim asks for */
static TimestampTz claim_at;	/* none before this, after an error; else 0 */
static bool server_changed;		/* perhaps, as the next */
static bool config_changed;
static Oid	definition;			/* queue.relay_definition */
static uint64 server_hash;		/* of the options connected with */

/* Whether the server's options are not those we have connected with. */
static bool
server_differs(void)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "queue relay server",
												  ALLOCSET_SMALL_SIZES);
	char		error[SINK_ERROR_SIZE];
	List	   *server;
	List	   *mapping;
	const SinkKind *kind;
	bool		differs;

	server_changed = false;
	background_begin();
	MemoryContextSwitchTo(context);
	differs = OidIsValid(relay->server) &&
		relay_server_read(relay->server, relay->owner, &kind, &server, &mapping, error) != server_hash;
	background_end();
	MemoryContextDelete(context);
	return differs;
}

static void
note_server_change(Datum arg, int cacheid, uint32 hashvalue)
{
	server_changed = true;
}

static void
note_config_change(Datum arg, Oid relid)
{
	if (relid == definition || !OidIsValid(relid))
		config_changed = true;
}

/* Whether a relay's row is what we were started with; else whoever supervises us decides. */
static bool
is_current(const RelayConfig *config)
{
	return config && !config->paused && !config->problem && config->fingerprint == slot->config;
}

/* Whether ours still is. */
static bool
config_is_current(void)
{
	config_changed = false;
	return extension_exists() && is_current(relay_config_find(relay->name));
}

/* The relay's queue; an error if it is gone. */
static Queue *
find_queue(void)
{
	Queue	   *queue = queue_by_relid(relay->queue);

	if (queue == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the queue of relay \"%s\" does not exist any more", relay->name)));
	return queue;
}

/* The same, an error also if it is not ours to take from. */
static Queue *
check_queue(void)
{
	Queue	   *queue = find_queue();

	queue_check_rights(queue->relid, NameStr(queue->name), ACL_SELECT | ACL_DELETE);
	relay_check_workers(queue, options->workers);
	return queue;
}

/* The table of callbacks of a kind of sink, whose library is loaded for it. */
static const SinkRoutine *
load_sink(const SinkKind *kind)
{
	char	   *library = psprintf("$libdir/queue_%s", kind->name);
	SinkInit	init;
	const SinkRoutine *loaded;

	if (!kind->has_server)
		return &sql_sink;
	init = (SinkInit) load_external_function(library, "queue_sink", true, NULL);
	loaded = init();
	if (loaded->magic != SINK_MAGIC || loaded->version != SINK_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("library \"%s\" is of another version of the extension", library)));
	return loaded;
}

static bool
lease_has_ended(const HandItem *item)
{
	return !OidIsValid(lease_queue(lease_of_receipt(item->base.message->receipt)));
}

/* In one transaction, delete what is confirmed and let go of what failed. */
static void
settle(void)
{
	bool		failed = !dlist_is_empty(&hand.failed);
	SettleTable table = {0};
	dlist_iter	iter;

	background_begin();
	dlist_foreach(iter, &hand.done)
	{
		HandItem   *item = dlist_container(HandItem, node, iter.cur);

		(void) settle_ack_lease(lease_of_receipt(item->base.message->receipt), &table);
	}
	settle_close(&table);
	dlist_foreach(iter, &hand.failed)
	{
		HandItem   *item = dlist_container(HandItem, node, iter.cur);

		/* The lease knows only of the attempts before it was taken. */
		settle_fail(item->base.message->receipt, -1, item->error,
					item->base.message->attempts + item->base.failures,
					hand.rules.max_attempts);
	}
	background_end();
	pgstat_report_stat(false);

	pg_atomic_fetch_add_u64(&slot->published, hand.ndone - hand.ndropped);
	pg_atomic_fetch_add_u64(&slot->dropped, hand.ndropped);
	hand_forget(&hand);

	/* In an ordered queue later messages of the key can have gone with it. */
	if (failed)
		hand_drop_pending(&hand, lease_has_ended);
	claim_at = 0;				/* leases are free */
}

/* End, with what is confirmed deleted: the next worker is not to publish it again. */
pg_noreturn static void
leave(void)
{
	if (!dlist_is_empty(&hand.done) || !dlist_is_empty(&hand.failed))
		settle();
	relay_leave();
}

/*
 * Try to connect.  The relay's row is read again: what it is to do and whose
 * it is, by the catalogs of this moment.
 */
static void
connect_sink(void)
{
	char		error[SINK_ERROR_SIZE] = "";
	const SinkKind *kind = &sql_kind;
	List	   *server = NIL;
	List	   *mapping = NIL;
	bool		ok = true;
	MemoryContext context = connection_prepare();

	server_changed = false;

	background_begin();
	MemoryContextSwitchTo(context);
	if (!config_is_current())
	{
		background_end();
		leave();
	}
	check_queue();
	if (OidIsValid(options->transform))
		transform_check(options->transform, relay->owner);
	if (OidIsValid(relay->server))
	{
		server_hash = relay_server_read(relay->server, relay->owner, &kind, &server, &mapping, error);
		ok = server_hash != 0;
	}
	if (ok)
	{
		routine = load_sink(kind);
		sink_config.options = relay_options_read(kind, server, mapping, relay->options,
												 relay->procedure);
		sink_config.trusted = superuser_arg(relay->owner) ||
			!((const SinkOptions *) sink_config.options)->password_required;
	}
	background_end();
	if (!ok)
	{
		connection_failed(error);
		return;
	}
	hand.rules.as_one = routine->order == SINK_ORDER_AS_ONE;
	hand.rules.one_per_key = routine->order == SINK_ORDER_NONE && options->strict_order;
	connection_open(routine);
}

/*
 * Have the next claim ask for as many messages as there is space for, by what
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

	background_begin();
	queue = check_queue();
	queue_shared = queue->shared;
	hand.rules.backoff = queue->settings.backoff;
	hand.rules.backoff_max = queue->settings.backoff_max;
	hand.rules.max_attempts = options->max_attempts > 0 ? options->max_attempts :
		queue->settings.max_attempts;

	wait_begin(&queue_shared->waiters);
	context = AllocSetContextCreate(CurTransactionContext, "queue relay batch", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	n = claim_messages(queue, LEASE_PROCESS, 0, max, hand_space_bytes(&hand), &messages);
	STOP_POINT("relay-claims");

	/*
	 * A message sent after the relay, or its server, was changed goes by that
	 * change.  So this is after the claim's snapshot.
	 */
	AcceptInvalidationMessages();
	if (config_changed && !config_is_current())
	{
		background_end();
		leave();
	}
	if (n > 0 && !routine->local)
		flush_commits(messages, n);
	MemoryContextSetParent(context, TopMemoryContext);
	background_end();
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
	return n;
}

/* Claim as much as there is space for. */
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
		edata = background_failed(TopMemoryContext, false);
		if (hand.nitems == 0)
			relay_report_error(slot, edata->message, true);
		FreeErrorData(edata);
		claim_at = now + CLAIM_AGAIN;
	}
	PG_END_TRY();
}

/*
 * Transform what is pending and may be.  What a message has become stays with
 * it until it is settled.
 */
static void
transform(void)
{
	TimestampTz start;
	TimestampTz now;
	bool		begun = false;
	HandItem   *item;

	if (!OidIsValid(options->transform))
		return;
	start = now = GetCurrentTimestamp();
	hand_begin_transforms(&hand);
	while (now - start < TRANSFORM_TIME && (item = hand_next_transform(&hand)) != NULL)
	{
		char		error[SINK_ERROR_SIZE];
		Message    *made;
		Size		bytes;

		if (!begun)
		{
			transform_begin(options->transform, relay->owner, options->confirm_timeout);
			STOP_POINT("relay-transforms");
			start = GetCurrentTimestamp();
			begun = true;
		}
		switch (transform_message(item->base.message, item->base.failures, item->batch->context,
								  &made, &bytes, error))
		{
			case TRANSFORM_MADE:
				hand_transformed(&hand, item, made, bytes);
				break;
			case TRANSFORM_DROPPED:
				hand_dropped(&hand, item);
				break;
			case TRANSFORM_REFUSED:
				connection_refuse(item, error);
				break;
		}
		now = GetCurrentTimestamp();
	}
	if (begun)
	{
		transform_end();
		relay_session_reset();
	}
}

/* Show others how things are. */
static void
report_activity(void)
{
	pg_atomic_write_u64(&slot->oldest, hand_oldest(&hand));
	pg_atomic_write_u32(&slot->in_flight, hand.nsent);
	pg_atomic_write_u32(&slot->activity,
						!connection_is_open() ? RELAY_BACKING_OFF :
						hand.nitems > 0 ? RELAY_RUNNING :
						claim_at != 0 ? RELAY_BACKING_OFF : RELAY_IDLE);
}

/* Whether it is time to settle: little by little if there is time, else in larger pieces. */
static bool
settling_is_due(TimestampTz now)
{
	if (!dlist_is_empty(&hand.failed))
		return true;
	return hand.ndone > 0 &&
		(hand.ndone >= hand.rules.window || now >= hand.done_at + SETTLE_WITHIN ||
		 (hand.nsent == 0 && dlist_is_empty(&hand.pending)));
}

/* Sleep until there is something to do; all that may go has gone if that is so. */
static void
sleep_until_due(bool all)
{
	TimestampTz until = DT_NOEND;

	if (connection_is_open())
		until = hand.next_retry;
	if (hand.ndone > 0)
		until = Min(until, hand.done_at + SETTLE_WITHIN);
	if (all && claim_at != 0)
		until = Min(until, claim_at);
	else if (all && queue_shared && hand_space(&hand) > 0)
	{
		TimestampTz look = claim_next_look(queue_shared);

		until = Min(until, look);
	}
	pgstat_report_stat(hand.nitems == 0);
	connection_sleep(until);
}

/* One turn: connect, transform, collect, publish, settle, claim. */
static void
turn(void)
{
	TimestampTz now = GetCurrentTimestamp();
	uint64		changes = hand.changes;
	int			nitems = hand.nitems;
	bool		tried = false;
	bool		all = false;

	if (server_changed && server_differs())
		connection_hang_up();
	if (!connection_is_open() && now >= connection_due())
	{
		connect_sink();
		tried = true;
	}
	if (connection_is_open())
	{
		transform();

		/* What takes us long is not the other side's time. */
		connection_excuse(GetCurrentTimestamp() - now);
		connection_poll();
	}

	/*
	 * What was confirmed has made space: the other side is to have work while
	 * we settle.
	 */
	now = GetCurrentTimestamp();
	if (connection_is_open())
	{
		all = connection_publish();
		report_activity();
	}
	if (hand.nitems < nitems)
		claim_at = 0;			/* leases are free */
	if (slot->trouble && claim_at == 0 && connection_is_well())
		relay_clear_trouble(slot);

	if (settling_is_due(GetCurrentTimestamp()))
		settle();

	all = all && connection_is_open();
	if (all)
		claim_more();
	else
		wait_end(false);

	connection_excuse(GetCurrentTimestamp() - now);
	report_activity();
	if (hand.changes == changes && !tried)
		sleep_until_due(all);
	else
		ResetLatch(MyLatch);

	/* While nothing else makes us, see what has changed of the server. */
	if (!connection_is_open())
	{
		background_begin();
		background_end();
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
	connection_hang_up();
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
	Queue	   *queue;

	background_begin();
	MemoryContextSwitchTo(TopMemoryContext);
	if (extension_exists())
	{
		/* First, so that no change after we have read it is missed. */
		definition = extension_relation("relay_definition");
		relay = relay_config_find(NameStr(slot->name));
	}
	if (!is_current(relay))
	{
		background_end();
		return false;
	}
	queue = find_queue();
	options = relay_options_read(relay->kind, NIL, NIL, relay->options, relay->procedure);
	sink_config.relay = relay->name;
	sink_config.queue = pstrdup(NameStr(queue->name));
	sink_config.source = source_name(relay->queue);
	sink_config.owner = relay->owner;
	sink_config.worker = slot->number;
	sink_config.window = options->batch;
	hand.rules.window = sink_config.window;
	hand.rules.transform = OidIsValid(options->transform);
	background_end();
	return true;
}

/* Work until the process is ended, or is not needed. */
static void
run(void)
{
	hand_init(&hand);
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, note_server_change, (Datum) 0);
	CacheRegisterSyscacheCallback(USERMAPPINGOID, note_server_change, (Datum) 0);
	CacheRegisterRelcacheCallback(note_config_change, (Datum) 0);
	relay_set_failing(false);
	if (!read_config())
		relay_leave();
	relay_session_begin(relay, slot->number);
	pgstat_report_activity(STATE_IDLE, NULL);
	claim_size = Min(CLAIM_FIRST, hand.rules.window);
	connection_init(slot, relay, &hand, &sink_config, options->confirm_timeout);

	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		turn();
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
