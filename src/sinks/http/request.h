/*
 * request.h
 *		A message as a request.
 */
#ifndef QUEUE_SINKS_HTTP_REQUEST_H
#define QUEUE_SINKS_HTTP_REQUEST_H

#include "lib/stringinfo.h"
#include "sinks/http_options.h"
#include "sinks/options/http.h"

/* What the messages of a relay have in common. */
typedef struct Publication
{
	const HttpOptions *options;
	const char *queue;			/* in UTF-8, like all that leaves */
	const char *base;			/* of URLs: what the path is appended to */
	int			nheaders;
	HttpHeader	headers[HTTP_HEADERS];
	bool		user_agent;		/* one of them says who we are */
	int			nsecrets;
	HttpSecret	secrets[HTTP_SECRETS];
} Publication;

/* A request, all of it in a piece of memory. */
typedef struct Request
{
	const char *url;
	int			nheaders;
	const char *headers;		/* "Name: value", each with a zero byte */
	const char *body;
	int			body_length;
} Request;

/* Get ready; false, with the reason in error, if the options will not do. */
extern bool request_prepare(Publication *publication, const HttpOptions *options,
							const char *queue, char *error);

/*
 * Append the request that publishes a message; false, with the reason in
 * error, if that cannot be.  Raises an error for text that has no equivalent
 * in UTF-8, see text_utf8().
 */
extern bool request_encode(const Publication *publication, const struct Message *message,
						   StringInfo out, char *error);

/* Find one's way in what was appended. */
extern void request_read(const char *data, Size size, Request *request);

#endif							/* QUEUE_SINKS_HTTP_REQUEST_H */
