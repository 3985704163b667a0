/*
 * protocol.c
 *		Redis's protocol: commands written and replies read, by hiredis.
 */
#include "postgres.h"

#include <hiredis/hiredis.h>
#include <stdarg.h>

#include "relay/sink.h"
#include "sinks/redis/protocol.h"
#include "sinks/text.h"

/* Bytes of an argument besides itself, at most: "$<length>\r\n" and "\r\n". */
#define ARGUMENT_OVERHEAD	32

/* Bytes of a reply that are borne with besides those that are wanted of it. */
#define REPLY_OVERHEAD		4096

/*
 * Commands
 */

void
command_begin(Command *command)
{
	command->n = 0;
	command->max = 32;
	command->data = palloc(command->max * sizeof(char *));
	command->length = palloc(command->max * sizeof(size_t));
	command->size = ARGUMENT_OVERHEAD;
}

void
command_add(Command *command, const char *data, Size length)
{
	if (command->n == command->max)
	{
		command->max *= 2;
		command->data = repalloc(command->data, command->max * sizeof(char *));
		command->length = repalloc(command->length, command->max * sizeof(size_t));
	}
	command->data[command->n] = data;
	command->length[command->n++] = length;
	command->size += length + ARGUMENT_OVERHEAD;
}

void
command_add_text(Command *command, const char *text)
{
	command_add(command, text, strlen(text));
}

void
command_end(Command *command, StringInfo out)
{
	char	   *formatted;
	int			length;

	/* No error is raised while there is what the library has allocated. */
	enlargeStringInfo(out, command->size);
	length = (int) redisFormatCommandArgv(&formatted, command->n, command->data, command->length);
	if (length < 0)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	appendBinaryStringInfo(out, formatted, length);
	redisFreeCommand(formatted);
	pfree(command->data);
	pfree(command->length);
}

void
command_put(StringInfo out, const char *word,...)
{
	Command		command;
	va_list		words;

	command_begin(&command);
	va_start(words, word);
	for (; word; word = va_arg(words, const char *))
		command_add_text(&command, word);
	va_end(words);
	command_end(&command, out);
}

/*
 * Replies
 *
 * The library calls back for each part of a reply.  What it gets for it, and
 * hands back to be freed, is the reader itself each time.
 */
struct ReplyReader
{
	redisReader *reader;
	redisReplyObjectFunctions functions;
	Reply		reply;
	bool		complete;		/* the reply is */
	char	   *space;
	int			size;
};

/* hiredis 1.0 and later have it so. */
#if HIREDIS_MAJOR >= 1
typedef size_t ElementCount;
#else
typedef int ElementCount;
#endif

static void *
note_reply(const redisReadTask * task, ReplyType type)
{
	ReplyReader *reader = task->privdata;

	reader->reply.type = type;
	reader->complete = true;
	return reader;
}

static void *
take_string(const redisReadTask * task, char *data, size_t length)
{
	ReplyReader *reader = task->privdata;
	int			n = (int) Min(length, (size_t) reader->size - 1);

	memcpy(reader->space, data, n);
	reader->space[n] = '\0';
	reader->reply.text = reader->space;
	reader->reply.length = n;
	return note_reply(task,
					  task->type == REDIS_REPLY_ERROR ? REPLY_ERROR :
					  task->type == REDIS_REPLY_STRING || task->type == REDIS_REPLY_STATUS ?
					  REPLY_TEXT : REPLY_STRANGE);
}

static void *
take_integer(const redisReadTask * task, long long number)
{
	ReplyReader *reader = task->privdata;

	reader->reply.number = number;
	return note_reply(task, REPLY_NUMBER);
}

static void *
take_nil(const redisReadTask * task)
{
	return note_reply(task, REPLY_NOTHING);
}

/* None is taken: the library takes this for a lack of memory. */
static void *
take_array(const redisReadTask * task, ElementCount elements)
{
	return NULL;
}

static void
free_nothing(void *object)
{
}

ReplyReader *
reply_reader_create(void)
{
	ReplyReader *reader = palloc0(sizeof(ReplyReader));

	reader->functions.createString = take_string;
	reader->functions.createArray = take_array;
	reader->functions.createInteger = take_integer;
	reader->functions.createNil = take_nil;
	reader->functions.freeObject = free_nothing;
	reader->reader = redisReaderCreateWithFunctions(&reader->functions);
	if (reader->reader == NULL)
	{
		pfree(reader);
		return NULL;
	}
	reader->reader->privdata = reader;
	return reader;
}

void
reply_reader_free(ReplyReader *reader)
{
	redisReaderFree(reader->reader);
	pfree(reader);
}

void
reply_reader_space(ReplyReader *reader, char *space, int size)
{
	reader->space = space;
	reader->size = size;
}

bool
reply_feed(ReplyReader *reader, const char *data, int length, char *error)
{
	if (redisReaderFeed(reader->reader, data, length) == REDIS_OK)
		return true;
	strlcpy(error, "out of memory", SINK_ERROR_SIZE);
	return false;
}

int
reply_next(ReplyReader *reader, Reply *reply, char *error)
{
	void	   *object = NULL;

	reader->complete = false;
	if (redisReaderGetReply(reader->reader, &object) != REDIS_OK)
	{
		strlcpy(error, "the server sent something unexpected", SINK_ERROR_SIZE);
		return -1;
	}
	if (reader->complete)
	{
		*reply = reader->reply;
		return 1;
	}

	/* Of a type that later versions know and call nobody for. */
	if (object)
	{
		reply->type = REPLY_STRANGE;
		return 1;
	}
	if (reader->reader->len - reader->reader->pos <= (size_t) reader->size + REPLY_OVERHEAD)
		return 0;
	strlcpy(error, "the server sends more than was asked for", SINK_ERROR_SIZE);
	return -1;
}
