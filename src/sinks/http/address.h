/*
 * address.h
 *		Which addresses are on the public internet.
 */
#ifndef QUEUE_SINKS_HTTP_ADDRESS_H
#define QUEUE_SINKS_HTTP_ADDRESS_H

#include <sys/socket.h>

/*
 * Whether an address is one that anybody can reach: not this machine, its
 * networks, or a range that is reserved for something, however it is written.
 */
extern bool address_is_public(const struct sockaddr *address);

#endif							/* QUEUE_SINKS_HTTP_ADDRESS_H */
