/*
 * encode.h
 *		A message as a command of Redis.
 */
#ifndef QUEUE_SINKS_REDIS_ENCODE_H
#define QUEUE_SINKS_REDIS_ENCODE_H

#include "lib/stringinfo.h"
#include "sinks/options/redis.h"

/* What the messages of a relay have in common. */
typedef struct Publication
{
	const RedisOptions *options;
	const char *queue;			/* in UTF-8, like all that leaves */
	const char *payload_field;
} Publication;

/* A command as Redis calls it. */
extern const char *encode_command(RedisCommand command);

/* What comes before the command in what is encoded. */
typedef struct EncodedHead
{
	uint16		slot;			/* of the stream, list or channel */
} EncodedHead;

/*
 * Append a head and the command; false, with the reason in error, if that
 * cannot be.  Raises an error for text that has no equivalent in UTF-8, see
 * text_utf8().
 */
extern bool encode_message(const Publication *publication, const struct Message *message,
						   StringInfo out, char *error);

#endif							/* QUEUE_SINKS_REDIS_ENCODE_H */
