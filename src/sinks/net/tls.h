/*
 * tls.h
 *		TLS on a socket that never blocks.
 */
#ifndef QUEUE_SINKS_NET_TLS_H
#define QUEUE_SINKS_NET_TLS_H

#include "datatype/timestamp.h"
#include "port.h"

typedef struct Tls Tls;

/* What is demanded of the other side's certificate. */
typedef enum TlsTrust
{
	TLS_TRUST_ANYONE,			/* nothing */
	TLS_TRUST_CA,				/* it is of a known authority */
	TLS_TRUST_HOST				/* and made out to this host */
} TlsTrust;

/* What came of reading or writing, if it is not a number of bytes. */
#define TLS_WAIT_READ	0		/* when the socket can be read again */
#define TLS_WAIT_WRITE	(-1)	/* when it can be written to again */
#define TLS_LOST		(-2)

/*
 * Shake hands by the deadline, as a client of this host.  rootcert: a file of
 * certificates, or NULL for those the system trusts.  NULL when that fails,
 * with the reason in error, which has SINK_ERROR_SIZE bytes, as everywhere
 * here.  The socket stays the caller's.
 */
extern Tls *tls_open(pgsocket socket, const char *host, TlsTrust trust,
					 const char *rootcert, TimestampTz deadline, char *error);

/* Bytes read or written, or one of the above; with the last a reason. */
extern int	tls_read(Tls *tls, char *buffer, int size, char *error);
extern int	tls_write(Tls *tls, const char *data, int size, char *error);

extern void tls_close(Tls *tls);

#endif							/* QUEUE_SINKS_NET_TLS_H */
