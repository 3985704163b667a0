/*
 * redis.c
 *		Sink that publishes to Redis and what speaks its protocol.
 *
 * A message is a command, and commands are answered one by one in the order
 * they were sent in, each for itself: so the pipeline has no order but the one
 * that the relay gives it.
 *
 * When the server takes nothing for now (out of memory, a replica, loading),
 * nothing more is sent, and the connection ends when all is answered: what was
 * taken meanwhile is confirmed, and nothing is published twice.
 *
 * Of a cluster each node has a connection, opened with the first of them.
 * Where a key has moved to another, its message is the relay's again, which
 * publishes it anew, in its place.  A node that was not there before, or is
 * gone, means a new connection to them all.
 */
#include "postgres.h"

#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "message.h"
#include "relay/sink.h"
#include "sinks/redis/cluster.h"
#include "sinks/redis/encode.h"
#include "sinks/redis/node.h"
#include "sinks/redis/pipeline.h"
#include "sinks/redis/words.h"
#include "sinks/text.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

PG_MODULE_MAGIC;

/* To connect to all nodes, and log in. */
#define CONNECT_WITHIN	(10 * USECS_PER_SEC)

/* Output waiting at which no more is taken. */
#define OUTPUT_MAX		(1024 * 1024)

/* Replies of a node dealt with before others have their turn. */
#define REPLIES_MAX		1000

/* A connection that has been silent for so long is asked whether it is there. */
#define SILENT_MAX		(20 * USECS_PER_SEC)

/*
 * What WAIT waits for the replicas at most before it says how many, and how
 * long it is until it is asked the next time, if it does not wait.
 */
#define WAIT_TIME		(1 * USECS_PER_SEC)

/*
 * In an item's tag: whether it is to be asked for at a node, that node's
 * number, and how often it was sent on, up to a limit.
 */
#define TAG_ASKING		UINT64CONST(0x8000000000000000)
#define TAG_HOP			UINT64CONST(0x100)
#define TAG_NODE		(TAG_HOP - 1)
#define HOPS_MAX		16

/* A node, and what it is to answer. */
typedef struct Peer
{
	RedisNode  *node;
	Pipeline	pipeline;
	TimestampTz heard_at;		/* an answer, or since when one is due */
	TimestampTz waited_at;		/* asked for replicas */
	bool		behind;			/* its replicas are */
	bool		wrote;			/* something of this call */
} Peer;

typedef struct RedisSink
{
	Sink		base;
	const RedisOptions *options;
	Publication publication;
	Cluster		cluster;
	Peer	   *peers;			/* of the cluster's nodes */
	bool		target_varies;	/* from message to message */
	bool		more;			/* not all that came has been read, or put has
								 * been sent */
	char	   *trouble;		/* why it is to end when all is answered; or
								 * NULL */
} RedisSink;

PGDLLEXPORT const SinkRoutine *queue_sink(void);

static void
hang_up(RedisSink *sink)
{
	for (int i = 0; i < sink->cluster.nnodes && sink->peers; i++)
	{
		if (sink->peers[i].node)
			node_close(sink->peers[i].node);
		sink->peers[i].node = NULL;
	}
}

/* Whether a template gives one message another text than the next. */
static bool
varies(const Template *template)
{
	for (int i = 0; template && i < template->nparts; i++)
	{
		if (template->parts[i].kind != TEMPLATE_TEXT)
			return true;
	}
	return false;
}

static Sink *
redis_open(const SinkConfig *config, char *error)
{
	const RedisOptions *options = config->options;
	const char *payload_field = options->payload_field ? options->payload_field : "payload";
	int			queue_length = strlen(config->queue);
	int			field_length = strlen(payload_field);
	TimestampTz deadline = GetCurrentTimestamp() + CONNECT_WITHIN;
	RedisSink  *sink = palloc0(sizeof(RedisSink));
	NodeAddress seed = {.port = options->port};

	if (strlcpy(seed.host, options->host, NODE_HOST) >= NODE_HOST)
	{
		text_say(error, "name of the host has more than %d bytes", NODE_HOST - 1);
		return NULL;
	}
	if (!options->cluster)
		cluster_single(&sink->cluster, &seed);
	else if (!cluster_discover(&sink->cluster, options, &seed, deadline, error))
		return NULL;

	sink->base.config = config;
	sink->options = options;
	sink->publication.options = options;
	sink->publication.queue = text_utf8(config->queue, &queue_length);
	sink->publication.payload_field = text_utf8(payload_field, &field_length);
	sink->target_varies = varies(options->target);
	sink->peers = palloc0(sink->cluster.nnodes * sizeof(Peer));
	for (int i = 0; i < sink->cluster.nnodes; i++)
	{
		Peer	   *peer = &sink->peers[i];

		peer->node = node_open(options, &sink->cluster.nodes[i], deadline, error);
		if (peer->node == NULL)
		{
			hang_up(sink);
			return NULL;
		}
		pipeline_init(&peer->pipeline, config->window);
	}
	return &sink->base;
}

