/*
 * options.h
 *		Options of servers, user mappings and relays, by the table of kinds.
 *
 * As they are given and stored they are lists of DefElem with values of text.
 */
#ifndef QUEUE_RELAY_OPTIONS_H
#define QUEUE_RELAY_OPTIONS_H

#include "nodes/pg_list.h"
#include "relay/kinds.h"
#include "relay/sink.h"

/* An object of texts, numbers and booleans as a list; nulls are left out. */
extern List *relay_options_list(Datum jsonb);

/* The value of an option, NULL if it is not given. */
extern const char *relay_options_get(List *given, const char *name);

/* How many workers a relay is to have, by its options; a bad value is one or all. */
extern int	relay_options_workers(List *given);

/* Raise an error for a relay's option, of an object, that does not exist or cannot be so. */
extern void relay_options_check(const SinkKind *kind, Datum given);

/* Raise one if all of a relay's options do not go together, or one is missing. */
extern void relay_options_check_together(const SinkKind *kind, List *all);

/*
 * Options as a sink gets them: the struct of its kind, palloc'd with all it
 * points to.  Options that do not exist are passed over; a bad value, which
 * only a change of our catalogs brings about, is an error.
 */
extern void *relay_options_read(const SinkKind *kind, List *server, List *mapping,
								List *relay, Oid routine);

/*
 * Whether a user mapping has what a relay needs of it, and the server nothing
 * its owner may not have.  If not, the reason is put in error.
 */
extern bool relay_options_permitted(const SinkKind *kind, List *server, const char *server_name,
									Oid server_owner, List *mapping, bool superuser, char *error);

#endif							/* QUEUE_RELAY_OPTIONS_H */
