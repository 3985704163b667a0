/*
 * kafka.c
 *		Sink that publishes to Apache Kafka.
 *
 * librdkafka puts records together to batches, sends them and tries again what
 * failed in passing; its word on each comes as an event.  The broker refuses a
 * batch as a whole, so several that it refused at once are refused as one.
 *
 * When no broker can be reached any more the connection is lost, and what was
 * in flight is the relay's again.  With a transactional producer a call is a
 * transaction: it is committed when all of its records are with the brokers.
 */
#include "postgres.h"

#include "compat.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "message.h"
#include "relay/sink.h"
#include "sinks/kafka/fault.h"
#include "sinks/kafka/producer.h"
#include "sinks/kafka/record.h"
#include "sinks/text.h"

PG_MODULE_MAGIC;

/* Events dealt with before others have their turn. */
#define EVENTS_MAX		200

/* Where a transaction is. */
typedef enum Phase
{
	PHASE_IDLE,					/* there is none, or no transactions at all */
	PHASE_OPEN,					/* records are on their way */
	PHASE_COMMIT,
	PHASE_ABORT
} Phase;

typedef struct KafkaSink
{
	Sink		base;
	const KafkaOptions *options;
	const char *queue;			/* in UTF-8 */
	Producer   *producer;
	bool		more;			/* not all events have been read */

	/*
	 * Items in flight, each known to librdkafka by its place here.  They land
	 * in any order: an unknown topic keeps those of others waiting for none.
	 */
	SinkItem  **items;			/* window of them; NULL: the place is free */
	int		   *free;			/* the places that are, the next one last */
	int			nfree;

	/*
	 * Of a transaction, which begins with place 0: what became of its
	 * records.
	 */
	Phase		phase;
	rd_kafka_resp_err_t *codes;
	int			nrecords;
	int			nopen;			/* of them, not heard of */
	rd_kafka_resp_err_t reason; /* what it is aborted for, if that is not what
								 * became of one of them */
} KafkaSink;

PGDLLEXPORT const SinkRoutine *queue_sink(void);

/* All places are free, and the first one is the next to be taken. */
static void
free_all(KafkaSink *sink)
{
	int			window = sink->base.config->window;

	for (int i = 0; i < window; i++)
	{
		sink->items[i] = NULL;
		sink->free[i] = window - 1 - i;
	}
	sink->nfree = window;
}

static Sink *
kafka_open(const SinkConfig *config, char *error)
{
	KafkaSink  *sink = palloc0(sizeof(KafkaSink));
	int			length = strlen(config->queue);

	sink->base.config = config;
	sink->options = config->options;
	sink->queue = text_utf8(config->queue, &length);
	sink->items = palloc0(config->window * sizeof(SinkItem *));
	sink->free = palloc(config->window * sizeof(int));
	free_all(sink);
	sink->codes = palloc0(config->window * sizeof(rd_kafka_resp_err_t));
	sink->producer = producer_open(config, error);
	return sink->producer ? &sink->base : NULL;
}

static bool
kafka_encode(Sink *base, const SinkItem *item, StringInfo out, char *error)
{
	KafkaSink  *sink = (KafkaSink *) base;

	return record_encode(sink->options, sink->queue, item->message, out, error);
}

static SinkState
say_state(const KafkaSink *sink)
{
	return sink->phase != PHASE_IDLE || sink->nfree == 0 ? SINK_FULL : SINK_READY;
}

/*
 * Places
 */

static void
take_off(KafkaSink *sink, SinkItem *item)
{
	Assert(sink->nfree > 0);
	item->tag = sink->free[--sink->nfree];
	sink->items[item->tag] = item;
}

/* The item of a place, NULL if it is free. */
static SinkItem *
find_item(const KafkaSink *sink, uint64 tag)
{
	return tag < sink->base.config->window ? sink->items[tag] : NULL;
}

/* The same, and it is free from now on. */
static SinkItem *
land(KafkaSink *sink, uint64 tag)
{
	SinkItem   *item = find_item(sink, tag);

	if (item)
	{
		sink->items[tag] = NULL;
		sink->free[sink->nfree++] = (int) tag;
	}
	return item;
}

/*
 * Verdicts
 */

/* The words for a code. */
static void
say_code(rd_kafka_resp_err_t code, char *error)
{
	const char *words = rd_kafka_err2str(code);

	text_clean(error, SINK_ERROR_SIZE, words, strlen(words), PG_UTF8);
}

/* Act on a code that some items were answered with; SINK_READY to go on. */
static SinkState
judge(KafkaSink *sink, SinkItem **items, int n, rd_kafka_resp_err_t code, char *error)
{
	const SinkConfig *config = sink->base.config;
	Fault		fault = fault_of(code, sink->options);
	char		words[SINK_ERROR_SIZE];

	switch (fault)
	{
		case FAULT_NONE:
			config->verdict(items, n, SINK_CONFIRMED, NULL);
			return SINK_READY;
		case FAULT_MESSAGE:
		case FAULT_TOPIC:
			say_code(code, words);
			config->verdict(items, n, SINK_REFUSED, words);
			return SINK_READY;
		case FAULT_OTHERS:
			config->verdict(items, n, SINK_UNTRIED, NULL);
			return SINK_READY;
		case FAULT_CONNECTION:
		case FAULT_UNKNOWN:
			break;
	}

	/* These are the relay's when the connection is closed. */
	say_code(code, error);
	return fault == FAULT_CONNECTION ? SINK_ENDED : SINK_LOST;
}

