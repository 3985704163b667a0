/*
 * send.c
 *		Send messages: send, send_bytes and send_batch.
 */
#include "postgres.h"

#include "access/xact.h"
#include "argument.h"
#include "compat.h"
#include "engine/commit.h"
#include "engine/deferred.h"
#include "engine/insert.h"
#include "engine/registry.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(queue_send);
PG_FUNCTION_INFO_V1(queue_send_bytes);
PG_FUNCTION_INFO_V1(queue_send_batch);

static const NullableDatum absent = {.isnull = true};

/* Insert messages with a delay, in microseconds, into queue.deferred. */
static void
send_later(Queue *queue, int n, Message *messages, int64 delay)
{
	TimestampTz now = GetCurrentTimestamp();

	for (int i = 0; i < n; i++)
		messages[i].enqueued_at = now;

	/* This locks the queue too, so that who drops or purges it sees the rows. */
	insert_check(queue, n, messages);

	/* Looked up again, as alter() may have been waited for. */
	queue = queue_by_relid(queue->relid);
	if (queue == NULL)
		elog(ERROR, "could not find the queue of the messages");
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		deferred_insert(queue, &messages[i], now + delay, 0, NULL, NULL);
	}
	commit_delayed(queue->shared, n);
}

/* queue.send and queue.send_bytes: (queue, contents, key, headers, delay). */
static Datum
send_one(FunctionCallInfo fcinfo, const char *function, const char *contents_name, bool bytes)
{
	Message		message;
	text	   *name;
	int64		delay;
	int64		id;
	bool		ordered;
	Queue	   *queue;

	PreventCommandIfReadOnly(function);
	PreventCommandIfParallelMode(function);
	name = argument_text(fcinfo, 0, "queue");
	argument_required(fcinfo, 1, contents_name);
	if (!PG_ARGISNULL(3))
		argument_headers(PG_GETARG_DATUM(3));
	delay = argument_duration(fcinfo, 4, "delay", 0, 0);

	queue = queue_by_name(name, ACL_INSERT);
	ordered = insert_lock_order(queue);
	queue_allocate_ids(queue, 1, &id);
	message_set(&message, id, fcinfo->args[2], fcinfo->args[3],
				bytes ? absent : fcinfo->args[1], bytes ? fcinfo->args[1] : absent);
	if (delay == 0)
		insert_message(queue, &message);
	else
		send_later(queue, 1, &message, delay);
	insert_unlock_order(queue, ordered);
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
		Message    *messages;
		int64	   *ids;
		int64		delay;
		int			n;
		bool		ordered;
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
		messages = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(Message) * (Size) Max(n, 1));
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
		ordered = insert_lock_order(queue);
		if (n > 0)
			queue_allocate_ids(queue, n, ids);
		for (int i = 0; i < n; i++)
			message_set(&messages[i], ids[i], argument_element(&keys, i),
						argument_element(&headers, i), argument_element(&payloads, i), absent);
		if (n > 0 && delay == 0)
			insert_batch(queue, n, messages);
		else if (n > 0)
			send_later(queue, n, messages, delay);
		insert_unlock_order(queue, ordered);
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
