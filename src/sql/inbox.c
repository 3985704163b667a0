/*
 * inbox.c
 *		Each message once, and no version after a newer one: what consumers ask.
 *
 * What a consumer has accepted belongs to the role that calls, by its name.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "argument.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "engine/durable.h"
#include "engine/extension.h"
#include "engine/inbox.h"
#include "engine/owner.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "stop_point.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(queue_inbox_accept);
PG_FUNCTION_INFO_V1(queue_inbox_accept_number);
PG_FUNCTION_INFO_V1(queue_inbox_advance);

/* Accept a message by what its sender calls it. */
static bool
accept_message(FunctionCallInfo fcinfo, Datum name)
{
	InboxOwner	owner = {.queue = InvalidOid};
	int64		ttl;
	bool		fresh;

	PreventCommandIfReadOnly("queue.inbox_accept()");
	PreventCommandIfParallelMode("queue.inbox_accept()");
	owner.consumer = argument_key(fcinfo, 0, "consumer");
	ttl = argument_duration(fcinfo, 2, "ttl", 1, inbox_retention());
	owner.role = inbox_role();
	(void) inbox_enter(&owner, 1, &name, ttl, &fresh);
	return fresh;
}

Datum
queue_inbox_accept(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(accept_message(fcinfo, PointerGetDatum(argument_key(fcinfo, 1, "message_id"))));
}

/* The same for a number, which is as good as its digits. */
Datum
queue_inbox_accept_number(PG_FUNCTION_ARGS)
{
	argument_required(fcinfo, 1, "message_id");
	PG_RETURN_BOOL(accept_message(fcinfo,
								  CStringGetTextDatum(psprintf(INT64_FORMAT, PG_GETARG_INT64(1)))));
}

/* Parameters of the statements on queue.inbox_version: the first three are a row's key. */
enum
{
	ROLE,
	CONSUMER,
	ENTITY,
	VERSION,
	EXPIRES_AT,
	OLD_VERSION,
	OLD_EXPIRES_AT,
	NPARAMETERS
};

#define KEY_TYPES	TEXTOID, TEXTOID, TEXTOID
#define KEY_IS		" WHERE role = $1 AND consumer = $2 AND entity = $3"

static OwnerStatement find_version = {
	"SELECT version, expires_at, xmin FROM queue.inbox_version" KEY_IS,
	3, {KEY_TYPES}
};

static OwnerStatement insert_version = {
	"INSERT INTO queue.inbox_version (role, consumer, entity, version, expires_at)"
	" VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
	5, {KEY_TYPES, INT8OID, TIMESTAMPTZOID}
};

static OwnerStatement update_version = {
	"UPDATE queue.inbox_version SET version = $4, expires_at = $5" KEY_IS
	" AND version = $6 AND expires_at = $7",
	7, {KEY_TYPES, INT8OID, TIMESTAMPTZOID, INT8OID, TIMESTAMPTZOID}
};

/* Whether gaps are refused. */
static bool
argument_gaps(FunctionCallInfo fcinfo, int argno)
{
	char	   *word = text_to_cstring(argument_text(fcinfo, argno, "gaps"));

	if (strcmp(word, "allow") != 0 && strcmp(word, "refuse") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for \"gaps\": \"%s\"", word),
				 errhint("It must be \"allow\" or \"refuse\".")));
	return strcmp(word, "refuse") == 0;
}

/*
 * Accept a version unless it is not newer than the last one, or leaves a gap
 * that is not to be.  Who accepts waits for who is accepting another version
 * of the entity; a refusal waits for nobody, as only what has been committed
 * counts.  *last is the last version accepted before, 0 if there is none.
 */
static bool
advance(Datum *values, int64 version, bool refuse_gaps, int64 ttl, int64 *last)
{
	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();
		bool		found = owner_run(&find_version, values, NULL) > 0;
		bool		accepted;
		bool		isnull;

		CHECK_FOR_INTERRUPTS();
		*last = 0;
		if (found)
		{
			values[OLD_VERSION] = owner_value(0, 1, &isnull);
			values[OLD_EXPIRES_AT] = owner_value(0, 2, &isnull);
			if (DatumGetTimestampTz(values[OLD_EXPIRES_AT]) > now)
				*last = DatumGetInt64(values[OLD_VERSION]);
		}
		if (version <= *last || (refuse_gaps && version - *last > 1))
		{
			if (found)
				durable_commit(DatumGetTransactionId(owner_value(0, 3, &isnull)));
			return false;
		}

		STOP_POINT("inbox-newer");
		values[EXPIRES_AT] = TimestampTzGetDatum(ttl > 0 ? now + ttl : DT_NOEND);
		accepted = owner_run(found ? &update_version : &insert_version, values, NULL) > 0;
		if (accepted)
			return true;
	}
}

Datum
queue_inbox_advance(PG_FUNCTION_ARGS)
{
	Relation	rel;
	OwnerContext caller_rights;
	Datum		values[NPARAMETERS] = {0};
	Datum		result[3];
	bool		isnull[3] = {false};
	TupleDesc	desc;
	bool		refuse_gaps;
	int64		version;
	int64		ttl;
	int64		last;

	PreventCommandIfReadOnly("queue.inbox_advance()");
	PreventCommandIfParallelMode("queue.inbox_advance()");
	values[CONSUMER] = PointerGetDatum(argument_key(fcinfo, 0, "consumer"));
	values[ENTITY] = PointerGetDatum(argument_key(fcinfo, 1, "entity"));
	argument_required(fcinfo, 2, "version");
	version = PG_GETARG_INT64(2);
	if (version < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for \"version\": " INT64_FORMAT, version),
				 errhint("Versions begin with 1.")));
	refuse_gaps = argument_gaps(fcinfo, 3);
	ttl = argument_duration(fcinfo, 4, "ttl", 1, 0);
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	values[ROLE] = PointerGetDatum(inbox_role());
	values[VERSION] = Int64GetDatum(version);
	rel = table_open(extension_relation("inbox_version"), RowExclusiveLock);
	owner_begin_sql(rel->rd_rel->relowner, &caller_rights);
	result[0] = BoolGetDatum(advance(values, version, refuse_gaps, ttl, &last));
	owner_end_sql(&caller_rights);
	table_close(rel, NoLock);

	result[1] = Int64GetDatum(last);
	result[2] = Int64GetDatum(version > last ? version - last - 1 : 0);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), result, isnull)));
}
