/*
 * send.c
 *		Send messages: the functions, and the triggers of the queues' tables.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "compat.h"
#include "duration.h"
#include "engine/deferred.h"
#include "engine/ids.h"
#include "engine/registry.h"
#include "engine/segment.h"
#include "engine/wake.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(queue_send);
PG_FUNCTION_INFO_V1(queue_send_bytes);
PG_FUNCTION_INFO_V1(queue_send_batch);
PG_FUNCTION_INFO_V1(queue_before_insert);
PG_FUNCTION_INFO_V1(queue_after_insert);

/* Raise an error unless headers are an object. */
static void
check_headers(Datum headers)
{
	Jsonb	   *jb = DatumGetJsonbP(headers);

	if (!JB_ROOT_IS_OBJECT(jb))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("headers must be a JSON object"),
				 errdetail("They are %s.", JsonbToCString(NULL, &jb->root, VARSIZE(jb)))));
}

static void
null_argument(const char *function, const char *argument)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("%s of %s must not be null", argument, function)));
}

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

/* Put messages where they wait for their time. */
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

	/* This locks the queue too: whoever drops or purges it must see our rows. */
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
		check_headers(PG_GETARG_DATUM(3));
	if (!PG_ARGISNULL(4))
		delay = duration_microseconds("delay", PG_GETARG_INTERVAL_P(4), 0);

	queue = queue_by_name(PG_GETARG_TEXT_PP(0), ACL_INSERT);
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
		Datum		(*values)[Natts_message];
		bool		(*isnull)[Natts_message];
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
		values = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(*values) * (Size) Max(n, 1));
		isnull = palloc(sizeof(*isnull) * Max(n, 1));
		for (int i = 0; i < n; i++)
		{
			if (payloads[i].isnull)
				ereport(ERROR,
						(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						 errmsg("payloads of %s must not contain nulls", function),
						 errdetail("Element %d is null.", i + 1)));
			if (!headers[i].isnull)
				check_headers(headers[i].value);
		}

		funcctx = SRF_FIRSTCALL_INIT();
		funcctx->max_calls = n;
		ids = MemoryContextAllocHuge(funcctx->multi_call_memory_ctx, sizeof(int64) * (Size) Max(n, 1));
		funcctx->user_fctx = ids;
		if (n > 0)
			identity_allocate(queue, n, ids);
		for (int i = 0; i < n; i++)
			message_columns(values[i], isnull[i], ids[i], Anum_message_payload,
							payloads[i], keys[i], headers[i]);
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

/* The queue a trigger was fired for; an error if it is called otherwise. */
static Queue *
trigger_queue(FunctionCallInfo fcinfo, TriggerEvent timing)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	Queue	   *queue = NULL;

	if (CALLED_AS_TRIGGER(fcinfo) && TRIGGER_FIRED_FOR_ROW(trigger->tg_event) &&
		TRIGGER_FIRED_BY_INSERT(trigger->tg_event) &&
		(trigger->tg_event & TRIGGER_EVENT_TIMINGMASK) == timing)
		queue = queue_by_relid(RelationGetRelid(trigger->tg_relation));
	if (queue == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("this function can only be called by the triggers of a queue")));

	/* Before anything of the row is read. */
	segment_check_columns(trigger->tg_relation);
	return queue;
}

/* BEFORE INSERT on a queue's table: give the row what only we can. */
Datum
queue_before_insert(PG_FUNCTION_ARGS)
{
	Queue	   *queue = trigger_queue(fcinfo, TRIGGER_EVENT_BEFORE);
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	TupleDesc	desc = RelationGetDescr(trigger->tg_relation);
	int			columns[2] = {Anum_message_id, Anum_message_enqueued_at};
	Datum		values[2];
	bool		isnull[2] = {false, false};
	bool		null;
	Datum		headers;
	Datum		given;
	int64		id;

	given = heap_getattr(trigger->tg_trigtuple, Anum_message_id, desc, &null);
	if (!null)
		ereport(ERROR,
				(errcode(ERRCODE_GENERATED_ALWAYS),
				 errmsg("cannot insert a value into column \"id\" of queue \"%s\"", NameStr(queue->name)),
				 errdetail("The value is " INT64_FORMAT ".", DatumGetInt64(given)),
				 errhint("Leave the column out: messages get their ids from the queue.")));
	headers = heap_getattr(trigger->tg_trigtuple, Anum_message_headers, desc, &null);
	if (!null)
		check_headers(headers);

	identity_allocate(queue, 1, &id);
	values[0] = Int64GetDatum(id);
	values[1] = heap_getattr(trigger->tg_trigtuple, Anum_message_enqueued_at, desc, &null);
	if (null)
		values[1] = TimestampTzGetDatum(GetCurrentTimestamp());
	return PointerGetDatum(heap_modify_tuple_by_cols(trigger->tg_trigtuple, desc,
													 2, columns, values, isnull));
}

/* AFTER INSERT on a queue's table: the engine must know where the row lies. */
Datum
queue_after_insert(PG_FUNCTION_ARGS)
{
	Queue	   *queue = trigger_queue(fcinfo, TRIGGER_EVENT_AFTER);
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	ItemPointer tid = &trigger->tg_trigslot->tts_tid;
	SegmentPlace place = MakePlace(ItemPointerGetBlockNumber(tid),
								   ItemPointerGetOffsetNumber(tid));
	bool		isnull;
	Datum		id = slot_getattr(trigger->tg_trigslot, Anum_message_id, &isnull);

	segment_appended(queue->shared, segment_number(queue->shared, queue->relid),
					 place, place, DatumGetInt64(id));
	wake_at_commit(queue->shared, 1);
	return PointerGetDatum(NULL);
}
