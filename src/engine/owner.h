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

#endif							/* QUEUE_ENGINE_OWNER_H */
