/*
 * relay.h
 *		Relays: worker processes that publish a queue's messages.
 *
 * What others than the relay's own files need to know.
 */
#ifndef QUEUE_RELAY_RELAY_H
#define QUEUE_RELAY_RELAY_H

#include "datatype/timestamp.h"

extern Size relay_shmem_size(void);
extern void relay_shmem_init(void);

extern PGDLLEXPORT void queue_relay_main(Datum arg);

/*
 * Called by the maintenance worker outside a transaction, at each of its
 * rounds: start and stop relay workers as queue.relay_definition says.  Returns when it
 * wants to be called again (a restart is due), DT_NOEND if it does not mind.
 */
extern TimestampTz relay_supervise(void);

/* Terminate all relay workers of a database; does not wait. */
extern void relay_stop_database(Oid dboid);

/* Whether any relay worker of a database is still attached. */
extern bool relay_running(Oid dboid);

/* For the object access hook: a type is being dropped; something was altered. */
extern void relay_anchor_dropped(Oid type);
extern void relay_object_altered(Oid classid);

#endif							/* QUEUE_RELAY_RELAY_H */
