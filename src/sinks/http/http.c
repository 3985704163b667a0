/*
 * http.c
 *		Sink that makes each message a request to an HTTP server.
 *
 * The server answers each for itself: it has taken the message (2xx), or
 * refuses it (most of 4xx).  With the rest, and when there is no answer, it is
 * open whose fault that is.  No further request is made then; those under way
 * have their answers; and when none is left the connection counts as lost, with
 * the messages in flight that it went wrong with.  So the relay publishes them
 * again after a time, alone if that happens again, and finds out whether others
 * get through: see relay/suspicion.c.
 */
#include "postgres.h"

#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "message.h"
#include "relay/sink.h"
#include "sinks/http/client.h"
#include "sinks/http/credentials.h"
#include "sinks/http/request.h"
#include "sinks/text.h"
#include "utils/timestamp.h"

PG_MODULE_MAGIC;

/* A server is waited for so long at most, whatever it asks for. */
#define RETRY_AFTER_MAX		(15 * SECS_PER_MINUTE)

/* A message that is a request. */
typedef struct Place
{
	SinkItem   *item;			/* NULL: free */
	bool		failed;			/* in flight, and it went wrong */
	char	   *data;			/* what encode() made */
	Request		request;
	char	   *url;			/* redirected to, or NULL */
	int			hops;
	bool		credentials;	/* they may be sent */
} Place;

typedef struct HttpSink
{
	Sink		base;
	const HttpOptions *options;
	HttpStatuses success;
	HttpStatuses retry;
	Publication publication;
	Credentials credentials;
	Client	   *client;
	int			nplaces;
	Place	   *places;
	int			nrunning;

	/* What is to be the end of the connection, SINK_READY: nothing. */
	SinkState	trouble;
	char		trouble_text[SINK_ERROR_SIZE];
	TimestampTz hold_until;		/* the server has asked for that */
} HttpSink;

PGDLLEXPORT const SinkRoutine *queue_sink(void);

static Sink *
http_open(const SinkConfig *config, char *error)
{
	const HttpOptions *options = config->options;
	HttpSink   *sink = palloc0(sizeof(HttpSink));

	sink->base.config = config;
	sink->base.call_items = 1;
	sink->options = options;
	if (!http_parse_statuses(options->success, &sink->success) ||
		!http_parse_statuses(options->retry, &sink->retry))
	{
		strlcpy(error, "an option is not what it must be", SINK_ERROR_SIZE);
		return NULL;
	}
	if (!request_prepare(&sink->publication, options, config->queue, error) ||
		!credentials_make(&sink->credentials, options, error))
		return NULL;
	sink->nplaces = Min(options->concurrency, config->window);
	sink->places = palloc0(sink->nplaces * sizeof(Place));
	sink->client = client_open(options, sink->credentials.header, sink->nplaces, error);
	return sink->client ? &sink->base : NULL;
}

static bool
http_encode(Sink *base, const SinkItem *item, StringInfo out, char *error)
{
	HttpSink   *sink = (HttpSink *) base;

	return request_encode(&sink->publication, item->message, out, error);
}

/* Whether it takes another message. */
static SinkState
say_state(const HttpSink *sink)
{
	if (sink->trouble == SINK_READY)
		return sink->nrunning < sink->nplaces ? SINK_READY : SINK_FULL;
	return sink->nrunning == 0 ? SINK_BLOCKED : SINK_FULL;
}

/* How much a trouble says against the messages in flight. */
static int
rank(SinkState trouble)
{
	return trouble == SINK_LOST ? 3 : trouble == SINK_STUCK ? 2 : trouble == SINK_ENDED ? 1 : 0;
}

/* A request went wrong: its message stays in flight until the connection ends. */
static void
fail(HttpSink *sink, Place *place, SinkState trouble, const char *text)
{
	place->failed = true;
	if (rank(trouble) <= rank(sink->trouble))
		return;
	sink->trouble = trouble;
	strlcpy(sink->trouble_text, text, sizeof(sink->trouble_text));
}

static void
start(HttpSink *sink, Place *place)
{
	char		error[SINK_ERROR_SIZE] = "";

	if (client_start(sink->client, place - sink->places, &place->request,
					 place->url ? place->url : place->request.url, place->credentials, error))
		sink->nrunning++;
	else
		fail(sink, place, SINK_LOST, error);
}

static SinkState
http_publish(Sink *base, SinkItem **items, int n, char *error)
{
	HttpSink   *sink = (HttpSink *) base;

	for (int i = 0; i < n; i++)
	{
		Place	   *place = sink->places;

		while (place->item)
			place++;
		place->data = MemoryContextAllocHuge(base->context, items[i]->size);
		memcpy(place->data, items[i]->data, items[i]->size);
		request_read(place->data, items[i]->size, &place->request);
		place->item = items[i];
		place->failed = false;
		place->url = NULL;
		place->hops = 0;
		place->credentials = true;
		start(sink, place);
	}
	client_send(sink->client);
	return say_state(sink);
}

/* The message is off our hands. */
static void
settle(HttpSink *sink, Place *place, SinkVerdict verdict, const char *text)
{
	SinkItem   *item = place->item;

	pfree(place->data);
	if (place->url)
		pfree(place->url);
	place->item = NULL;
	sink->base.config->verdict(&item, 1, verdict, text);
}

