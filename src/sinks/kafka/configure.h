/*
 * configure.h
 *		The options of a relay to Kafka as librdkafka has them.
 */
#ifndef QUEUE_SINKS_KAFKA_CONFIGURE_H
#define QUEUE_SINKS_KAFKA_CONFIGURE_H

#include <librdkafka/rdkafka.h>

#include "relay/sink.h"

/* The configuration of a producer; NULL, with the reason in error, if it cannot be. */
extern rd_kafka_conf_t *configure(const SinkConfig *config, char *error);

#endif							/* QUEUE_SINKS_KAFKA_CONFIGURE_H */
