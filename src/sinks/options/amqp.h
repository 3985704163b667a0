/*
 * amqp.h
 *		Options of the sink for RabbitMQ and other AMQP 0-9-1 brokers.
 */
#ifndef QUEUE_SINKS_OPTIONS_AMQP_H
#define QUEUE_SINKS_OPTIONS_AMQP_H

#include "relay/sink.h"
#include "sinks/cloudevents.h"
#include "sinks/net/wire.h"
#include "sinks/template.h"

/* Longest name or key in AMQP. */
#define AMQP_SHORT_STRING	255

typedef struct AmqpOptions
{
	SinkOptions base;

	const char *host;
	int			port;			/* 0: by the security */
	WireSecurity security;
	const char *rootcert;		/* NULL: what the system trusts */
	const char *vhost;

	const char *username;		/* NULL: the broker's own for guests */
	const char *password;

	const char *exchange;		/* NULL: the default one */
	const Template *routing_key;	/* NULL: empty */
	bool		mandatory;
	bool		persistent;
	CloudEventsOptions cloudevents;
} AmqpOptions;

#endif							/* QUEUE_SINKS_OPTIONS_AMQP_H */
