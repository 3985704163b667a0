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

/* What WAIT waits for the replicas, in milliseconds, before it says how many. */
#define WAIT_TIMEOUT	"1000"

/* In an item's tag: it is to be asked for at a node. */
#define TAG_ASKING		UINT64CONST(0x8000000000000000)

/* A node, and what it is to answer. */
typedef struct Peer
{
	RedisNode  *node;
	Pipeline	pipeline;
	TimestampTz pinged_at;		/* 0: it owes no answer to a PING */
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
	int			moves;			/* since the last one that was taken */
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
	int			queue_length = strlen(config->queue);
	TimestampTz deadline = GetCurrentTimestamp() + CONNECT_WITHIN;
	RedisSink  *sink = palloc0(sizeof(RedisSink));
	NodeAddress seed;

	if (strlcpy(seed.host, options->host, NODE_HOST) >= NODE_HOST)
	{
		text_say(error, "name of the host has more than %d bytes", NODE_HOST - 1);
		return NULL;
	}
	seed.port = options->port;
	if (!options->cluster)
		cluster_single(&sink->cluster, &seed);
	else if (!cluster_discover(&sink->cluster, options, &seed, deadline, error))
		return NULL;

	sink->base.config = config;
	sink->options = options;
	sink->publication.options = options;
	sink->publication.queue = text_utf8(config->queue, &queue_length);
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

		/*
		 * With each item an ASKING and a WAIT, twice over for what was
		 * answered.
		 */
		pipeline_init(&peer->pipeline, 6 * config->window + 8);
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
	if (sink->trouble)
		return SINK_FULL;
	for (int i = 0; i < sink->cluster.nnodes; i++)
	{
		const Peer *peer = &sink->peers[i];

		if (wire_unsent(peer->node->wire) > OUTPUT_MAX ||
			pipeline_space(&peer->pipeline) < 3 * sink->base.config->window + 4)
			return SINK_FULL;
	}
	return SINK_READY;
}

/* Ask how many replicas have what was written before. */
static void
ask_replicas(RedisSink *sink, Peer *peer)
{
	char		number[32];

	snprintf(number, sizeof(number), "%d", sink->options->replicas);
	command_put(node_output(peer->node), "WAIT", number, WAIT_TIMEOUT, NULL);
	pipeline_ask(&peer->pipeline, ASKED_WAIT, NULL);
}

