/*
 * tables.h
 *		Which tables are a queue's.
 */
#ifndef QUEUE_ENGINE_TABLES_H
#define QUEUE_ENGINE_TABLES_H

#include "compat.h"
#include "nodes/pg_list.h"
#include "storage/lockdefs.h"
#include "utils/relcache.h"

/* Set in the maintenance worker, which fails rather than wait for a table. */
extern bool tables_nowait;

/* Open a table; NULL if it is gone, or with tables_nowait, if it is locked. */
extern Relation table_open_if_any(Oid relid, LOCKMODE lockmode);

/*
 * Whether a table's columns are those of a queue; and raise 55000 if not.  The
 * engine reads and forms tuples by column number, so it must not use others.
 */
extern bool table_columns_valid(Relation rel);
extern void table_check_columns(Relation rel);

/*
 * Whether an open table is a segment of the table parent: it inherits from
 * that one and no other, and has the same owner, schema and persistence.
 */
extern bool table_belongs(Relation rel, Oid parent);

/* The only table this one inherits from; InvalidOid if there are more or none. */
extern Oid	table_parent(Oid relid);

/*
 * Whether an open table is parent, a queue's table, or a segment of that
 * queue; raises 55000 if it is and has other columns.
 */
extern bool table_check(Oid parent, Relation rel);

/* The tables that inherit from one, which may be gone already. */
extern List *table_children(Oid parent, LOCKMODE lockmode);

/* The segments of a queue's table, itself not included, locked. */
extern List *table_segments(Oid parent, LOCKMODE lockmode);

/* Raises 42704, also for a queue that was dropped a moment ago. */
pg_noreturn extern void queue_missing(const char *name);

/* Lock a queue's table, and raise 42704 if it was dropped before we could. */
extern void queue_lock(Oid relid, const char *name, LOCKMODE lockmode);

#endif							/* QUEUE_ENGINE_TABLES_H */
