/*
 * kinds.c
 *		The kinds of sinks there are, and what options each has.
 *
 * To add a kind: its struct in sinks/options, its entry here, its foreign data
 * wrapper in the extension's script, its line in sinks/Makefile.inc.
 */
#include "postgres.h"

#include "foreign/foreign.h"
#include "lib/stringinfo.h"
#include "relay/kinds.h"
#include "relay/sink.h"
#include "sinks/cloudevents.h"
#include "sinks/options/amqp.h"
#include "sinks/options/file.h"
#include "sinks/options/postgres.h"
#include "sinks/options/redis.h"
#include "sinks/options/sql.h"
#include "utils/timestamp.h"

/* What every relay has, and every relay with a server. */
static const SinkOption common_options[] = {
	{"batch", ON_RELAY, OPTION_INT, offsetof(SinkOptions, batch), 1, 10000,.preset = "500"},
	{"max_attempts", ON_RELAY, OPTION_INT, offsetof(SinkOptions, max_attempts), 1, 1000},
	{"confirm_timeout", ON_RELAY, OPTION_DURATION, offsetof(SinkOptions, confirm_timeout),
	1, SECS_PER_DAY,.preset = "60"},
};

/* Those for all, at the start of it. */
#define EVERY_RELAY		2

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
	{"procedure", ON_RELAY, OPTION_PROCEDURE, offsetof(SqlOptions, procedure), 1},
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

	if (file->name && !file_name_valid(file->name))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"name\": \"%s\"", file->name),
				 errhint("Files are called by it: it must not begin with a dot, nor have slashes or control characters in it.")));
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

const SinkOption *
kind_option(const SinkKind *kind, int n)
{
	int			ncommon = kind->has_server ? lengthof(common_options) : EVERY_RELAY;

	if (n < ncommon)
		return &common_options[n];
	return n - ncommon < kind->noptions ? &kind->options[n - ncommon] : NULL;
}
