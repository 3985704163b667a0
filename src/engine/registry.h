/*
 * registry.h
 *		Queues by name or by table: this backend's cache of their settings.
 */
#ifndef QUEUE_ENGINE_REGISTRY_H
#define QUEUE_ENGINE_REGISTRY_H

#include "engine/shmem.h"
#include "storage/lockdefs.h"
#include "utils/acl.h"

/* Columns of queue.queue_definition. */
enum
{
	Anum_queue_relid = 1,
	Anum_queue_lease,
	Anum_queue_max_attempts,
	Anum_queue_backoff,
	Anum_queue_backoff_max,
	Natts_queue = Anum_queue_backoff_max
};

typedef struct Queue
{
	Oid			relid;			/* hash key; the table queues.<name> */
	bool		valid;
	NameData	name;
	Oid			owner;
	Oid			sequence;		/* reserves ids */
	int64		lease;			/* microseconds */
	int			max_attempts;
	int64		backoff;		/* microseconds */
	int64		backoff_max;
	QueueShared *shared;
	uint32		generation;
} Queue;

extern void catalog_init(void);

/* Set in the maintenance worker, which fails rather than wait for a table. */
extern bool catalog_nowait;

/*
 * The queue of this name, with the caller's rights on it checked.  Errors:
 * 55000 not preloaded, 42704 unknown queue, 42501 no right.  The result lives
 * until the next invalidation: do not keep it over a transaction.
 */
extern Queue *queue_by_name(text *name, AclMode rights);

/* The same by table and without a check of rights; NULL if it is no queue. */
extern Queue *queue_by_relid(Oid relid);

/*
 * Whether queue.queue_definition has a row for this table; false also where
 * there is no extension, or it is just being dropped.
 */
extern bool queue_recorded(Oid relid);

/* The queue a table is, or is a segment of, by its table; or InvalidOid. */
extern Oid	queue_of_table(Oid relid);

/* The shared element of a queue of this database, or NULL if it has none. */
extern QueueShared *queue_find_shared(Oid relid);

/* Raises 42704, also for a queue that was dropped a moment ago. */
#ifndef pg_noreturn				/* before 18 */
#define pg_noreturn pg_attribute_noreturn()
#endif
pg_noreturn extern void queue_missing(const char *name);

/* Lock a queue's table, and raise 42704 if it was dropped before we could. */
extern void queue_lock(Oid relid, const char *name, LOCKMODE lockmode);

/* Raises 42501 unless the current user has these rights. */
extern void queue_check_rights(Oid relid, const char *name, AclMode rights);

/* Whether that has been found out already, and nothing changed since. */
extern bool queue_rights_known(Oid relid, AclMode rights);

/* Raises 42501 unless the current user owns it. */
extern void queue_check_owner(Oid relid, const char *name);

/*
 * Give up the shared elements of one queue, or of a whole database
 * (InvalidOid), whose tables are no more.
 */
extern void queue_forget(Oid dboid, Oid relid);

/*
 * Give up the elements of this database's queues that were dropped.  A table
 * that is locked may be one that is just being created, and is skipped unless
 * we wait.
 */
extern void queue_forget_dropped(bool wait);

/* OID of one of the extension's own tables or schemas; error if missing. */
extern Oid	extension_relation(const char *name);
extern Oid	queues_namespace(void);

/* Whether the extension exists in this database. */
extern bool extension_exists(void);

/* All queues of this database, as a list of their tables' OIDs. */
extern List *queue_list(void);

#endif							/* QUEUE_ENGINE_REGISTRY_H */