static bool
redis_encode(Sink *base, const SinkItem *item, StringInfo out, char *error)
{
	RedisSink  *sink = (RedisSink *) base;

	return encode_message(&sink->publication, item->message, out, error);
}

/* Whether it takes another call. */
static SinkState
say_state(const RedisSink *sink)
{
	SinkState	state = SINK_READY;

	if (sink->trouble)
		return SINK_FULL;
	for (int i = 0; i < sink->cluster.nnodes; i++)
	{
		const Peer *peer = &sink->peers[i];

		/* What would be published anew is there already. */
		if (peer->behind)
			return SINK_BLOCKED;
		if (wire_unsent(peer->node->wire) > OUTPUT_MAX)
			state = SINK_FULL;
	}
	return state;
}

/* Put a question to a node, whose command is in its output. */
static void
ask(Peer *peer, Asked asked, SinkItem *item)
{
	if (!pipeline_due(&peer->pipeline))
		peer->heard_at = GetCurrentTimestamp();
	pipeline_ask(&peer->pipeline, asked, item);
}

/* Ask how many replicas have what was written before. */
static void
ask_replicas(RedisSink *sink, Peer *peer)
{
	char		number[32];
	char		time[32];

	/* It is to say something before the relay takes it for lost. */
	snprintf(number, sizeof(number), "%d", sink->options->replicas);
	snprintf(time, sizeof(time), INT64_FORMAT,
			 Min(WAIT_TIME, sink->options->base.confirm_timeout / 2) / 1000);
	command_put(node_output(peer->node), "WAIT", number, time, NULL);
	ask(peer, ASKED_WAIT, NULL);
	peer->waited_at = GetCurrentTimestamp();
}

static SinkState
redis_publish(Sink *base, SinkItem **items, int n, char *error)
{
	RedisSink  *sink = (RedisSink *) base;

	for (int i = 0; i < n; i++)
	{
		SinkItem   *item = items[i];
		uint64		asking = item->tag & TAG_NODE;
		EncodedHead head;
		Peer	   *peer;

		memcpy(&head, item->data, sizeof(head));
		peer = &sink->peers[sink->cluster.slots[head.slot]];
		if ((item->tag & TAG_ASKING) && asking < sink->cluster.nnodes)
		{
			peer = &sink->peers[asking];
			command_put(node_output(peer->node), "ASKING", NULL);
			ask(peer, ASKED_ASKING, NULL);
		}
		appendBinaryStringInfo(node_output(peer->node), item->data + sizeof(head),
							   item->size - sizeof(head));
		ask(peer, ASKED_ITEM, item);
		peer->wrote = true;
	}
	for (int i = 0; i < sink->cluster.nnodes; i++)
	{
		Peer	   *peer = &sink->peers[i];

		if (peer->wrote && sink->options->replicas > 0)
			ask_replicas(sink, peer);
		peer->wrote = false;
	}
	return say_state(sink);
}

/*
 * What the server says
 */

static void
verdict(RedisSink *sink, SinkItem *item, SinkVerdict is, const char *text)
{
	sink->base.config->verdict(&item, 1, is, text);
}

static const char *
command_name(const RedisSink *sink)
{
	return encode_command(sink->options->command);
}

/* Take no more, and end when all is answered. */
static void
note_trouble(RedisSink *sink, const char *text)
{
	if (sink->trouble == NULL)
		sink->trouble = MemoryContextStrdup(sink->base.context, text);
}

/* The same, in the server's words. */
static void
note_refusal(RedisSink *sink, const char *command, const Reply *reply)
{
	char		text[SINK_ERROR_SIZE];

	words_say(text, command, reply);
	note_trouble(sink, text);
}

/* Whether that is what Redis says when it has done as it was told. */
static bool
is_done(const Reply *reply, RedisCommand command)
{
	static const char digits[] = "0123456789";
	Size		n;

	if (command != REDIS_XADD)
		return reply->type == REPLY_NUMBER && reply->number >= (command == REDIS_PUBLISH ? 0 : 1);
	if (reply->type != REPLY_TEXT)
		return false;

	/* The entry's number, "1526919030474-55" */
	n = strspn(reply->text, digits);
	return n > 0 && reply->text[n] == '-' && reply->text[n + 1] != '\0' &&
		n + 1 + strspn(reply->text + n + 1, digits) == reply->length;
}

