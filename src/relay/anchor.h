/*
 * anchor.h
 *		Anchors: what the server's own catalogs know of relays.
 */
#ifndef QUEUE_RELAY_ANCHOR_H
#define QUEUE_RELAY_ANCHOR_H

#include "relay/configuration.h"

/*
 * Make the anchor of a relay of this name, depending on what the relay uses.
 * One that a dump of schema queues alone has left is the caller's to replace.
 */
extern Oid	relay_anchor_create(const char *name, Oid owner, const RelayConfig *relay);
extern void relay_anchor_drop(Oid anchor);

/* Have an anchor depend on an object instead of another; each may be none. */
extern void relay_anchor_depend(Oid anchor, Oid classid, Oid was, Oid is);

/*
 * In the maintenance worker's transaction: make anchors and the names in the
 * relays' rows say the same.  False if it has to be tried again, as somebody
 * is at work on one of them.
 */
extern bool relay_anchors_follow(void);

#endif							/* QUEUE_RELAY_ANCHOR_H */
