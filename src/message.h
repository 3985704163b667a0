/*
 * message.h
 *		Messages: what there is to know of one, and how it is stored.
 */
#ifndef QUEUE_MESSAGE_H
#define QUEUE_MESSAGE_H

#include "access/htup.h"
#include "access/tupdesc.h"
#include "datatype/timestamp.h"

/*
 * Columns of a queue's table and of its segments, in this order.  Those that
 * are never NULL come first and key_hash next, so that all three have fixed
 * offsets; body comes last, as a row without one ends before it.
 */
enum
{
	Anum_message_id = 1,
	Anum_message_enqueued_at,
	Anum_message_key_hash,
	Anum_message_expires_at,
	Anum_message_priority,
	Anum_message_key,
	Anum_message_headers,
	Anum_message_payload,
	Anum_message_body,
	Natts_message = Anum_message_body
};

/* Columns of the type queue.message. */
enum
{
	Anum_result_receipt = 1,
	Anum_result_id,
	Anum_result_key,
	Anum_result_payload,
	Anum_result_body,
	Anum_result_headers,
	Anum_result_priority,
	Anum_result_attempts,
	Anum_result_enqueued_at,
	Natts_message_result = Anum_result_enqueued_at
};

typedef struct Message
{
	int64		receipt;		/* 0: no lease */
	int64		id;
	int			attempts;		/* this delivery's number, from 1 */
	bool		has_priority;
	int16		priority;
	TimestampTz enqueued_at;
	TimestampTz expires_at;		/* DT_NOEND: never */
	text	   *key;			/* NULL if none, like the rest */
	struct varlena *headers;	/* jsonb, an object */
	struct varlena *payload;	/* jsonb */
	bytea	   *body;
	TransactionId xmin;			/* transaction that inserted it */
} Message;

/*
 * A message with these values, which may be toasted and are not copied.  The
 * function that stores it sets its enqueued_at.
 */
extern void message_set(Message *message, int64 id, NullableDatum key, NullableDatum headers,
						NullableDatum payload, NullableDatum body);

/* Where a table of messages has their values; 0: it has no such column. */
typedef struct MessageColumns
{
	AttrNumber	id;
	AttrNumber	enqueued_at;
	AttrNumber	key_hash;
	AttrNumber	expires_at;
	AttrNumber	priority;
	AttrNumber	key;
	AttrNumber	headers;
	AttrNumber	payload;
	AttrNumber	body;
} MessageColumns;

/* Of a queue's table. */
extern const MessageColumns message_columns;

/*
 * The hash of a key that is stored with it: the same on all machines of one
 * byte order, and never another for an equal key.
 */
extern int64 message_key_hash(const text *key);

/*
 * Put the values of a message, which may be toasted, where a row of a table
 * has them.  The other columns of the row are left to the caller.
 */
extern void message_fill(const MessageColumns *columns, const Message *message,
						 Datum *values, bool *isnull);

/* A row of a queue's table; columns added to the table are NULL. */
extern HeapTuple message_form(TupleDesc desc, const Message *message);

/*
 * Take a row apart into the current memory context, every value detoasted;
 * receipt and attempts are 0.  Returns why a value cannot be read and was left
 * out, or NULL.
 */
extern const char *message_deform(const MessageColumns *columns, HeapTuple tuple,
								  TupleDesc desc, Message *message);

/* Bytes in memory that a row takes once it is taken apart, at most. */
extern Size message_size(HeapTuple tuple, TupleDesc desc);

/* A value of type queue.message, of Natts_message_result columns. */
extern void message_result(const Message *message, Datum *values, bool *isnull);

#endif							/* QUEUE_MESSAGE_H */
