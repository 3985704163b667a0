/*
 * kinds.c
 *		The kinds of sinks there are, and what options each has.
 *
 * To add a kind: its struct in sinks/options, its entry here, its foreign data
 * wrapper in the extension's script, its line in sinks/Makefile.inc.
 */
#include "postgres.h"

#include <limits.h>

#include "foreign/foreign.h"
#include "lib/stringinfo.h"
#include "relay/kinds.h"
#include "relay/lists.h"
#include "relay/sink.h"
#include "sinks/cloudevents.h"
#include "sinks/http_options.h"
#include "sinks/options/amqp.h"
#include "sinks/options/file.h"
#include "sinks/options/http.h"
#include "sinks/options/kafka.h"
#include "sinks/options/postgres.h"
#include "sinks/options/redis.h"
#include "sinks/options/sql.h"
#include "utils/timestamp.h"

/* What every relay has, and every relay with a server. */
static const SinkOption common_options[] = {
	{"batch", ON_RELAY, OPTION_INT, offsetof(SinkOptions, batch), 1, 10000,.preset = "500"},
	{"max_attempts", ON_RELAY, OPTION_INT, offsetof(SinkOptions, max_attempts), 1, 1000},
	{"workers", ON_RELAY, OPTION_INT, offsetof(SinkOptions, workers), 1, SINK_MAX_WORKERS,
	.preset = "1"},
	{"confirm_timeout", ON_RELAY, OPTION_DURATION, offsetof(SinkOptions, confirm_timeout),
	1, SECS_PER_DAY,.preset = "60"},
	{"transform", ON_RELAY, OPTION_ROUTINE, offsetof(SinkOptions, transform), 1},
};

/* Those for all, at the start of it. */
#define EVERY_RELAY		3

/* What user mappings have where a relay's owner needs something in them. */
static const SinkOption password_required =
{"password_required", ON_MAPPING, OPTION_WAIVER, offsetof(SinkOptions, password_required),
.preset = "true"};

/* In the order of WireSecurity. */
static const char *const tls_modes[] = {"disable", "require", "verify-ca", "verify-full", NULL};

/* In the order of CloudEventsMode. */
static const char *const cloudevents_modes[] = {"off", "binary", "structured", NULL};

/* Those of a kind whose struct has CloudEventsOptions as cloudevents; see check_cloudevents(). */
#define CLOUDEVENTS_OPTIONS(options) \
	{"cloudevents", ON_RELAY, OPTION_ENUM, offsetof(options, cloudevents.mode), \
	.choices = cloudevents_modes}, \
	{"ce_type", ON_RELAY, OPTION_TEMPLATE, offsetof(options, cloudevents.type), \
	1, CLOUDEVENTS_TEXT}, \
	{"ce_source", ON_RELAY, OPTION_TEMPLATE, offsetof(options, cloudevents.source), \
	1, CLOUDEVENTS_TEXT}, \
	{"ce_subject", ON_RELAY, OPTION_TEMPLATE, offsetof(options, cloudevents.subject), \
	1, CLOUDEVENTS_TEXT}

static void
check_cloudevents(const CloudEventsOptions *options)
{
	if (options->mode != CLOUDEVENTS_OFF && options->type == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"ce_type\" is missing"),
				 errhint("Every CloudEvent has a type: \"com.example.order.placed\", for instance, or \"{header:type}\".")));
}

/*
 * A procedure of this database
 */
static const SinkOption sql_options[] = {
	{"procedure", ON_RELAY, OPTION_ROUTINE, offsetof(SqlOptions, procedure), 1},
};

const SinkKind sql_kind = {
	.name = "sql",
	.size = sizeof(SqlOptions),
	.options = sql_options,
	.noptions = lengthof(sql_options),
};

/*
 * RabbitMQ and other AMQP 0-9-1 brokers
 */
