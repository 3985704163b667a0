/*
 * record.h
 *		A message as a record of Kafka.
 */
#ifndef QUEUE_SINKS_KAFKA_RECORD_H
#define QUEUE_SINKS_KAFKA_RECORD_H

#include <librdkafka/rdkafka.h>

#include "relay/sink.h"
#include "sinks/options/kafka.h"

/*
 * Append a message to out as it is to be published, for record_produce(); the
 * queue's name is in UTF-8.  False, with the reason, if that cannot be.
 */
extern bool record_encode(const KafkaOptions *options, const char *queue,
						  const struct Message *message, StringInfo out, char *error);

/*
 * Give what was encoded to librdkafka, which copies it and knows it by the
 * tag.  Raises nothing.
 */
extern rd_kafka_resp_err_t record_produce(rd_kafka_t *handle, const char *data, Size size,
										  uint64 tag);

#endif							/* QUEUE_SINKS_KAFKA_RECORD_H */
