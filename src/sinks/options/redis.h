/*
 * redis.h
 *		Options of the sink for Redis and what speaks its protocol.
 */
#ifndef QUEUE_SINKS_OPTIONS_REDIS_H
#define QUEUE_SINKS_OPTIONS_REDIS_H

#include "relay/sink.h"
#include "sinks/cloudevents.h"
#include "sinks/net/wire.h"
#include "sinks/template.h"

/* Longest name of a stream, list or channel. */
#define REDIS_TARGET	1024

/* In the order of their names in kinds.c. */
typedef enum RedisCommand
{
	REDIS_XADD,
	REDIS_PUBLISH,
	REDIS_LPUSH,
	REDIS_RPUSH
} RedisCommand;

typedef enum RedisHeaders
{
	REDIS_HEADERS_FIELDS,		/* each a field of its own */
	REDIS_HEADERS_JSON			/* one field for all */
} RedisHeaders;

typedef struct RedisOptions
{
	SinkOptions base;

	const char *host;
	int			port;
	WireSecurity security;
	const char *rootcert;		/* NULL: what the system trusts */
	int			database;
	bool		cluster;

	const char *username;		/* NULL: the default user */
	const char *password;		/* NULL: none */

	RedisCommand command;
	const Template *target;		/* NULL: the queue's name */
	int			maxlen;			/* 0: any */
	const char *payload_field;	/* NULL: payload */
	RedisHeaders headers;
	bool		envelope;
	int			replicas;		/* that must have a message to confirm it */
	CloudEventsOptions cloudevents;
} RedisOptions;

/* Whether a field of a stream's entries may be called that: it is none of ours. */
static inline bool
redis_field_valid(const char *name)
{
	return strcmp(name, "key") != 0 && strcmp(name, "message-id") != 0 &&
		strcmp(name, "content-type") != 0 && strcmp(name, "headers") != 0 &&
		strncmp(name, "header:", 7) != 0 && strncmp(name, "ce_", 3) != 0;
}

#endif							/* QUEUE_SINKS_OPTIONS_REDIS_H */
