/*
 * resolve.c
 *		Addresses of hosts, without waiting for them in a library.
 */
#include "postgres.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "port/atomics.h"
#include "relay/sink.h"
#include "sinks/net/resolve.h"
#include "sinks/net/wait.h"

/*
 * getaddrinfo() waits for as long as it likes, so a thread does that.  It
 * touches nothing but this structure, which the last of the two frees.
 */
typedef struct Lookup
{
	pg_atomic_uint32 users;
	int			pipe[2];
	char	   *host;
	char		port[8];
	int			code;
	struct addrinfo *result;
} Lookup;

static const struct addrinfo lookup_hints = {
	.ai_family = AF_UNSPEC,
	.ai_socktype = SOCK_STREAM
};

static void
lookup_release(Lookup *lookup)
{
	if (pg_atomic_sub_fetch_u32(&lookup->users, 1) > 0)
		return;
	if (lookup->result)
		freeaddrinfo(lookup->result);
	close(lookup->pipe[0]);
	close(lookup->pipe[1]);
	free(lookup->host);
	free(lookup);
}

static void *
lookup_thread(void *arg)
{
	Lookup	   *lookup = arg;

	lookup->code = getaddrinfo(lookup->host, lookup->port, &lookup_hints, &lookup->result);
	if (write(lookup->pipe[1], "", 1) != 1)
	{
		/* The other end runs into its deadline. */
	}
	lookup_release(lookup);
	return NULL;
}

/* Start a lookup in a thread that gets no signals; NULL if that fails. */
static Lookup *
lookup_start(const char *host, const char *port)
{
	Lookup	   *lookup = calloc(1, sizeof(Lookup));
	pthread_t	thread;
	sigset_t	all;
	sigset_t	before;
	int			rc;

	if (lookup == NULL)
		return NULL;
	pg_atomic_init_u32(&lookup->users, 2);
	lookup->host = strdup(host);
	strlcpy(lookup->port, port, sizeof(lookup->port));
	if (lookup->host == NULL || pipe2(lookup->pipe, O_CLOEXEC | O_NONBLOCK) != 0)
	{
		free(lookup->host);
		free(lookup);
		return NULL;
	}

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&thread, NULL, lookup_thread, lookup);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc != 0)
	{
		lookup_release(lookup);
		lookup_release(lookup);
		return NULL;
	}
	pthread_detach(thread);
	return lookup;
}

struct addrinfo *
net_resolve(const char *host, int port, TimestampTz deadline, char *error)
{
	struct addrinfo numeric = lookup_hints;
	struct addrinfo *result = NULL;
	char		service[8];
	Lookup	   *lookup;
	int			code;

	snprintf(service, sizeof(service), "%d", port);
	numeric.ai_flags = AI_NUMERICHOST;
	if (getaddrinfo(host, service, &numeric, &result) == 0)
		return result;

	lookup = lookup_start(host, service);
	if (lookup == NULL)
	{
		snprintf(error, SINK_ERROR_SIZE, "could not look up host name \"%s\"", host);
		return NULL;
	}
	if (!net_wait(lookup->pipe[0], WL_SOCKET_READABLE, deadline))
	{
		snprintf(error, SINK_ERROR_SIZE, "could not look up host name \"%s\": timeout expired", host);
		lookup_release(lookup);
		return NULL;
	}

	/*
	 * Pairs with the write to the pipe, which comes after the thread's
	 * results.
	 */
	pg_read_barrier();
	code = lookup->code;
	result = lookup->result;
	lookup->result = NULL;
	lookup_release(lookup);
	if (code != 0)
	{
		snprintf(error, SINK_ERROR_SIZE, "could not look up host name \"%s\": %s",
				 host, gai_strerror(code));
		return NULL;
	}
	return result;
}
