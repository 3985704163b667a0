/*
 * configuration.h
 *		Rows of queue.relay_definition, and what they refer to.
 */
#ifndef QUEUE_RELAY_CONFIGURATION_H
#define QUEUE_RELAY_CONFIGURATION_H

#include "engine/registry.h"
#include "nodes/pg_list.h"
#include "relay/kinds.h"

typedef struct RelayConfig
{
	char	   *name;
	Oid			anchor;			/* a type; see anchor.c */
	Oid			queue;
	Oid			server;			/* InvalidOid: none */
	Oid			procedure;		/* InvalidOid: none; with a server, the
								 * function that transforms messages */
	const SinkKind *kind;		/* by the server; NULL: of no kind we know */
	Datum		given;			/* options as they are in the row, jsonb */
	List	   *options;		/* of DefElem, string values */
	int			workers;
	Oid			owner;
	bool		superuser;		/* the owner is one */
	bool		paused;
	uint64		fingerprint;
	const char *problem;		/* why it cannot run; NULL if it can */

	bool		depends_on_queue;

	/* What the row has of names, for a dump or pg_upgrade to carry on. */
	char	   *server_name;
	char	   *procedure_name;
} RelayConfig;

/* Columns of queue.relay_definition. */
enum
{
	Anum_relay_name = 1,
	Anum_relay_anchor,
	Anum_relay_queue,
	Anum_relay_server,
	Anum_relay_procedure,
	Anum_relay_options,
	Anum_relay_paused,
	Natts_relay = Anum_relay_paused
};

/* All relays; needs a transaction, as the next does. */
extern List *relay_config_list(void);

/* NULL if there is none of this name. */
extern RelayConfig *relay_config_find(const char *name);

/*
 * Fill in what the anchor says of a relay: its owner, server and procedure.
 * Without a transaction's lock on them, so each is looked up when it is used.
 */
extern void relay_config_read_anchor(RelayConfig *relay);

/* Raise an error if a queue cannot be shared by so many workers. */
extern void relay_check_workers(const Queue *queue, int workers);

/* Something of a relay was changed: its worker is to heed it after commit. */
extern void relay_config_changed(void);

#endif							/* QUEUE_RELAY_CONFIGURATION_H */
