/*
 * postgres.c
 *		Sink that sends to a queue of another PostgreSQL database.
 *
 * One batch is on its way at a time, as one call of queue.relay_accept, which
 * knows what it has accepted before: whatever is sent again, because the
 * answer to it was lost, arrives once.
 */
#include "postgres.h"

#include <sys/ioctl.h>

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "libpq-fe.h"
#include "mb/pg_wchar.h"
#include "message.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "relay/sink.h"
#include "sinks/content.h"
#include "sinks/net/certificate.h"
#include "sinks/net/resolve.h"
#include "sinks/net/wait.h"
#include "sinks/options/postgres.h"
#include "sinks/text.h"
#include "storage/fd.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

PG_MODULE_MAGIC;

/* To connect, and to have the session set up. */
#define CONNECT_WITHIN	(10 * USECS_PER_SEC)

/* What the other server may answer to one request: libpq keeps all of it. */
#define INPUT_MAX		(1024 * 1024)

/* Addresses of the host tried at most. */
#define MAX_ADDRESSES	8

#define ACCEPT \
	"SELECT queue.relay_accept($1, $2, $3, $4, $5, $6, $7, $8)"

/* What we need of the session, whatever its role or database is set to. */
#define SET_UP \
	"SELECT pg_catalog.set_config('default_transaction_isolation', 'read committed', false)," \
	" CASE pg_catalog.current_setting('synchronous_commit') WHEN 'off'" \
	" THEN pg_catalog.set_config('synchronous_commit', 'on', false) END"

typedef enum Column
{
	COLUMN_ID,
	COLUMN_ENQUEUED_AT,
	COLUMN_PAYLOAD,				/* encoded, and so are those below, in this
								 * order */
	COLUMN_BODY,
	COLUMN_KEY,
	COLUMN_HEADERS,
	NCOLUMNS
} Column;

typedef struct PostgresSink
{
	Sink		base;
	PGconn	   *conn;
	Size		input;			/* what has come since the last request, about */
	const char *queue;
	bool		busy;			/* a batch is on its way */
	bool		unsent;			/* not all of it has left */
	PGresult   *result;			/* the latest of its answer so far */
	int			nitems;
	SinkItem  **items;			/* window of them at most */
} PostgresSink;

PGDLLEXPORT const SinkRoutine *queue_sink(void);

/* The connection's error, on one line. */
static void
connection_error(PGconn *conn, char *error)
{
	const char *message = PQerrorMessage(conn);

	text_clean(error, SINK_ERROR_SIZE, message, strlen(message), GetDatabaseEncoding());
	if (error[0] == '\0')
		strlcpy(error, "connection lost", SINK_ERROR_SIZE);
}

/*
 * Read what has come.  libpq has no limit to what it keeps, so we have: what
 * waits is counted before it reads, some of it more than once.
 */
static bool
consume(PGconn *conn, Size *input, char *error)
{
	int			waiting = 0;
	PGnotify   *notify;

	if (ioctl(PQsocket(conn), FIONREAD, &waiting) == 0 && waiting > 0)
		*input += waiting;
	if (*input > INPUT_MAX)
	{
		strlcpy(error, "the other server sends more than was asked for", SINK_ERROR_SIZE);
		return false;
	}
	if (!PQconsumeInput(conn) || PQstatus(conn) == CONNECTION_BAD)
	{
		connection_error(conn, error);
		return false;
	}
	while ((notify = PQnotifies(conn)) != NULL)
		PQfreemem(notify);
	return true;
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
	list = net_resolve(host, port, deadline, error);
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
	Size		input = 0;

	if (PQstatus(conn) == CONNECTION_BAD)
		status = PGRES_POLLING_FAILED;
	while (status != PGRES_POLLING_OK)
	{
		int			waiting = 0;

		CHECK_FOR_INTERRUPTS();
		if (status == PGRES_POLLING_FAILED)
		{
			connection_error(conn, error);
			return false;
		}
		if (!net_wait(PQsocket(conn), status == PGRES_POLLING_READING ?
					  WL_SOCKET_READABLE : WL_SOCKET_WRITEABLE, deadline))
		{
			strlcpy(error, "could not connect: timeout expired", SINK_ERROR_SIZE);
			return false;
		}
		if (ioctl(PQsocket(conn), FIONREAD, &waiting) == 0 && waiting > 0)
			input += waiting;
		if (input > INPUT_MAX)
		{
			strlcpy(error, "the other server sends more than was asked for", SINK_ERROR_SIZE);
			return false;
		}
		status = PQconnectPoll(conn);
	}
	return true;
}

