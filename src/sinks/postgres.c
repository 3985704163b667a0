/*
 * postgres.c
 *		Sink that sends to a queue of another PostgreSQL database.
 *
 * One batch is on its way at a time, as one call of queue.relay_accept, which
 * knows what it has accepted before: whatever is sent again, because the
 * answer to it was lost, arrives once.  A batch that fails there for reasons
 * of its data is sent again message by message, and a message that fails
 * alone is refused.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "libpq-fe.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "network.h"
#include "port/pg_bswap.h"
#include "sink.h"
#include "storage/fd.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

PG_MODULE_MAGIC;

/* To connect, and to have the session set up. */
#define CONNECT_WITHIN	(10 * USECS_PER_SEC)

/* Size at which a batch is sent though it could have more messages. */
#define BATCH_BYTES		(16 * 1024 * 1024)

/* Addresses of the host tried at most. */
#define MAX_ADDRESSES	8

#define ACCEPT \
	"SELECT queue.relay_accept($1, $2, $3, $4, $5, $6, $7, $8)"

/* What we need of the session, whatever its role or database is set to. */
#define SET_UP \
	"SELECT pg_catalog.set_config('default_transaction_isolation', 'read committed', false)," \
	" CASE pg_catalog.current_setting('synchronous_commit') WHEN 'off'" \
	" THEN pg_catalog.set_config('synchronous_commit', 'on', false) END"

typedef struct PostgresSink
{
	Sink		base;
	PGconn	   *conn;
	MemoryContext context;		/* of one batch's parameters */
	const char *queue;
	bool		busy;			/* a batch is on its way */
	bool		unsent;			/* not all of it has left */
	int			single;			/* so many more are to be sent singly */
	PGresult   *result;			/* the latest of its answer so far */
	Size		bytes;
	int			nitems;
	SinkItem  **items;			/* window of them at most */
} PostgresSink;

PGDLLEXPORT const SinkRoutine *queue_sink(void);

/* The connection's error, on one line. */
static void
connection_error(PGconn *conn, char *error)
{
	char	   *c;

	strlcpy(error, PQerrorMessage(conn), SINK_ERROR_SIZE);
	for (c = error; *c; c++)
	{
		if (*c == '\n')
			*c = ' ';
	}
	while (c > error && c[-1] == ' ')
		*--c = '\0';
}

static void
ignore_notice(void *arg, const PGresult *result)
{
}

/*
 * Have libpq take nothing from the server's environment: no passwords, no
 * services, no certificates meant for somebody else.
 */
static void
clear_environment(void)
{
	PQconninfoOption *options;

	unsetenv("PGSERVICE");
	unsetenv("PGSERVICEFILE");
	options = PQconndefaults();
	for (PQconninfoOption *option = options; option && option->keyword; option++)
	{
		if (option->envvar)
			unsetenv(option->envvar);
	}
	PQconninfoFree(options);
}

/* Keywords and values for PQconnectStartParams. */
typedef struct Parameters
{
	const char *keywords[24];
	const char *values[24];
	int			n;
} Parameters;

static void
add(Parameters *parameters, const char *keyword, const char *value)
{
	parameters->keywords[parameters->n] = keyword;
	parameters->values[parameters->n++] = value;
}

/*
 * Add host and hostaddr: names are looked up here, as libpq would not let us
 * be interrupted meanwhile.  Several addresses become several hosts.
 */
static bool
add_host(Parameters *parameters, const char *host, int port, TimestampTz deadline, char *error)
{
	StringInfoData hosts;
	StringInfoData addresses;
	struct addrinfo *list;
	int			n = 0;

	if (host[0] == '/')
	{
		add(parameters, "host", host);
		return true;
	}
	list = network_resolve(host, port, deadline, error);
	if (list == NULL)
		return false;
	initStringInfo(&hosts);
	initStringInfo(&addresses);
	for (struct addrinfo *address = list; address && n < MAX_ADDRESSES; address = address->ai_next)
	{
		char		numeric[NI_MAXHOST];

		if (getnameinfo(address->ai_addr, address->ai_addrlen, numeric, sizeof(numeric),
						NULL, 0, NI_NUMERICHOST) != 0)
			continue;
		appendStringInfo(&hosts, "%s%s", n > 0 ? "," : "", host);
		appendStringInfo(&addresses, "%s%s", n > 0 ? "," : "", numeric);
		n++;
	}
	freeaddrinfo(list);
	add(parameters, "host", hosts.data);
	add(parameters, "hostaddr", addresses.data);
	return true;
}

