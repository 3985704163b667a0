/*
 * accept.c
 *		Accept messages from a relay of another database, each once.
 *
 * queue.inbox has a row for each message accepted.  A message is known by the
 * queue it comes to, the name of the queue it comes from, its id there and
 * when it was sent there: ids alone could be handed out a second time when a
 * source loses its last transactions in a failover.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "engine/ids.h"
#include "engine/owner.h"
#include "engine/registry.h"
#include "engine/segment.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(queue_relay_accept);

/* Arguments of queue.relay_accept. */
enum
{
	ARG_SOURCE,
	ARG_QUEUE,
	ARG_IDS,
	ARG_ENQUEUED_ATS,
	ARG_PAYLOADS,
	ARG_BODIES,
	ARG_KEYS,
	ARG_HEADERS,
	NARGS
};

static const char *const argument_names[NARGS] = {
	"source", "queue", "ids", "enqueued_ats", "payloads", "bodies", "keys", "headers"
};

/* What tells a message from the others of its source. */
typedef struct Origin
{
	int64		id;
	TimestampTz enqueued_at;
	bool		taken;
} Origin;

static int
compare_origins(const void *a, const void *b)
{
	const Origin *x = a;
	const Origin *y = b;

	if (x->id != y->id)
		return x->id < y->id ? -1 : 1;
	return (x->enqueued_at > y->enqueued_at) - (x->enqueued_at < y->enqueued_at);
}

/* The elements of an array argument, of which there are to be n unless -1. */
static int
elements(FunctionCallInfo fcinfo, int argno, Oid type, int n, Datum **values, bool **isnull)
{
	int16		length;
	bool		byval = false;
	char		align = TYPALIGN_INT;
	int			found;

	length = (type == INT8OID || type == TIMESTAMPTZOID) ? sizeof(int64) : -1;
	if (length > 0)
	{
		byval = FLOAT8PASSBYVAL;
		align = TYPALIGN_DOUBLE;
	}
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(argno), type, length, byval, align,
					  values, isnull, &found);
	if (n >= 0 && found != n)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("%s must have as many elements as ids", argument_names[argno]),
				 errdetail("%s has %d elements, ids has %d.", argument_names[argno], found, n)));
	return found;
}

/*
 * Enter messages into queue.inbox; returns those that were not there, sorted.
 * Runs as the table's owner: the caller's right is that to send to the queue.
 */
static Origin *
enter(FunctionCallInfo fcinfo, Oid queue, uint64 *n)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {REGCLASSOID, TEXTOID, INT8ARRAYOID, TIMESTAMPTZARRAYOID};
	Datum		values[] = {
		ObjectIdGetDatum(queue), PG_GETARG_DATUM(ARG_SOURCE),
		PG_GETARG_DATUM(ARG_IDS), PG_GETARG_DATUM(ARG_ENQUEUED_ATS)
	};
	MemoryContext caller = CurrentMemoryContext;
	Relation	inbox = table_open(extension_relation("inbox"), RowExclusiveLock);
	Origin	   *result;
	OwnerContext caller_rights;

	owner_begin(inbox->rd_rel->relowner, &caller_rights);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (plan == NULL)
	{
		/* In order, so that two who enter the same do not deadlock. */
		plan = SPI_prepare("INSERT INTO queue.inbox (relid, source, id, enqueued_at)"
						   " SELECT $1, $2, id, enqueued_at"
						   " FROM ROWS FROM (pg_catalog.unnest($3), pg_catalog.unnest($4))"
						   " AS m (id, enqueued_at) ORDER BY id, enqueued_at"
						   " ON CONFLICT DO NOTHING RETURNING id, enqueued_at",
						   lengthof(types), types);
		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	}
	if (SPI_execute_plan(plan, values, NULL, false, 0) != SPI_OK_INSERT_RETURNING)
		elog(ERROR, "insertion into queue.inbox failed");

	*n = SPI_processed;
	result = MemoryContextAlloc(caller, sizeof(Origin) * Max(*n, 1));
	for (uint64 i = 0; i < *n; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		bool		isnull;

		result[i].id = DatumGetInt64(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &isnull));
		result[i].enqueued_at =
			DatumGetTimestampTz(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 2, &isnull));
		result[i].taken = false;
	}
	SPI_finish();
	owner_end(&caller_rights);
	table_close(inbox, NoLock);
	qsort(result, *n, sizeof(Origin), compare_origins);
	return result;
}

/* Fill in a column of a message. */
static void
set_column(Datum *values, bool *isnull, int column, Datum value, bool null)
{
	values[column - 1] = value;
	isnull[column - 1] = null;
}

