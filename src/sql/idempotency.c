/*
 * idempotency.c
 *		Requests that are to be served once however often they are made.
 *
 * queue.idempotency has a row for each request that was begun, with the
 * answer once it is completed.  Rows belong to the role that calls, by its
 * name.  One that has expired counts for nothing, whether or not it is there
 * still.
 *
 * The unique index has a second begin wait for the first one's transaction.
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
#include "utils/jsonb.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(queue_idempotency_begin);
PG_FUNCTION_INFO_V1(queue_idempotency_complete);
PG_FUNCTION_INFO_V1(queue_idempotency_fail);

/* A request, by what $1 to $3 are in every statement. */
typedef struct Request
{
	Datum		role;
	Datum		scope;
	Datum		key;
} Request;

#define KEY_TYPES		TEXTOID, TEXTOID, TEXTOID
#define KEY_IS			" WHERE role = $1 AND scope = $2 AND key = $3"
#define KEY_OF(r)		(r)->role, (r)->scope, (r)->key

static OwnerStatement insert_key = {
	"INSERT INTO queue.idempotency (role, scope, key, expires_at, fingerprint, completed)"
	" VALUES ($1, $2, $3, $4, $5, false) ON CONFLICT DO NOTHING",
	5, {KEY_TYPES, TIMESTAMPTZOID, TEXTOID}
};

static OwnerStatement find_key = {
	"SELECT expires_at, completed, response, fingerprint <> $4, xmin FROM queue.idempotency" KEY_IS,
	4, {KEY_TYPES, TEXTOID}
};

static OwnerStatement begin_again = {
	"UPDATE queue.idempotency"
	" SET expires_at = $4, fingerprint = $5, completed = false, response = NULL" KEY_IS
	" AND expires_at = $6",
	6, {KEY_TYPES, TIMESTAMPTZOID, TEXTOID, TIMESTAMPTZOID}
};

static OwnerStatement complete_key = {
	"UPDATE queue.idempotency"
	" SET completed = true, response = $5, expires_at = coalesce($6, expires_at)" KEY_IS
	" AND NOT completed AND expires_at > $4",
	6, {KEY_TYPES, TIMESTAMPTZOID, JSONBOID, TIMESTAMPTZOID}
};

static OwnerStatement delete_key = {
	"DELETE FROM queue.idempotency" KEY_IS " AND NOT completed AND expires_at > $4",
	4, {KEY_TYPES, TIMESTAMPTZOID}
};

/* The request that the first two arguments of each function name. */
static Request
argument_request(FunctionCallInfo fcinfo)
{
	Request		request;

	request.scope = PointerGetDatum(argument_key(fcinfo, 0, "scope"));
	request.key = PointerGetDatum(argument_key(fcinfo, 1, "key"));
	request.role = PointerGetDatum(inbox_role());
	return request;
}

/* Open the table, and work on it as its owner until close_requests. */
static Relation
open_requests(OwnerContext *caller_rights)
{
	Relation	rel = table_open(extension_relation("idempotency"), RowExclusiveLock);

	owner_begin_sql(rel->rd_rel->relowner, caller_rights);
	return rel;
}

static void
close_requests(Relation rel, OwnerContext *caller_rights)
{
	owner_end_sql(caller_rights);
	table_close(rel, NoLock);
}

/* Begin a request that was not begun; false if it was. */
static bool
insert_request(const Request *request, NullableDatum fingerprint, int64 ttl)
{
	const char *nulls = fingerprint.isnull ? "    n" : NULL;
	TimestampTz expires_at = GetCurrentTimestamp() + ttl;
	Datum		values[] = {
		KEY_OF(request), TimestampTzGetDatum(expires_at), fingerprint.value,
		TimestampTzGetDatum(expires_at)
	};
	TimestampTz now;

	if (owner_run(&insert_key, values, nulls) == 0)
		return false;

	/* Who waited for another transaction may have a row that has expired. */
	now = GetCurrentTimestamp();
	if (expires_at <= now)
	{
		values[3] = TimestampTzGetDatum(now + ttl);
		(void) owner_run(&begin_again, values, fingerprint.isnull ? "    n " : NULL);
	}
	return true;
}

/*
 * Begin a request, or say what has become of it; the answer, if there is one,
 * in a memory context.
 */
