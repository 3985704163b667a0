/*
 * node.c
 *		A connection to one Redis server.
 *
 * The bytes come and go by sinks/net/wire.c.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "sinks/net/wait.h"
#include "sinks/redis/node.h"
#include "sinks/redis/words.h"
#include "sinks/text.h"
#include "utils/timestamp.h"

/* Read at once */
#define INPUT_SIZE		(32 * 1024)

StringInfo
node_output(RedisNode *node)
{
	return wire_output(node->wire);
}

bool
node_flush(RedisNode *node, char *error)
{
	if (wire_unsent(node->wire) == 0)
		return true;
	node->active_at = GetCurrentTimestamp();
	if (wire_flush(node->wire, error))
		return true;
	node->lost = true;
	return false;
}

NodeEvent
node_next(RedisNode *node, Reply *reply, char *error)
{
	char		input[INPUT_SIZE];

	for (;;)
	{
		int			n = reply_next(node->reader, reply, error);

		if (n > 0)
			return NODE_REPLY;
		if (n == 0)
		{
			n = wire_read(node->wire, input, sizeof(input), error);
			if (n == 0)
				return NODE_NOTHING;
			if (n > 0 && reply_feed(node->reader, input, n, error))
			{
				node->active_at = GetCurrentTimestamp();
				continue;
			}
		}
		node->lost = true;
		return NODE_LOST;
	}
}

bool
node_await(RedisNode *node, Reply *reply, TimestampTz deadline, char *error)
{
	for (;;)
	{
		int			events;
		pgsocket	socket;

		CHECK_FOR_INTERRUPTS();
		if (!node_flush(node, error))
			return false;
		switch (node_next(node, reply, error))
		{
			case NODE_REPLY:
				return true;
			case NODE_LOST:
				return false;
			case NODE_NOTHING:
				break;
		}
		socket = wire_socket(node->wire, &events);
		if (!net_wait(socket, events, deadline))
		{
			strlcpy(error, "the server did not answer in time", SINK_ERROR_SIZE);
			return false;
		}
	}
}

/*
 * The way in
 */

/* An option's value as it leaves. */
static const char *
utf8(const char *value)
{
	int			length = strlen(value);

	return text_utf8(value, &length);
}

/* Say how a command was refused. */
static void
say_refusal(const char *command, const Reply *reply, char *error)
{
	if (reply->type == REPLY_ERROR)
		words_say(error, command, reply);
	else
		strlcpy(error, "the server sent something unexpected", SINK_ERROR_SIZE);
}

static bool
authenticate(RedisNode *node, const RedisOptions *options, TimestampTz deadline, char *error)
{
	const char *password = utf8(options->password ? options->password : "");
	Reply		reply;

	if (options->username)
		command_put(node_output(node), "AUTH", utf8(options->username), password, NULL);
	else
		command_put(node_output(node), "AUTH", password, NULL);
	if (!node_await(node, &reply, deadline, error))
		return false;
	if (reply.type == REPLY_TEXT)
		return true;

	/*
	 * Some servers repeat what they do not understand, and that may be
	 * clipped.
	 */
	if (reply.type == REPLY_ERROR && options->password &&
		(reply.length == sizeof(node->text) - 1 || words_contain(&reply, password)))
		strlcpy(error, "the server refuses user name and password", SINK_ERROR_SIZE);
	else
		say_refusal("AUTH", &reply, error);
	return false;
}

static bool
log_in(RedisNode *node, const RedisOptions *options, TimestampTz deadline, char *error)
{
	char		number[32];
	Reply		reply;

	if ((options->username || options->password) &&
		!authenticate(node, options, deadline, error))
		return false;
	if (options->database == 0)
		return true;
	snprintf(number, sizeof(number), "%d", options->database);
	command_put(node_output(node), "SELECT", number, NULL);
	if (!node_await(node, &reply, deadline, error))
		return false;
	if (reply.type == REPLY_TEXT)
		return true;
	say_refusal("SELECT", &reply, error);
	return false;
}

/* Whether it takes commands at all: it may be loading, or want a password. */
static bool
check_ready(RedisNode *node, TimestampTz deadline, char *error)
{
	Reply		reply;

	command_put(node_output(node), "PING", NULL);
	if (!node_await(node, &reply, deadline, error))
		return false;
	if (reply.type == REPLY_TEXT || (reply.type == REPLY_ERROR && words_pong(&reply)))
		return true;
	say_refusal("PING", &reply, error);
	return false;
}

/*
 * Whether it can be asked for replicas: who finds that out when all has been
 * published publishes it again and again.
 */
static bool
check_wait(RedisNode *node, TimestampTz deadline, char *error)
{
	Reply		reply;

	command_put(node_output(node), "WAIT", "0", "1", NULL);
	if (!node_await(node, &reply, deadline, error))
		return false;
	if (reply.type == REPLY_NUMBER)
		return true;
	say_refusal("WAIT", &reply, error);
	return false;
}

RedisNode *
node_open(const RedisOptions *options, const NodeAddress *address, TimestampTz deadline,
		  char *error)
{
	/* A certificate is made out to a name, where there is one. */
	bool		by_name = options->security == WIRE_VERIFY_FULL && address->name[0] != '\0';
	Wire	   *wire = wire_open(by_name ? address->name : address->host, address->port,
								 options->security, options->rootcert, deadline, error);
	RedisNode  *node;

	if (wire == NULL)
		return NULL;
	node = palloc0(sizeof(RedisNode));
	node->address = *address;
	node->wire = wire;
	node->reader = reply_reader_create();
	if (node->reader == NULL)
	{
		strlcpy(error, "out of memory", SINK_ERROR_SIZE);
		node_close(node);
		return NULL;
	}
	reply_reader_space(node->reader, node->text, sizeof(node->text));
	node->active_at = GetCurrentTimestamp();
	if (!log_in(node, options, deadline, error) || !check_ready(node, deadline, error) ||
		(options->replicas > 0 && !check_wait(node, deadline, error)))
	{
		node_close(node);
		return NULL;
	}
	return node;
}

void
node_close(RedisNode *node)
{
	if (node->reader)
		reply_reader_free(node->reader);
	wire_close(node->wire);
	pfree(node);
}
