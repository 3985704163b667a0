/*
 * wait.h
 *		Waiting for the network as a PostgreSQL process should.
 */
#ifndef QUEUE_SINKS_NET_WAIT_H
#define QUEUE_SINKS_NET_WAIT_H

#include "datatype/timestamp.h"
#include "storage/latch.h"

/*
 * Wait for events of a socket, checking for interrupts.  False when the
 * deadline has passed.
 */
extern bool net_wait(pgsocket socket, int events, TimestampTz deadline);

#endif							/* QUEUE_SINKS_NET_WAIT_H */
