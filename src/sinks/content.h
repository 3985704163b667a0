/*
 * content.h
 *		A message's body and name, as they leave.
 *
 * For all brokers alike: a body is the payload as JSON or the bytes, and what
 * tells a message from all others of its queue is "<queue>/<id>".
 */
#ifndef QUEUE_SINKS_CONTENT_H
#define QUEUE_SINKS_CONTENT_H

#include "relay/sink.h"
#include "utils/jsonb.h"

typedef struct Content
{
	const char *data;
	int			length;
	const char *type;			/* as in MIME */
} Content;

/*
 * The body of a message, JSON in UTF-8.  It is the message's or palloc'd.
 * False, with the reason in error, if there is none.  Raises an error for text
 * that has no equivalent in UTF-8, see text_utf8().
 */
extern bool content_body(const struct Message *message, Content *content, char *error);

/*
 * What a message's header "content-type" says its body is, or else JSON or bytes,
 * by what it is.  NULL, with the reason in error, if that is no such thing.
 */
extern const char *content_type(const struct Message *message, char *error);

/* The other headers; NULL if there are none.  They are the message's or palloc'd. */
extern const Jsonb *content_headers(const struct Message *message);

/* Headers without the one of that name. */
extern const Jsonb *content_headers_without(const Jsonb *headers, const char *name);

/* Whether it is payload or bytes; false, with the reason, if it is both. */
extern bool content_is_one(const struct Message *message, char *error);

/* What a message of a queue is called, palloc'd; the queue's name in UTF-8. */
extern char *content_name(const char *queue, const struct Message *message);

/* The id in such a name, of which length bytes are given; -1 if it is none. */
extern int64 content_id(const char *queue, const char *name, int length);

#endif							/* QUEUE_SINKS_CONTENT_H */