/*
 * Let items land and judge them, those that have a code in common together
 * unless it holds for each by itself.
 */
static SinkState
judge_all(KafkaSink *sink, const uint64 *tags, const rd_kafka_resp_err_t *codes, int n, char *error)
{
	SinkItem  **items = palloc(n * sizeof(SinkItem *));
	SinkState	state = SINK_READY;
	int			nitems = 0;

	for (int i = 0; i < n && state == SINK_READY; i++)
	{
		Fault		fault = fault_of(codes[i], sink->options);
		SinkItem   *item = fault <= FAULT_OTHERS ? land(sink, tags[i]) :
			find_item(sink, tags[i]);

		if (item)
			items[nitems++] = item;
		if (nitems > 0 && (fault == FAULT_TOPIC || i == n - 1 || codes[i + 1] != codes[i]))
		{
			state = judge(sink, items, nitems, codes[i], error);
			nitems = 0;
		}
	}
	pfree(items);
	return state;
}

/*
 * Transactions
 */

/* Note what became of a record; the transaction ends when all are heard of. */
static void
note_codes(KafkaSink *sink, const uint64 *tags, const rd_kafka_resp_err_t *codes, int n)
{
	for (int i = 0; i < n; i++)
	{
		if (find_item(sink, tags[i]) == NULL)
			continue;
		sink->codes[tags[i]] = codes[i];
		sink->nopen--;
	}
}

/* The worst fault of any of its records: none if all are with the brokers. */
static Fault
worst_fault(const KafkaSink *sink)
{
	Fault		worst = FAULT_NONE;

	for (int i = 0; i < sink->nrecords; i++)
	{
		Fault		fault = fault_of(sink->codes[i], sink->options);

		/* Whoever was let go of, another one's fault explains it. */
		if (worst == FAULT_NONE || (worst == FAULT_OTHERS && fault != FAULT_NONE))
			worst = fault;
	}
	return worst;
}

/*
 * All of its records have been heard of: commit it or abort it.  When all that
 * were not taken were let go of, the transaction itself failed, as for a topic
 * that it may not write to.
 */
static void
decide(KafkaSink *sink)
{
	Fault		fault = worst_fault(sink);
	char		words[SINK_ERROR_SIZE];

	sink->reason = fault == FAULT_OTHERS ? producer_begin(sink->producer, words) :
		RD_KAFKA_RESP_ERR_NO_ERROR;
	sink->phase = fault == FAULT_NONE ? PHASE_COMMIT : PHASE_ABORT;
	producer_ask(sink->producer, fault == FAULT_NONE ? JOB_COMMIT : JOB_ABORT);
}

/* It is aborted for a reason that is not one of its records': say so of all of them. */
static SinkState
blame_all(KafkaSink *sink, char *error)
{
	int			n = sink->nrecords;
	SinkItem  **items = palloc(n * sizeof(SinkItem *));
	SinkState	state;

	for (int i = 0; i < n; i++)
		items[i] = sink->items[i];
	state = judge(sink, items, n, sink->reason, error);
	pfree(items);
	return state;
}

/* It is over: say so of each of its records. */
static SinkState
end_transaction(KafkaSink *sink, bool committed, char *error)
{
	int			n = sink->nrecords;
	uint64	   *tags = palloc(n * sizeof(uint64));
	rd_kafka_resp_err_t *codes = palloc(n * sizeof(rd_kafka_resp_err_t));
	SinkState	state;

	for (int i = 0; i < n; i++)
	{
		tags[i] = i;
		codes[i] = sink->codes[i];
		if (!committed && codes[i] == RD_KAFKA_RESP_ERR_NO_ERROR)
			codes[i] = RD_KAFKA_RESP_ERR__PURGE_QUEUE;
	}
	if (sink->reason != RD_KAFKA_RESP_ERR_NO_ERROR)
		state = blame_all(sink, error);
	else
		state = judge_all(sink, tags, codes, n, error);
	sink->phase = PHASE_IDLE;
	free_all(sink);
	return state;
}

/*
 * It cannot be aborted, as one that the brokers have not heard of cannot: the
 * next producer sees to that.  Why it was to be aborted says more.
 */
static SinkState
leave_transaction(KafkaSink *sink, char *error)
{
	char		words[SINK_ERROR_SIZE];
	SinkState	state = end_transaction(sink, false, words);

	if (state == SINK_READY)
		return SINK_ENDED;
	strlcpy(error, words, SINK_ERROR_SIZE);
	return state;
}

