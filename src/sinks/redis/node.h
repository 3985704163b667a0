/*
 * node.h
 *		A connection to one Redis server.
 */
#ifndef QUEUE_SINKS_REDIS_NODE_H
#define QUEUE_SINKS_REDIS_NODE_H

#include "relay/sink.h"
#include "sinks/net/wire.h"
#include "sinks/options/redis.h"
#include "sinks/redis/protocol.h"

/* Longest name or address of a host. */
#define NODE_HOST		256

typedef struct NodeAddress
{
	char		host[NODE_HOST];
	int			port;
	char		name[NODE_HOST];	/* of the host, as a cluster announces it;
									 * may be empty */
} NodeAddress;

typedef struct RedisNode
{
	NodeAddress address;
	Wire	   *wire;
	ReplyReader *reader;
	TimestampTz active_at;		/* something was said, by us or by it */
	bool		lost;
	char		text[SINK_ERROR_SIZE];	/* of the reply */
} RedisNode;

/* What one call of node_next() found. */
typedef enum NodeEvent
{
	NODE_REPLY,
	NODE_NOTHING,
	NODE_LOST
} NodeEvent;

/*
 * Connect by the deadline and log in.  NULL when that fails, with the reason
 * in error.
 */
extern RedisNode *node_open(const RedisOptions *options, const NodeAddress *address,
							TimestampTz deadline, char *error);

/* Where to put what is to be sent. */
extern StringInfo node_output(RedisNode *node);

/* Send what goes without waiting.  False if the connection is lost. */
extern bool node_flush(RedisNode *node, char *error);

/* The next reply, valid until the call after. */
extern NodeEvent node_next(RedisNode *node, Reply *reply, char *error);

/* Send what was put and wait for a reply by the deadline; false if none came. */
extern bool node_await(RedisNode *node, Reply *reply, TimestampTz deadline, char *error);

extern void node_close(RedisNode *node);

#endif							/* QUEUE_SINKS_REDIS_NODE_H */
