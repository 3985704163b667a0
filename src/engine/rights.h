/*
 * rights.h
 *		Who may see what the views show.
 */
#ifndef QUEUE_ENGINE_RIGHTS_H
#define QUEUE_ENGINE_RIGHTS_H

/* Whether the caller may see what concerns the database as a whole. */
extern bool may_watch(void);

/*
 * Whether the caller may see a queue's counters and leases, not its messages;
 * false if there is no such table.
 */
extern bool may_watch_queue(Oid relid);

#endif							/* QUEUE_ENGINE_RIGHTS_H */
