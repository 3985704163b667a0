/*
 * client.h
 *		Requests to an HTTP server, several at a time, without waiting.
 *
 * This is all that is known of libcurl.
 */
#ifndef QUEUE_SINKS_HTTP_CLIENT_H
#define QUEUE_SINKS_HTTP_CLIENT_H

#include "relay/sink.h"
#include "sinks/http/request.h"

/* What is kept of a response's body. */
#define ANSWER_WORDS	300

typedef struct Client Client;

typedef enum AnswerKind
{
	ANSWER_STATUS,				/* the server has answered */
	ANSWER_UNREACHABLE,			/* the request was never sent */
	ANSWER_TIMEOUT,				/* no answer in time */
	ANSWER_GONE,				/* none: a connection that was used before has
								 * ended */
	ANSWER_BROKEN				/* none that is one */
} AnswerKind;

typedef struct Answer
{
	AnswerKind	kind;
	int			place;			/* of the request it is to */
	int			status;
	int64		retry_after;	/* seconds; 0: it says nothing */
	const char *redirect;		/* an absolute URL, palloc'd; NULL: none */
	char		words[ANSWER_WORDS];	/* the body begins with, not clean */
	int			nwords;
	char		error[SINK_ERROR_SIZE]; /* if it is no status */
} Answer;

/*
 * A client with so many places for requests, in the current memory context,
 * and a header to log in by, or NULL.  NULL when that fails, with the reason
 * in error.  It connects when there is a request.
 */
extern Client *client_open(const HttpOptions *options, const char *authorization, int places,
						   char *error);

/*
 * Start a request in a place that is free, to its URL or another one.  What it
 * consists of must stay until there is an answer.  False, with the reason, if
 * that fails.
 */
extern bool client_start(Client *client, int place, const Request *request, const char *url,
						 bool credentials, char *error);

/* Send what was started, as far as it goes at once. */
extern void client_send(Client *client);

/* Send and receive what goes at once. */
extern void client_drive(Client *client);

/* The next answer there is, whose place is free then; false: none. */
extern bool client_answer(Client *client, Answer *answer);

/* Say what to wait for before client_drive() is worth calling again. */
extern void client_wait(Client *client, SinkWait *wait);

/* Whether a URL has the scheme, host and port of another. */
extern bool client_same_origin(const char *url, const char *other);

/* Whether a redirect may lead there: by http or https, and to no less safety. */
extern bool client_may_follow(const char *from, const char *to);

extern void client_close(Client *client);

#endif							/* QUEUE_SINKS_HTTP_CLIENT_H */
