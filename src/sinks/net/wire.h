/*
 * wire.h
 *		A TCP or TLS connection that never blocks.
 */
#ifndef QUEUE_SINKS_NET_WIRE_H
#define QUEUE_SINKS_NET_WIRE_H

#include "datatype/timestamp.h"
#include "lib/stringinfo.h"
#include "port.h"

typedef enum WireSecurity
{
	WIRE_PLAIN,
	WIRE_ENCRYPTED,				/* whoever is there */
	WIRE_VERIFY_CA,				/* certificate of a known authority */
	WIRE_VERIFY_FULL			/* and made out to this host */
} WireSecurity;

typedef struct Wire Wire;

/*
 * Connect by the deadline.  rootcert: a file of certificates, or NULL for
 * those the system trusts.  NULL when it fails, with the reason in error,
 * which has SINK_ERROR_SIZE bytes, as everywhere here.
 */
extern Wire *wire_open(const char *host, int port, WireSecurity security,
					   const char *rootcert, TimestampTz deadline, char *error);

/* Where to put what is to be sent; only append to it. */
extern StringInfo wire_output(Wire *wire);

/* How much of that has not been sent yet. */
extern Size wire_unsent(Wire *wire);

/* Send as much as goes without waiting.  False if the connection is lost. */
extern bool wire_flush(Wire *wire, char *error);

/* Read what there is: bytes read, 0 if there is nothing, -1 if lost. */
extern int	wire_read(Wire *wire, char *buffer, int size, char *error);

/* What to wait for. */
extern pgsocket wire_socket(Wire *wire, int *events);

extern void wire_close(Wire *wire);

#endif							/* QUEUE_SINKS_NET_WIRE_H */
