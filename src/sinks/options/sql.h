/*
 * sql.h
 *		Options of the sink that calls a procedure of this database.
 */
#ifndef QUEUE_SINKS_OPTIONS_SQL_H
#define QUEUE_SINKS_OPTIONS_SQL_H

#include "relay/sink.h"

typedef struct SqlOptions
{
	SinkOptions base;

	Oid			procedure;
} SqlOptions;

#endif							/* QUEUE_SINKS_OPTIONS_SQL_H */
