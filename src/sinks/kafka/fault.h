/*
 * fault.h
 *		Whose fault it is that a record was not taken.
 */
#ifndef QUEUE_SINKS_KAFKA_FAULT_H
#define QUEUE_SINKS_KAFKA_FAULT_H

#include <librdkafka/rdkafka.h>

#include "sinks/options/kafka.h"

typedef enum Fault
{
	FAULT_NONE,					/* it was taken */
	FAULT_MESSAGE,				/* the record's own, or of one in its batch */
	FAULT_TOPIC,				/* its topic's: what has another has nothing
								 * to do with it */
	FAULT_OTHERS,				/* it was let go of on account of another */
	FAULT_CONNECTION,			/* nobody's here, and nothing can be published */
	FAULT_UNKNOWN				/* the record can have to do with it */
} Fault;

extern Fault fault_of(rd_kafka_resp_err_t code, const KafkaOptions *options);

#endif							/* QUEUE_SINKS_KAFKA_FAULT_H */