static const SinkOption amqp_options[] = {
	{"host", ON_SERVER, OPTION_TEXT, offsetof(AmqpOptions, host), 1,.preset = "localhost"},
	{"port", ON_SERVER, OPTION_INT, offsetof(AmqpOptions, port), 1, 65535},
	{"vhost", ON_SERVER, OPTION_TEXT, offsetof(AmqpOptions, vhost), 1, AMQP_SHORT_STRING,
	.preset = "/"},
	{"sslmode", ON_SERVER, OPTION_ENUM, offsetof(AmqpOptions, security),.choices = tls_modes},
	{"sslrootcert", ON_SERVER, OPTION_READ_FILE, offsetof(AmqpOptions, rootcert), 1},

	{"username", ON_MAPPING, OPTION_TEXT, offsetof(AmqpOptions, username), 1,
	.need = NEED_UNLESS_SUPERUSER},
	{"password", ON_MAPPING, OPTION_SECRET, offsetof(AmqpOptions, password),
	.need = NEED_UNLESS_SUPERUSER},

	{"exchange", ON_RELAY, OPTION_TEXT, offsetof(AmqpOptions, exchange), 0, AMQP_SHORT_STRING},
	{"routing_key", ON_RELAY, OPTION_TEMPLATE, offsetof(AmqpOptions, routing_key),
	0, AMQP_SHORT_STRING},
	{"mandatory", ON_RELAY, OPTION_BOOL, offsetof(AmqpOptions, mandatory),.preset = "true"},
	{"persistent", ON_RELAY, OPTION_BOOL, offsetof(AmqpOptions, persistent),.preset = "true"},
	{"strict_order", ON_RELAY, OPTION_BOOL, offsetof(SinkOptions, strict_order)},
	CLOUDEVENTS_OPTIONS(AmqpOptions),
};

static void
check_amqp(const void *options)
{
	const AmqpOptions *amqp = options;

	if (amqp->exchange == NULL && amqp->routing_key == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"exchange\" or \"routing_key\" is missing"),
				 errhint("Without an exchange the routing key is the name of a queue of the broker.")));
	check_cloudevents(&amqp->cloudevents);
}

/*
 * Queues of other PostgreSQL databases
 */
static const char *const libpq_modes[] = {
	"disable", "allow", "prefer", "require", "verify-ca", "verify-full", NULL
};

static const SinkOption postgres_options[] = {
	{"host", ON_SERVER, OPTION_TEXT, offsetof(PostgresOptions, host), 1,.preset = "localhost"},
	{"port", ON_SERVER, OPTION_INT, offsetof(PostgresOptions, port), 1, 65535,.preset = "5432"},
	{"dbname", ON_SERVER, OPTION_TEXT, offsetof(PostgresOptions, dbname), 1},
	{"sslmode", ON_SERVER, OPTION_CHOICE, offsetof(PostgresOptions, sslmode),.choices = libpq_modes},
	{"sslrootcert", ON_SERVER, OPTION_READ_FILE, offsetof(PostgresOptions, rootcert), 1},

	{"user", ON_MAPPING, OPTION_TEXT, offsetof(PostgresOptions, user), 1,.need = NEED_ALWAYS},
	{"password", ON_MAPPING, OPTION_SECRET, offsetof(PostgresOptions, password),
	.need = NEED_UNLESS_SUPERUSER},

	{"queue", ON_RELAY, OPTION_TEXT, offsetof(PostgresOptions, queue), 1, NAMEDATALEN - 1},
};

/*
 * Files
 */
static const SinkOption file_options[] = {
	{"directory", ON_SERVER, OPTION_WRITE_DIRECTORY, offsetof(FileOptions, directory),
	1, MAXPGPATH - 1,.need = NEED_ALWAYS},

	{"name", ON_RELAY, OPTION_TEXT, offsetof(FileOptions, name), 1, FILE_NAME_LENGTH},
	{"rotate_size", ON_RELAY, OPTION_SIZE, offsetof(FileOptions, rotate_size),
	1024, INT64CONST(1) << 40,.preset = "64MB"},
	{"rotate_age", ON_RELAY, OPTION_DURATION, offsetof(FileOptions, rotate_age),
	1, 366 * SECS_PER_DAY,.preset = "3600"},
};

static void
check_file(const void *options)
{
	const FileOptions *file = options;

	if (file->base.workers > 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"workers\": \"%d\"", file->base.workers),
				 errhint("A relay to files has one, which writes the file.")));
	if (file->name && !file_name_valid(file->name))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"name\": \"%s\"", file->name),
				 errhint("Files are called by it: it must not begin with a dot, nor have slashes or control characters in it.")));
}

