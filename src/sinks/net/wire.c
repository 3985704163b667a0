/*
 * wire.c
 *		A TCP or TLS connection that never blocks.
 *
 * Libraries of brokers can do this too, but wait inside of their calls for as
 * long as the broker does not read; here nothing waits but in net_wait().
 */
#include "postgres.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "relay/sink.h"
#include "sinks/net/resolve.h"
#include "sinks/net/tls.h"
#include "sinks/net/wait.h"
#include "sinks/net/wire.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/memutils.h"

/* Data sent that nobody acknowledges for this long means a lost connection. */
#define SEND_TIMEOUT_MS		60000

/* A large message's buffer is not kept. */
#define OUTPUT_KEPT			(4 * 1024 * 1024)

struct Wire
{
	int			fd;
	Tls		   *tls;			/* NULL: none */
	bool		write_blocked;	/* waits until it can write */
	StringInfoData output;
	Size		sent;			/* bytes at the output's start */
};

/* Connect to one address. */
static bool
connect_address(Wire *wire, struct addrinfo *address, TimestampTz deadline, char *error)
{
	int			on = 1;
	int			timeout = SEND_TIMEOUT_MS;
	int			code = 0;
	socklen_t	length = sizeof(code);

	wire->fd = socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (wire->fd < 0)
	{
		snprintf(error, SINK_ERROR_SIZE, "could not create socket: %s", strerror(errno));
		return false;
	}
	(void) setsockopt(wire->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	(void) setsockopt(wire->fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
#ifdef TCP_USER_TIMEOUT
	(void) setsockopt(wire->fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof(timeout));
#endif

	if (connect(wire->fd, address->ai_addr, address->ai_addrlen) != 0)
	{
		code = errno;
		if (code == EINPROGRESS)
		{
			if (!net_wait(wire->fd, WL_SOCKET_WRITEABLE, deadline))
				code = ETIMEDOUT;
			else if (getsockopt(wire->fd, SOL_SOCKET, SO_ERROR, &code, &length) != 0)
				code = errno;
		}
	}
	if (code == 0)
		return true;
	snprintf(error, SINK_ERROR_SIZE, "could not connect: %s", strerror(code));
	close(wire->fd);
	wire->fd = PGINVALID_SOCKET;
	return false;
}

static TlsTrust
trust_of(WireSecurity security)
{
	return security == WIRE_VERIFY_FULL ? TLS_TRUST_HOST :
		security == WIRE_VERIFY_CA ? TLS_TRUST_CA : TLS_TRUST_ANYONE;
}

Wire *
wire_open(const char *host, int port, WireSecurity security,
		  const char *rootcert, TimestampTz deadline, char *error)
{
	struct addrinfo *addresses = net_resolve(host, port, deadline, error);
	Wire	   *wire;

	if (addresses == NULL)
		return NULL;
	if (!AcquireExternalFD())
	{
		strlcpy(error, "too many open files on this server", SINK_ERROR_SIZE);
		freeaddrinfo(addresses);
		return NULL;
	}

	wire = palloc0(sizeof(Wire));
	wire->fd = PGINVALID_SOCKET;
	initStringInfo(&wire->output);
	for (struct addrinfo *address = addresses; address && wire->fd < 0; address = address->ai_next)
		(void) connect_address(wire, address, deadline, error);
	freeaddrinfo(addresses);

	if (wire->fd >= 0 && security != WIRE_PLAIN)
		wire->tls = tls_open(wire->fd, host, trust_of(security), rootcert, deadline, error);
	if (wire->fd < 0 || (security != WIRE_PLAIN && wire->tls == NULL))
	{
		wire_close(wire);
		return NULL;
	}
	return wire;
}

StringInfo
wire_output(Wire *wire)
{
	return &wire->output;
}

Size
wire_unsent(Wire *wire)
{
	return wire->output.len - wire->sent;
}

bool
wire_flush(Wire *wire, char *error)
{
	wire->write_blocked = false;
	while (wire_unsent(wire) > 0)
	{
		const char *data = wire->output.data + wire->sent;
		Size		left = wire_unsent(wire);
		ssize_t		n;

		errno = 0;
		if (wire->tls)
		{
			n = tls_write(wire->tls, data, (int) left, error);
			if (n == TLS_WAIT_WRITE)
				wire->write_blocked = true;
			if (n == TLS_WAIT_WRITE || n == TLS_WAIT_READ)
				return true;
			if (n == TLS_LOST)
				return false;
		}
		else
		{
			n = send(wire->fd, data, left, MSG_NOSIGNAL);
			if (n < 0 && errno == EINTR)
				continue;
			if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			{
				wire->write_blocked = true;
				return true;
			}
			if (n < 0)
			{
				snprintf(error, SINK_ERROR_SIZE, "could not send to the broker: %s", strerror(errno));
				return false;
			}
		}
		wire->sent += n;
	}
	resetStringInfo(&wire->output);
	wire->sent = 0;
	if (wire->output.maxlen > OUTPUT_KEPT)
	{
		MemoryContext caller = MemoryContextSwitchTo(GetMemoryChunkContext(wire));

		pfree(wire->output.data);
		initStringInfo(&wire->output);
		MemoryContextSwitchTo(caller);
	}
	return true;
}

int
wire_read(Wire *wire, char *buffer, int size, char *error)
{
	ssize_t		n;

	errno = 0;
	if (wire->tls)
	{
		n = tls_read(wire->tls, buffer, size, error);
		if (n == TLS_LOST)
			return -1;
		return Max(n, 0);
	}

	do
		n = recv(wire->fd, buffer, size, 0);
	while (n < 0 && errno == EINTR);
	if (n > 0)
		return n;
	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return 0;
	if (n == 0)
		strlcpy(error, "connection closed by the broker", SINK_ERROR_SIZE);
	else
		snprintf(error, SINK_ERROR_SIZE, "could not receive from the broker: %s", strerror(errno));
	return -1;
}

pgsocket
wire_socket(Wire *wire, int *events)
{
	*events = WL_SOCKET_READABLE | (wire->write_blocked ? WL_SOCKET_WRITEABLE : 0);
	return wire->fd;
}

void
wire_close(Wire *wire)
{
	if (wire->tls)
		tls_close(wire->tls);
	if (wire->fd >= 0)
		close(wire->fd);
	ReleaseExternalFD();
	pfree(wire->output.data);
	pfree(wire);
}