/* What a server has answered, in its words but for secrets that it repeats. */
static void
say_answer(const HttpSink *sink, Answer *answer, char *text)
{
	char		words[ANSWER_WORDS];

	credentials_hide(&sink->credentials, answer->words, answer->nwords,
					 answer->nwords == ANSWER_WORDS);
	text_clean(words, sizeof(words), answer->words, answer->nwords, PG_UTF8);
	text_say(text, "server answered %d%s%s", answer->status, words[0] ? ": " : "", words);
}

/*
 * The connection that a request went by has ended without an answer, as ones
 * that are kept can at any time: servers close them when they are idle, or were
 * used often enough.  So the first time nothing is said against anyone.
 */
static void
handle_gone(HttpSink *sink, Place *place, const Answer *answer)
{
	if (place->item->tag != 0)
	{
		fail(sink, place, SINK_LOST, answer->error);
		return;
	}
	place->item->tag = 1;
	settle(sink, place, SINK_UNTRIED, NULL);
}

/* Go where a server has sent a request on to; false if it may not. */
static bool
follow(HttpSink *sink, Place *place, const Answer *answer)
{
	const char *from = place->url ? place->url : place->request.url;

	if (place->hops >= sink->options->follow_redirects || answer->redirect == NULL ||
		(answer->status != 301 && answer->status != 302 &&
		 answer->status != 307 && answer->status != 308) ||
		!client_may_follow(from, answer->redirect))
		return false;
	if (!client_same_origin(from, answer->redirect))
		place->credentials = false;
	if (place->url)
		pfree(place->url);
	place->url = MemoryContextStrdup(sink->base.context, answer->redirect);
	place->hops++;
	start(sink, place);
	return true;
}

/* Whether a status is more likely about the server than about a message. */
static bool
is_servers_own(int status)
{
	return status < 500 || (status >= 502 && status <= 504);
}

/* Wait as long as the server wants. */
static void
hold(HttpSink *sink, const Answer *answer, const char *text)
{
	int64		seconds = Min(answer->retry_after, RETRY_AFTER_MAX);
	TimestampTz until = GetCurrentTimestamp() + seconds * USECS_PER_SEC;
	char		complaint[SINK_ERROR_SIZE];

	sink->hold_until = Max(sink->hold_until, until);
	text_say(complaint, "waiting for " INT64_FORMAT " s: %s", seconds, text);
	sink->base.config->complain(complaint);
}

static void
handle_status(HttpSink *sink, Place *place, Answer *answer)
{
	char		text[SINK_ERROR_SIZE];

	if (sink->success.has[answer->status])
	{
		settle(sink, place, SINK_CONFIRMED, NULL);
		return;
	}
	if (follow(sink, place, answer))
		return;
	say_answer(sink, answer, text);
	if (!sink->retry.has[answer->status])
	{
		settle(sink, place, SINK_REFUSED, text);
		return;
	}
	fail(sink, place, is_servers_own(answer->status) ? SINK_STUCK : SINK_LOST, text);
	if (answer->retry_after > 0)
		hold(sink, answer, text);
}

static void
handle_answer(HttpSink *sink, Answer *answer)
{
	Place	   *place = &sink->places[answer->place];

	sink->nrunning--;
	switch (answer->kind)
	{
		case ANSWER_STATUS:
			handle_status(sink, place, answer);
			break;
		case ANSWER_UNREACHABLE:

			/*
			 * A redirect leads wherever that message makes the server send
			 * us.
			 */
			fail(sink, place, place->hops > 0 ? SINK_LOST : SINK_ENDED, answer->error);
			break;
		case ANSWER_TIMEOUT:
			fail(sink, place, SINK_STUCK, answer->error);
			break;
		case ANSWER_GONE:
			handle_gone(sink, place, answer);
			break;
		case ANSWER_BROKEN:
			fail(sink, place, SINK_LOST, answer->error);
			break;
	}
}

static SinkState
http_poll(Sink *base, char *error)
{
	HttpSink   *sink = (HttpSink *) base;
	Answer		answer;

	client_drive(sink->client);
	while (client_answer(sink->client, &answer))
		handle_answer(sink, &answer);
	if (sink->trouble == SINK_READY || sink->nrunning > 0 ||
		GetCurrentTimestamp() < sink->hold_until)
		return say_state(sink);
	strlcpy(error, sink->trouble_text, SINK_ERROR_SIZE);
	return sink->trouble;
}

static void
http_wait(Sink *base, SinkWait *wait)
{
	HttpSink   *sink = (HttpSink *) base;

	client_wait(sink->client, wait);
	if (sink->trouble != SINK_READY && sink->nrunning == 0)
		wait->until = Min(wait->until, sink->hold_until);
}

static void
http_close(Sink *base)
{
	HttpSink   *sink = (HttpSink *) base;

	client_close(sink->client);
}

static const SinkRoutine http_sink = {
	.magic = SINK_MAGIC,
	.version = SINK_VERSION,
	.order = SINK_ORDER_NONE,
	.open = http_open,
	.encode = http_encode,
	.publish = http_publish,
	.poll = http_poll,
	.wait = http_wait,
	.close = http_close,
};

const SinkRoutine *
queue_sink(void)
{
	return &http_sink;
}
