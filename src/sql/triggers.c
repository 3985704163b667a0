/*
 * triggers.c
 *		The triggers of the queues' tables: rows that plain SQL inserts.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "argument.h"
#include "commands/trigger.h"
#include "compat.h"
#include "engine/commit.h"
#include "engine/reader.h"
#include "engine/registry.h"
#include "engine/segment.h"
#include "engine/tables.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "message.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(queue_before_insert);
PG_FUNCTION_INFO_V1(queue_after_insert);

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
	table_check_columns(trigger->tg_relation);
	return queue;
}

/* Raise an error if an INSERT gives a value that only the queue can know. */
static void
refuse_given(Queue *queue, HeapTuple row, TupleDesc desc, AttrNumber column)
{
	bool		isnull;
	Datum		given = heap_getattr(row, column, desc, &isnull);
	const char *name = NameStr(TupleDescAttr(desc, column - 1)->attname);

	if (!isnull)
		ereport(ERROR,
				(errcode(ERRCODE_GENERATED_ALWAYS),
				 errmsg("cannot insert a value into column \"%s\" of queue \"%s\"",
						name, NameStr(queue->name)),
				 errdetail("The value is " INT64_FORMAT ".", DatumGetInt64(given)),
				 errhint("Leave the column out: messages get it from the queue.")));
}

/* BEFORE INSERT on a queue's table: give the row its id, and check it. */
Datum
queue_before_insert(PG_FUNCTION_ARGS)
{
	Queue	   *queue = trigger_queue(fcinfo, TRIGGER_EVENT_BEFORE);
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	TupleDesc	desc = RelationGetDescr(trigger->tg_relation);
	HeapTuple	row = trigger->tg_trigtuple;
	int			columns[] = {Anum_message_id, Anum_message_enqueued_at, Anum_message_key_hash};
	Datum		values[lengthof(columns)];
	bool		isnull[lengthof(columns)] = {false};
	bool		null;
	Datum		value;
	int64		id;

	if (queue->settings.ordered)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot insert into ordered queue \"%s\" by INSERT or COPY", NameStr(queue->name)),
				 errdetail("Rows that SQL inserts have no place in the order of its messages."),
				 errhint("Use queue.send().")));
	if (queue->settings.dedup == DEDUP_CONTENT)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot insert into queue \"%s\", which recognises messages by their content",
						NameStr(queue->name)),
				 errhint("Send with queue.send().")));
	refuse_given(queue, row, desc, Anum_message_id);
	refuse_given(queue, row, desc, Anum_message_key_hash);
	value = heap_getattr(row, Anum_message_headers, desc, &null);
	if (!null)
		argument_headers(value);

	queue_allocate_ids(queue, 1, &id);
	values[0] = Int64GetDatum(id);
	values[1] = heap_getattr(row, Anum_message_enqueued_at, desc, &null);
	if (null)
		values[1] = TimestampTzGetDatum(GetCurrentTimestamp());
	value = heap_getattr(row, Anum_message_key, desc, &isnull[2]);
	if (!isnull[2])
		values[2] = Int64GetDatum(message_key_hash(DatumGetTextPP(value)));
	return PointerGetDatum(heap_modify_tuple_by_cols(row, desc, lengthof(columns),
													 columns, values, isnull));
}

/* AFTER INSERT on a queue's table: the engine must know where the row lies. */
Datum
queue_after_insert(PG_FUNCTION_ARGS)
{
	Queue	   *queue = trigger_queue(fcinfo, TRIGGER_EVENT_AFTER);
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	ItemPointer tid = &trigger->tg_trigslot->tts_tid;
	SegmentPlace place = place_of_tid(tid);
	bool		isnull;
	Datum		id = slot_getattr(trigger->tg_trigslot, Anum_message_id, &isnull);

	reader_appended(queue->shared, segment_number(queue->shared, queue->relid),
					place, place, DatumGetInt64(id));
	commit_sent(queue->shared, 1);
	return PointerGetDatum(NULL);
}
