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
#include "argument.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "engine/extension.h"
#include "engine/insert.h"
#include "engine/owner.h"
#include "engine/registry.h"
#include "engine/tables.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
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

	owner_begin_sql(inbox->rd_rel->relowner, &caller_rights);
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
	owner_end_sql(&caller_rights);
	table_close(inbox, NoLock);
	qsort(result, *n, sizeof(Origin), compare_origins);
	return result;
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
	bool		ordered;
	ArgumentArray columns[NARGS];
	Message    *messages;

	PreventCommandIfReadOnly("queue.relay_accept()");
	PreventCommandIfParallelMode("queue.relay_accept()");
	for (int i = 0; i < NARGS; i++)
		argument_required(fcinfo, i, argument_names[i]);
	queue = queue_by_name(PG_GETARG_TEXT_PP(ARG_QUEUE), ACL_INSERT);
	relid = queue->relid;
	queue_lock(relid, NameStr(queue->name), RowExclusiveLock);

	for (int i = ARG_IDS; i < NARGS; i++)
		argument_array(fcinfo, i, argument_names[i], i > ARG_IDS ? &columns[ARG_IDS] : NULL,
					   &columns[i]);
	argument_elements_required(&columns[ARG_IDS]);
	argument_elements_required(&columns[ARG_ENQUEUED_ATS]);
	n = columns[ARG_IDS].n;
	for (int i = 0; i < n; i++)
	{
		if (columns[ARG_PAYLOADS].isnull[i] == columns[ARG_BODIES].isnull[i])
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("a message must have either a payload or a body")));
		if (!columns[ARG_HEADERS].isnull[i])
			argument_headers(columns[ARG_HEADERS].values[i]);
	}

	fresh = enter(fcinfo, relid, &nfresh);
	if (nfresh == 0)
		PG_RETURN_INT32(0);

	/* Looked up again: SPI may have had it invalidated. */
	queue = queue_by_relid(relid);
	if (queue == NULL)
		queue_missing(text_to_cstring(PG_GETARG_TEXT_PP(ARG_QUEUE)));
	ids = palloc(sizeof(int64) * nfresh);
	ordered = insert_lock_order(queue);
	queue_allocate_ids(queue, nfresh, ids);
	messages = palloc0(sizeof(Message) * nfresh);
	for (int i = 0; i < n; i++)
	{
		Origin		origin;
		Origin	   *found;

		origin.id = DatumGetInt64(columns[ARG_IDS].values[i]);
		origin.enqueued_at = DatumGetTimestampTz(columns[ARG_ENQUEUED_ATS].values[i]);
		found = bsearch(&origin, fresh, nfresh, sizeof(Origin), compare_origins);
		if (found == NULL || found->taken)
			continue;
		found->taken = true;

		message_set(&messages[nsent], ids[nsent],
					argument_element(&columns[ARG_KEYS], i),
					argument_element(&columns[ARG_HEADERS], i),
					argument_element(&columns[ARG_PAYLOADS], i),
					argument_element(&columns[ARG_BODIES], i));
		nsent++;
	}
	insert_batch(queue, nsent, messages);
	insert_unlock_order(queue, ordered);
	PG_RETURN_INT32(nsent);
}
