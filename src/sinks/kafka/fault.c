/*
 * fault.c
 *		Whose fault it is that a record was not taken.
 *
 * What is transient does not come here: librdkafka tries it again, in order,
 * for as long as the relay waits for a confirmation.
 */
#include "postgres.h"

#include "sinks/kafka/fault.h"

Fault
fault_of(rd_kafka_resp_err_t code, const KafkaOptions *options)
{
	switch (code)
	{
		case RD_KAFKA_RESP_ERR_NO_ERROR:
			return FAULT_NONE;

			/* Another record would do. */
		case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
		case RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE:
		case RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE:
		case RD_KAFKA_RESP_ERR_INVALID_MSG:
		case RD_KAFKA_RESP_ERR_INVALID_RECORD:
		case RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP:
		case RD_KAFKA_RESP_ERR_POLICY_VIOLATION:
		case RD_KAFKA_RESP_ERR__INVALID_ARG:
			return FAULT_MESSAGE;

			/* This one would do somewhere else. */
		case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION:
		case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
		case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
		case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
			return FAULT_TOPIC;

			/*
			 * What a message names it names in vain; what a relay does, all
			 * in vain.
			 */
		case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
			return kafka_one_topic(options) ? FAULT_CONNECTION : FAULT_TOPIC;

		case RD_KAFKA_RESP_ERR__PURGE_QUEUE:
		case RD_KAFKA_RESP_ERR__PURGE_INFLIGHT:
		case RD_KAFKA_RESP_ERR__QUEUE_FULL:
			return FAULT_OTHERS;

		case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED:
		case RD_KAFKA_RESP_ERR_INVALID_REQUIRED_ACKS:
		case RD_KAFKA_RESP_ERR_UNSUPPORTED_COMPRESSION_TYPE:
		case RD_KAFKA_RESP_ERR_PRODUCER_FENCED:
		case RD_KAFKA_RESP_ERR__AUTHENTICATION:
		case RD_KAFKA_RESP_ERR__FENCED:
		case RD_KAFKA_RESP_ERR__DESTROY:
			return FAULT_CONNECTION;

		default:
			return FAULT_UNKNOWN;
	}
}
