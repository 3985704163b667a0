/*
 * tls.c
 *		TLS on a socket that never blocks.
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "relay/sink.h"
#include "sinks/net/certificate.h"
#include "sinks/net/tls.h"
#include "sinks/net/wait.h"

struct Tls
{
	pgsocket	socket;
	SSL_CTX    *context;
	SSL		   *ssl;
};

/* Say what OpenSSL says. */
static void
ssl_error(Tls *tls, const char *what, int rc, char *error)
{
	int			code = tls->ssl ? SSL_get_error(tls->ssl, rc) : SSL_ERROR_SSL;
	unsigned long reason = ERR_get_error();
	long		verified = tls->ssl ? SSL_get_verify_result(tls->ssl) : X509_V_OK;

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

/* Whether a host is given as an address. */
static bool
is_address(const char *host)
{
	struct in6_addr address;

	return inet_pton(AF_INET, host, &address) == 1 || inet_pton(AF_INET6, host, &address) == 1;
}

/* Trust the certificates of a file. */
static bool
load_certificates(Tls *tls, const char *path, char *error)
{
	X509_STORE *store = SSL_CTX_get_cert_store(tls->context);
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
prepare(Tls *tls, const char *host, TlsTrust trust, const char *rootcert, char *error)
{
	ERR_clear_error();
	tls->context = SSL_CTX_new(TLS_client_method());
	if (tls->context == NULL)
	{
		ssl_error(tls, "could not set up TLS", 0, error);
		return false;
	}
	SSL_CTX_set_min_proto_version(tls->context, TLS1_2_VERSION);
	SSL_CTX_set_mode(tls->context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	if (trust >= TLS_TRUST_CA)
	{
		SSL_CTX_set_verify(tls->context, SSL_VERIFY_PEER, NULL);
		if (rootcert && !load_certificates(tls, rootcert, error))
			return false;
		if (rootcert == NULL && SSL_CTX_set_default_verify_paths(tls->context) != 1)
		{
			ssl_error(tls, "could not read root certificates", 0, error);
			return false;
		}
	}

	tls->ssl = SSL_new(tls->context);
	if (tls->ssl == NULL || SSL_set_fd(tls->ssl, tls->socket) != 1 ||
		(!is_address(host) && SSL_set_tlsext_host_name(tls->ssl, host) != 1))
	{
		ssl_error(tls, "could not set up TLS", 0, error);
		return false;
	}
	if (trust == TLS_TRUST_HOST)
	{
		X509_VERIFY_PARAM *param = SSL_get0_param(tls->ssl);

		X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
		if ((is_address(host) ?
			 X509_VERIFY_PARAM_set1_ip_asc(param, host) :
			 X509_VERIFY_PARAM_set1_host(param, host, 0)) != 1)
		{
			ssl_error(tls, "could not set up TLS", 0, error);
			return false;
		}
	}
	return true;
}

/* Wait until both sides agree. */
static bool
shake_hands(Tls *tls, TimestampTz deadline, char *error)
{
	for (;;)
	{
		int			rc;
		int			code;

		ERR_clear_error();
		errno = 0;
		rc = SSL_connect(tls->ssl);
		if (rc == 1)
			return true;
		code = SSL_get_error(tls->ssl, rc);
		if (code != SSL_ERROR_WANT_READ && code != SSL_ERROR_WANT_WRITE)
		{
			ssl_error(tls, "TLS handshake failed", rc, error);
			return false;
		}
		if (!net_wait(tls->socket, code == SSL_ERROR_WANT_READ ?
					  WL_SOCKET_READABLE : WL_SOCKET_WRITEABLE, deadline))
		{
			strlcpy(error, "TLS handshake failed: timeout expired", SINK_ERROR_SIZE);
			return false;
		}
	}
}

Tls *
tls_open(pgsocket socket, const char *host, TlsTrust trust,
		 const char *rootcert, TimestampTz deadline, char *error)
{
	Tls		   *tls = palloc0(sizeof(Tls));

	tls->socket = socket;
	if (prepare(tls, host, trust, rootcert, error) && shake_hands(tls, deadline, error))
		return tls;
	tls_close(tls);
	return NULL;
}

/* What came of a call of OpenSSL's that returned rc. */
static int
outcome(Tls *tls, int rc, const char *what, char *error)
{
	if (rc > 0)
		return rc;
	switch (SSL_get_error(tls->ssl, rc))
	{
		case SSL_ERROR_WANT_READ:
			return TLS_WAIT_READ;
		case SSL_ERROR_WANT_WRITE:
			return TLS_WAIT_WRITE;
		default:
			ssl_error(tls, what, rc, error);
			return TLS_LOST;
	}
}

int
tls_read(Tls *tls, char *buffer, int size, char *error)
{
	errno = 0;
	ERR_clear_error();
	return outcome(tls, SSL_read(tls->ssl, buffer, size), "could not receive from the broker", error);
}

int
tls_write(Tls *tls, const char *data, int size, char *error)
{
	errno = 0;
	ERR_clear_error();
	return outcome(tls, SSL_write(tls->ssl, data, size), "could not send to the broker", error);
}

void
tls_close(Tls *tls)
{
	if (tls->ssl)
		SSL_free(tls->ssl);
	if (tls->context)
		SSL_CTX_free(tls->context);
	pfree(tls);
}
