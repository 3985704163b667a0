/*
 * words.c
 *		What the errors of Redis mean.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "relay/sink.h"
#include "sinks/redis/words.h"
#include "sinks/text.h"

/* Kinds of errors that no message is to blame for. */
static const char *const server_faults[] = {
	"BUSY ", "CLUSTERDOWN ", "DENIED ", "FAILOVER ", "INPROG ", "LOADING ", "MASTERDOWN ",
	"MISCONF ", "NOAUTH ", "NOMASTERLINK ", "NOREPLICAS ", "OOM ", "READONLY ", "TRYAGAIN ",
	"UNBLOCKED ", "WRONGPASS ", "ERR max number of clients", "ERR unknown command",
	"ERR unknown subcommand", "ERR WAIT ", "ERR This instance has cluster support disabled",
	"ERR operation not permitted", "ERR DISABLE",
};

static bool
begins(const Reply *reply, const char *with)
{
	return strncmp(reply->text, with, strlen(with)) == 0;
}

Fault
words_fault(const Reply *reply, bool of_message)
{
	if (begins(reply, "MOVED "))
		return FAULT_MOVED;
	if (begins(reply, "ASK "))
		return FAULT_ASK;
	if (begins(reply, "ERR Protocol error"))
		return FAULT_PROTOCOL;
	for (int i = 0; i < lengthof(server_faults); i++)
	{
		if (begins(reply, server_faults[i]))
			return FAULT_SERVER;
	}

	/*
	 * A key or a channel that this user may not have; or "to run" the
	 * command.
	 */
	if (begins(reply, "NOPERM "))
		return of_message && strcasestr(reply->text, "permissions to access ") ?
			FAULT_MESSAGE : FAULT_SERVER;
	return FAULT_MESSAGE;
}

bool
words_contain(const Reply *reply, const char *secret)
{
	return memmem(reply->text, reply->length, secret, strlen(secret)) != NULL;
}

bool
words_pong(const Reply *reply)
{
	/* A user without the right to ask can well have that to write. */
	return begins(reply, "NOPERM ") || begins(reply, "ERR unknown command");
}

void
words_say(char *error, const char *command, const Reply *reply)
{
	/* What follows would be the arguments. */
	if (begins(reply, "ERR unknown"))
	{
		text_say(error, "the server does not know command %s", command);
		return;
	}
	text_clean(error, SINK_ERROR_SIZE, reply->text, reply->length, PG_UTF8);
	if (error[0] == '\0')
		text_say(error, "the server refuses %s", command);
}
