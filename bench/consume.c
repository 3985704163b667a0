/*
 * consume.c
 *		Consume messages for a while and report rate and latency by window.
 *
 * Every contestant is driven by this one program: begin, rows and finish are
 * its SQL.  rows returns what finish wants of each message and the time it was
 * sent, in microseconds since 1970.
 */
#include <libpq-fe.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef struct Sample
{
	uint32_t	window;
	uint32_t	latency;		/* microseconds */
} Sample;

typedef struct Consumer
{
	pthread_t	thread;
	Sample	   *samples;
	size_t		nsamples;
	size_t		allocated;
	long		drained;
} Consumer;

static const char *begin_sql;
static const char *rows_sql;
static const char *finish_sql;
static const char *tick_sql;
static long idle_micros = 1000;
static long tick_millis = 0;
static int	nconsumers = 1;
static int	duration = 10;
static int	window_length = 10;
static int	drain_limit = 30;
static volatile int64_t first_row;	/* when the first message was received */
static volatile bool finished;

static void
die(const char *what, PGconn *conn)
{
	fprintf(stderr, "consume: %s: %s", what, conn ? PQerrorMessage(conn) : "\n");
	exit(1);
}

static int64_t
now_micros(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (int64_t) ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

static PGconn *
connect_and_prepare(void)
{
	PGconn	   *conn = PQconnectdb("");
	const char *sql[] = {begin_sql, rows_sql, finish_sql};
	const char *name[] = {"begin", "rows", "finish"};

	if (PQstatus(conn) != CONNECTION_OK)
		die("connection", conn);
	for (int i = 0; i < 3; i++)
	{
		PGresult   *res;

		if (sql[i] == NULL)
			continue;
		res = PQprepare(conn, name[i], sql[i], 0, NULL);
		if (PQresultStatus(res) != PGRES_COMMAND_OK)
			die(name[i], conn);
		PQclear(res);
	}
	return conn;
}

static PGresult *
execute(PGconn *conn, const char *name, const char *parameter)
{
	PGresult   *res = PQexecPrepared(conn, name, parameter ? 1 : 0, &parameter,
									 NULL, NULL, 0);

	if (PQresultStatus(res) != PGRES_TUPLES_OK && PQresultStatus(res) != PGRES_COMMAND_OK)
		die(name, conn);
	return res;
}

static void
record(Consumer *c, int64_t received, int64_t sent)
{
	int64_t		at = received - first_row;

	if (at >= (int64_t) duration * 1000000)
	{
		c->drained++;
		return;
	}
	if (c->nsamples == c->allocated)
	{
		c->allocated = c->allocated ? c->allocated * 2 : 65536;
		c->samples = realloc(c->samples, c->allocated * sizeof(Sample));
		if (c->samples == NULL)
			die("out of memory", NULL);
	}
	c->samples[c->nsamples].window = at / 1000000 / window_length;
	c->samples[c->nsamples].latency = received > sent ? received - sent : 0;
	c->nsamples++;
}

/* Take messages once.  Returns how many there were. */
static int
consume_once(Consumer *c, PGconn *conn)
{
	PGresult   *begun = NULL;
	PGresult   *rows;
	int			n;
	int64_t		received;

	if (begin_sql)
	{
		begun = execute(conn, "begin", NULL);
		if (PQntuples(begun) == 0 || PQgetisnull(begun, 0, 0))
		{
			PQclear(begun);
			return 0;
		}
	}
	rows = execute(conn, "rows", begun ? PQgetvalue(begun, 0, 0) : NULL);
	received = now_micros();
	n = PQntuples(rows);
	if (n > 0)
		__sync_bool_compare_and_swap(&first_row, 0, received);
	for (int i = 0; i < n; i++)
		record(c, received, strtoll(PQgetvalue(rows, i, 1), NULL, 10));

	if (begun)
		PQclear(execute(conn, "finish", PQgetvalue(begun, 0, 0)));
	else if (finish_sql && n > 0)
	{
		char	   *array = malloc((size_t) n * 24 + 3);
		size_t		length = 0;

		if (array == NULL)
			die("out of memory", NULL);
		for (int i = 0; i < n; i++)
			length += sprintf(array + length, "%c%s", i == 0 ? '{' : ',', PQgetvalue(rows, i, 0));
		strcpy(array + length, "}");
		PQclear(execute(conn, "finish", array));
		free(array);
	}
	PQclear(rows);
	PQclear(begun);
	return n;
}

static void *
consumer_main(void *arg)
{
	Consumer   *c = arg;
	PGconn	   *conn = connect_and_prepare();
	int64_t		last_row = now_micros();

	for (;;)
	{
		int			n = consume_once(c, conn);
		int64_t		now = now_micros();
		int64_t		end = first_row + (int64_t) duration * 1000000;

		if (n > 0)
			last_row = now;
		else if (idle_micros > 0)
			usleep(idle_micros);
		if (first_row == 0 && now - last_row > 60 * 1000000)
			die("no message has come in a minute", NULL);

		/* At the end, take what is left, for as long as that is allowed. */
		if (first_row != 0 && now > end &&
			(now > end + (int64_t) drain_limit * 1000000 ||
			 (now > end + 3000000 && now - last_row > 2000000)))
			break;
	}
	PQfinish(conn);
	return NULL;
}

/* What PgQ needs: someone to call its ticker. */
static void *
ticker_main(void *arg)
{
	PGconn	   *conn = PQconnectdb("");

	if (PQstatus(conn) != CONNECTION_OK)
		die("connection", conn);
	while (!finished)
	{
		PGresult   *res = PQexec(conn, tick_sql);

		if (PQresultStatus(res) != PGRES_TUPLES_OK)
			die("tick", conn);
		PQclear(res);
		usleep(tick_millis * 1000);
	}
	PQfinish(conn);
	return arg;
}

static int
compare(const void *a, const void *b)
{
	uint32_t	x = *(const uint32_t *) a;
	uint32_t	y = *(const uint32_t *) b;

	return x < y ? -1 : x > y;
}

/* One line for the samples of some windows: messages, 50th and 99th percentile, maximum. */
static void
print_windows(const char *label, Consumer *consumers, uint32_t first, uint32_t last)
{
	uint32_t   *all = NULL;
	size_t		total = 0;
	size_t		n = 0;

	for (int i = 0; i < nconsumers; i++)
		total += consumers[i].nsamples;
	all = malloc((total + 1) * sizeof(uint32_t));
	if (all == NULL)
		die("out of memory", NULL);
	for (int i = 0; i < nconsumers; i++)
		for (size_t s = 0; s < consumers[i].nsamples; s++)
			if (consumers[i].samples[s].window >= first && consumers[i].samples[s].window <= last)
				all[n++] = consumers[i].samples[s].latency;
	qsort(all, n, sizeof(uint32_t), compare);
	if (n == 0)
		printf("%s 0 0 0 0\n", label);
	else
		printf("%s %zu %.3f %.3f %.3f\n", label, n, all[n / 2] / 1000.0,
			   all[n * 99 / 100] / 1000.0, all[n - 1] / 1000.0);
	free(all);
}

static void
usage(void)
{
	fprintf(stderr, "usage: consume -r ROWS_SQL [-b BEGIN_SQL] [-f FINISH_SQL]"
			" [-n CONSUMERS] [-d SECONDS] [-w SECONDS] [-x DRAIN_SECONDS] [-i IDLE_MICROS]"
			" [-t TICK_SQL -T TICK_MILLIS]\n");
	exit(2);
}

int
main(int argc, char **argv)
{
	Consumer   *consumers;
	pthread_t	ticker;
	int			option;
	int			nwindows;
	int			minute;
	long		drained = 0;

	while ((option = getopt(argc, argv, "b:r:f:n:d:w:x:i:t:T:")) != -1)
	{
		switch (option)
		{
			case 'b':
				begin_sql = optarg;
				break;
			case 'r':
				rows_sql = optarg;
				break;
			case 'f':
				finish_sql = optarg;
				break;
			case 'n':
				nconsumers = atoi(optarg);
				break;
			case 'd':
				duration = atoi(optarg);
				break;
			case 'w':
				window_length = atoi(optarg);
				break;
			case 'x':
				drain_limit = atoi(optarg);
				break;
			case 'i':
				idle_micros = atol(optarg);
				break;
			case 't':
				tick_sql = optarg;
				break;
			case 'T':
				tick_millis = atol(optarg);
				break;
			default:
				usage();
		}
	}
	if (rows_sql == NULL || nconsumers < 1 || window_length < 1)
		usage();

	consumers = calloc(nconsumers, sizeof(Consumer));
	if (consumers == NULL)
		die("out of memory", NULL);
	if (tick_sql && pthread_create(&ticker, NULL, ticker_main, NULL) != 0)
		die("cannot start a thread", NULL);
	for (int i = 0; i < nconsumers; i++)
		if (pthread_create(&consumers[i].thread, NULL, consumer_main, &consumers[i]) != 0)
			die("cannot start a thread", NULL);
	for (int i = 0; i < nconsumers; i++)
	{
		pthread_join(consumers[i].thread, NULL);
		drained += consumers[i].drained;
	}
	finished = true;
	if (tick_sql)
		pthread_join(ticker, NULL);

	nwindows = duration / window_length;
	for (int w = 0; w < nwindows; w++)
	{
		char		label[32];

		snprintf(label, sizeof(label), "window %d", w * window_length);
		print_windows(label, consumers, w, w);
	}
	minute = 60 / window_length < nwindows ? 60 / window_length : nwindows;
	print_windows("first -", consumers, 0, minute - 1);
	print_windows("last -", consumers, nwindows - minute, nwindows - 1);
	printf("after - %ld\n", drained);
	return 0;
}