/* Wait until the connection stands. */
static bool
finish_connecting(PGconn *conn, TimestampTz deadline, char *error)
{
	PostgresPollingStatusType status = PGRES_POLLING_WRITING;

	if (PQstatus(conn) == CONNECTION_BAD)
		status = PGRES_POLLING_FAILED;
	while (status != PGRES_POLLING_OK)
	{
		if (status == PGRES_POLLING_FAILED)
		{
			connection_error(conn, error);
			return false;
		}
		if (!network_wait(PQsocket(conn), status == PGRES_POLLING_READING ?
						  WL_SOCKET_READABLE : WL_SOCKET_WRITEABLE, deadline))
		{
			strlcpy(error, "could not connect: timeout expired", SINK_ERROR_SIZE);
			return false;
		}
		status = PQconnectPoll(conn);
	}
	return true;
}

/* Set the session up. */
static bool
set_up_session(PGconn *conn, TimestampTz deadline, char *error)
{
	PGresult   *result;
	bool		ok = true;

	if (PQsetnonblocking(conn, 1) != 0 || !PQsendQuery(conn, SET_UP))
	{
		connection_error(conn, error);
		return false;
	}
	for (;;)
	{
		int			unsent = PQflush(conn);

		if (unsent < 0 || !PQconsumeInput(conn))
		{
			connection_error(conn, error);
			return false;
		}
		if (PQisBusy(conn))
		{
			if (!network_wait(PQsocket(conn), WL_SOCKET_READABLE | (unsent ? WL_SOCKET_WRITEABLE : 0),
							  deadline))
			{
				strlcpy(error, "could not set up the session: timeout expired", SINK_ERROR_SIZE);
				return false;
			}
			continue;
		}
		result = PQgetResult(conn);
		if (result == NULL)
			return ok;
		if (PQresultStatus(result) != PGRES_TUPLES_OK)
		{
			connection_error(conn, error);
			ok = false;
		}
		PQclear(result);
	}
}

/* Whether the connection can be what the owner of the relay is allowed. */
static bool
check_password(const SinkConfig *config, PGconn *conn, char *error)
{
	if (config->trusted || PQconnectionUsedPassword(conn))
		return true;
	strlcpy(error, "password is required: the server must ask for that of the user mapping,"
			" as the relay's owner is not a superuser", SINK_ERROR_SIZE);
	return false;
}

static Sink *
postgres_open(const SinkConfig *config, char *error)
{
	const char *host = sink_option(config->server, "host", "localhost");
	const char *port = sink_option(config->server, "port", "5432");
	const char *user = sink_option(config->mapping, "user", NULL);
	const char *password = sink_option(config->mapping, "password", NULL);
	TimestampTz deadline = GetCurrentTimestamp() + CONNECT_WITHIN;
	Parameters	parameters = {.n = 0};
	PostgresSink *sink;
	PGconn	   *conn;

	if (user == NULL)
	{
		strlcpy(error, "the relay's owner has no user mapping with option \"user\"", SINK_ERROR_SIZE);
		return NULL;
	}
	if (password == NULL && !config->trusted)
	{
		strlcpy(error, "password is required: the user mapping has none,"
				" and the relay's owner is not a superuser", SINK_ERROR_SIZE);
		return NULL;
	}

	clear_environment();
	if (!add_host(&parameters, host, atoi(port), deadline, error))
		return NULL;
	add(&parameters, "port", port);
	add(&parameters, "dbname", sink_option(config->server, "dbname", user));
	add(&parameters, "user", user);
	add(&parameters, "password", password);
	add(&parameters, "sslmode", sink_option(config->server, "sslmode", NULL));
	add(&parameters, "sslrootcert", sink_option(config->server, "sslrootcert", NULL));
	add(&parameters, "gssencmode", "disable");
	add(&parameters, "passfile", "/dev/null/none");
	add(&parameters, "client_encoding", GetDatabaseEncodingName());
	add(&parameters, "application_name", psprintf("queue relay %s", config->relay));
	add(&parameters, "keepalives_idle", "20");
	add(&parameters, "keepalives_interval", "5");
	add(&parameters, "keepalives_count", "4");
	add(&parameters, "tcp_user_timeout", "60000");
	add(&parameters, NULL, NULL);

	if (!AcquireExternalFD())
	{
		strlcpy(error, "too many open files on this server", SINK_ERROR_SIZE);
		return NULL;
	}
	conn = PQconnectStartParams(parameters.keywords, parameters.values, 0);
	if (conn)
		PQsetNoticeReceiver(conn, ignore_notice, NULL);
	else
		strlcpy(error, "out of memory", SINK_ERROR_SIZE);
	if (conn == NULL ||
		!finish_connecting(conn, deadline, error) ||
		!check_password(config, conn, error) ||
		!set_up_session(conn, deadline, error))
	{
		PQfinish(conn);
		ReleaseExternalFD();
		return NULL;
	}

	sink = palloc0(sizeof(PostgresSink));
	sink->base.config = config;
	sink->conn = conn;
	sink->queue = sink_option(config->options, "queue", config->queue);
	sink->items = palloc(config->window * sizeof(SinkItem *));
	sink->context = AllocSetContextCreate(CurrentMemoryContext, "queue postgres sink",
										  ALLOCSET_DEFAULT_SIZES);
	return &sink->base;
}

