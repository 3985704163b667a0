/*
 * sql_procedure.h
 *		The procedure a relay of kind sql calls.
 */
#ifndef QUEUE_SINKS_SQL_PROCEDURE_H
#define QUEUE_SINKS_SQL_PROCEDURE_H

#include "access/tupdesc.h"
#include "message.h"
#include "nodes/pg_list.h"

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

/* The routine of this name with exactly one argument, of a type, or InvalidOid. */
extern Oid	procedure_with_argument(List *names, Oid argument);

/*
 * A message as a value of type queue.message, without a receipt: who calls the
 * procedure settles.
 */
extern Datum procedure_argument(TupleDesc desc, const Message *message, int failures);

#endif							/* QUEUE_SINKS_SQL_PROCEDURE_H */
