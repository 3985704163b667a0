/*
 * http.h
 *		Options of the sink for HTTP servers and webhooks.
 */
#ifndef QUEUE_SINKS_OPTIONS_HTTP_H
#define QUEUE_SINKS_OPTIONS_HTTP_H

#include "relay/sink.h"
#include "sinks/cloudevents.h"
#include "sinks/template.h"

/* What is demanded of a server's certificate. */
typedef enum HttpTrust
{
	HTTP_TRUST_ANYONE,
	HTTP_TRUST_CA,
	HTTP_TRUST_HOST
} HttpTrust;

typedef enum HttpVersion
{
	HTTP_VERSION_AUTO,			/* 2 over TLS, if the server has it */
	HTTP_VERSION_1_1
} HttpVersion;

typedef struct HttpOptions
{
	SinkOptions base;

	const char *url;
	HttpTrust	trust;
	const char *rootcert;		/* NULL: what the system trusts */
	bool		allow_private;
	HttpVersion version;

	const char *username;		/* NULL, here and below: none */
	const char *password;
	const char *token;
	const char *authorization;
	const char *signing_secret;

	const char *method;
	const Template *path;		/* NULL: the URL is the whole */
	const char *headers;		/* NULL: none */
	const char *idempotency_header; /* NULL: none */
	const char *success;
	const char *retry;
	int64		timeout;		/* microseconds */
	int			concurrency;
	int			follow_redirects;
	CloudEventsOptions cloudevents;
} HttpOptions;

#endif							/* QUEUE_SINKS_OPTIONS_HTTP_H */