/* An item's key has moved to another node, or is about to. */
static void
follow(RedisSink *sink, const Peer *peer, SinkItem *item, const Reply *reply, bool asks)
{
	char		text[SINK_ERROR_SIZE];
	NodeAddress address;
	uint64		hops = item->tag & ~(TAG_ASKING | TAG_NODE);
	int			slot;
	int			node;

	item->tag = 0;
	if (!sink->options->cluster)
	{
		words_say(text, command_name(sink), reply);
		text_say(text, "%s: the server is one of a cluster, set its option \"cluster\"",
				 pstrdup(text));
		note_trouble(sink, text);
		return;
	}
	if (!cluster_address(reply, &slot, &address))
	{
		note_trouble(sink, "the server names no node that has the key");
		return;
	}
	if (address.host[0] == '\0')
		strlcpy(address.host, peer->node->address.host, NODE_HOST);
	node = cluster_find(&sink->cluster, &address);
	if (node < 0)
	{
		text_say(text, "slot %d is now at %s:%d", slot, address.host, address.port);
		note_trouble(sink, text);
	}
	else if (hops >= HOPS_MAX * TAG_HOP)
	{
		text_say(text, "the nodes of the cluster do not agree on who has slot %d", slot);
		note_trouble(sink, text);
	}
	else
	{
		item->tag = hops + TAG_HOP;
		if (asks)
			item->tag |= TAG_ASKING | node;
		else
			sink->cluster.slots[slot] = node;
	}
}

/* An error in answer to an item: SINK_READY if that is all. */
static SinkState
handle_error(RedisSink *sink, const Peer *peer, SinkItem *item, const Reply *reply, char *error)
{
	char		text[SINK_ERROR_SIZE];
	Fault		fault = words_fault(reply, sink->target_varies);

	switch (fault)
	{
		case FAULT_MESSAGE:
		case FAULT_PROTOCOL:
			text_clean(text, sizeof(text), reply->text, reply->length, PG_UTF8);
			verdict(sink, item, SINK_REFUSED, text);
			if (fault == FAULT_MESSAGE)
				return SINK_READY;
			strlcpy(error, text, SINK_ERROR_SIZE);
			return SINK_ENDED;
		case FAULT_SERVER:
			note_refusal(sink, command_name(sink), reply);
			break;
		case FAULT_MOVED:
		case FAULT_ASK:
			follow(sink, peer, item, reply, fault == FAULT_ASK);
			break;
	}
	verdict(sink, item, SINK_UNTRIED, NULL);
	return SINK_READY;
}

/* The answer to WAIT. */
static bool
handle_replicas(RedisSink *sink, Peer *peer, const Reply *reply)
{
	Pipeline   *pipeline = &peer->pipeline;
	char		text[SINK_ERROR_SIZE];

	peer->behind = false;
	if (reply->type == REPLY_ERROR)
	{
		note_refusal(sink, "WAIT", reply);
		return true;
	}
	if (reply->type != REPLY_NUMBER)
		return false;
	if (reply->number < sink->options->replicas && pipeline->nkept > 0)
	{
		peer->behind = true;
		text_say(text, "%d of %d replicas have what was published", (int) reply->number,
				 sink->options->replicas);
		sink->base.config->complain(text);
		return true;
	}
	for (int i = 0; i < pipeline->nkept; i++)
		verdict(sink, pipeline->kept[i], SINK_CONFIRMED, NULL);
	pipeline->nkept = 0;
	return true;
}

/* The answer to the command of an item; SINK_READY if that is all. */
static SinkState
handle_item(RedisSink *sink, Peer *peer, SinkItem *item, const Reply *reply, char *error)
{
	if (reply->type == REPLY_ERROR)
		return handle_error(sink, peer, item, reply, error);
	if (!is_done(reply, sink->options->command))
		return SINK_LOST;
	if (sink->options->replicas > 0)
		pipeline_keep(&peer->pipeline, item);
	else
		verdict(sink, item, SINK_CONFIRMED, NULL);
	return SINK_READY;
}

/* Deal with a reply; SINK_READY if that is all. */
static SinkState
handle_reply(RedisSink *sink, Peer *peer, const Reply *reply, char *error)
{
	const Question *question = pipeline_answer(&peer->pipeline);
	SinkState	state = SINK_LOST;

	if (question && question->asked == ASKED_ITEM)
		state = handle_item(sink, peer, question->item, reply, error);
	else if (question && question->asked == ASKED_WAIT && handle_replicas(sink, peer, reply))
		state = SINK_READY;
	else if (question && question->asked != ASKED_WAIT &&
			 (reply->type == REPLY_TEXT || reply->type == REPLY_ERROR))
	{
		state = SINK_READY;
		if (question->asked == ASKED_ASKING && reply->type == REPLY_ERROR)
			note_refusal(sink, "ASKING", reply);
	}
	if (state == SINK_LOST)
		strlcpy(error, "the server sent something unexpected", SINK_ERROR_SIZE);
	return state;
}