Datum
queue_relay_accept(PG_FUNCTION_ARGS)
{
	Queue	   *queue;
	Oid			relid;
	Origin	   *fresh;
	uint64		nfresh;
	int			n;
	int			nsent = 0;
	int64	   *ids;
	Datum	   *columns[NARGS];
	bool	   *nulls[NARGS];
	Datum		(*values)[Natts_message];
	bool		(*isnull)[Natts_message];

	PreventCommandIfReadOnly("queue.relay_accept()");
	PreventCommandIfParallelMode("queue.relay_accept()");
	for (int i = 0; i < NARGS; i++)
	{
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s of queue.relay_accept() must not be null", argument_names[i])));
	}
	queue = queue_by_name(PG_GETARG_TEXT_PP(ARG_QUEUE), ACL_INSERT);
	relid = queue->relid;
	queue_lock(relid, NameStr(queue->name), RowExclusiveLock);

	n = elements(fcinfo, ARG_IDS, INT8OID, -1, &columns[ARG_IDS], &nulls[ARG_IDS]);
	elements(fcinfo, ARG_ENQUEUED_ATS, TIMESTAMPTZOID, n, &columns[ARG_ENQUEUED_ATS],
			 &nulls[ARG_ENQUEUED_ATS]);
	elements(fcinfo, ARG_PAYLOADS, JSONBOID, n, &columns[ARG_PAYLOADS], &nulls[ARG_PAYLOADS]);
	elements(fcinfo, ARG_BODIES, BYTEAOID, n, &columns[ARG_BODIES], &nulls[ARG_BODIES]);
	elements(fcinfo, ARG_KEYS, TEXTOID, n, &columns[ARG_KEYS], &nulls[ARG_KEYS]);
	elements(fcinfo, ARG_HEADERS, JSONBOID, n, &columns[ARG_HEADERS], &nulls[ARG_HEADERS]);
	for (int i = 0; i < n; i++)
	{
		if (nulls[ARG_IDS][i] || nulls[ARG_ENQUEUED_ATS][i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("ids and enqueued_ats must not contain nulls")));
		if (nulls[ARG_PAYLOADS][i] == nulls[ARG_BODIES][i])
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("a message must have either a payload or a body")));
		if (!nulls[ARG_HEADERS][i] && !JB_ROOT_IS_OBJECT(DatumGetJsonbP(columns[ARG_HEADERS][i])))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("headers must be a JSON object")));
	}

	fresh = enter(fcinfo, relid, &nfresh);
	if (nfresh == 0)
		PG_RETURN_INT32(0);

	/* Looked up again: SPI may have had it invalidated. */
	queue = queue_by_relid(relid);
	if (queue == NULL)
		queue_missing(text_to_cstring(PG_GETARG_TEXT_PP(ARG_QUEUE)));
	ids = palloc(sizeof(int64) * nfresh);
	identity_allocate(queue, nfresh, ids);
	values = palloc0(sizeof(*values) * nfresh);
	isnull = palloc(sizeof(*isnull) * nfresh);
	memset(isnull, true, sizeof(*isnull) * nfresh);
	for (int i = 0; i < n; i++)
	{
		Origin		origin;
		Origin	   *found;

		origin.id = DatumGetInt64(columns[ARG_IDS][i]);
		origin.enqueued_at = DatumGetTimestampTz(columns[ARG_ENQUEUED_ATS][i]);
		found = bsearch(&origin, fresh, nfresh, sizeof(Origin), compare_origins);
		if (found == NULL || found->taken)
			continue;
		found->taken = true;

		set_column(values[nsent], isnull[nsent], Anum_message_id, Int64GetDatum(ids[nsent]), false);
		set_column(values[nsent], isnull[nsent], Anum_message_payload,
				   columns[ARG_PAYLOADS][i], nulls[ARG_PAYLOADS][i]);
		set_column(values[nsent], isnull[nsent], Anum_message_body,
				   columns[ARG_BODIES][i], nulls[ARG_BODIES][i]);
		set_column(values[nsent], isnull[nsent], Anum_message_key,
				   columns[ARG_KEYS][i], nulls[ARG_KEYS][i]);
		set_column(values[nsent], isnull[nsent], Anum_message_headers,
				   columns[ARG_HEADERS][i], nulls[ARG_HEADERS][i]);
		nsent++;
	}
	segment_insert_batch(queue, nsent, values, isnull);
	PG_RETURN_INT32(nsent);
}
