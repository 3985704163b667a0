/*
 * postgres.h
 *		Options of the sink for queues of other PostgreSQL databases.
 */
#ifndef QUEUE_SINKS_OPTIONS_POSTGRES_H
#define QUEUE_SINKS_OPTIONS_POSTGRES_H

#include "relay/sink.h"

typedef struct PostgresOptions
{
	SinkOptions base;

	const char *host;			/* or a directory of sockets */
	int			port;
	const char *dbname;			/* NULL: the user's name */
	const char *sslmode;		/* NULL, here and below: as libpq has it */
	const char *rootcert;

	const char *user;
	const char *password;		/* NULL: none */

	const char *queue;			/* NULL: of the same name */
} PostgresOptions;

#endif							/* QUEUE_SINKS_OPTIONS_POSTGRES_H */
