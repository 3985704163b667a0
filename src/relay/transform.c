/*
 * transform.c
 *		The function of a relay's owner that messages go through.
 *
 * Whatever it does concerns the message it is called for and no other: a call is
 * a subtransaction, and any error in it a refusal.  It is run as the relay's
 * owner in a security-restricted operation, so that it becomes nobody else and
 * leaves nothing in the session; its settings last for the call.  It must be the
 * owner's own or a superuser's: who owns a function can replace it at any time,
 * so each call asks whose it is.
 *
 * The transaction is read only.  What a function wrote would be written again
 * whenever a message is transformed again, and the end of the transaction could
 * fail for the sake of one message, with nobody to tell of which.  For what that
 * does not hold back, as cursors and notifications, each call is rolled back when
 * its result has been taken.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "access/xact.h"
#include "argument.h"
#include "background.h"
#include "catalog/pg_proc.h"
#include "compat.h"
#include "engine/extension.h"
#include "engine/owner.h"
#include "engine/registry.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "relay/sink.h"
#include "relay/transform.h"
#include "sinks/sql_procedure.h"
#include "sinks/text.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/resowner.h"
#include "utils/syscache.h"
#include "utils/timeout.h"
#include "utils/typcache.h"

/* Columns of queue.message that are the function's to change. */
static const AttrNumber changed[] = {
	Anum_result_key, Anum_result_payload, Anum_result_body, Anum_result_headers
};

/* The transaction under way. */
static Oid	function;
static Oid	owner;
static int	timeout;			/* of a call, in milliseconds */
static FmgrInfo call;
static TupleDesc desc;			/* of queue.message */
static MemoryContext context;	/* of the transaction */
static MemoryContext scratch;	/* of a call */

static Oid
message_type(void)
{
	return get_rel_type_id(extension_relation("message"));
}

Oid
transform_find(const char *name)
{
	Oid			found = procedure_with_argument(QUALIFIED_NAME_LIST(name), message_type());

	if (!OidIsValid(found))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function %s(queue.message) does not exist", name),
				 errhint("Messages are transformed by a function with one argument of type queue.message that returns a queue.message.")));
	return found;
}

void
transform_check(Oid oid, Oid relay_owner)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(oid));
	Form_pg_proc proc;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("the function that transforms the relay's messages does not exist any more")));
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	if (proc->prokind != PROKIND_FUNCTION)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("%s is not a function", format_procedure(oid)),
				 errdetail("Procedures, aggregates and window functions do not transform messages.")));
	if (proc->pronargs != 1 || proc->proargtypes.values[0] != message_type() ||
		proc->prorettype != message_type() || proc->proretset)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("%s does not return a message", format_procedure(oid)),
				 errhint("It must take one queue.message and return one.")));
	if (proc->proowner != relay_owner && !superuser_arg(proc->proowner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("function %s is not the relay's owner's", format_procedure(oid)),
				 errdetail("It runs as the relay's owner, so it must belong to that role, or to a superuser.")));
	if (PROCEDURE_ACLCHECK(oid, relay_owner, ACL_EXECUTE) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for function %s", format_procedure(oid))));
	ReleaseSysCache(tuple);
}

/* Have the function ready to be called, with nothing an earlier call has left. */
static void
prepare_call(void)
{
	fmgr_info_cxt(function, &call, context);
}

void
transform_begin(Oid with, Oid relay_owner, int64 time)
{
	int64		most = time / 1000;

	background_begin();
	XactReadOnly = true;

	if (StatementTimeout > 0)
		most = Min(most, StatementTimeout);
	timeout = (int) Min(Max(most, 1), INT_MAX);
	function = with;
	owner = relay_owner;
	context = AllocSetContextCreate(CurTransactionContext, "queue relay transform", ALLOCSET_DEFAULT_SIZES);
	scratch = AllocSetContextCreate(context, "queue relay transform call", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	desc = lookup_rowtype_tupdesc_copy(message_type(), -1);
	pgstat_report_activity(STATE_RUNNING, psprintf("transform %s", format_procedure(function)));
	prepare_call();
}

void
transform_end(void)
{
	background_end();
	pgstat_report_activity(STATE_IDLE, NULL);
}

/* Raise an error unless this may be sent as a message. */
static void
check_result(const Datum *values, const bool *isnull, Size bytes)
{
	if (isnull[Anum_result_payload - 1] == isnull[Anum_result_body - 1])
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a message must have either a payload or a body")));
	if (bytes > SINK_MAX_MESSAGE)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("message is too large for a relay")));
	if (!isnull[Anum_result_headers - 1])
		argument_headers(values[Anum_result_headers - 1]);
}