/*
 * HTTP servers and webhooks
 */

/* In the order of HttpTrust. */
static const char *const http_trusts[] = {"require", "verify-ca", "verify-full", NULL};

/* In the order of HttpVersion. */
static const char *const http_versions[] = {"auto", "1.1", NULL};

static const char *const http_methods[] = {"POST", "PUT", "PATCH", "DELETE", NULL};

static const SinkOption http_options[] = {
	{"url", ON_SERVER, OPTION_TEXT, offsetof(HttpOptions, url), 1, HTTP_URL_LENGTH,
	.need = NEED_ALWAYS,.check = http_check_url},
	{"sslmode", ON_SERVER, OPTION_ENUM, offsetof(HttpOptions, trust),.choices = http_trusts,
	.preset = "verify-full"},
	{"sslrootcert", ON_SERVER, OPTION_READ_FILE, offsetof(HttpOptions, rootcert), 1},
	{"http_version", ON_SERVER, OPTION_ENUM, offsetof(HttpOptions, version),.choices = http_versions},
	{"allow_private", ON_SERVER, OPTION_SUPERUSER_BOOL, offsetof(HttpOptions, allow_private)},

	{"username", ON_MAPPING, OPTION_TEXT, offsetof(HttpOptions, username), 1,
	.check = http_check_username},
	{"password", ON_MAPPING, OPTION_SECRET, offsetof(HttpOptions, password)},
	{"token", ON_MAPPING, OPTION_SECRET, offsetof(HttpOptions, token), 1,
	.check = http_check_credential},
	{"authorization", ON_MAPPING, OPTION_SECRET, offsetof(HttpOptions, authorization), 1,
	.check = http_check_credential},
	{"signing_secret", ON_MAPPING, OPTION_SECRET, offsetof(HttpOptions, signing_secret), 1,
	.check = http_check_secrets},

	{"method", ON_RELAY, OPTION_CHOICE, offsetof(HttpOptions, method),.choices = http_methods,
	.preset = "POST"},
	{"path", ON_RELAY, OPTION_TEMPLATE, offsetof(HttpOptions, path), 1, HTTP_URL_LENGTH,
	.check = http_check_path},
	{"headers", ON_RELAY, OPTION_TEXT, offsetof(HttpOptions, headers), 1, HTTP_HEADER_LENGTH,
	.check = http_check_headers},
	{"idempotency_header", ON_RELAY, OPTION_TEXT, offsetof(HttpOptions, idempotency_header), 1,
	.check = http_check_header_name},
	{"success", ON_RELAY, OPTION_TEXT, offsetof(HttpOptions, success), 1,.preset = "2xx",
	.check = http_check_statuses},
	{"retry", ON_RELAY, OPTION_TEXT, offsetof(HttpOptions, retry), 1,
	.preset = "3xx, 401, 407, 408, 425, 429, 5xx",.check = http_check_statuses},
	{"timeout", ON_RELAY, OPTION_DURATION, offsetof(HttpOptions, timeout), 1, SECS_PER_DAY,
	.preset = "30"},
	{"concurrency", ON_RELAY, OPTION_INT, offsetof(HttpOptions, concurrency), 1, 100,.preset = "8"},
	{"follow_redirects", ON_RELAY, OPTION_INT, offsetof(HttpOptions, follow_redirects), 0, 10},
	{"strict_order", ON_RELAY, OPTION_BOOL, offsetof(SinkOptions, strict_order)},
	CLOUDEVENTS_OPTIONS(HttpOptions),
};

static void
check_http(const void *options)
{
	check_cloudevents(&((const HttpOptions *) options)->cloudevents);
}

/*
 * Apache Kafka
 */
static const char *const switches[] = {"true", "false", NULL};
static const char *const address_families[] = {"any", "v4", "v6", NULL};
static const char *const partitioners[] = {
	"random", "consistent", "consistent_random", "murmur2", "murmur2_random",
	"fnv1a", "fnv1a_random", NULL
};

/*
 * Properties of librdkafka that have it read no file, run nothing, log nothing
 * and show nothing, and that no option is for.
 */