/* Move it on; SINK_READY if that is all. */
static SinkState
advance(KafkaSink *sink, char *error)
{
	rd_kafka_resp_err_t code;

	if (sink->phase == PHASE_OPEN && sink->nopen == 0)
		decide(sink);
	if ((sink->phase == PHASE_COMMIT || sink->phase == PHASE_ABORT) &&
		producer_done(sink->producer, &code, error))
	{
		if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
			return end_transaction(sink, sink->phase == PHASE_COMMIT, error);
		if (sink->phase == PHASE_ABORT)
			return leave_transaction(sink, error);
		return fault_of(code, sink->options) == FAULT_CONNECTION ? SINK_ENDED : SINK_LOST;
	}
	return SINK_READY;
}

/*
 * Publish and poll
 */

static SinkState
kafka_publish(Sink *base, SinkItem **items, int n, char *error)
{
	KafkaSink  *sink = (KafkaSink *) base;
	bool		transactional = sink->options->transactional;

	if (transactional)
	{
		/* What came before it is to blame, if anything is. */
		if (producer_begin(sink->producer, error) != RD_KAFKA_RESP_ERR_NO_ERROR)
			return SINK_ENDED;
		sink->phase = PHASE_OPEN;
		sink->nrecords = sink->nopen = n;
	}
	for (int i = 0; i < n; i++)
	{
		SinkItem   *item = items[i];
		rd_kafka_resp_err_t code;
		SinkState	state;

		take_off(sink, item);
		code = record_produce(sink->producer->handle, item->data, item->size, item->tag);
		if (transactional)
		{
			/* One that was refused has ended it for those that follow. */
			if (code == RD_KAFKA_RESP_ERR__STATE)
				code = RD_KAFKA_RESP_ERR__PURGE_QUEUE;
			sink->codes[item->tag] = code;
			if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
				sink->nopen--;
		}
		else if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
		{
			state = judge_all(sink, &item->tag, &code, 1, error);
			if (state != SINK_READY)
				return state;
		}
	}
	return say_state(sink);
}

/* What became of some records. */
static SinkState
heed_report(KafkaSink *sink, rd_kafka_event_t *event, char *error)
{
	const rd_kafka_message_t *message;
	int			most = rd_kafka_event_message_count(event);
	uint64	   *tags = palloc(Max(most, 1) * sizeof(uint64));
	rd_kafka_resp_err_t *codes = palloc(Max(most, 1) * sizeof(rd_kafka_resp_err_t));
	SinkState	state = SINK_READY;
	int			n = 0;

	while (n < most && (message = rd_kafka_event_message_next(event)) != NULL)
	{
		tags[n] = (uint64) (uintptr_t) message->_private;
		codes[n++] = message->err;
	}
	rd_kafka_event_destroy(event);
	if (sink->options->transactional)
		note_codes(sink, tags, codes, n);
	else
		state = judge_all(sink, tags, codes, n, error);
	pfree(tags);
	pfree(codes);
	return state;
}

static SinkState
kafka_poll(Sink *base, char *error)
{
	KafkaSink  *sink = (KafkaSink *) base;
	ProducerNews news = {0};
	SinkState	state = SINK_READY;
	int			n = 0;

	producer_drain(sink->producer);
	for (; n < EVENTS_MAX && state == SINK_READY; n++)
	{
		rd_kafka_event_t *event = producer_event(sink->producer);

		if (event == NULL)
			break;
		switch (rd_kafka_event_type(event))
		{
			case RD_KAFKA_EVENT_DR:
				state = heed_report(sink, event, error);
				break;
			case RD_KAFKA_EVENT_ERROR:
				producer_news(sink->producer, event, &news);
				pg_fallthrough;
			default:
				rd_kafka_event_destroy(event);
				break;
		}
	}
	sink->more = n == EVENTS_MAX;
	if (state == SINK_READY && news.lost)
	{
		strlcpy(error, news.error, SINK_ERROR_SIZE);
		return sink->phase == PHASE_ABORT ? leave_transaction(sink, error) : SINK_LOST;
	}
	if (state == SINK_READY && news.trouble)
		base->config->complain(news.error);
	if (state == SINK_READY)
		state = advance(sink, error);
	return state == SINK_READY ? say_state(sink) : state;
}

static void
kafka_wait(Sink *base, SinkWait *wait)
{
	KafkaSink  *sink = (KafkaSink *) base;

	wait->until = sink->more ? DT_NOBEGIN : DT_NOEND;
	sink_wait_for(wait, sink->producer->readable, WL_SOCKET_READABLE);
}

static void
kafka_close(Sink *base)
{
	KafkaSink  *sink = (KafkaSink *) base;

	producer_close(sink->producer);
}

static const SinkRoutine kafka_sink = {
	.magic = SINK_MAGIC,
	.version = SINK_VERSION,
	.order = SINK_ORDER_NONE,
	.open = kafka_open,
	.encode = kafka_encode,
	.publish = kafka_publish,
	.poll = kafka_poll,
	.wait = kafka_wait,
	.close = kafka_close,
};

const SinkRoutine *
queue_sink(void)
{
	return &kafka_sink;
}
