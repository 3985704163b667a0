/*
 * redis_add.c
 *		A bare Redis client: client.h says what it does.
 *
 * Entries of a stream, with the fields the relay gives them, in a pipeline.
 */
#include "client.h"

#include <hiredis/hiredis.h>

static redisContext * conn;
static const char *stream;
static const char *body;

/* One that went wrong ends the program. */
static void
check(int result)
{
	if (result != REDIS_OK)
		die(conn->errstr);
}

static redisReply *
check_reply(redisReply * reply)
{
	if (reply == NULL)
		die(conn->errstr);
	if (reply->type == REDIS_REPLY_ERROR)
		die(reply->str);
	return reply;
}

/* It goes when replies are waited for. */
static void
send_message(long number)
{
	char		id[32];
	const char *words[] = {"XADD", stream, "*", "payload", body, "message-id", id,
	"content-type", "application/json"};

	snprintf(id, sizeof(id), "bench/%ld", number);
	check(redisAppendCommandArgv(conn, sizeof(words) / sizeof(words[0]), words, NULL));
}

static void
take_confirmations(void)
{
	void	   *reply;

	check(redisGetReply(conn, &reply));
	while (reply != NULL)
	{
		freeReplyObject(check_reply(reply));
		confirmed++;
		check(redisGetReplyFromReader(conn, &reply));
	}
}

int
main(int argc, char **argv)
{
	if (argc != 6)
		die("usage: PORT STREAM MESSAGES WINDOW BODY");
	stream = argv[2];
	body = argv[5];
	conn = redisConnect("127.0.0.1", atoi(argv[1]));
	if (conn == NULL || conn->err)
		die(conn ? conn->errstr : "out of memory");
	if (atol(argv[3]) == 0)
	{
		redisReply *length = check_reply(redisCommand(conn, "XLEN %s", stream));

		printf("%lld\n", length->integer);
		freeReplyObject(length);
	}
	else
	{
		freeReplyObject(check_reply(redisCommand(conn, "DEL %s", stream)));
		publish_all(atol(argv[3]), atol(argv[4]));
	}
	redisFree(conn);
	return 0;
}
