/*
 * wire.c
 *		A TCP or TLS connection that never blocks.
 *
 * librabbitmq can do this too, but waits inside of its calls for as long as
 * the broker does not read; here nothing waits but in network_wait().
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/socket.h>
#include <unistd.h>

#include "relay/sink.h"
#include "sinks/net/certificate.h"
#include "sinks/net/network.h"
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
	SSL_CTX    *context;		/* NULL: no TLS */
	SSL		   *ssl;
	bool		write_blocked;	/* waits until it can write */
	StringInfoData output;
	Size		sent;			/* bytes at the output's start */
};

/* Say what OpenSSL says. */
static void
ssl_error(Wire *wire, const char *what, int rc, char *error)
{
	int			code = wire->ssl ? SSL_get_error(wire->ssl, rc) : SSL_ERROR_SSL;
	unsigned long reason = ERR_get_error();
	long		verified = wire->ssl ? SSL_get_verify_result(wire->ssl) : X509_V_OK;

	if (verified != X509_V_OK)
		snprintf(error, SINK_ERROR_SIZE, "%s: certificate verify failed: %s", what,
				 X509_verify_cert_error_string(verified));
	else if (reason != 0)
		snprintf(error, SINK_ERROR_SIZE, "%s: %s", what,
				 ERR_reason_error_string(reason) ? ERR_reason_error_string(reason) : "unknown TLS error");
	else if (code == SSL_ERROR_SYSCALL && errno != 0)
		snprintf(error, SINK_ERROR_SIZE, "%s: %s", what, strerror(errno));
	else
		snprintf(error, SINK_ERROR_SIZE, "%s: connection closed by the broker", what);
	ERR_clear_error();
}

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
			if (!network_wait(wire->fd, WL_SOCKET_WRITEABLE, deadline))
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

/* Whether a host is given as an address. */
static bool
is_address(const char *host)
{
	struct in6_addr address;

	return inet_pton(AF_INET, host, &address) == 1 || inet_pton(AF_INET6, host, &address) == 1;
}

/* Trust the certificates of a file. */
static bool
load_certificates(Wire *wire, const char *path, char *error)
{
	X509_STORE *store = SSL_CTX_get_cert_store(wire->context);
	int			length;
	char	   *data = certificate_read(path, &length, error);
	BIO		   *bio;
	X509	   *certificate;
	int			n = 0;

	if (data == NULL)
		return false;
	bio = BIO_new_mem_buf(data, length);
	while (bio != NULL && (certificate = PEM_read_bio_X509_AUX(bio, NULL, NULL, NULL)) != NULL)
	{
		n += X509_STORE_add_cert(store, certificate);
		X509_free(certificate);
	}
	BIO_free(bio);
	pfree(data);
	ERR_clear_error();			/* the end of the file, and duplicates */
	if (n == 0)
		strlcpy(error, "could not read the certificates of option \"sslrootcert\"", SINK_ERROR_SIZE);
	return n > 0;
}

/* Set up what OpenSSL is to demand of the broker. */
static bool
prepare_tls(Wire *wire, const char *host, WireSecurity security, const char *rootcert, char *error)
{
	ERR_clear_error();
	wire->context = SSL_CTX_new(TLS_client_method());
	if (wire->context == NULL)
	{
		ssl_error(wire, "could not set up TLS", 0, error);
		return false;
	}
	SSL_CTX_set_min_proto_version(wire->context, TLS1_2_VERSION);
	SSL_CTX_set_mode(wire->context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	if (security >= WIRE_VERIFY_CA)
	{
		SSL_CTX_set_verify(wire->context, SSL_VERIFY_PEER, NULL);
		if (rootcert && !load_certificates(wire, rootcert, error))
			return false;
		if (rootcert == NULL && SSL_CTX_set_default_verify_paths(wire->context) != 1)
		{
			ssl_error(wire, "could not read root certificates", 0, error);
			return false;
		}
	}

	wire->ssl = SSL_new(wire->context);
	if (wire->ssl == NULL || SSL_set_fd(wire->ssl, wire->fd) != 1 ||
		(!is_address(host) && SSL_set_tlsext_host_name(wire->ssl, host) != 1))
	{
		ssl_error(wire, "could not set up TLS", 0, error);
		return false;
	}
	if (security == WIRE_VERIFY_FULL)
	{
		X509_VERIFY_PARAM *param = SSL_get0_param(wire->ssl);

		X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
		if ((is_address(host) ?
			 X509_VERIFY_PARAM_set1_ip_asc(param, host) :
			 X509_VERIFY_PARAM_set1_host(param, host, 0)) != 1)
		{
			ssl_error(wire, "could not set up TLS", 0, error);
			return false;
		}
	}
	return true;
}

static bool
handshake(Wire *wire, TimestampTz deadline, char *error)
{
	for (;;)
	{
		int			rc;
		int			code;

		ERR_clear_error();
		errno = 0;
		rc = SSL_connect(wire->ssl);
		if (rc == 1)
			return true;
		code = SSL_get_error(wire->ssl, rc);
		if (code != SSL_ERROR_WANT_READ && code != SSL_ERROR_WANT_WRITE)
		{
			ssl_error(wire, "TLS handshake failed", rc, error);
			return false;
		}
		if (!network_wait(wire->fd, code == SSL_ERROR_WANT_READ ?
						  WL_SOCKET_READABLE : WL_SOCKET_WRITEABLE, deadline))
		{
			strlcpy(error, "TLS handshake failed: timeout expired", SINK_ERROR_SIZE);
			return false;
		}
	}
}

Wire *
wire_open(const char *host, int port, WireSecurity security,
		  const char *rootcert, TimestampTz deadline, char *error)
{
	struct addrinfo *addresses = network_resolve(host, port, deadline, error);
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

	if (wire->fd < 0 ||
		(security != WIRE_PLAIN &&
		 !(prepare_tls(wire, host, security, rootcert, error) &&
		   handshake(wire, deadline, error))))
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
		ssize_t		n;

		errno = 0;
		if (wire->ssl)
		{
			int			code;

			ERR_clear_error();
			n = SSL_write(wire->ssl, data, wire_unsent(wire));
			code = n > 0 ? SSL_ERROR_NONE : SSL_get_error(wire->ssl, n);
			if (code == SSL_ERROR_WANT_WRITE)
				wire->write_blocked = true;
			if (code == SSL_ERROR_WANT_WRITE || code == SSL_ERROR_WANT_READ)
				return true;
			if (code != SSL_ERROR_NONE)
			{
				ssl_error(wire, "could not send to the broker", n, error);
				return false;
			}
		}
		else
		{
			n = send(wire->fd, data, wire_unsent(wire), MSG_NOSIGNAL);
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
	if (wire->ssl)
	{
		int			code;

		ERR_clear_error();
		n = SSL_read(wire->ssl, buffer, size);
		if (n > 0)
			return n;
		code = SSL_get_error(wire->ssl, n);
		if (code == SSL_ERROR_WANT_READ || code == SSL_ERROR_WANT_WRITE)
			return 0;
		ssl_error(wire, "could not receive from the broker", n, error);
		return -1;
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
	if (wire->ssl)
		SSL_free(wire->ssl);
	if (wire->context)
		SSL_CTX_free(wire->context);
	if (wire->fd >= 0)
		close(wire->fd);
	ReleaseExternalFD();
	pfree(wire->output.data);
	pfree(wire);
}
