/*
 * connection.c
 *		What goes through a relay's sink, and when it is connected.
 *
 * What is published goes to the sink in calls: as many encoded messages as it
 * takes in one.  When the connection is lost, what was in flight is pending
 * again, and it is opened anew after a time that becomes longer each time.
 */
#include "postgres.h"

#include "backoff.h"
#include "compat.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "relay/connection.h"
#include "sinks/text.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* Attempts to connect are apart from this to that. */
#define CONNECT_FIRST	(500 * INT64CONST(1000))
#define CONNECT_LAST	(30 * USECS_PER_SEC)

/* The buffer of a call that was larger is not kept. */
#define CALL_KEPT		(1024 * 1024)

/* Look at the queue that often for what wakes nobody. */
#define SLEEP_MAX		(1 * USECS_PER_SEC)

static RelaySlot *slot;
static const RelayConfig *relay;
static SinkConfig *config;
static Hand *hand;
static int64 confirm_timeout;

static const SinkRoutine *routine;
static Sink *sink;				/* NULL: not connected */
static SinkState state;			/* as it said last */
static SinkWait waiting;		/* what it waits for */

static MemoryContext context;	/* what the sink keeps */
static MemoryContext scratch;	/* what it does not: of one callback */

/* The call that is being put together, of items the hand has as sent. */
static struct
{
	SinkItem  **items;			/* window of them at most */
	int			nitems;
	StringInfoData data;		/* of all, one behind the other */
}			call;

static int	failures;			/* attempts to connect, in succession */
static TimestampTz due;			/* when to try the next time */
static TimestampTz opened_at;
static TimestampTz verdict_at;	/* of the latest, or since when one is due */
static bool works;				/* something came of this connection */

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

/* Note that something was heard of what is in flight. */
static void
note_verdict(void)
{
	verdict_at = GetCurrentTimestamp();
	works = true;
}

/* What became of an item. */
static void
settle_item(HandItem *item, SinkVerdict verdict, const char *text)
{
	char		error[SINK_ERROR_SIZE];

	switch (verdict)
	{
		case SINK_CONFIRMED:
			hand_confirmed(hand, item);
			break;
		case SINK_SETTLED:
			pg_atomic_fetch_add_u64(&slot->published, 1);
			hand_settled(hand, item);
			break;
		case SINK_REFUSED:
			clean(error, text);
			report_refusals(1, error);
			hand_refused(hand, item, error, false);
			break;
		case SINK_UNTRIED:
			hand_put_back(hand, item);
			break;
	}
}

/*
 * A sink says what became of some items.  When several were refused as one it
 * is not known for which of them: each is published alone from now on, and the
 * one that is refused then is refused.
 */
static void
sink_verdict(SinkItem **items, int n, SinkVerdict verdict, const char *text)
{
	note_verdict();
	if (verdict == SINK_CONFIRMED || verdict == SINK_SETTLED)
	{
		failures = 0;
		for (int i = 0; i < n; i++)
			settle_item((HandItem *) items[i], verdict, text);
		return;
	}

	/* The last first: each finds its place among the pending near the head. */
	for (int i = n - 1; i >= 0; i--)
	{
		if (verdict == SINK_REFUSED && n > 1)
			hand_doubted(hand, (HandItem *) items[i]);
		else
			settle_item((HandItem *) items[i], verdict, text);
	}
}

/* One of those in flight is to blame, and the other side does not say which. */
static void
blame_flight(const char *text)
{
	bool		alone = hand->nsent == 1;
	HandItem   *item;

	note_verdict();
	while ((item = hand_last_sent(hand)) != NULL)
	{
		if (alone)
			settle_item(item, SINK_REFUSED, text);
		else
			hand_doubted(hand, item);
	}
}

/* A sink has something to say that it can go on with. */
static void
sink_complaint(const char *text)
{
	relay_report_error(slot, text, true);
}

void
connection_init(RelaySlot *of_slot, const RelayConfig *of_relay, Hand *of_hand,
				SinkConfig *with_config, int64 timeout)
{
	slot = of_slot;
	relay = of_relay;
	hand = of_hand;
	config = with_config;
	config->verdict = sink_verdict;
	config->complain = sink_complaint;
	confirm_timeout = timeout;

	context = AllocSetContextCreate(TopMemoryContext, "queue relay connection",
									ALLOCSET_DEFAULT_SIZES);
	scratch = AllocSetContextCreate(TopMemoryContext, "queue relay callback",
									ALLOCSET_DEFAULT_SIZES);
	call.items = MemoryContextAlloc(TopMemoryContext, config->window * sizeof(SinkItem *));
	initStringInfo(&call.data);
	waiting.max_sockets = 4;
	waiting.sockets = MemoryContextAlloc(TopMemoryContext,
										 waiting.max_sockets * sizeof(SinkSocket));
}

