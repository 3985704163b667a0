/*
 * configure.c
 *		The options of a relay to Kafka as librdkafka has them.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "relay/sink.h"
#include "sinks/kafka/configure.h"
#include "sinks/net/certificate.h"
#include "sinks/options/kafka.h"
#include "sinks/text.h"

/* A transaction is given so much more than a confirmation, in ms. */
#define TRANSACTION_MORE	10000
#define TRANSACTION_MOST	900000

/*
 * What holds unless a property says otherwise.  The broker is the one to say
 * what is too large: below is what it takes of any request.  A broker that is
 * gone is not tried again before the worker has heard of it.  While two requests
 * are under way what follows gathers to a larger one.
 */
static const char *const presets[][2] = {
	{"message.max.bytes", "100000000"},
	{"linger.ms", "0"},
	{"max.in.flight.requests.per.connection", "2"},
	{"partitioner", "murmur2_random"},
	{"reconnect.backoff.ms", "500"},
	{"topic.metadata.propagation.max.ms", "2000"},
	{"socket.keepalive.enable", "true"},
	{"receive.message.max.bytes", "16777216"},
};

typedef struct Configuration
{
	rd_kafka_conf_t *conf;
	bool		failed;
	char	   *error;
} Configuration;

static void
set(Configuration *configuration, const char *name, const char *value)
{
	char		words[SINK_ERROR_SIZE];

	if (configuration->failed ||
		rd_kafka_conf_set(configuration->conf, name, value, words, sizeof(words)) == RD_KAFKA_CONF_OK)
		return;
	configuration->failed = true;

	/* What it says can have the value in it. */
	if (strcmp(name, "sasl.password") == 0)
		strlcpy(configuration->error, "the password is not one for Kafka", SINK_ERROR_SIZE);
	else
		text_clean(configuration->error, SINK_ERROR_SIZE, words, strlen(words), PG_UTF8);
}

static const char *
utf8(const char *text)
{
	int			length = strlen(text);

	return text_utf8(text, &length);
}

/* It is not for librdkafka to open files: it could wait for one, and tell what is in it. */
static void
set_certificates(Configuration *configuration, const char *path)
{
	int			length;
	char	   *certificates;

	if (configuration->failed)
		return;
	certificates = certificate_read(path, &length, configuration->error);
	if (certificates == NULL)
		configuration->failed = true;
	else
		set(configuration, "ssl.ca.pem", certificates);
}

static void
set_security(Configuration *configuration, const KafkaOptions *options)
{
	bool		tls = options->security != WIRE_PLAIN;
	bool		sasl = options->username != NULL;

	set(configuration, "security.protocol",
		sasl ? (tls ? "sasl_ssl" : "sasl_plaintext") : (tls ? "ssl" : "plaintext"));
	if (tls)
	{
		set(configuration, "enable.ssl.certificate.verification",
			options->security == WIRE_ENCRYPTED ? "false" : "true");
		set(configuration, "ssl.endpoint.identification.algorithm",
			options->security == WIRE_VERIFY_FULL ? "https" : "none");
		if (options->rootcert)
			set_certificates(configuration, options->rootcert);
	}
	if (sasl)
	{
		set(configuration, "sasl.mechanism", options->mechanism);
		set(configuration, "sasl.username", utf8(options->username));
		set(configuration, "sasl.password", utf8(options->password ? options->password : ""));
	}
}

/* The option was checked when it was given: pairs of name=value. */
static void
set_properties(Configuration *configuration, const char *properties)
{
	char	   *state;
	char	   *pair = strtok_r(pstrdup(properties), " \t\r\n", &state);

	for (; pair; pair = strtok_r(NULL, " \t\r\n", &state))
	{
		char	   *value = strchr(pair, '=');

		if (value == NULL)
			continue;
		*value++ = '\0';
		set(configuration, pair, value);
	}
}

rd_kafka_conf_t *
configure(const SinkConfig *config, char *error)
{
	const KafkaOptions *options = config->options;
	int64		timeout = options->base.confirm_timeout / 1000;
	Configuration configuration = {.error = error};
	const char *relay = utf8(config->relay);
	const char *brokers = utf8(options->brokers);

	configuration.conf = rd_kafka_conf_new();
	rd_kafka_conf_set_events(configuration.conf, RD_KAFKA_EVENT_DR | RD_KAFKA_EVENT_ERROR);
	rd_kafka_conf_set_log_cb(configuration.conf, NULL);
	for (int i = 0; i < lengthof(presets); i++)
		set(&configuration, presets[i][0], presets[i][1]);
	set(&configuration, "client.id", relay);
	if (options->properties)
		set_properties(&configuration, options->properties);

	set(&configuration, "bootstrap.servers", brokers);
	set_security(&configuration, options);
	set(&configuration, "compression.type", options->compression);
	set(&configuration, "acks", options->acks);
	set(&configuration, "enable.idempotence", options->idempotent ? "true" : "false");
	if (!options->idempotent)
		set(&configuration, "enable.sparse.connections", "false");

	/*
	 * What is in flight the relay has a limit to; it is not refused for its
	 * age.
	 */
	set(&configuration, "queue.buffering.max.messages", psprintf("%d", Max(2 * config->window, 1000)));
	set(&configuration, "queue.buffering.max.kbytes", "2097151");
	if (options->transactional)
	{
		set(&configuration, "transactional.id", psprintf("%s/%s/%d", config->source, relay, config->worker));
		set(&configuration, "transaction.timeout.ms",
			psprintf(INT64_FORMAT, Min(timeout + TRANSACTION_MORE, TRANSACTION_MOST)));
	}
	else
		set(&configuration, "message.timeout.ms", "0");

	if (!configuration.failed)
		return configuration.conf;
	rd_kafka_conf_destroy(configuration.conf);
	return NULL;
}