/*
 * Silence
 */

/*
 * When something is to be done about a node that says nothing.  Whether items
 * are confirmed in time the relay sees to, but knows no more than when it last
 * heard of one from any node, and does not look while replicas are behind.
 */
static TimestampTz
silent_until(const RedisSink *sink, const Peer *peer)
{
	const Question *due = pipeline_due(&peer->pipeline);

	if (due && due->asked == ASKED_PING)
		return peer->heard_at + SILENT_MAX;
	if (due && (peer->behind || sink->cluster.nnodes > 1))
		return peer->heard_at + sink->options->base.confirm_timeout;
	if (due)
		return DT_NOEND;
	return peer->behind ? peer->waited_at + WAIT_TIME : peer->node->active_at + SILENT_MAX;
}

/* Give up a node that does not answer, and ask one that has nothing to say. */
static SinkState
heed_silence(RedisSink *sink, Peer *peer, char *error)
{
	const Question *due = pipeline_due(&peer->pipeline);

	if (GetCurrentTimestamp() < silent_until(sink, peer))
		return SINK_READY;
	if (due)
	{
		text_say(error, "the server at %s:%d does not answer any more",
				 peer->node->address.host, peer->node->address.port);
		return due->asked == ASKED_PING ? SINK_ENDED : SINK_STUCK;
	}
	if (peer->behind)
		ask_replicas(sink, peer);
	else
	{
		command_put(node_output(peer->node), "PING", NULL);
		ask(peer, ASKED_PING, NULL);
	}
	return SINK_READY;
}

/* Move on what there is with one node. */
static SinkState
poll_peer(RedisSink *sink, Peer *peer, char *error)
{
	char		unsent[SINK_ERROR_SIZE] = "";
	Reply		reply;
	SinkState	state = heed_silence(sink, peer, error);

	if (state != SINK_READY)
		return state;

	/* A server that hangs up has perhaps said why. */
	(void) node_flush(peer->node, unsent);
	for (int i = 0; i < REPLIES_MAX; i++)
	{
		switch (node_next(peer->node, &reply, error))
		{
			case NODE_LOST:
				return SINK_LOST;
			case NODE_NOTHING:
				if (unsent[0] == '\0')
					return SINK_READY;
				strlcpy(error, unsent, SINK_ERROR_SIZE);
				return SINK_LOST;
			case NODE_REPLY:
				peer->heard_at = peer->node->active_at;
				state = handle_reply(sink, peer, &reply, error);
				if (state != SINK_READY)
					return state;
				break;
		}
	}
	sink->more = true;
	return SINK_READY;
}

static SinkState
redis_poll(Sink *base, char *error)
{
	RedisSink  *sink = (RedisSink *) base;
	bool		settled = true;

	sink->more = false;
	for (int i = 0; i < sink->cluster.nnodes; i++)
	{
		SinkState	state = poll_peer(sink, &sink->peers[i], error);

		if (state != SINK_READY)
			return state;
		if (pipeline_due(&sink->peers[i].pipeline) || sink->peers[i].behind)
			settled = false;
	}
	if (sink->trouble == NULL || !settled)
		return say_state(sink);
	strlcpy(error, sink->trouble, SINK_ERROR_SIZE);
	return SINK_ENDED;
}

static void
redis_wait(Sink *base, SinkWait *wait)
{
	RedisSink  *sink = (RedisSink *) base;

	for (int i = 0; i < sink->cluster.nnodes; i++)
	{
		const Peer *peer = &sink->peers[i];
		int			events;
		pgsocket	socket = wire_socket(peer->node->wire, &events);
		TimestampTz until = silent_until(sink, peer);

		wait->until = Min(wait->until, until);
		sink_wait_for(wait, socket, events);
	}
	if (sink->more)
		wait->until = DT_NOBEGIN;
}

static void
redis_close(Sink *base)
{
	hang_up((RedisSink *) base);
}

static const SinkRoutine redis_sink = {
	.magic = SINK_MAGIC,
	.version = SINK_VERSION,
	.order = SINK_ORDER_NONE,
	.open = redis_open,
	.encode = redis_encode,
	.publish = redis_publish,
	.poll = redis_poll,
	.wait = redis_wait,
	.close = redis_close,
};

const SinkRoutine *
queue_sink(void)
{
	return &redis_sink;
}
