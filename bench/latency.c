/*
 * latency.c
 *		How long from COMMIT to the broker's confirmation, at an idle queue.
 *
 * Between relay and broker is a proxy, a thread of this program that looks at
 * no byte, so that nobody needs to ask the server how far the relay is.  A
 * message is sent when the relay "latency" sleeps.  The time runs from sending
 * COMMIT to the first bytes that the broker answers after the relay has
 * published: it has the commit and its flush, the relay's waking up, its claim,
 * the broker's work, and the proxy's two hops; not the message's deletion.
 *
 * Prints the median and the 99th percentile, and the median until the first
 * bytes left for the broker, in microseconds.  With a command it measures
 * nothing, and is only the proxy for that: so the bare client has the same hops.
 */
#include "measure.h"

#include <arpa/inet.h>
#include <libpq-fe.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define WARM_UP			50
#define MAX_CONNECTIONS 64

/* What is waited for, and the descriptor it is to come from. */
enum
{
	NOTHING,
	PUBLICATION,
	CONFIRMATION
};
static atomic_int awaited = NOTHING;
static int	publisher;
static double published_at;
static double confirmed_at;
static sem_t confirmation;

static int	listener;
static int	broker_port;

/*
 * The proxy
 */

static struct sockaddr_in
loopback(int port)
{
	struct sockaddr_in address = {.sin_family = AF_INET,.sin_port = htons(port)};

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return address;
}

static int
open_socket(void)
{
	int			on = 1;
	int			fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	return fd;
}

static void
start_listening(int port)
{
	struct sockaddr_in address = loopback(port);

	listener = open_socket();
	if (bind(listener, (struct sockaddr *) &address, sizeof(address)) != 0 || listen(listener, 16) != 0)
		die("cannot listen");
}

/* Note when the bytes came that are waited for. */
static void
note_bytes(int peer, bool from_broker)
{
	if (!from_broker && awaited == PUBLICATION)
	{
		published_at = now();
		publisher = peer;
		awaited = CONFIRMATION;
	}
	else if (from_broker && awaited == CONFIRMATION && peer == publisher)
	{
		confirmed_at = now();
		awaited = NOTHING;
		sem_post(&confirmation);
	}
}

/* Pass on what there is; false if that was all. */
static bool
pass_on(int from, int to, bool from_broker, int peer)
{
	char		data[65536];
	ssize_t		n = recv(from, data, sizeof(data), 0);

	if (n <= 0)
		return false;
	note_bytes(peer, from_broker);
	for (ssize_t done = 0; done < n;)
	{
		ssize_t		sent = send(to, data + done, n - done, MSG_NOSIGNAL);

		if (sent <= 0)
			return false;
		done += sent;
	}
	return true;
}

/* Sockets come in pairs behind the listener: the client's, the broker's. */
static void *
run_proxy(void *unused)
{
	struct pollfd sockets[1 + 2 * MAX_CONNECTIONS];
	int			n = 1;

	sockets[0].fd = listener;
	for (int i = 0; i < 1 + 2 * MAX_CONNECTIONS; i++)
		sockets[i].events = POLLIN;
	for (;;)
	{
		if (poll(sockets, n, -1) < 0)
			die("poll");
		for (int i = n - 2; i > 0; i -= 2)
		{
			int			client = sockets[i].fd;
			int			broker = sockets[i + 1].fd;

			if ((sockets[i].revents && !pass_on(client, broker, false, client)) ||
				(sockets[i + 1].revents && !pass_on(broker, client, true, client)))
			{
				close(client);
				close(broker);
				n -= 2;
				sockets[i] = sockets[n];
				sockets[i + 1] = sockets[n + 1];
			}
		}
		if (sockets[0].revents && n < 1 + 2 * MAX_CONNECTIONS)
		{
			struct sockaddr_in address = loopback(broker_port);
			int			on = 1;

			sockets[n].fd = accept(listener, NULL, NULL);
			sockets[n + 1].fd = open_socket();
			if (sockets[n].fd < 0 ||
				connect(sockets[n + 1].fd, (struct sockaddr *) &address, sizeof(address)) != 0)
				die("cannot connect to the broker");
			setsockopt(sockets[n].fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
			n += 2;
		}
	}
	return unused;
}

/*
 * The sender
 */

static PGresult *
run(PGconn *conn, const char *sql)
{
	PGresult   *res = PQexec(conn, sql);

	if (PQresultStatus(res) != PGRES_TUPLES_OK && PQresultStatus(res) != PGRES_COMMAND_OK)
		die(PQerrorMessage(conn));
	return res;
}

static void
do_sql(PGconn *conn, const char *sql)
{
	PQclear(run(conn, sql));
}

/* Wait until the relay has nothing to do and is connected. */
static void
await_sleep(PGconn *conn)
{
	double		start = now();
	bool		idle = false;

	while (!idle)
	{
		PGresult   *res = run(conn, "SELECT 1 FROM queue.relays WHERE name = 'latency' AND state = 'idle'");

		idle = PQntuples(res) == 1;
		PQclear(res);
		pause_between();
		if (now() - start > 30)
			die("the relay is not idle within 30 s");
	}
}

/* Send a message; returns when its COMMIT was sent. */
static double
send_one(PGconn *conn)
{
	struct timespec deadline;
	double		committed_at;

	await_sleep(conn);
	do_sql(conn, "BEGIN");
	do_sql(conn, "SELECT queue.send('latency', bench.payload())");
	clock_gettime(CLOCK_REALTIME, &deadline);
	deadline.tv_sec += 30;
	awaited = PUBLICATION;
	committed_at = now();
	do_sql(conn, "COMMIT");
	if (sem_timedwait(&confirmation, &deadline) != 0)
		die("no confirmation within 30 s");
	return committed_at;
}

static void
measure(long messages)
{
	double	   *to_publication = allocate(messages * sizeof(double));
	double	   *to_confirmation = allocate(messages * sizeof(double));
	PGconn	   *conn = PQconnectdb("");

	if (PQstatus(conn) != CONNECTION_OK)
		die(PQerrorMessage(conn));
	do_sql(conn, "SELECT queue.resume_relay('latency')");
	for (long i = -WARM_UP; i < messages; i++)
	{
		double		committed_at = send_one(conn);

		if (i < 0)
			continue;
		to_publication[i] = published_at - committed_at;
		to_confirmation[i] = confirmed_at - committed_at;
	}
	await_sleep(conn);
	do_sql(conn, "SELECT queue.pause_relay('latency')");
	PQfinish(conn);
	printf("%.1f %.1f %.1f\n", percentile(to_confirmation, messages, 50),
		   percentile(to_confirmation, messages, 99), percentile(to_publication, messages, 50));
}

/* Run a command, and end as it does. */
static int
run_command(char **command)
{
	int			status;
	pid_t		pid = fork();

	if (pid < 0)
		die("fork");
	if (pid == 0)
	{
		execv(command[0], command);
		die(command[0]);
	}
	if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return 1;
	return WEXITSTATUS(status);
}

int
main(int argc, char **argv)
{
	pthread_t	proxy;

	if (argc < 4)
		die("usage: PROXY_PORT BROKER_PORT MESSAGES [COMMAND ARGUMENT...]");
	broker_port = atoi(argv[2]);
	sem_init(&confirmation, 0, 0);
	start_listening(atoi(argv[1]));
	if (pthread_create(&proxy, NULL, run_proxy, NULL) != 0)
		die("cannot start a thread");
	if (argc > 4)
		return run_command(argv + 4);
	measure(atol(argv[3]));
	return 0;
}
