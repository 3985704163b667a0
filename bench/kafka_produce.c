/*
 * kafka_produce.c
 *		A bare Kafka producer: client.h says what it does.
 *
 * Messages to a topic of one partition, with the settings the relay has.
 */
#include "client.h"

#include <librdkafka/rdkafka.h>

static rd_kafka_t *handle;
static const char *topic;
static char *body;

static void
heed_report(rd_kafka_t *handle, const rd_kafka_message_t *message, void *opaque)
{
	if (message->err)
		die(rd_kafka_err2str(message->err));
	confirmed++;
}

static void
send_message(long number)
{
	char		id[64];
	rd_kafka_headers_t *headers = rd_kafka_headers_new(2);

	snprintf(id, sizeof(id), "bench/%ld", number);
	rd_kafka_header_add(headers, "message-id", -1, id, -1);
	rd_kafka_header_add(headers, "content-type", -1, "application/json", -1);
	if (rd_kafka_producev(handle, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_VALUE(body, strlen(body)),
						  RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
						  RD_KAFKA_V_HEADERS(headers), RD_KAFKA_V_END))
		die("it takes no more");
	rd_kafka_poll(handle, 0);
}

static void
take_confirmations(void)
{
	rd_kafka_poll(handle, 100);
}

int
main(int argc, char **argv)
{
	static const char *const settings[][2] = {
		{"acks", "all"},
		{"enable.idempotence", "true"},
		{"linger.ms", "0"},
		{"max.in.flight.requests.per.connection", "2"},
		{"partitioner", "murmur2_random"},
	};
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	char		brokers[64];
	char		error[512];

	if (argc != 6)
		die("usage: PORT TOPIC MESSAGES WINDOW BODY");
	topic = argv[2];
	body = argv[5];
	snprintf(brokers, sizeof(brokers), "127.0.0.1:%s", argv[1]);
	for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++)
	{
		if (rd_kafka_conf_set(conf, settings[i][0], settings[i][1], error, sizeof(error)))
			die(error);
	}
	if (rd_kafka_conf_set(conf, "bootstrap.servers", brokers, error, sizeof(error)))
		die(error);
	rd_kafka_conf_set_dr_msg_cb(conf, heed_report);
	handle = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, sizeof(error));
	if (handle == NULL)
		die(error);

	if (atol(argv[3]) == 0)
	{
		int64_t		low;
		int64_t		high;

		if (rd_kafka_query_watermark_offsets(handle, topic, 0, &low, &high, 10000))
			die("the topic's end is not to be had");
		printf("%lld\n", (long long) high);
	}
	else
		publish_all(atol(argv[3]), atol(argv[4]));
	return 0;
}