static SinkState
redis_publish(Sink *base, SinkItem **items, int n, char *error)
{
	RedisSink  *sink = (RedisSink *) base;

	for (int i = 0; i < n; i++)
	{
		SinkItem   *item = items[i];
		uint64		asking = item->tag & ~TAG_ASKING;
		EncodedHead head;
		Peer	   *peer;

		memcpy(&head, item->data, sizeof(head));
		peer = &sink->peers[sink->cluster.slots[head.slot]];
		if ((item->tag & TAG_ASKING) && asking < sink->cluster.nnodes)
		{
			peer = &sink->peers[asking];
			command_put(node_output(peer->node), "ASKING", NULL);
			pipeline_ask(&peer->pipeline, ASKED_OTHER, NULL);
		}
		item->tag = 0;
		appendBinaryStringInfo(node_output(peer->node), item->data + sizeof(head),
							   item->size - sizeof(head));
		pipeline_ask(&peer->pipeline, ASKED_ITEM, item);
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
	if (is == SINK_CONFIRMED)
		sink->moves = 0;
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

/* An item's key has moved to another node, or is about to. */
static void
follow(RedisSink *sink, const Peer *peer, SinkItem *item, const Reply *reply, bool ask)
{
	char		text[SINK_ERROR_SIZE];
	NodeAddress address;
	int			slot;
	int			node;

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
	else if (++sink->moves > CLUSTER_SLOTS + sink->base.config->window)
		note_trouble(sink, "the nodes of the cluster do not agree on who has which keys");
	else if (ask)
		item->tag = TAG_ASKING | node;
	else
		sink->cluster.slots[slot] = node;
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
			words_say(text, command_name(sink), reply);
			note_trouble(sink, text);
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
	char		text[SINK_ERROR_SIZE];
	SinkItem   *item;

	if (reply->type == REPLY_ERROR)
	{
		words_say(text, "WAIT", reply);
		note_trouble(sink, text);
		return true;
	}
	if (reply->type != REPLY_NUMBER)
		return false;
	if (reply->number >= sink->options->replicas)
	{
		while ((item = pipeline_take_answered(&peer->pipeline)) != NULL)
			verdict(sink, item, SINK_CONFIRMED, NULL);
		return true;
	}
	text_say(text, "%d of %d replicas have what was published", (int) reply->number,
			 sink->options->replicas);
	sink->base.config->complain(text);

	/* One on its way asks for these as well. */
	if (peer->pipeline.nwaits == 0)
	{
		ask_replicas(sink, peer);
		sink->more = true;
	}
	return true;
}

/* Deal with a reply; SINK_READY if that is all. */
static SinkState
handle_reply(RedisSink *sink, Peer *peer, const Reply *reply, char *error)
{
	ReplyType	wanted = sink->options->command == REDIS_XADD ? REPLY_TEXT : REPLY_NUMBER;
	Question   *question = pipeline_answer(&peer->pipeline);
	SinkState	state = SINK_READY;

	if (question == NULL || reply->type == REPLY_STRANGE)
		state = SINK_LOST;
	else if (question->asked == ASKED_WAIT)
		state = handle_replicas(sink, peer, reply) ? SINK_READY : SINK_LOST;
	else if (question->asked == ASKED_ITEM && reply->type == REPLY_ERROR)
	{
		SinkItem   *item = question->item;

		question->item = NULL;
		state = handle_error(sink, peer, item, reply, error);
	}
	else if (question->asked == ASKED_ITEM && reply->type != wanted)
		state = SINK_LOST;
	else if (question->asked == ASKED_ITEM && sink->options->replicas == 0)
	{
		SinkItem   *item = question->item;

		question->item = NULL;
		verdict(sink, item, SINK_CONFIRMED, NULL);
	}
	if (state == SINK_LOST)
		strlcpy(error, "the server sent something unexpected", SINK_ERROR_SIZE);
	pipeline_trim(&peer->pipeline);
	return state;
}

/* Ask a connection that was silent whether it is there; false if it is not. */
static bool
check_silence(Peer *peer, char *error)
{
	TimestampTz now = GetCurrentTimestamp();

	if (!pipeline_due(&peer->pipeline))
		peer->pinged_at = 0;
	if (peer->pinged_at > 0 && now - peer->pinged_at > SILENT_MAX &&
		now - peer->node->active_at > SILENT_MAX)
	{
		strlcpy(error, "the server does not answer any more", SINK_ERROR_SIZE);
		return false;
	}
	if (!pipeline_due(&peer->pipeline) && now - peer->node->active_at >= SILENT_MAX)
	{
		command_put(node_output(peer->node), "PING", NULL);
		pipeline_ask(&peer->pipeline, ASKED_OTHER, NULL);
		peer->pinged_at = now;
	}
	return true;
}

/* Move on what there is with one node. */
static SinkState
poll_peer(RedisSink *sink, Peer *peer, char *error)
{
	char		unsent[SINK_ERROR_SIZE] = "";
	Reply		reply;

	if (!check_silence(peer, error))
		return SINK_ENDED;

	/* A server that hangs up has perhaps said why. */
	(void) node_flush(peer->node, unsent);
	for (int i = 0; i < REPLIES_MAX; i++)
	{
		SinkState	state;

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
	bool		due = false;

	sink->more = false;
	for (int i = 0; i < sink->cluster.nnodes; i++)
	{
		SinkState	state = poll_peer(sink, &sink->peers[i], error);

		if (state != SINK_READY)
			return state;
		due = due || pipeline_due(&sink->peers[i].pipeline);
	}
	if (sink->trouble == NULL || due)
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

		/* What items are owed the relay waits for. */
		if (peer->pinged_at > 0 || !pipeline_due(&peer->pipeline))
		{
			TimestampTz since = Max(peer->node->active_at, peer->pinged_at);

			wait->until = Min(wait->until, since + SILENT_MAX + 1);
		}
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