static Size
message_bytes(const Message *message)
{
	return (message->payload ? VARSIZE(message->payload) : 0) +
		(message->body ? VARSIZE(message->body) : 0) +
		(message->headers ? VARSIZE(message->headers) : 0) +
		(message->key ? VARSIZE(message->key) : 0);
}

static bool
postgres_publish(Sink *base, SinkItem *item)
{
	PostgresSink *sink = (PostgresSink *) base;
	Size		bytes = message_bytes(item->message);
	int			limit = base->config->window;

	/* What was refused before is better not mixed with what was not. */
	if (sink->single > 0 || (sink->nitems > 0 && sink->items[0]->failures > 0))
		limit = 1;
	if (sink->busy || sink->nitems >= limit ||
		(sink->nitems > 0 && (item->failures > 0 || sink->bytes + bytes > BATCH_BYTES)))
		return false;

	if (bytes > SINK_MAX_MESSAGE)
	{
		base->config->verdict(item, SINK_REFUSED, "message is too large for a relay");
		return true;
	}
	sink->items[sink->nitems++] = item;
	sink->bytes += bytes;
	return true;
}

/*
 * The parameters: arrays in binary format, a column of the messages each.
 */

typedef enum Column
{
	COLUMN_ID,
	COLUMN_ENQUEUED_AT,
	COLUMN_PAYLOAD,
	COLUMN_BODY,
	COLUMN_KEY,
	COLUMN_HEADERS,
	NCOLUMNS
} Column;

static const Oid column_types[NCOLUMNS] = {
	INT8OID, TIMESTAMPTZOID, JSONBOID, BYTEAOID, TEXTOID, JSONBOID
};
static const Oid column_array_types[NCOLUMNS] = {
	INT8ARRAYOID, TIMESTAMPTZARRAYOID, JSONBARRAYOID, BYTEAARRAYOID, TEXTARRAYOID, JSONBARRAYOID
};

static void
append_int32(StringInfo buf, int32 value)
{
	uint32		n = pg_hton32((uint32) value);

	appendBinaryStringInfo(buf, (char *) &n, sizeof(n));
}

static void
append_int64(StringInfo buf, int64 value)
{
	uint64		n = pg_hton64((uint64) value);

	append_int32(buf, sizeof(n));
	appendBinaryStringInfo(buf, (char *) &n, sizeof(n));
}

static void
append_varlena(StringInfo buf, const struct varlena *value)
{
	if (value == NULL)
	{
		append_int32(buf, -1);
		return;
	}
	append_int32(buf, VARSIZE(value) - VARHDRSZ);
	appendBinaryStringInfo(buf, VARDATA(value), VARSIZE(value) - VARHDRSZ);
}

static void
append_jsonb(StringInfo buf, struct varlena *value)
{
	int			start = buf->len;
	uint32		n;

	append_int32(buf, -1);
	if (value == NULL)
		return;
	appendStringInfoChar(buf, 1);	/* version of the format */
	JsonbToCString(buf, &((Jsonb *) value)->root, VARSIZE(value));
	n = pg_hton32((uint32) (buf->len - start - sizeof(int32)));
	memcpy(buf->data + start, &n, sizeof(n));
}

static void
append_column(StringInfo buf, const Message *message, Column column)
{
	switch (column)
	{
		case COLUMN_ID:
			append_int64(buf, message->id);
			break;
		case COLUMN_ENQUEUED_AT:
			append_int64(buf, message->enqueued_at);
			break;
		case COLUMN_PAYLOAD:
			append_jsonb(buf, message->payload);
			break;
		case COLUMN_BODY:
			append_varlena(buf, message->body);
			break;
		case COLUMN_KEY:
			append_varlena(buf, message->key);
			break;
		case COLUMN_HEADERS:
			append_jsonb(buf, message->headers);
			break;
		case NCOLUMNS:
			break;
	}
}

