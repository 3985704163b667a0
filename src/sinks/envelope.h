/*
 * envelope.h
 *		A message with all there is of it as one JSON object.
 *
 * For where there is no place for key and headers but beside the payload: a
 * line of a file, a channel of Redis.
 */
#ifndef QUEUE_SINKS_ENVELOPE_H
#define QUEUE_SINKS_ENVELOPE_H

#include "lib/stringinfo.h"
#include "relay/sink.h"

/*
 * Append it, in UTF-8.  False, with the reason in error, if that cannot be.
 * Raises an error for text that has no equivalent in UTF-8, see text_utf8().
 */
extern bool envelope_json(StringInfo out, const struct Message *message, char *error);

#endif							/* QUEUE_SINKS_ENVELOPE_H */
