/*
 * wakeup.c
 *		How long a waiting consumer takes to have the message after COMMIT.
 *
 * One process measures both ways in turn: queue.receive waiting in the server,
 * and LISTEN plus the hand-written DELETE.  The time runs from sending COMMIT
 * to holding the row, on one monotonic clock.
 */
#include <libpq-fe.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum
{
	QUEUE,
	NOTIFY,
	NMODES
};

static const char *mode_name[] = {"queue", "notify"};

static const char *send_sql[] = {
	"SELECT queue.send('bench', bench.payload())",
	"WITH sent AS (INSERT INTO bench.handwritten (payload) VALUES (bench.payload()))"
	" SELECT pg_notify('bench', '')"
};

static const char *take_sql[] = {
	"SELECT receipt, payload FROM queue.receive('bench', wait => '10 seconds')",
	"DELETE FROM bench.handwritten WHERE id IN (SELECT id FROM bench.handwritten"
	" ORDER BY id FOR UPDATE SKIP LOCKED LIMIT 1) RETURNING id, payload"
};

static const char *ack_sql = "SELECT queue.ack($1)";

static pthread_barrier_t start_line;
static pthread_barrier_t finish_line;
static int	rounds = 2000;
static int64_t received_at;

static void
die(const char *what, PGconn *conn)
{
	fprintf(stderr, "wakeup: %s: %s", what, conn ? PQerrorMessage(conn) : "\n");
	exit(1);
}

static int64_t
now_nanos(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t) ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static PGresult *
check(PGconn *conn, PGresult *res, const char *what)
{
	if (PQresultStatus(res) != PGRES_TUPLES_OK && PQresultStatus(res) != PGRES_COMMAND_OK)
		die(what, conn);
	return res;
}

static void
run(PGconn *conn, const char *sql)
{
	PQclear(check(conn, PQexec(conn, sql), sql));
}

static PGconn *
connect_and_prepare(const char *name, const char *sql)
{
	PGconn	   *conn = PQconnectdb("");

	if (PQstatus(conn) != CONNECTION_OK)
		die("connection", conn);
	PQclear(check(conn, PQprepare(conn, name, sql, 0, NULL), sql));
	return conn;
}

/* Hold a row, waiting for a notification as long as there is none. */
static void
take_notified(PGconn *conn)
{
	for (;;)
	{
		PGresult   *res = check(conn, PQexecPrepared(conn, "take", 0, NULL, NULL, NULL, 0), "take");
		int			n = PQntuples(res);
		PGnotify   *notify;
		struct pollfd fd = {PQsocket(conn), POLLIN, 0};

		received_at = now_nanos();
		PQclear(res);
		if (n > 0)
			return;
		while ((notify = PQnotifies(conn)) == NULL)
		{
			if (poll(&fd, 1, 10000) <= 0 || !PQconsumeInput(conn))
				die("notification", conn);
		}
		do
			PQfreemem(notify);
		while ((notify = PQnotifies(conn)) != NULL);
	}
}

static void
take_received(PGconn *conn)
{
	PGresult   *res = check(conn, PQexecPrepared(conn, "take", 0, NULL, NULL, NULL, 0), "take");
	const char *receipt;

	received_at = now_nanos();
	if (PQntuples(res) != 1)
		die("receive returned nothing", NULL);
	receipt = PQgetvalue(res, 0, 0);
	PQclear(check(conn, PQexecPrepared(conn, "ack", 1, &receipt, NULL, NULL, 0), "ack"));
	PQclear(res);
}

static void *
consumer_main(void *arg)
{
	PGconn	   *conn[NMODES];

	for (int mode = 0; mode < NMODES; mode++)
		conn[mode] = connect_and_prepare("take", take_sql[mode]);
	PQclear(check(conn[QUEUE], PQprepare(conn[QUEUE], "ack", ack_sql, 0, NULL), ack_sql));
	run(conn[NOTIFY], "LISTEN bench");

	for (int i = 0; i < rounds * NMODES; i++)
	{
		pthread_barrier_wait(&start_line);
		if (i % NMODES == QUEUE)
			take_received(conn[QUEUE]);
		else
			take_notified(conn[NOTIFY]);
		pthread_barrier_wait(&finish_line);
	}
	for (int mode = 0; mode < NMODES; mode++)
		PQfinish(conn[mode]);
	return arg;
}

static int
compare(const void *a, const void *b)
{
	int64_t		x = *(const int64_t *) a;
	int64_t		y = *(const int64_t *) b;

	return x < y ? -1 : x > y;
}

int
main(int argc, char **argv)
{
	PGconn	   *conn[NMODES];
	int64_t    *latency[NMODES];
	pthread_t	consumer;

	if (argc > 1)
		rounds = atoi(argv[1]);
	if (rounds < 1)
	{
		fprintf(stderr, "usage: wakeup [MESSAGES]\n");
		return 2;
	}
	pthread_barrier_init(&start_line, NULL, 2);
	pthread_barrier_init(&finish_line, NULL, 2);
	for (int mode = 0; mode < NMODES; mode++)
	{
		conn[mode] = connect_and_prepare("send", send_sql[mode]);
		latency[mode] = calloc(rounds, sizeof(int64_t));
		if (latency[mode] == NULL)
			die("out of memory", NULL);
	}
	if (pthread_create(&consumer, NULL, consumer_main, NULL) != 0)
		die("cannot start a thread", NULL);

	for (int i = 0; i < rounds * NMODES; i++)
	{
		int			mode = i % NMODES;
		int64_t		committed_at;

		/* The consumer must be asleep by the time of the commit. */
		pthread_barrier_wait(&start_line);
		usleep(3000);
		run(conn[mode], "BEGIN");
		PQclear(check(conn[mode], PQexecPrepared(conn[mode], "send", 0, NULL, NULL, NULL, 0), "send"));
		committed_at = now_nanos();
		run(conn[mode], "COMMIT");
		pthread_barrier_wait(&finish_line);
		latency[mode][i / NMODES] = received_at - committed_at;
	}
	pthread_join(consumer, NULL);

	/* Microseconds: median, 90th and 99th percentile. */
	for (int mode = 0; mode < NMODES; mode++)
	{
		qsort(latency[mode], rounds, sizeof(int64_t), compare);
		printf("%s %.1f %.1f %.1f\n", mode_name[mode], latency[mode][rounds / 2] / 1000.0,
			   latency[mode][rounds * 9 / 10] / 1000.0, latency[mode][rounds * 99 / 100] / 1000.0);
		PQfinish(conn[mode]);
	}
	return 0;
}
