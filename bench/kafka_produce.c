/*
 * kafka_produce.c
 *		Produce so many messages to a topic of Kafka, with librdkafka alone: no
 *		more than a window of them unconfirmed, and with the settings the relay
 *		has.  Prints the messages and how many a second; with none, how many are
 *		in the topic's only partition.
 */
#include <librdkafka/rdkafka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static long confirmed;

static void
die(const char *what)
{
	fprintf(stderr, "kafka_produce: %s\n", what);
	exit(1);
}

static void
heed_report(rd_kafka_t *handle, const rd_kafka_message_t *message, void *opaque)
{
	if (message->err)
		die(rd_kafka_err2str(message->err));
	confirmed++;
}

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
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
	rd_kafka_t *handle;
	char		error[512];
	long		messages;
	long		window;
	double		start;

	if (argc != 6)
		die("usage: kafka_produce BROKERS TOPIC MESSAGES WINDOW BODY");
	messages = atol(argv[3]);
	window = atol(argv[4]);
	for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++)
	{
		if (rd_kafka_conf_set(conf, settings[i][0], settings[i][1], error, sizeof(error)))
			die(error);
	}
	if (rd_kafka_conf_set(conf, "bootstrap.servers", argv[1], error, sizeof(error)))
		die(error);
	rd_kafka_conf_set_dr_msg_cb(conf, heed_report);
	handle = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, sizeof(error));
	if (handle == NULL)
		die(error);

	if (messages == 0)
	{
		int64_t		low;
		int64_t		high;

		if (rd_kafka_query_watermark_offsets(handle, argv[2], 0, &low, &high, 10000))
			die("the topic's end is not to be had");
		printf("%lld\n", (long long) high);
		return 0;
	}

	/* The first is not counted: it has the connection made. */
	start = 0;
	for (long sent = 0; confirmed < messages + 1;)
	{
		if (sent < messages + 1 && sent - confirmed < window && (sent == 0 || start > 0))
		{
			char		id[64];
			rd_kafka_headers_t *headers = rd_kafka_headers_new(2);

			snprintf(id, sizeof(id), "bench/%ld", sent);
			rd_kafka_header_add(headers, "message-id", -1, id, -1);
			rd_kafka_header_add(headers, "content-type", -1, "application/json", -1);
			if (rd_kafka_producev(handle, RD_KAFKA_V_TOPIC(argv[2]),
								  RD_KAFKA_V_VALUE(argv[5], strlen(argv[5])),
								  RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
								  RD_KAFKA_V_HEADERS(headers), RD_KAFKA_V_END))
				die("it takes no more");
			sent++;
			rd_kafka_poll(handle, 0);
		}
		else
			rd_kafka_poll(handle, 100);
		if (start == 0 && confirmed == 1)
			start = now();
	}
	printf("%ld %.0f\n", messages, messages / (now() - start));
	return 0;
}
