/*
 * message.c
 *		Messages: what there is to know of one, and how it is stored.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "compat.h"
#include "guard.h"
#include "message.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

const MessageColumns message_columns = {
	.id = Anum_message_id,
	.enqueued_at = Anum_message_enqueued_at,
	.key_hash = Anum_message_key_hash,
	.expires_at = Anum_message_expires_at,
	.priority = Anum_message_priority,
	.key = Anum_message_key,
	.headers = Anum_message_headers,
	.payload = Anum_message_payload,
	.body = Anum_message_body
};

int64
message_key_hash(const text *key)
{
	text	   *plain = (text *) PG_DETOAST_DATUM_PACKED(PointerGetDatum(key));
	uint64		hash = hash_bytes_extended((unsigned char *) VARDATA_ANY(plain),
										   VARSIZE_ANY_EXHDR(plain), 0);

	if (plain != key)
		pfree(plain);
	return (int64) hash;
}

static inline void *
pointer_or_null(NullableDatum value)
{
	return value.isnull ? NULL : DatumGetPointer(value.value);
}

void
message_set(Message *message, int64 id, NullableDatum key, NullableDatum headers,
			NullableDatum payload, NullableDatum body)
{
	memset(message, 0, sizeof(Message));
	message->id = id;
	message->expires_at = DT_NOEND;
	message->key = pointer_or_null(key);
	message->headers = pointer_or_null(headers);
	message->payload = pointer_or_null(payload);
	message->body = pointer_or_null(body);
}

/*
 * Storing
 */

static void
set_value(Datum *values, bool *isnull, AttrNumber column, Datum value, bool null)
{
	if (column == 0)
		return;
	values[column - 1] = value;
	isnull[column - 1] = null;
}

static void
set_varlena(Datum *values, bool *isnull, AttrNumber column, const void *value)
{
	set_value(values, isnull, column, PointerGetDatum(value), value == NULL);
}

void
message_fill(const MessageColumns *columns, const Message *message, Datum *values, bool *isnull)
{
	set_value(values, isnull, columns->id, Int64GetDatum(message->id), false);
	set_value(values, isnull, columns->enqueued_at,
			  TimestampTzGetDatum(message->enqueued_at), false);
	if (columns->key_hash != 0 && message->key != NULL)
		set_value(values, isnull, columns->key_hash,
				  Int64GetDatum(message_key_hash(message->key)), false);
	else
		set_value(values, isnull, columns->key_hash, (Datum) 0, true);
	set_value(values, isnull, columns->expires_at, TimestampTzGetDatum(message->expires_at),
			  TIMESTAMP_IS_NOEND(message->expires_at));
	set_value(values, isnull, columns->priority, Int16GetDatum(message->priority),
			  !message->has_priority);
	set_varlena(values, isnull, columns->key, message->key);
	set_varlena(values, isnull, columns->headers, message->headers);
	set_varlena(values, isnull, columns->payload, message->payload);
	set_varlena(values, isnull, columns->body, message->body);
}

/* The shape of a row that ends before its body, for this backend's life. */
static TupleDesc
bodiless_shape(void)
{
	static const Oid types[Natts_message - 1] = {
		INT8OID, TIMESTAMPTZOID, INT8OID, TIMESTAMPTZOID, INT2OID, TEXTOID, JSONBOID, JSONBOID
	};
	static TupleDesc shape = NULL;

	if (unlikely(shape == NULL))
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
		TupleDesc	desc = CreateTemplateTupleDesc(lengthof(types));

		for (int i = 0; i < lengthof(types); i++)
			TupleDescInitEntry(desc, i + 1, NULL, types[i], -1, 0);
		FINALIZE_TUPLE_DESC(desc);
		MemoryContextSwitchTo(old);
		shape = desc;
	}
	return shape;
}

HeapTuple
message_form(TupleDesc desc, const Message *message)
{
	Datum		values[Natts_message];
	bool		isnull[Natts_message];
	Datum	   *all_values;
	bool	   *all_isnull;

	message_fill(&message_columns, message, values, isnull);
	if (likely(desc->natts == Natts_message))
	{
		/*
		 * What follows the last column of a row is NULL.  This saves 8 bytes
		 * of its header.
		 */
		if (message->body == NULL)
			desc = bodiless_shape();
		return heap_form_tuple(desc, values, isnull);
	}

	/*
	 * Spelt out, as an added column can have a value for rows that end before
	 * it.
	 */
	all_values = palloc0(desc->natts * sizeof(Datum));
	all_isnull = palloc(desc->natts * sizeof(bool));
	memset(all_isnull, true, desc->natts * sizeof(bool));
	memcpy(all_values, values, sizeof(values));
	memcpy(all_isnull, isnull, sizeof(isnull));
	return heap_form_tuple(desc, all_values, all_isnull);
}