static const Property kafka_properties[] = {
	{"batch.num.messages", 1, 1000000},
	{"batch.size", 1, INT_MAX},
	{"broker.address.family",.choices = address_families},
	{"broker.address.ttl", 0, 86400000},
	{"client.id"},
	{"client.rack"},
	{"compression.level", -1, 12},
	{"connections.max.idle.ms", 0, INT_MAX},
	{"linger.ms", 0, 900000},
	{"max.in.flight.requests.per.connection", 1, 5},
	{"message.max.bytes", 1000, 1000000000},
	{"message.copy.max.bytes", 0, 1000000000},
	{"metadata.max.age.ms", 1, 86400000},
	{"partitioner",.choices = partitioners},
	{"reconnect.backoff.max.ms", 0, 3600000},
	{"reconnect.backoff.ms", 0, 3600000},
	{"request.timeout.ms", 1, 900000},
	{"retry.backoff.ms", 1, 300000},
	{"socket.connection.setup.timeout.ms", 1000, INT_MAX},
	{"socket.keepalive.enable",.choices = switches},
	{"socket.max.fails", 0, 1000000},
	{"socket.nagle.disable",.choices = switches},
	{"socket.receive.buffer.bytes", 0, 100000000},
	{"socket.send.buffer.bytes", 0, 100000000},
	{"socket.timeout.ms", 10, 300000},
	{"sticky.partitioning.linger.ms", 0, 900000},
	{"topic.metadata.propagation.max.ms", 0, 3600000},
	{"topic.metadata.refresh.interval.ms", -1, 3600000},
	{NULL}
};

static const char *const kafka_mechanisms[] = {"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", NULL};
static const char *const kafka_compressions[] = {"none", "gzip", "snappy", "lz4", "zstd", NULL};
static const char *const kafka_acks[] = {"all", "1", NULL};

/* In the order of KafkaFormat. */
static const char *const kafka_formats[] = {"plain", "confluent", NULL};

static const SinkOption kafka_options[] = {
	{"brokers", ON_SERVER, OPTION_HOSTS, offsetof(KafkaOptions, brokers), 1,.need = NEED_ALWAYS},
	{"sslmode", ON_SERVER, OPTION_ENUM, offsetof(KafkaOptions, security),.choices = tls_modes},
	{"sslrootcert", ON_SERVER, OPTION_READ_FILE, offsetof(KafkaOptions, rootcert), 1},
	{"sasl_mechanism", ON_SERVER, OPTION_CHOICE, offsetof(KafkaOptions, mechanism),
	.choices = kafka_mechanisms,.preset = "PLAIN"},
	{"properties", ON_SERVER, OPTION_PROPERTIES, offsetof(KafkaOptions, properties),
	.properties = kafka_properties},

	{"username", ON_MAPPING, OPTION_TEXT, offsetof(KafkaOptions, username), 1,
	.need = NEED_UNLESS_SUPERUSER},
	{"password", ON_MAPPING, OPTION_SECRET, offsetof(KafkaOptions, password),
	.need = NEED_UNLESS_SUPERUSER},

	{"topic", ON_RELAY, OPTION_TEMPLATE, offsetof(KafkaOptions, topic), 1, KAFKA_TOPIC_LENGTH},
	{"key", ON_RELAY, OPTION_TEMPLATE, offsetof(KafkaOptions, key), 1},
	{"compression", ON_RELAY, OPTION_CHOICE, offsetof(KafkaOptions, compression),
	.choices = kafka_compressions,.preset = "none"},
	{"acks", ON_RELAY, OPTION_CHOICE, offsetof(KafkaOptions, acks),.choices = kafka_acks,
	.preset = "all"},
	{"idempotence", ON_RELAY, OPTION_BOOL, offsetof(KafkaOptions, idempotent),.preset = "true"},
	{"transactional", ON_RELAY, OPTION_BOOL, offsetof(KafkaOptions, transactional)},
	{"tombstone", ON_RELAY, OPTION_BOOL, offsetof(KafkaOptions, tombstone)},
	{"format", ON_RELAY, OPTION_ENUM, offsetof(KafkaOptions, format),.choices = kafka_formats},
	{"strict_order", ON_RELAY, OPTION_BOOL, offsetof(SinkOptions, strict_order)},
	CLOUDEVENTS_OPTIONS(KafkaOptions),
};

