/*
 * kafka.h
 *		Options of the sink for Apache Kafka.
 */
#ifndef QUEUE_SINKS_OPTIONS_KAFKA_H
#define QUEUE_SINKS_OPTIONS_KAFKA_H

#include "relay/sink.h"
#include "sinks/cloudevents.h"
#include "sinks/net/wire.h"
#include "sinks/template.h"

/* Longest name of a topic in Kafka. */
#define KAFKA_TOPIC_LENGTH	249

/* Longest key: longer ones are no keys. */
#define KAFKA_KEY_LENGTH	(1024 * 1024)

/* What is put before a message's body. */
typedef enum KafkaFormat
{
	KAFKA_PLAIN,				/* nothing */
	KAFKA_CONFLUENT				/* the id of its schema in a registry */
} KafkaFormat;

typedef struct KafkaOptions
{
	SinkOptions base;

	const char *brokers;		/* host:port, separated by commas */
	WireSecurity security;
	const char *rootcert;		/* NULL: what the system trusts */
	const char *mechanism;		/* of SASL, where there is a user name */
	const char *properties;		/* of librdkafka; NULL: none */

	const char *username;		/* NULL: no login */
	const char *password;

	const Template *topic;
	const Template *key;		/* NULL: the message's own */
	const char *compression;
	const char *acks;
	bool		idempotent;
	bool		transactional;
	bool		tombstone;
	KafkaFormat format;
	CloudEventsOptions cloudevents;
} KafkaOptions;

/* Whether all messages go to one topic. */
static inline bool
kafka_one_topic(const KafkaOptions *options)
{
	return options->topic->nparts == 1 && options->topic->parts[0].kind == TEMPLATE_TEXT;
}

#endif							/* QUEUE_SINKS_OPTIONS_KAFKA_H */