static const char *
begin_request(const Request *request, NullableDatum fingerprint, int64 ttl,
			  MemoryContext context, NullableDatum *response)
{
	for (;;)
	{
		Datum		wanted[] = {KEY_OF(request), fingerprint.value};
		TimestampTz now;
		Datum		expires_at;
		bool		isnull;

		CHECK_FOR_INTERRUPTS();
		if (insert_request(request, fingerprint, ttl))
			return "started";
		STOP_POINT("idempotency-known");
		if (owner_run(&find_key, wanted, fingerprint.isnull ? "   n" : NULL) == 0)
			continue;
		now = GetCurrentTimestamp();
		expires_at = owner_value(0, 1, &isnull);
		if (DatumGetTimestampTz(expires_at) <= now)
		{
			Datum		again[] = {
				KEY_OF(request), TimestampTzGetDatum(now + ttl), fingerprint.value, expires_at
			};

			STOP_POINT("idempotency-expired");
			if (owner_run(&begin_again, again, fingerprint.isnull ? "    n " : NULL) > 0)
				return "started";
			continue;
		}
		if (DatumGetBool(owner_value(0, 4, &isnull)) && !isnull)
			return "mismatch";
		if (!DatumGetBool(owner_value(0, 2, &isnull)))
			return "in progress";
		durable_commit(DatumGetTransactionId(owner_value(0, 5, &isnull)));
		response->value = owner_value(0, 3, &response->isnull);
		if (!response->isnull)
		{
			MemoryContext old = MemoryContextSwitchTo(context);

			response->value = JsonbPGetDatum(DatumGetJsonbPCopy(response->value));
			MemoryContextSwitchTo(old);
		}
		return "completed";
	}
}

Datum
queue_idempotency_begin(PG_FUNCTION_ARGS)
{
	MemoryContext context = CurrentMemoryContext;
	NullableDatum fingerprint = {.isnull = true};
	NullableDatum response = {.isnull = true};
	OwnerContext caller_rights;
	Datum		result[2];
	bool		isnull[2];
	const char *status;
	Request		request;
	TupleDesc	desc;
	Relation	rel;
	int64		ttl;

	PreventCommandIfReadOnly("queue.idempotency_begin()");
	PreventCommandIfParallelMode("queue.idempotency_begin()");
	request = argument_request(fcinfo);
	if (!PG_ARGISNULL(2))
	{
		fingerprint.value = PointerGetDatum(argument_key(fcinfo, 2, "fingerprint"));
		fingerprint.isnull = false;
	}
	argument_required(fcinfo, 3, "ttl");
	ttl = argument_duration(fcinfo, 3, "ttl", 1, 0);
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	rel = open_requests(&caller_rights);
	status = begin_request(&request, fingerprint, ttl, context, &response);
	close_requests(rel, &caller_rights);

	result[0] = CStringGetTextDatum(status);
	isnull[0] = false;
	result[1] = response.value;
	isnull[1] = response.isnull;
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), result, isnull)));
}

Datum
queue_idempotency_complete(PG_FUNCTION_ARGS)
{
	OwnerContext caller_rights;
	char		nulls[] = "      ";
	Request		request;
	TimestampTz now = GetCurrentTimestamp();
	Datum		response = 0;
	Relation	rel;
	int64		ttl;
	bool		completed;

	PreventCommandIfReadOnly("queue.idempotency_complete()");
	PreventCommandIfParallelMode("queue.idempotency_complete()");
	request = argument_request(fcinfo);
	if (PG_ARGISNULL(2))
		nulls[4] = 'n';
	else
		response = JsonbPGetDatum(PG_GETARG_JSONB_P(2));
	ttl = argument_duration(fcinfo, 3, "ttl", 1, 0);
	if (ttl == 0)
		nulls[5] = 'n';

	rel = open_requests(&caller_rights);
	{
		Datum		values[] = {
			KEY_OF(&request), TimestampTzGetDatum(now), response, TimestampTzGetDatum(now + ttl)
		};

		completed = owner_run(&complete_key, values, nulls) > 0;
	}
	close_requests(rel, &caller_rights);
	PG_RETURN_BOOL(completed);
}

Datum
queue_idempotency_fail(PG_FUNCTION_ARGS)
{
	OwnerContext caller_rights;
	Request		request;
	Relation	rel;
	bool		deleted;

	PreventCommandIfReadOnly("queue.idempotency_fail()");
	PreventCommandIfParallelMode("queue.idempotency_fail()");
	request = argument_request(fcinfo);
	rel = open_requests(&caller_rights);
	{
		Datum		values[] = {KEY_OF(&request), TimestampTzGetDatum(GetCurrentTimestamp())};

		deleted = owner_run(&delete_key, values, NULL) > 0;
	}
	close_requests(rel, &caller_rights);
	PG_RETURN_BOOL(deleted);
}
