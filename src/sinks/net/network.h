/*
 * network.h
 *		Waiting for the network as a PostgreSQL process should.
 */
#ifndef QUEUE_SINKS_NET_NETWORK_H
#define QUEUE_SINKS_NET_NETWORK_H

#include <netdb.h>

#include "datatype/timestamp.h"
#include "storage/latch.h"

/*
 * Wait for events of a socket, checking for interrupts.  False when the
 * deadline has passed.
 */
extern bool network_wait(pgsocket socket, int events, TimestampTz deadline);

/*
 * The addresses of a host, for freeaddrinfo().  NULL, with the reason in
 * error (SINK_ERROR_SIZE bytes), if there are none or none by the deadline.
 */
extern struct addrinfo *network_resolve(const char *host, int port,
										TimestampTz deadline, char *error);

#endif							/* QUEUE_SINKS_NET_NETWORK_H */
