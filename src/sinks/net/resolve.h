/*
 * resolve.h
 *		Addresses of hosts, without waiting for them in a library.
 */
#ifndef QUEUE_SINKS_NET_RESOLVE_H
#define QUEUE_SINKS_NET_RESOLVE_H

#include <netdb.h>

#include "datatype/timestamp.h"

/*
 * The addresses of a host, for freeaddrinfo().  NULL, with the reason in
 * error (SINK_ERROR_SIZE bytes), if there are none or none by the deadline.
 */
extern struct addrinfo *net_resolve(const char *host, int port,
									TimestampTz deadline, char *error);

#endif							/* QUEUE_SINKS_NET_RESOLVE_H */
