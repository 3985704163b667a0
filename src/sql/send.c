/*
 * send.c
 *		Send messages: send, send_bytes, send_once and send_batch.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "argument.h"
#include "compat.h"
#include "engine/commit.h"
#include "engine/dedup.h"
#include "engine/deferred.h"
#include "engine/insert.h"
#include "engine/registry.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(queue_send);
PG_FUNCTION_INFO_V1(queue_send_bytes);
PG_FUNCTION_INFO_V1(queue_send_once);
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

/* What a message is sent with, by the number of its argument. */
typedef struct SendArguments
{
	int			contents;
	const char *contents_name;
	bool		bytes;
	int			key;
	int			headers;
	int			delay;
	int			dedup_key;
	int			dedup_wait;
} SendArguments;

static const SendArguments send_arguments = {
	.contents = 1,.contents_name = "payload",.key = 2,.headers = 3,.delay = 4,
	.dedup_key = 5,.dedup_wait = 6
};
static const SendArguments send_bytes_arguments = {
	.contents = 1,.contents_name = "body",.bytes = true,.key = 2,.headers = 3,.delay = 4,
	.dedup_key = 5,.dedup_wait = 6
};
static const SendArguments send_once_arguments = {
	.dedup_key = 1,.contents = 2,.contents_name = "payload",.key = 3,.headers = 4,.delay = 5,
	.dedup_wait = 6
};

/*
 * Give a message its id, and enter its dedup key if it has one.  True if it
 * was sent before: then it has the id of the first, and is not to be sent.
 * *ordered is what insert_lock_order has returned; nothing is locked that way
 * while another transaction is waited for.
 */
static bool
give_id(Queue *queue, Message *message, NullableDatum dedup_key, bool wait, bool *ordered)
{
	BucketEntry entry;
	bool		recognised = dedup_entry(queue, dedup_key, message, &entry);

	for (;;)
	{
		Dedup	   *dedup;
		DedupOutcome outcome;
		TransactionId xid;

		*ordered = insert_lock_order(queue);
		queue_allocate_ids(queue, 1, &message->id);
		if (likely(!recognised))
			return false;
		entry.id = message->id;
		dedup = dedup_begin(queue);
		outcome = dedup_enter(dedup, &entry, &message->id, &xid);
		dedup_end(dedup);
		if (outcome != DEDUP_IN_PROGRESS)
			return outcome == DEDUP_DUPLICATE;
		insert_unlock_order(queue, *ordered);
		dedup_await(queue, &entry, xid, wait);
	}
}

/* Send one message; *duplicate says whether it was sent before. */
static int64
send_one(FunctionCallInfo fcinfo, const char *function, const SendArguments *a, bool *duplicate)
{
	Message		message;
	text	   *name;
	int64		delay;
	bool		ordered;
	Queue	   *queue;

	PreventCommandIfReadOnly(function);
	PreventCommandIfParallelMode(function);
	name = argument_text(fcinfo, 0, "queue");
	argument_required(fcinfo, a->contents, a->contents_name);
	if (!PG_ARGISNULL(a->headers))
		argument_headers(PG_GETARG_DATUM(a->headers));
	delay = argument_duration(fcinfo, a->delay, "delay", 0, 0);
	argument_required(fcinfo, a->dedup_wait, "dedup_wait");

	queue = queue_by_name(name, ACL_INSERT);
	message_set(&message, 0, fcinfo->args[a->key], fcinfo->args[a->headers],
				a->bytes ? absent : fcinfo->args[a->contents],
				a->bytes ? fcinfo->args[a->contents] : absent);
	*duplicate = give_id(queue, &message, fcinfo->args[a->dedup_key], PG_GETARG_BOOL(a->dedup_wait),
						 &ordered);
	if (*duplicate)
	{
		insert_unlock_order(queue, ordered);
		return message.id;
	}
	if (delay == 0)
		insert_message(queue, &message);
	else
		send_later(queue, 1, &message, delay);
	insert_unlock_order(queue, ordered);
	return message.id;
}

Datum
queue_send(PG_FUNCTION_ARGS)
{
	bool		duplicate;

	PG_RETURN_INT64(send_one(fcinfo, "queue.send()", &send_arguments, &duplicate));
}

Datum
queue_send_bytes(PG_FUNCTION_ARGS)
{
	bool		duplicate;

	PG_RETURN_INT64(send_one(fcinfo, "queue.send_bytes()", &send_bytes_arguments, &duplicate));
}

/* Returns (id, duplicate). */
Datum
queue_send_once(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[2];
	bool		isnull[2] = {false};
	bool		duplicate;

	argument_required(fcinfo, send_once_arguments.dedup_key, "dedup_key");
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "queue.send_once() must return a row");
	values[0] = Int64GetDatum(send_one(fcinfo, "queue.send_once()", &send_once_arguments, &duplicate));
	values[1] = BoolGetDatum(duplicate);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, isnull)));
}