static void
check_kafka(const void *options)
{
	const KafkaOptions *kafka = options;

	if (kafka->topic == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"topic\" is missing"),
				 errhint("It can have {key} and {header:NAME} in it.")));
	if (kafka->idempotent && strcmp(kafka->acks, "all") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"acks\" must be \"all\" with option \"idempotence\""),
				 errhint("Set option \"idempotence\" to false.")));
	if (kafka->transactional && !kafka->idempotent)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"transactional\" needs option \"idempotence\"")));
	check_cloudevents(&kafka->cloudevents);
	if (kafka->format == KAFKA_CONFLUENT && kafka->cloudevents.mode == CLOUDEVENTS_STRUCTURED)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"format\" must be \"plain\" with structured CloudEvents"),
				 errhint("The body of these is an envelope, which has no schema's id.")));
}

/*
 * Redis
 */
static const char *const redis_commands[] = {"xadd", "publish", "lpush", "rpush", NULL};
static const char *const redis_headers[] = {"fields", "json", NULL};

static const SinkOption redis_options[] = {
	{"host", ON_SERVER, OPTION_TEXT, offsetof(RedisOptions, host), 1,.preset = "localhost"},
	{"port", ON_SERVER, OPTION_INT, offsetof(RedisOptions, port), 1, 65535,.preset = "6379"},
	{"sslmode", ON_SERVER, OPTION_ENUM, offsetof(RedisOptions, security),.choices = tls_modes},
	{"sslrootcert", ON_SERVER, OPTION_READ_FILE, offsetof(RedisOptions, rootcert), 1},
	{"database", ON_SERVER, OPTION_INT, offsetof(RedisOptions, database), 0, 65535},
	{"cluster", ON_SERVER, OPTION_BOOL, offsetof(RedisOptions, cluster)},

	{"username", ON_MAPPING, OPTION_TEXT, offsetof(RedisOptions, username), 1},
	{"password", ON_MAPPING, OPTION_SECRET, offsetof(RedisOptions, password),
	.need = NEED_UNLESS_SUPERUSER},

	{"command", ON_RELAY, OPTION_ENUM, offsetof(RedisOptions, command),.choices = redis_commands},
	{"target", ON_RELAY, OPTION_TEMPLATE, offsetof(RedisOptions, target), 1, REDIS_TARGET},
	{"maxlen", ON_RELAY, OPTION_INT, offsetof(RedisOptions, maxlen), 1, PG_INT32_MAX},
	{"payload_field", ON_RELAY, OPTION_TEXT, offsetof(RedisOptions, payload_field), 1, 255},
	{"headers", ON_RELAY, OPTION_ENUM, offsetof(RedisOptions, headers),.choices = redis_headers},
	{"envelope", ON_RELAY, OPTION_BOOL, offsetof(RedisOptions, envelope)},
	{"replicas", ON_RELAY, OPTION_INT, offsetof(RedisOptions, replicas), 1, 100},
	{"strict_order", ON_RELAY, OPTION_BOOL, offsetof(SinkOptions, strict_order)},
	CLOUDEVENTS_OPTIONS(RedisOptions),
};

static void
redis_refuse(const char *option, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("option \"%s\" cannot be used with this command", option),
			 errhint("%s", hint)));
}

static void
check_redis(const void *options)
{
	const RedisOptions *redis = options;

	if (redis->command == REDIS_XADD && redis->envelope)
		redis_refuse("envelope", "An entry of a stream has fields for all there is of a message.");
	if (redis->command == REDIS_PUBLISH && redis->replicas > 0)
		redis_refuse("replicas", "What is published to a channel is kept by nobody.");
	if (redis->command != REDIS_XADD && (redis->maxlen > 0 || redis->payload_field ||
										 redis->headers != REDIS_HEADERS_FIELDS))
		redis_refuse(redis->maxlen > 0 ? "maxlen" : redis->payload_field ? "payload_field" : "headers",
					 "It is for streams: command \"xadd\".");
	if (redis->command != REDIS_XADD && redis->cloudevents.mode == CLOUDEVENTS_BINARY)
		redis_refuse("cloudevents", "Lists and channels have no place for attributes: it must be structured.");
	if (redis->envelope && redis->cloudevents.mode != CLOUDEVENTS_OFF)
		redis_refuse("envelope", "A CloudEvent is an envelope by itself.");
	check_cloudevents(&redis->cloudevents);
	if (redis->payload_field && !redis_field_valid(redis->payload_field))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"payload_field\": \"%s\"", redis->payload_field),
				 errhint("Another field of the entry is or may be called so.")));
}