/* A message in one chunk: the one there was, with what a row has of it. */
static Message *
make_message(const Message *message, HeapTupleHeader row, MemoryContext where, Size *bytes)
{
	HeapTupleData tuple = {.t_len = HeapTupleHeaderGetDatumLength(row),.t_data = row};
	Datum		values[Natts_message_result];
	bool		isnull[Natts_message_result];
	void	   *copies[Natts_message_result] = {0};
	Size		raw = 0;
	char	   *chunk;
	Message    *made;

	if (HeapTupleHeaderGetTypeId(row) != desc->tdtypeid)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("the function returned something other than a message")));
	heap_deform_tuple(&tuple, desc, values, isnull);
	for (int i = 0; i < lengthof(changed); i++)
	{
		if (!isnull[changed[i] - 1])
			raw += toast_raw_datum_size(values[changed[i] - 1]);
	}
	check_result(values, isnull, raw);

	*bytes = MAXALIGN(sizeof(Message));
	for (int i = 0; i < lengthof(changed); i++)
	{
		int			column = changed[i] - 1;

		if (isnull[column])
			continue;
		values[column] = PointerGetDatum(PG_DETOAST_DATUM(values[column]));
		*bytes += MAXALIGN(VARSIZE(DatumGetPointer(values[column])));
	}
	chunk = MemoryContextAlloc(where, *bytes);
	made = (Message *) chunk;
	*made = *message;
	chunk += MAXALIGN(sizeof(Message));
	for (int i = 0; i < lengthof(changed); i++)
	{
		int			column = changed[i] - 1;
		Size		size;

		if (isnull[column])
			continue;
		size = VARSIZE(DatumGetPointer(values[column]));
		copies[column] = memcpy(chunk, DatumGetPointer(values[column]), size);
		chunk += MAXALIGN(size);
	}
	made->key = copies[Anum_result_key - 1];
	made->payload = copies[Anum_result_payload - 1];
	made->body = copies[Anum_result_body - 1];
	made->headers = copies[Anum_result_headers - 1];
	return made;
}

/*
 * Call the function, as the relay's owner.  NULL if the message is dropped.
 * Nothing may come between the check and the call: both are of what we know of
 * the catalogs at that moment.
 */
static Message *
call_function(const Message *message, int failures, MemoryContext where, Size *bytes,
			  volatile bool *permitted)
{
	LOCAL_FCINFO(fcinfo, 1);
	OwnerContext saved;
	Datum		result;
	Message    *made = NULL;

	InitFunctionCallInfoData(*fcinfo, &call, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = procedure_argument(desc, message, failures);
	fcinfo->args[0].isnull = false;

	owner_begin(owner, &saved);
	*permitted = false;
	transform_check(function, owner);
	*permitted = true;
	result = FunctionCallInvoke(fcinfo);
	if (!fcinfo->isnull)
		made = make_message(message, DatumGetHeapTupleHeader(result), where, bytes);
	owner_end(&saved);
	return made;
}

/* The time for a call is over, and with it what would have ended it. */
static void
stop_clock(void)
{
	disable_timeout(STATEMENT_TIMEOUT, false);
	QueryCancelPending = false;
}

TransformResult
transform_message(const Message *message, int failures, MemoryContext where,
				  Message **made, Size *bytes, char *error)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner resources = CurrentResourceOwner;
	volatile TransformResult result = TRANSFORM_REFUSED;
	volatile bool permitted = true;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(scratch);
	PG_TRY();
	{
		enable_timeout_after(STATEMENT_TIMEOUT, timeout);
		*made = call_function(message, failures, where, bytes, &permitted);
		result = *made ? TRANSFORM_MADE : TRANSFORM_DROPPED;
		stop_clock();
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		stop_clock();
		if (!permitted)
			PG_RE_THROW();		/* the relay's trouble, and no message's */
		MemoryContextSwitchTo(scratch);
		EmitErrorReport();
		edata = CopyErrorData();
		FlushErrorState();
		text_say(error, "%s", edata->message ? edata->message : "");
		result = TRANSFORM_REFUSED;
	}
	PG_END_TRY();
	RollbackAndReleaseCurrentSubTransaction();
	if (result == TRANSFORM_REFUSED)
		prepare_call();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = resources;
	MemoryContextReset(scratch);
	return result;
}
