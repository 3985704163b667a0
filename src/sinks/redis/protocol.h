/*
 * protocol.h
 *		Redis's protocol: commands written and replies read, by hiredis.
 *
 * What we send is answered by texts, numbers and errors only, so that an array
 * is a violation of the protocol, as is all that comes with version 3 of it.
 * Nothing is allocated for a reply, whatever length it claims to have: it is
 * copied to where the reader was told to, and clipped there.
 */
#ifndef QUEUE_SINKS_REDIS_PROTOCOL_H
#define QUEUE_SINKS_REDIS_PROTOCOL_H

#include "lib/stringinfo.h"

/* Arguments of a command, which are the caller's or palloc'd. */
typedef struct Command
{
	int			n;
	int			max;
	const char **data;
	size_t	   *length;
	Size		size;			/* bytes as it leaves, at most */
} Command;

extern void command_begin(Command *command);
extern void command_add(Command *command, const char *data, Size length);
extern void command_add_text(Command *command, const char *text);

/* Append it to what is to be sent. */
extern void command_end(Command *command, StringInfo out);

/* All of it for a command of some words, up to a NULL. */
extern void command_put(StringInfo out, const char *word,...);

typedef enum ReplyType
{
	REPLY_TEXT,
	REPLY_NUMBER,
	REPLY_ERROR,
	REPLY_NOTHING,				/* null */
	REPLY_STRANGE				/* what we never ask for */
} ReplyType;

typedef struct Reply
{
	ReplyType	type;
	int64		number;
	const char *text;			/* in the reader's space, clipped, ends with
								 * '\0' */
	int			length;			/* of that */
} Reply;

typedef struct ReplyReader ReplyReader;

/* NULL if there is no memory.  Replies are clipped to size - 1 bytes. */
extern ReplyReader *reply_reader_create(void);
extern void reply_reader_free(ReplyReader *reader);

/* Where texts are put from now on, and how many bytes of them are borne with. */
extern void reply_reader_space(ReplyReader *reader, char *space, int size);

/* Take bytes that have come; false, with the reason, if they cannot be. */
extern bool reply_feed(ReplyReader *reader, const char *data, int length, char *error);

/*
 * The next reply, valid until the next call: 1; 0 if it is not complete; -1,
 * with the reason in error, if it is not what Redis may say.
 */
extern int	reply_next(ReplyReader *reader, Reply *reply, char *error);

#endif							/* QUEUE_SINKS_REDIS_PROTOCOL_H */
