/*
 * session.h
 *		What the session of a relay's worker is like.
 */
#ifndef QUEUE_RELAY_SESSION_H
#define QUEUE_RELAY_SESSION_H

#include "relay/configuration.h"

extern void relay_session_begin(const RelayConfig *relay, int worker);
extern void relay_session_reset(void);

#endif							/* QUEUE_RELAY_SESSION_H */
