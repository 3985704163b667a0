/*
 * sql_procedure.h
 *		The procedure a relay of kind sql calls.
 */
#ifndef QUEUE_SINKS_SQL_PROCEDURE_H
#define QUEUE_SINKS_SQL_PROCEDURE_H

/*
 * The routine of a name, as a user gives it in his search_path, that takes one
 * queue.message, or an array of them.  An error if there is none.
 */
extern Oid	procedure_find(const char *name);

/*
 * Raise an error unless a relay of this owner may call it, and it can be
 * called; batch: it takes an array.
 */
extern void procedure_check(Oid procedure, Oid owner, bool *batch);

#endif							/* QUEUE_SINKS_SQL_PROCEDURE_H */
