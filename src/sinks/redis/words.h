/*
 * words.h
 *		What the errors of Redis mean.
 *
 * An error begins with a word in capitals that says what kind it is.
 */
#ifndef QUEUE_SINKS_REDIS_WORDS_H
#define QUEUE_SINKS_REDIS_WORDS_H

#include "sinks/redis/protocol.h"

typedef enum Fault
{
	FAULT_MESSAGE,				/* it is to blame */
	FAULT_PROTOCOL,				/* the same, and the server hangs up */
	FAULT_SERVER,				/* takes nothing for now, or not from us */
	FAULT_MOVED,				/* another node has the slot */
	FAULT_ASK					/* another node is about to have it */
} Fault;

/*
 * What is behind an error for a message; of_message: the message, and not the
 * relay's options alone, has decided where it goes.
 */
extern Fault words_fault(const Reply *reply, bool of_message);

/* Whether an answer to PING, an error, says that the server is well. */
extern bool words_pong(const Reply *reply);

/* Whether it repeats what nobody is to see. */
extern bool words_contain(const Reply *reply, const char *secret);

/* Put an error in answer to a command into words. */
extern void words_say(char *error, const char *command, const Reply *reply);

#endif							/* QUEUE_SINKS_REDIS_WORDS_H */