/*
 * Open and lost
 */

bool
connection_is_open(void)
{
	return sink != NULL;
}

TimestampTz
connection_due(void)
{
	return due;
}

void
connection_hang_up(void)
{
	due = 0;
	if (sink == NULL)
		return;
	routine->close(sink);
	sink = NULL;
	hand_put_all_back(hand);
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
	if (sink && GetCurrentTimestamp() - opened_at > CONNECT_LAST)
		failures = 0;
	if (sink)
	{
		int			nrefused = hand_lost(hand, loss, error);

		if (nrefused > 0)
			report_refusals(nrefused, error);
	}
	connection_hang_up();
	failures++;
	due = GetCurrentTimestamp() +
		backoff_jitter(backoff_delay(failures, CONNECT_FIRST, CONNECT_LAST));

	/* In the log once, not at each attempt. */
	if (strcmp(slot->last_error, error) != 0 || failures == 1)
		ereport(LOG, (errmsg("relay \"%s\" cannot publish: %s", relay->name, error)));
	relay_report_error(slot, error, true);
}

/* Act on what the sink says of itself; false if that is the end of it. */
static bool
heed(SinkState said, const char *error)
{
	state = said;
	switch (state)
	{
		case SINK_READY:
		case SINK_FULL:
		case SINK_BLOCKED:
			return true;
		case SINK_LOST:
			back_off(error, LOSS_ERROR);
			break;
		case SINK_STUCK:
			back_off(error, LOSS_TIMEOUT);
			break;
		case SINK_ENDED:
			back_off(error, LOSS_INNOCENT);
			break;
		case SINK_BLAMED:
			blame_flight(error);
			back_off(error, LOSS_ERROR);
			break;
	}
	return false;
}

MemoryContext
connection_prepare(void)
{
	Assert(sink == NULL);
	pg_atomic_write_u32(&slot->activity, RELAY_BACKING_OFF);
	if (!slot->trouble)
		relay_report_error(slot, "connecting", true);
	MemoryContextReset(context);
	return context;
}

void
connection_open(const SinkRoutine *with)
{
	char		error[SINK_ERROR_SIZE] = "";

	routine = with;
	works = false;
	MemoryContextSwitchTo(context);
	sink = routine->open(config, error);
	MemoryContextSwitchTo(TopMemoryContext);
	if (sink == NULL)
	{
		connection_failed(error);
		return;
	}
	sink->context = context;
	state = SINK_READY;
	opened_at = verdict_at = GetCurrentTimestamp();
}

void
connection_failed(const char *error)
{
	back_off(error, LOSS_INNOCENT);
}

/*
 * Publishing
 */

/* A callback of the sink has returned: be in our own context again. */
static void
leave_sink(void)
{
	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextReset(scratch);
}

/*
 * Encode an item into the call, behind those that are in it.  False, with the
 * reason, if that cannot be; the call is as before then.
 */
static bool
encode(HandItem *item, char *error)
{
	SinkItem   *base = &item->base;
	int			start = call.data.len;
	Size		most = sink->item_bytes > 0 ? sink->item_bytes : SINK_MAX_MESSAGE;
	volatile bool encoded = false;

	base->size = 0;
	if (routine->encode == NULL)
		return true;
	MemoryContextSwitchTo(scratch);
	PG_TRY();
	{
		encoded = routine->encode(sink, base, &call.data, error);
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		/* Text without an equivalent in UTF-8, say. */
		if (ERRCODE_TO_CATEGORY(geterrcode()) == ERRCODE_OPERATOR_INTERVENTION)
			PG_RE_THROW();
		MemoryContextSwitchTo(scratch);
		edata = CopyErrorData();
		FlushErrorState();
		clean(error, edata->message ? edata->message : "message cannot be encoded");
	}
	PG_END_TRY();
	leave_sink();

	base->size = call.data.len - start;
	if (encoded && base->size > most)
		encoded = sink_too_large(error);
	if (!encoded)
		call.data.len = start;
	return encoded;
}