/* The answer is none to what was asked. */
static void
unexpected_status(const PGresult *result, char *error)
{
	text_say(error, "the other server gave an unexpected answer (%s)",
			 PQresStatus(PQresultStatus(result)));
}

/* Set the session up. */
static bool
set_up_session(PGconn *conn, TimestampTz deadline, char *error)
{
	PGresult   *result;
	Size		input = 0;
	bool		ok = true;

	if (PQsetnonblocking(conn, 1) != 0 || !PQsendQuery(conn, SET_UP))
	{
		connection_error(conn, error);
		return false;
	}
	for (;;)
	{
		int			unsent = PQflush(conn);

		CHECK_FOR_INTERRUPTS();
		if (unsent < 0)
		{
			connection_error(conn, error);
			return false;
		}
		if (!consume(conn, &input, error))
			return false;
		if (PQisBusy(conn))
		{
			if (!net_wait(PQsocket(conn), WL_SOCKET_READABLE | (unsent ? WL_SOCKET_WRITEABLE : 0),
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

		/* One that answers COPY would go on for ever. */
		if (PQresultStatus(result) != PGRES_TUPLES_OK &&
			PQresultStatus(result) != PGRES_FATAL_ERROR)
		{
			unexpected_status(result, error);
			PQclear(result);
			return false;
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

static const Oid column_types[NCOLUMNS] = {
	INT8OID, TIMESTAMPTZOID, JSONBOID, BYTEAOID, TEXTOID, JSONBOID
};
static const Oid column_array_types[NCOLUMNS] = {
	INT8ARRAYOID, TIMESTAMPTZARRAYOID, JSONBARRAYOID, BYTEAARRAYOID, TEXTARRAYOID, JSONBARRAYOID
};

/*
 * The parameters are arrays in binary format, a column of the messages each.
 * What is encoded of a message is its element of each array in turn, which
 * begins with its length; but for its id and time, which need no encoding.
 */

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

static bool
append_varlena(StringInfo buf, const struct varlena *value)
{
	if (value == NULL)
	{
		append_int32(buf, -1);
		return true;
	}
	if (VARSIZE_ANY_EXHDR(value) > SINK_MAX_MESSAGE)
		return false;
	append_int32(buf, VARSIZE_ANY_EXHDR(value));
	appendBinaryStringInfo(buf, VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value));
	return true;
}

static bool
append_jsonb(StringInfo buf, struct varlena *value)
{
	int			start = buf->len;
	uint32		n;

	append_int32(buf, -1);
	if (value == NULL)
		return true;
	appendStringInfoChar(buf, 1);	/* version of the format */
	if (!text_json(buf, &((Jsonb *) value)->root, SINK_MAX_MESSAGE))
		return false;
	n = pg_hton32((uint32) (buf->len - start - sizeof(int32)));
	memcpy(buf->data + start, &n, sizeof(n));
	return true;
}

static bool
postgres_encode(Sink *base, const SinkItem *item, StringInfo out, char *error)
{
	const Message *message = item->message;

	if (!content_is_one(message, error))
		return false;
	return (append_jsonb(out, message->payload) &&
			append_varlena(out, message->body) &&
			append_varlena(out, message->key) &&
			append_jsonb(out, message->headers)) || sink_too_large(error);
}

/* Append the element that is next in data; returns where it ends. */
static const char *
append_element(StringInfo buf, const char *data)
{
	uint32		n;

	memcpy(&n, data, sizeof(n));
	n = pg_ntoh32(n);
	if (n == PG_UINT32_MAX)
		n = 0;					/* NULL */
	appendBinaryStringInfoNT(buf, data, sizeof(n) + n);
	return data + sizeof(n) + n;
}

/* Begin an array of n elements. */
static void
begin_array(StringInfo buf, Column column, int n)
{
	initStringInfo(buf);
	append_int32(buf, 1);		/* dimensions */
	append_int32(buf, 1);		/* there may be nulls */
	append_int32(buf, column_types[column]);
	append_int32(buf, n);
	append_int32(buf, 1);		/* the first subscript */
}

static Sink *
postgres_open(const SinkConfig *config, char *error)
{
	const PostgresOptions *options = config->options;
	TimestampTz deadline = GetCurrentTimestamp() + CONNECT_WITHIN;
	Parameters	parameters = {.n = 0};
	PostgresSink *sink;
	PGconn	   *conn;

	/* libpq would open whatever it is; "system" is no file to it, from 16 on. */
	if (options->rootcert && strcmp(options->rootcert, "system") != 0)
	{
		int			length;
		char	   *data = certificate_read(options->rootcert, &length, error);

		if (data == NULL)
			return NULL;
		pfree(data);
	}

	clear_environment();
	if (!add_host(&parameters, options->host, options->port, deadline, error))
		return NULL;
	add(&parameters, "port", psprintf("%d", options->port));
	add(&parameters, "dbname", options->dbname ? options->dbname : options->user);
	add(&parameters, "user", options->user);
	add(&parameters, "password", options->password);
	add(&parameters, "sslmode", options->sslmode);
	add(&parameters, "sslrootcert", options->rootcert);
	add(&parameters, "sslcert", "/dev/null/none");
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
	sink->queue = options->queue ? options->queue : config->queue;
	sink->items = palloc(config->window * sizeof(SinkItem *));
	return &sink->base;
}

static SinkState
postgres_publish(Sink *base, SinkItem **items, int n, char *error)
{
	PostgresSink *sink = (PostgresSink *) base;
	StringInfoData columns[NCOLUMNS];
	const char *values[2 + NCOLUMNS] = {base->config->source, sink->queue};
	int			lengths[2 + NCOLUMNS] = {0};
	int			formats[2 + NCOLUMNS] = {0};
	Oid			types[2 + NCOLUMNS] = {TEXTOID, TEXTOID};

	for (int column = 0; column < NCOLUMNS; column++)
		begin_array(&columns[column], column, n);
	for (int i = 0; i < n; i++)
	{
		const char *data = items[i]->data;

		append_int64(&columns[COLUMN_ID], items[i]->message->id);
		append_int64(&columns[COLUMN_ENQUEUED_AT], items[i]->message->enqueued_at);
		for (int column = COLUMN_PAYLOAD; column < NCOLUMNS; column++)
			data = append_element(&columns[column], data);
	}
	for (int column = 0; column < NCOLUMNS; column++)
	{
		values[2 + column] = columns[column].data;
		lengths[2 + column] = columns[column].len;
		formats[2 + column] = 1;
		types[2 + column] = column_array_types[column];
	}

	sink->input = 0;
	if (!PQsendQueryParams(sink->conn, ACCEPT, 2 + NCOLUMNS, types, values, lengths, formats, 0))
	{
		connection_error(sink->conn, error);
		return SINK_LOST;
	}
	memcpy(sink->items, items, n * sizeof(SinkItem *));
	sink->nitems = n;
	sink->busy = true;
	sink->unsent = true;
	return SINK_FULL;
}

/* Whom an error is about. */
typedef enum Blame
{
	BLAME_MESSAGE,
	BLAME_UNKNOWN,				/* if it repeats, perhaps a message */
	BLAME_SERVER				/* or our access to it */
} Blame;

static Blame
blame(const char *sqlstate)
{
	/* Cancelled or deadlocked for what it does there; out of memory; bugs. */
	static const char *const unknown[] = {"40", "53200", "57014", "XX"};
	static const char *const server[] = {
		"08", "25", "28", "3D", "3F", "42", "53", "55", "57", "58"
	};

	if (sqlstate == NULL)
		return BLAME_UNKNOWN;
	for (int i = 0; i < lengthof(unknown); i++)
	{
		if (strncmp(sqlstate, unknown[i], strlen(unknown[i])) == 0)
			return BLAME_UNKNOWN;
	}
	for (int i = 0; i < lengthof(server); i++)
	{
		if (strncmp(sqlstate, server[i], strlen(server[i])) == 0)
			return BLAME_SERVER;
	}
	return BLAME_MESSAGE;
}

/* The answer is complete: report it. */
static SinkState
finish_batch(PostgresSink *sink, char *error)
{
	const SinkConfig *config = sink->base.config;
	const PGresult *result = sink->result;
	bool		refused = PQresultStatus(result) == PGRES_FATAL_ERROR;

	if (refused)
	{
		const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
		Blame		whose = blame(PQresultErrorField(result, PG_DIAG_SQLSTATE));

		if (message)
			text_clean(error, SINK_ERROR_SIZE, message, strlen(message), GetDatabaseEncoding());
		else
			connection_error(sink->conn, error);
		if (whose != BLAME_MESSAGE)
			return whose == BLAME_SERVER ? SINK_ENDED : SINK_LOST;
	}
	else if (PQntuples(result) != 1)
	{
		strlcpy(error, "the other server gave an unexpected answer", SINK_ERROR_SIZE);
		return SINK_LOST;
	}

	PQclear(sink->result);
	sink->result = NULL;
	sink->busy = false;
	sink->input = 0;
	config->verdict(sink->items, sink->nitems, refused ? SINK_REFUSED : SINK_CONFIRMED, error);
	return SINK_READY;
}

static SinkState
postgres_poll(Sink *base, char *error)
{
	PostgresSink *sink = (PostgresSink *) base;

	if (sink->unsent)
	{
		int			rc = PQflush(sink->conn);

		if (rc < 0)
		{
			connection_error(sink->conn, error);
			return SINK_LOST;
		}
		sink->unsent = rc > 0;
	}

	if (!consume(sink->conn, &sink->input, error))
		return SINK_LOST;

	/* No more results, and with that the end of the transaction. */
	while (sink->busy && !PQisBusy(sink->conn))
	{
		PGresult   *result = PQgetResult(sink->conn);

		if (result == NULL && sink->result != NULL)
			return finish_batch(sink, error);

		/* There is one; COPY would go on being answered for ever. */
		if (result == NULL || sink->result != NULL ||
			(PQresultStatus(result) != PGRES_TUPLES_OK && PQresultStatus(result) != PGRES_FATAL_ERROR))
		{
			if (result)
				unexpected_status(result, error);
			else
				connection_error(sink->conn, error);
			PQclear(result);
			return SINK_LOST;
		}
		sink->result = result;
	}
	return sink->busy ? SINK_FULL : SINK_READY;
}

static void
postgres_wait(Sink *base, SinkWait *wait)
{
	PostgresSink *sink = (PostgresSink *) base;

	sink_wait_for(wait, PQsocket(sink->conn),
				  WL_SOCKET_READABLE | (sink->unsent ? WL_SOCKET_WRITEABLE : 0));
}

static void
postgres_close(Sink *base)
{
	PostgresSink *sink = (PostgresSink *) base;

	PQclear(sink->result);
	PQfinish(sink->conn);
	ReleaseExternalFD();
}

static const SinkRoutine postgres_sink = {
	.magic = SINK_MAGIC,
	.version = SINK_VERSION,
	.order = SINK_ORDER_AS_ONE,
	.open = postgres_open,
	.encode = postgres_encode,
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