/*
 * Reading
 */

/* A value being read. */
typedef struct Reading
{
	Datum		value;
	struct varlena *result;
} Reading;

static void
read_toasted(void *arg)
{
	Reading    *reading = arg;

	reading->result = PG_DETOAST_DATUM_COPY(reading->value);
}

/*
 * A varlena in full; what was stored plain stays in its tuple.  What cannot be
 * read, because its toast is gone or spoilt, sets *unreadable to the reason;
 * other errors are raised.
 */
static void *
read_value(const Datum *values, const bool *isnull, AttrNumber column, const char **unreadable)
{
	Reading		reading = {.value = values[column - 1]};
	ErrorData  *error;

	if (isnull[column - 1])
		return NULL;
	if (likely(!VARATT_IS_EXTERNAL(DatumGetPointer(reading.value)) &&
			   !VARATT_IS_COMPRESSED(DatumGetPointer(reading.value))))
		return PG_DETOAST_DATUM(reading.value);

	if (guard_run(read_toasted, &reading, &error))
		return reading.result;
	if (ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_INTERNAL_ERROR)
		ReThrowError(error);
	*unreadable = error->message;
	return NULL;
}

const char *
message_deform(const MessageColumns *columns, HeapTuple tuple, TupleDesc desc, Message *message)
{
	Datum		values[MaxHeapAttributeNumber];
	bool		isnull[MaxHeapAttributeNumber];
	const char *unreadable = NULL;

	heap_deform_tuple(tuple, desc, values, isnull);

	memset(message, 0, sizeof(Message));
	message->id = DatumGetInt64(values[columns->id - 1]);
	message->enqueued_at = DatumGetTimestampTz(values[columns->enqueued_at - 1]);
	message->expires_at = isnull[columns->expires_at - 1] ? DT_NOEND :
		DatumGetTimestampTz(values[columns->expires_at - 1]);
	message->has_priority = !isnull[columns->priority - 1];
	if (message->has_priority)
		message->priority = DatumGetInt16(values[columns->priority - 1]);
	message->key = read_value(values, isnull, columns->key, &unreadable);
	message->headers = read_value(values, isnull, columns->headers, &unreadable);
	message->payload = read_value(values, isnull, columns->payload, &unreadable);
	message->body = read_value(values, isnull, columns->body, &unreadable);
	message->xmin = HeapTupleHeaderXminFrozen(tuple->t_data) ?
		FrozenTransactionId : HeapTupleHeaderGetRawXmin(tuple->t_data);
	return unreadable;
}

Size
message_size(HeapTuple tuple, TupleDesc desc)
{
	Datum		values[MaxHeapAttributeNumber];
	bool		isnull[MaxHeapAttributeNumber];
	Size		bytes = tuple->t_len;

	if (!HeapTupleHasVarWidth(tuple))
		return bytes;
	heap_deform_tuple(tuple, desc, values, isnull);
	for (int i = 0; i < desc->natts; i++)
	{
		if (!isnull[i] && TupleDescAttr(desc, i)->attlen == -1)
			bytes += toast_raw_datum_size(values[i]);
	}
	return bytes;
}

/*
 * For consumers
 */

void
message_result(const Message *message, Datum *values, bool *isnull)
{
	set_value(values, isnull, Anum_result_receipt, Int64GetDatum(message->receipt), message->receipt == 0);
	set_value(values, isnull, Anum_result_id, Int64GetDatum(message->id), false);
	set_varlena(values, isnull, Anum_result_key, message->key);
	set_varlena(values, isnull, Anum_result_payload, message->payload);
	set_varlena(values, isnull, Anum_result_body, message->body);
	set_varlena(values, isnull, Anum_result_headers, message->headers);
	set_value(values, isnull, Anum_result_priority, Int16GetDatum(message->priority), !message->has_priority);
	set_value(values, isnull, Anum_result_attempts, Int32GetDatum(message->attempts), false);
	set_value(values, isnull, Anum_result_enqueued_at, TimestampTzGetDatum(message->enqueued_at), false);
}
