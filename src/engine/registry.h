/*
 * registry.h
 *		Queues by name or by table: this backend's cache of their settings.
 */
#ifndef QUEUE_ENGINE_REGISTRY_H
#define QUEUE_ENGINE_REGISTRY_H

#include "engine/settings.h"
#include "engine/shared.h"
#include "nodes/pg_list.h"
#include "utils/acl.h"

typedef struct Queue
{
	Oid			relid;			/* hash key; the table queues.<name> */
	bool		valid;
	NameData	name;
	Oid			owner;
	Oid			sequence;		/* reserves ids */
	QueueSettings settings;
	QueueShared *shared;
	uint32		generation;
} Queue;

extern void registry_init(void);

/*
 * The queue of this name, with the caller's rights on it checked.  Errors:
 * 55000 not preloaded, 42704 unknown queue, 42501 no right.  The result lives
 * until the next invalidation: do not keep it over a transaction.
 */
extern Queue *queue_by_name(text *name, AclMode rights);

/* The same by table and without a check of rights; NULL if it is no queue. */
extern Queue *queue_by_relid(Oid relid);

/* n ids for messages of a queue: see ids_allocate. */
extern void queue_allocate_ids(Queue *queue, int n, int64 *ids);

/*
 * Whether queue.queue_definition has a row for this table; false also where
 * there is no extension, or it is just being dropped.
 */
extern bool queue_recorded(Oid relid);

/* The queue a table is, or is a segment of, by its table; or InvalidOid. */
extern Oid	queue_of_table(Oid relid);

/* The shared element of a queue of this database, or NULL if it has none. */
extern QueueShared *queue_find_shared(Oid relid);

/* Raises 42501 unless the current user has these rights. */
extern void queue_check_rights(Oid relid, const char *name, AclMode rights);

/* Whether queue_check_rights has found them already, and nothing has changed since. */
extern bool queue_rights_known(Oid relid, AclMode rights);

/* Raises 42501 unless the current user owns it. */
extern void queue_check_owner(Oid relid, const char *name);

/*
 * Give up the shared elements of one queue whose table is gone, or of a whole
 * database (InvalidOid).
 */
extern void queue_forget(Oid dboid, Oid relid);

/*
 * Give up the elements of this database's queues that were dropped.  A table
 * that is locked may be one that is just being created, and is skipped unless
 * wait is set.
 */
extern void queue_forget_dropped(bool wait);

/* All queues of this database, as a list of their tables' OIDs. */
extern List *queue_list(void);

#endif							/* QUEUE_ENGINE_REGISTRY_H */
