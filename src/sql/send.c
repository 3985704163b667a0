/*
 * send.c
 *		Send messages: send, send_bytes and send_batch.
 */
#include "postgres.h"

#include "access/xact.h"
#include "argument.h"
#include "engine/deferred.h"
#include "engine/ids.h"
#include "engine/registry.h"
#include "engine/segment.h"
#include "engine/wake.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(queue_send);
PG_FUNCTION_INFO_V1(queue_send_bytes);
PG_FUNCTION_INFO_V1(queue_send_batch);

/*
 * Fill in a message's columns but the time of its sending; contents is the
 * payload or the body.
 */
static void
message_columns(Datum *values, bool *isnull, int64 id,
				int contents_column, NullableDatum contents,
				NullableDatum key, NullableDatum headers)
{
	memset(values, 0, sizeof(Datum) * Natts_message);
	memset(isnull, true, sizeof(bool) * Natts_message);
	values[Anum_message_id - 1] = Int64GetDatum(id);
	isnull[Anum_message_id - 1] = false;
	values[Anum_message_key - 1] = key.value;
	isnull[Anum_message_key - 1] = key.isnull;
	values[Anum_message_headers - 1] = headers.value;
	isnull[Anum_message_headers - 1] = headers.isnull;
	values[contents_column - 1] = contents.value;
	isnull[contents_column - 1] = contents.isnull;
}

/* Insert messages with a delay, in microseconds, into queue.deferred. */
static void
send_later(Queue *queue, int n, Datum (*values)[Natts_message],
		   bool (*isnull)[Natts_message], int64 delay)
{
	TimestampTz now = GetCurrentTimestamp();

	for (int i = 0; i < n; i++)
	{
		values[i][Anum_message_enqueued_at - 1] = TimestampTzGetDatum(now);
		isnull[i][Anum_message_enqueued_at - 1] = false;
	}

	/* This locks the queue too, so that who drops or purges it sees the rows. */
	segment_check_messages(queue, n, values, isnull);
	for (int i = 0; i < n; i++)
	{
		Message		message = {0};

		CHECK_FOR_INTERRUPTS();
#define VARLENA(column) \
	(isnull[i][(column) - 1] ? NULL : (void *) PG_DETOAST_DATUM(values[i][(column) - 1]))
		message.id = DatumGetInt64(values[i][Anum_message_id - 1]);
		message.enqueued_at = now;
		message.has_priority = !isnull[i][Anum_message_priority - 1];
		if (message.has_priority)
			message.priority = DatumGetInt16(values[i][Anum_message_priority - 1]);
		message.key = VARLENA(Anum_message_key);
		message.headers = VARLENA(Anum_message_headers);
		message.payload = VARLENA(Anum_message_payload);
		message.body = VARLENA(Anum_message_body);
#undef VARLENA
		deferred_insert(queue, &message, now + delay, 0, NULL, NULL);
	}
	wake_delayed_at_commit(queue->shared, n);
}

/* queue.send and queue.send_bytes: (queue, contents, key, headers, delay). */
static Datum
send_one(FunctionCallInfo fcinfo, const char *function, const char *contents_name,
		 int contents_column)
{
	Datum		values[1][Natts_message];
	bool		isnull[1][Natts_message];
	text	   *name;
	int64		delay;
	int64		id;
	Queue	   *queue;

	PreventCommandIfReadOnly(function);
	PreventCommandIfParallelMode(function);
	name = argument_text(fcinfo, 0, "queue");
	argument_required(fcinfo, 1, contents_name);
	if (!PG_ARGISNULL(3))
		argument_headers(PG_GETARG_DATUM(3));
	delay = argument_duration(fcinfo, 4, "delay", 0, 0);

	queue = queue_by_name(name, ACL_INSERT);
	identity_allocate(queue, 1, &id);
	message_columns(values[0], isnull[0], id, contents_column,
					fcinfo->args[1], fcinfo->args[2], fcinfo->args[3]);
	if (delay == 0)
		segment_insert(queue, values[0], isnull[0]);
	else
		send_later(queue, 1, values, isnull, delay);
	return Int64GetDatum(id);
}

Datum
queue_send(PG_FUNCTION_ARGS)
{
	return send_one(fcinfo, "queue.send()", "payload", Anum_message_payload);
}

Datum
queue_send_bytes(PG_FUNCTION_ARGS)
{
	return send_one(fcinfo, "queue.send_bytes()", "body", Anum_message_body);
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
		text	   *name;
		ArgumentArray payloads;
		ArgumentArray keys;
		ArgumentArray headers;
		Datum		(*values)[Natts_message];
		bool		(*isnull)[Natts_message];
		int64	   *ids;
		int64		delay;
		int			n;
		Queue	   *queue;

		PreventCommandIfReadOnly(function);
		PreventCommandIfParallelMode(function);
		name = argument_text(fcinfo, 0, "queue");
		argument_required(fcinfo, 1, "payloads");
		delay = argument_duration(fcinfo, 4, "delay", 0, 0);
		queue = queue_by_name(name, ACL_INSERT);

		argument_array(fcinfo, 1, "payloads", NULL, &payloads);
		argument_array(fcinfo, 2, "keys", &payloads, &keys);
		argument_array(fcinfo, 3, "headers", &payloads, &headers);
		argument_elements_required(&payloads);
		n = payloads.n;
		values = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(*values) * (Size) Max(n, 1));
		isnull = palloc(sizeof(*isnull) * Max(n, 1));
		for (int i = 0; i < n; i++)
		{
			NullableDatum element = argument_element(&headers, i);

			if (!element.isnull)
				argument_headers(element.value);
		}

		funcctx = SRF_FIRSTCALL_INIT();
		funcctx->max_calls = n;
		ids = MemoryContextAllocHuge(funcctx->multi_call_memory_ctx, sizeof(int64) * (Size) Max(n, 1));
		funcctx->user_fctx = ids;
		if (n > 0)
			identity_allocate(queue, n, ids);
		for (int i = 0; i < n; i++)
			message_columns(values[i], isnull[i], ids[i], Anum_message_payload,
							argument_element(&payloads, i), argument_element(&keys, i),
							argument_element(&headers, i));
		if (n > 0 && delay == 0)
			segment_insert_batch(queue, n, values, isnull);
		else if (n > 0)
			send_later(queue, n, values, isnull, delay);
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
