/*
 * server.h
 *		The foreign server of a relay.
 */
#ifndef QUEUE_RELAY_SERVER_H
#define QUEUE_RELAY_SERVER_H

#include "nodes/pg_list.h"
#include "relay/kinds.h"

/* The kind of a server's sink; NULL if there is no such server, or no such kind. */
extern const SinkKind *relay_server_kind(Oid server);

/*
 * The same for a role that is to use it: an error if it may not, or cannot.
 * The server is locked against being dropped until the end of the transaction.
 */
extern const SinkKind *relay_server_check(Oid server, Oid role);

/*
 * Read the options of a server, and of the user mapping of a relay's owner.  Returns a hash of
 * them; or 0, with the reason in error, if the server is of no use.
 */
extern uint64 relay_server_read(Oid serverid, Oid owner, const SinkKind **kind,
								List **server_options, List **mapping_options, char *error);

#endif							/* QUEUE_RELAY_SERVER_H */
