/*
 * owner.h
 *		Working on a table with its owner's rights and fixed settings.
 */
#ifndef QUEUE_ENGINE_OWNER_H
#define QUEUE_ENGINE_OWNER_H

typedef struct OwnerContext
{
	Oid			user;
	int			security;
	int			nestlevel;
} OwnerContext;

/*
 * Between these two statements run as this role, in a security-restricted
 * operation, and settings that they change are put back.  An error does what
 * owner_end does.
 */
extern void owner_begin(Oid owner, OwnerContext *saved);
extern void owner_end(OwnerContext *saved);

/* The same with SPI connected, and a statement for it that returns nothing. */
extern void owner_begin_sql(Oid owner, OwnerContext *saved);
extern void owner_execute(const char *sql);
extern void owner_end_sql(OwnerContext *saved);

/* A statement that a process plans once. */
typedef struct OwnerStatement
{
	const char *sql;
	int			nargs;
	Oid			types[8];
	struct _SPI_plan *plan;
} OwnerStatement;

/*
 * Run one between these two, each as of a snapshot of its own unless the
 * transaction has one for all; nulls as for SPI, or NULL.  Returns how many
 * rows it changed or returned; owner_value is a column, from 1, of a row, from
 * 0, of those that the last one returned.
 */
extern uint64 owner_run(OwnerStatement *statement, Datum *values, const char *nulls);
extern Datum owner_value(uint64 row, int column, bool *isnull);

#endif							/* QUEUE_ENGINE_OWNER_H */
