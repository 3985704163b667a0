/*
 * send.c
 *		Send messages: send, send_bytes and send_batch.
 */
#include "postgres.h"

#include "access/xact.h"
#include "argument.h"
#include "catalog/pg_type.h"
#include "duration.h"
#include "engine/deferred.h"
#include "engine/ids.h"
#include "engine/registry.h"
#include "engine/segment.h"
#include "engine/wake.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(queue_send);
PG_FUNCTION_INFO_V1(queue_send_bytes);
PG_FUNCTION_INFO_V1(queue_send_batch);

static void
null_argument(const char *function, const char *argument)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("%s of %s must not be null", argument, function)));
}

/*
 * A message but for the time of its sending; contents is the payload or the
 * body.
 */
static void
set_message(Message *message, int64 id, bool bytes, NullableDatum contents,
			NullableDatum key, NullableDatum headers)
{
	memset(message, 0, sizeof(Message));
	message->id = id;
	message->expires_at = DT_NOEND;
	if (!key.isnull)
		message->key = (text *) PG_DETOAST_DATUM_PACKED(key.value);
	if (!headers.isnull)
		message->headers = (struct varlena *) DatumGetPointer(headers.value);
	if (bytes)
		message->body = (bytea *) DatumGetPointer(contents.value);
	else
		message->payload = (struct varlena *) DatumGetPointer(contents.value);
}

/* Put messages where they wait for their time. */
static void
send_later(Queue *queue, int n, Message *messages, int64 delay)
{
	TimestampTz now = GetCurrentTimestamp();

	for (int i = 0; i < n; i++)
		messages[i].enqueued_at = now;

	/* This locks the queue too: whoever drops or purges it must see our rows. */
	segment_check_messages(queue, n, messages);
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		deferred_insert(queue, &messages[i], now + delay, 0, NULL, NULL);
	}
	wake_delayed_at_commit(queue->shared, n);
}

/* queue.send and queue.send_bytes: (queue, contents, key, headers, delay). */
static Datum
send_one(FunctionCallInfo fcinfo, const char *function, const char *contents_name, bool bytes)
{
	Message		message;
	int64		delay = 0;
	int64		id;
	Queue	   *queue;

	PreventCommandIfReadOnly(function);
	PreventCommandIfParallelMode(function);
	if (PG_ARGISNULL(0))
		null_argument(function, "queue");
	if (PG_ARGISNULL(1))
		null_argument(function, contents_name);
	if (!PG_ARGISNULL(3))
		argument_headers(PG_GETARG_DATUM(3));
	if (!PG_ARGISNULL(4))
		delay = duration_microseconds("delay", PG_GETARG_INTERVAL_P(4), 0);

	queue = queue_by_name(PG_GETARG_TEXT_PP(0), ACL_INSERT);
	identity_allocate(queue, 1, &id);
	set_message(&message, id, bytes, fcinfo->args[1], fcinfo->args[2], fcinfo->args[3]);
	if (delay == 0)
		segment_insert(queue, &message);
	else
		send_later(queue, 1, &message, delay);
	return Int64GetDatum(id);
}

Datum
queue_send(PG_FUNCTION_ARGS)
{
	return send_one(fcinfo, "queue.send()", "payload", false);
}

Datum
queue_send_bytes(PG_FUNCTION_ARGS)
{
	return send_one(fcinfo, "queue.send_bytes()", "body", true);
}

/*
 * The elements of an optional array argument, all null if it is; it must
 * have n elements.
 */
static NullableDatum *
optional_elements(FunctionCallInfo fcinfo, int argno, const char *name, Oid type, int n)
{
	NullableDatum *result = palloc(sizeof(NullableDatum) * n);
	Datum	   *values;
	bool	   *isnull;
	int			nvalues;

	if (PG_ARGISNULL(argno))
	{
		for (int i = 0; i < n; i++)
			result[i].isnull = true;
		return result;
	}
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(argno), type, -1, false, TYPALIGN_INT,
					  &values, &isnull, &nvalues);
	if (nvalues != n)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("%s must have as many elements as payloads", name),
				 errdetail("%s has %d elements, payloads has %d.", name, nvalues, n)));
	for (int i = 0; i < n; i++)
	{
		result[i].value = values[i];
		result[i].isnull = isnull[i];
	}
	return result;
}

/*
 * queue.send_batch: (queue, payloads, keys, headers, delay).  The ids come
 * back one call at a time, which is cheaper here than a tuplestore.
 */
Datum
queue_send_batch(PG_FUNCTION_ARGS)
{
	static const char *const function = "queue.send_batch()";
	FuncCallContext *funcctx;

	if (SRF_IS_FIRSTCALL())
	{
		NullableDatum *payloads;
		NullableDatum *keys;
		NullableDatum *headers;
		Message    *messages;
		int64	   *ids;
		int64		delay = 0;
		int			n;
		Queue	   *queue;

		PreventCommandIfReadOnly(function);
		PreventCommandIfParallelMode(function);
		if (PG_ARGISNULL(0))
			null_argument(function, "queue");
		if (PG_ARGISNULL(1))
			null_argument(function, "payloads");
		if (!PG_ARGISNULL(4))
			delay = duration_microseconds("delay", PG_GETARG_INTERVAL_P(4), 0);
		queue = queue_by_name(PG_GETARG_TEXT_PP(0), ACL_INSERT);

		n = ArrayGetNItems(ARR_NDIM(PG_GETARG_ARRAYTYPE_P(1)), ARR_DIMS(PG_GETARG_ARRAYTYPE_P(1)));
		payloads = optional_elements(fcinfo, 1, "payloads", JSONBOID, n);
		keys = optional_elements(fcinfo, 2, "keys", TEXTOID, n);
		headers = optional_elements(fcinfo, 3, "headers", JSONBOID, n);
		messages = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(Message) * (Size) Max(n, 1));
		for (int i = 0; i < n; i++)
		{
			if (payloads[i].isnull)
				ereport(ERROR,
						(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						 errmsg("payloads of %s must not contain nulls", function),
						 errdetail("Element %d is null.", i + 1)));
			if (!headers[i].isnull)
				argument_headers(headers[i].value);
		}

		funcctx = SRF_FIRSTCALL_INIT();
		funcctx->max_calls = n;
		ids = MemoryContextAllocHuge(funcctx->multi_call_memory_ctx, sizeof(int64) * (Size) Max(n, 1));
		funcctx->user_fctx = ids;
		if (n > 0)
			identity_allocate(queue, n, ids);
		for (int i = 0; i < n; i++)
			set_message(&messages[i], ids[i], false, payloads[i], keys[i], headers[i]);
		if (n > 0 && delay == 0)
			segment_insert_batch(queue, n, messages);
		else if (n > 0)
			send_later(queue, n, messages, delay);
	}

	funcctx = SRF_PERCALL_SETUP();
	if (funcctx->call_cntr < funcctx->max_calls)
	{
		/* Fetched here: SRF_RETURN_NEXT counts the call first. */
		int64		id = ((int64 *) funcctx->user_fctx)[funcctx->call_cntr];

		SRF_RETURN_NEXT(funcctx, Int64GetDatum(id));
	}
	SRF_RETURN_DONE(funcctx);
}
