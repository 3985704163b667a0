/*
 * encode.h
 *		A message as frames of AMQP 0-9-1.
 */
#ifndef QUEUE_SINKS_AMQP_ENCODE_H
#define QUEUE_SINKS_AMQP_ENCODE_H

#include "lib/stringinfo.h"
#include "sinks/options/amqp.h"

/* What the messages of a relay have in common. */
typedef struct Publication
{
	const AmqpOptions *options;
	const char *queue;			/* in UTF-8, like all that leaves */
	const char *exchange;
	uint32		frame_max;
} Publication;

/*
 * Append the frames that publish a message; false, with the reason in error,
 * if that cannot be.  Raises an error for text that has no equivalent in
 * UTF-8, see text_utf8().
 */
extern bool encode_message(const Publication *publication, const struct Message *message,
						   StringInfo out, char *error);

#endif							/* QUEUE_SINKS_AMQP_ENCODE_H */