/* A message of a batch that has a dedup key. */
typedef struct BatchEntry
{
	BucketEntry entry;
	int			number;			/* of the message */
} BatchEntry;

/*
 * In order of their hashes, so that two batches with the same keys rarely wait
 * for each other, and of equal keys the first message first.
 */
static int
compare_entries(const void *a, const void *b)
{
	const BatchEntry *x = a;
	const BatchEntry *y = b;

	if (x->entry.hash != y->entry.hash)
		return x->entry.hash < y->entry.hash ? -1 : 1;
	return (x->number > y->number) - (x->number < y->number);
}

/*
 * Enter the dedup keys of a batch from one on; drop is set for messages that
 * were sent before, and they get that id.  Returns the number of the first one
 * that another transaction, *xid, is using, or n.
 */
static int
enter_keys(Queue *queue, int i, int n, BatchEntry *entries, int64 *ids, bool *drop,
		   TransactionId *xid)
{
	Dedup	   *dedup = dedup_begin(queue);

	for (; i < n; i++)
	{
		int			number = entries[i].number;
		DedupOutcome outcome;

		CHECK_FOR_INTERRUPTS();
		entries[i].entry.id = ids[number];
		outcome = dedup_enter(dedup, &entries[i].entry, &ids[number], xid);
		if (outcome == DEDUP_IN_PROGRESS)
			break;
		drop[number] = (outcome == DEDUP_DUPLICATE);
	}
	dedup_end(dedup);
	return i;
}

/* The same from the first on; nothing stays entered unless all is. */
static int
enter_all_keys(Queue *queue, int n, BatchEntry *entries, int64 *ids, bool *drop,
			   TransactionId *xid)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	int			stopped;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		stopped = enter_keys(queue, 0, n, entries, ids, drop, xid);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		ReThrowError(error);
	}
	PG_END_TRY();
	if (stopped == n)
		ReleaseCurrentSubTransaction();
	else
		RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return stopped;
}

/*
 * Enter the dedup keys of a batch, and wait for transactions that are using
 * one.  In an ordered queue others send meanwhile: all messages have new ids
 * then, so that ids ascend as places do.
 */
static void
enter_batch(Queue *queue, int n, BatchEntry *entries, int nmessages, Message *messages,
			int64 *ids, bool *drop, bool wait, bool *ordered)
{
	bool		in_order = *ordered;
	int			i = 0;

	qsort(entries, n, sizeof(BatchEntry), compare_entries);
	for (;;)
	{
		TransactionId xid;

		if (in_order)
			i = enter_all_keys(queue, n, entries, ids, drop, &xid);
		else
			i = enter_keys(queue, i, n, entries, ids, drop, &xid);
		if (i == n)
			return;

		if (in_order)
			insert_unlock_order(queue, *ordered);
		dedup_await(queue, &entries[i].entry, xid, wait);
		if (in_order)
		{
			*ordered = insert_lock_order(queue);
			queue_allocate_ids(queue, nmessages, ids);
			for (int j = 0; j < nmessages; j++)
				messages[j].id = ids[j];
		}
	}
}

/*
 * Enter the dedup keys of messages that have their ids, and drop those that
 * were sent before; returns how many are left.
 */
static int
drop_duplicates(Queue *queue, int n, Message *messages, const ArgumentArray *dedup_keys, int64 *ids,
				bool wait, bool *ordered)
{
	BatchEntry *entries;
	bool	   *drop;
	int			nentries = 0;
	int			kept = 0;

	if (likely(dedup_keys->values == NULL && queue->settings.dedup != DEDUP_CONTENT))
		return n;
	entries = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(BatchEntry) * (Size) n);
	drop = palloc0(n);
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (dedup_entry(queue, argument_element(dedup_keys, i), &messages[i],
						&entries[nentries].entry))
			entries[nentries++].number = i;
	}
	enter_batch(queue, nentries, entries, n, messages, ids, drop, wait, ordered);
	for (int i = 0; i < n; i++)
	{
		if (!drop[i])
			messages[kept++] = messages[i];
	}
	pfree(drop);
	pfree(entries);
	return kept;
}

/*
 * queue.send_batch: (queue, payloads, keys, headers, delay, dedup_keys,
 * dedup_wait).  The ids come back one call at a time, which is cheaper here
 * than a tuplestore.
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
		ArgumentArray dedup_keys;
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
		argument_required(fcinfo, 6, "dedup_wait");
		queue = queue_by_name(name, ACL_INSERT);

		argument_array(fcinfo, 1, "payloads", NULL, &payloads);
		argument_array(fcinfo, 2, "keys", &payloads, &keys);
		argument_array(fcinfo, 3, "headers", &payloads, &headers);
		argument_array(fcinfo, 5, "dedup_keys", &payloads, &dedup_keys);
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
		if (n > 0)
			n = drop_duplicates(queue, n, messages, &dedup_keys, ids, PG_GETARG_BOOL(6),
								&ordered);
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
