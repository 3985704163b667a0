/*
 * sql_procedure.c
 *		The procedure a relay of kind sql calls.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "compat.h"
#include "engine/extension.h"
#include "engine/registry.h"
#include "sinks/sql_procedure.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

Oid
procedure_with_argument(List *names, Oid argument)
{
	FuncCandidateList found = FuncnameGetCandidates(names, 1, NIL, false, false, false, true);

	while (found && found->args[0] != argument)
		found = found->next;
	return found ? found->oid : InvalidOid;
}

/* The kind of a routine, '\0' if there is none. */
static char
routine_kind(Oid procedure)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(procedure));
	char		kind;

	if (!HeapTupleIsValid(tuple))
		return '\0';
	kind = ((Form_pg_proc) GETSTRUCT(tuple))->prokind;
	ReleaseSysCache(tuple);
	return kind;
}

Oid
procedure_find(const char *name)
{
	List	   *names = QUALIFIED_NAME_LIST(name);
	Oid			message = get_rel_type_id(extension_relation("message"));
	Oid			procedure = procedure_with_argument(names, message);

	if (!OidIsValid(procedure))
		procedure = procedure_with_argument(names, get_array_type(message));
	if (!OidIsValid(procedure))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("procedure %s(queue.message) does not exist", name),
				 errhint("A relay calls a procedure with one argument of type queue.message, or queue.message[] for a batch.")));
	return procedure;
}

void
procedure_check(Oid procedure, Oid owner, bool *batch)
{
	Oid			message = get_rel_type_id(extension_relation("message"));
	Oid		   *args = NULL;
	int			nargs = 0;
	char		kind = routine_kind(procedure);

	if (kind == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("the procedure of the relay does not exist any more")));
	if (kind != PROKIND_PROCEDURE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("%s is not a procedure", format_procedure(procedure))));
	(void) get_func_signature(procedure, &args, &nargs);
	if (nargs != 1 || (args[0] != message && args[0] != get_array_type(message)))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("%s does not take a message", format_procedure(procedure))));
	*batch = args[0] != message;
	if (PROCEDURE_ACLCHECK(procedure, owner, ACL_EXECUTE) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for procedure %s", format_procedure(procedure))));
}

Datum
procedure_argument(TupleDesc desc, const Message *message, int failures)
{
	Message		shown = *message;
	Datum		values[Natts_message_result];
	bool		nulls[Natts_message_result];

	if (desc->natts != Natts_message_result)
		elog(ERROR, "type queue.message has %d columns", desc->natts);
	shown.receipt = 0;
	shown.attempts += failures;
	message_result(&shown, values, nulls);
	return heap_copy_tuple_as_datum(heap_form_tuple(desc, values, nulls), desc);
}