/* Send the batch off; false if the connection does not take it. */
static bool
send_batch(PostgresSink *sink)
{
	const char *values[2 + NCOLUMNS] = {sink->base.config->source, sink->queue};
	int			lengths[2 + NCOLUMNS] = {0};
	int			formats[2 + NCOLUMNS] = {0};
	Oid			types[2 + NCOLUMNS] = {TEXTOID, TEXTOID};
	MemoryContext caller = MemoryContextSwitchTo(sink->context);
	bool		ok;

	for (int column = 0; column < NCOLUMNS; column++)
	{
		StringInfoData buf;

		initStringInfo(&buf);
		append_int32(&buf, 1);	/* dimensions */
		append_int32(&buf, 1);	/* there may be nulls */
		append_int32(&buf, column_types[column]);
		append_int32(&buf, sink->nitems);
		append_int32(&buf, 1);	/* the first subscript */
		for (int i = 0; i < sink->nitems; i++)
			append_column(&buf, sink->items[i]->message, column);
		values[2 + column] = buf.data;
		lengths[2 + column] = buf.len;
		formats[2 + column] = 1;
		types[2 + column] = column_array_types[column];
	}
	ok = PQsendQueryParams(sink->conn, ACCEPT, 2 + NCOLUMNS, types, values, lengths, formats, 0);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(sink->context);
	sink->busy = true;
	sink->unsent = true;
	return ok;
}

/* Whether an error is of the message, and not of the database or our access. */
static bool
is_messages_fault(const char *sqlstate)
{
	static const char *const others[] = {
		"08", "25", "28", "3D", "3F", "40", "42", "53", "55", "57", "58", "XX"
	};

	if (sqlstate == NULL)
		return false;
	for (int i = 0; i < lengthof(others); i++)
	{
		if (strncmp(sqlstate, others[i], 2) == 0)
			return false;
	}
	return true;
}

/* The answer is complete: report it.  False if it says not to go on. */
static bool
finish_batch(PostgresSink *sink, char *error)
{
	const SinkConfig *config = sink->base.config;
	const PGresult *result = sink->result;
	SinkVerdict verdict = SINK_CONFIRMED;
	char		text[SINK_ERROR_SIZE] = "";
	int			nitems = sink->nitems;

	if (PQresultStatus(result) != PGRES_TUPLES_OK)
	{
		const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);

		if (!is_messages_fault(PQresultErrorField(result, PG_DIAG_SQLSTATE)))
		{
			if (message)
				strlcpy(error, message, SINK_ERROR_SIZE);
			else
				connection_error(sink->conn, error);
			return false;
		}
		strlcpy(text, message ? message : "", SINK_ERROR_SIZE);
		verdict = nitems == 1 ? SINK_REFUSED : SINK_UNTRIED;
	}

	PQclear(sink->result);
	sink->result = NULL;
	sink->busy = false;
	sink->nitems = 0;
	sink->bytes = 0;
	if (verdict == SINK_UNTRIED)
		sink->single = nitems;
	else if (sink->single > 0)
		sink->single--;
	for (int i = 0; i < nitems; i++)
		config->verdict(sink->items[i], verdict, text);
	return true;
}

static bool
postgres_poll(Sink *base, char *error)
{
	PostgresSink *sink = (PostgresSink *) base;

	if (!sink->busy && sink->nitems > 0 && !send_batch(sink))
	{
		connection_error(sink->conn, error);
		return false;
	}
	if (sink->unsent)
	{
		int			rc = PQflush(sink->conn);

		if (rc < 0)
		{
			connection_error(sink->conn, error);
			return false;
		}
		sink->unsent = rc > 0;
	}

	if (!PQconsumeInput(sink->conn) || PQstatus(sink->conn) == CONNECTION_BAD)
	{
		connection_error(sink->conn, error);
		return false;
	}

	/* No more results, and with that the end of the transaction. */
	while (sink->busy && !PQisBusy(sink->conn))
	{
		PGresult   *result = PQgetResult(sink->conn);

		if (result == NULL)
			return finish_batch(sink, error);
		PQclear(sink->result);
		sink->result = result;
	}
	return true;
}

static pgsocket
postgres_wait(Sink *base, int *events, TimestampTz *until)
{
	PostgresSink *sink = (PostgresSink *) base;

	*events = WL_SOCKET_READABLE | (sink->unsent ? WL_SOCKET_WRITEABLE : 0);
	*until = DT_NOEND;
	return PQsocket(sink->conn);
}

static void
postgres_close(Sink *base)
{
	PostgresSink *sink = (PostgresSink *) base;

	PQclear(sink->result);
	PQfinish(sink->conn);
	ReleaseExternalFD();
	MemoryContextDelete(sink->context);
	pfree(sink->items);
	pfree(sink);
}

static const SinkRoutine postgres_sink = {
	.magic = SINK_MAGIC,
	.version = SINK_VERSION,
	.as_one = true,
	.open = postgres_open,
	.publish = postgres_publish,
	.poll = postgres_poll,
	.wait = postgres_wait,
	.close = postgres_close,
};

const SinkRoutine *
queue_sink(void)
{
	return &postgres_sink;
}