/* All with a server. */
static const SinkKind kinds[] = {
	{
		.name = "amqp",
		.has_server = true,
		.size = sizeof(AmqpOptions),
		.options = amqp_options,
		.noptions = lengthof(amqp_options),
		.check = check_amqp,
		.login_missing = "user name and password are required: the user mapping has not both,"
		" and the relay's owner is not a superuser",
	},
	{
		.name = "postgres",
		.has_server = true,
		.size = sizeof(PostgresOptions),
		.options = postgres_options,
		.noptions = lengthof(postgres_options),
		.login_missing = "password is required: the user mapping has none,"
		" and the relay's owner is not a superuser",
	},
	{
		.name = "file",
		.has_server = true,
		.size = sizeof(FileOptions),
		.options = file_options,
		.noptions = lengthof(file_options),
		.check = check_file,
	},
	{
		.name = "http",
		.has_server = true,
		.size = sizeof(HttpOptions),
		.options = http_options,
		.noptions = lengthof(http_options),
		.check = check_http,
	},
	{
		.name = "kafka",
		.has_server = true,
		.size = sizeof(KafkaOptions),
		.options = kafka_options,
		.noptions = lengthof(kafka_options),
		.check = check_kafka,
		.login_missing = "user name and password are required: the user mapping has not both,"
		" and the relay's owner is not a superuser",
	},
	{
		.name = "redis",
		.has_server = true,
		.size = sizeof(RedisOptions),
		.options = redis_options,
		.noptions = lengthof(redis_options),
		.check = check_redis,
		.login_missing = "password is required: the user mapping has none,"
		" and the relay's owner is not a superuser",
	},
};

#define WRAPPER_PREFIX	"queue_"

const SinkKind *
kind_find(const char *name, int length)
{
	for (int i = 0; i < lengthof(kinds); i++)
	{
		if (strlen(kinds[i].name) == length && strncmp(kinds[i].name, name, length) == 0)
			return &kinds[i];
	}
	return NULL;
}

const SinkKind *
kind_of_wrapper(Oid wrapper)
{
	const ForeignDataWrapper *found = GetForeignDataWrapperExtended(wrapper, FDW_MISSING_OK);
	int			prefix = strlen(WRAPPER_PREFIX);

	if (found == NULL || strncmp(found->fdwname, WRAPPER_PREFIX, prefix) != 0)
		return NULL;
	return kind_find(found->fdwname + prefix, strlen(found->fdwname) - prefix);
}

char *
kind_wrappers(void)
{
	StringInfoData all;

	initStringInfo(&all);
	for (int i = 0; i < lengthof(kinds); i++)
		appendStringInfo(&all, "%s%s%s", i == 0 ? "" : i < lengthof(kinds) - 1 ? ", " : " or ",
						 WRAPPER_PREFIX, kinds[i].name);
	return all.data;
}

/* Whether a relay needs something in its user mapping, unless it is a superuser's. */
static bool
demands_login(const SinkKind *kind)
{
	for (int i = 0; i < kind->noptions; i++)
	{
		if (kind->options[i].place == ON_MAPPING &&
			kind->options[i].need == NEED_UNLESS_SUPERUSER)
			return true;
	}
	return false;
}

const SinkOption *
kind_option(const SinkKind *kind, int n)
{
	int			ncommon = kind->has_server ? lengthof(common_options) : EVERY_RELAY;

	if (n < ncommon)
		return &common_options[n];
	n -= ncommon;
	if (n < kind->noptions)
		return &kind->options[n];
	return n == kind->noptions && demands_login(kind) ? &password_required : NULL;
}