/* Make the call's buffer ready for the next one. */
static void
reset_call(void)
{
	call.nitems = 0;
	resetStringInfo(&call.data);
	if (call.data.maxlen > CALL_KEPT)
	{
		pfree(call.data.data);
		initStringInfo(&call.data);
	}
}

/* Publish the call; false if that was the end of the connection. */
static bool
publish_call(void)
{
	const char *data = call.data.data;
	char		error[SINK_ERROR_SIZE] = "";
	SinkState	said;

	if (call.nitems == 0)
		return true;
	for (int i = 0; i < call.nitems; i++)
	{
		call.items[i]->data = data;
		data += call.items[i]->size;
	}
	MemoryContextSwitchTo(scratch);
	said = routine->publish(sink, call.items, call.nitems, error);
	leave_sink();
	reset_call();
	return heed(said, error);
}

bool
connection_publish(void)
{
	Size		most = sink->call_bytes > 0 ? sink->call_bytes : SINK_CALL_BYTES;
	HandItem   *item;

	hand_begin_pass(hand);
	while ((item = hand_next(hand)) != NULL)
	{
		char		error[SINK_ERROR_SIZE] = "";

		if (state != SINK_READY)
			return false;
		hand_send(hand, item);
		if (hand->nsent == 1)
			verdict_at = hand->pass_began_at;
		if (!encode(item, error))
		{
			note_verdict();
			settle_item(item, SINK_REFUSED, error);
			continue;
		}
		if (call.nitems > 0 && call.data.len > most)
		{
			/* It is the first of another call. */
			hand_put_back(hand, item);
			(void) publish_call();
			return false;
		}
		call.items[call.nitems++] = &item->base;
		if (call.nitems == sink->call_items && !publish_call())
			return false;
	}
	return publish_call() && !hand->full;
}

void
connection_refuse(HandItem *item, const char *text)
{
	hand_send(hand, item);
	settle_item(item, SINK_REFUSED, text);
}

/*
 * Without a verdict for too long the connection is as good as lost, unless the
 * other side has told us to wait.
 */
static void
check_verdicts(void)
{
	TimestampTz now = GetCurrentTimestamp();
	char		error[SINK_ERROR_SIZE];

	if (state == SINK_BLOCKED)
		verdict_at = now;
	if (hand->nsent == 0 || routine->local || now - verdict_at < confirm_timeout)
		return;
	snprintf(error, sizeof(error), "no confirmation within " INT64_FORMAT " s",
			 confirm_timeout / USECS_PER_SEC);
	back_off(error, LOSS_TIMEOUT);
}

void
connection_poll(void)
{
	char		error[SINK_ERROR_SIZE] = "";
	SinkState	said;

	MemoryContextSwitchTo(scratch);
	said = routine->poll(sink, error);
	leave_sink();
	if (heed(said, error))
		check_verdicts();
}

bool
connection_is_well(void)
{
	return sink && state != SINK_BLOCKED && (works || hand->nitems == 0);
}

void
connection_excuse(int64 usecs)
{
	verdict_at += usecs;
}

/* Sleep until something happens that the sink waits for, or anyone else. */
static void
sleep_for(long timeout)
{
	WaitEventSet *set = CREATE_WAIT_EVENT_SET(2 + waiting.nsockets);
	WaitEvent	event;

	AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	for (int i = 0; i < waiting.nsockets; i++)
		AddWaitEventToSet(set, waiting.sockets[i].events, waiting.sockets[i].socket, NULL, NULL);
	(void) WaitEventSetWait(set, timeout, &event, 1, WAIT_EVENT("QueueRelayMain"));
	FreeWaitEventSet(set);
}

/* Sleep until something happens, or until a time. */
void
connection_sleep(TimestampTz until)
{
	TimestampTz now;
	long		timeout;

	waiting.nsockets = 0;
	if (sink)
	{
		waiting.until = DT_NOEND;
		MemoryContextSwitchTo(scratch);
		routine->wait(sink, &waiting);
		leave_sink();
		until = Min(until, waiting.until);
		if (hand->nsent > 0 && !routine->local)
			until = Min(until, verdict_at + confirm_timeout);
	}
	else
		until = Min(until, due);

	/* Bounded on both sides: before 17 infinity makes the difference wrap. */
	now = GetCurrentTimestamp();
	if (until <= now)
		timeout = 0;
	else if (until > now + SLEEP_MAX)
		timeout = SLEEP_MAX / 1000;
	else
		timeout = TimestampDifferenceMilliseconds(now, until);
	sleep_for(timeout);
	ResetLatch(MyLatch);
}
