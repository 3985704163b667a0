/*
 * ids.c
 *		Message ids: a shared counter with a WAL-logged reservation ahead.
 *
 * The queue's sequence counts by IDENTITY_RESERVE; each value v reserves
 * v .. v + IDENTITY_RESERVE - 1 for the counter in shared memory.  What a
 * crash leaves of a reservation is never handed out: ids have gaps, and no
 * id is used twice.
 *
 * A large batch keeps the reservations it draws to itself, as others draw
 * too and would seldom leave it adjacent ones, and then moves the counter
 * beyond them.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xlog.h"
#include "catalog/pg_sequence.h"
#include "commands/sequence.h"
#include "engine/ids.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/spin.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

/* The increment of every queue's sequence; see administer.c. */
#define IDENTITY_RESERVE	1000

/* Take n reserved ids, if there are as many. */
static bool
take_reserved(QueueShared *q, int n, int64 *id)
{
	bool		enough;

	SpinLockAcquire(&q->id_mutex);
	enough = q->id_limit - q->next_id >= n;
	if (enough)
	{
		*id = q->next_id;
		q->next_id += n;
	}
	SpinLockRelease(&q->id_mutex);
	return enough;
}

/*
 * Have the counter go on with what is left of a reservation: adjacent ones
 * join; otherwise what was left of the old one is given up.  One drawn
 * earlier may arrive here later than its successor, and is dropped so that
 * ids never go back.
 */
static void
add_reserved(QueueShared *q, int64 first, int64 limit)
{
	SpinLockAcquire(&q->id_mutex);
	if (first == q->id_limit)
		q->id_limit = limit;
	else if (first > q->id_limit)
	{
		q->next_id = first;
		q->id_limit = limit;
	}
	SpinLockRelease(&q->id_mutex);
}

static void
sequence_altered(Queue *queue, const char *detail)
{
	char	   *sequence = get_rel_name(queue->sequence);

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the ids of queue \"%s\" cannot be continued", NameStr(queue->name)),
			 errdetail_internal("%s", detail),
			 errhint("Restore the sequence \"%s\": INCREMENT 1000 CACHE 1 NO CYCLE, and a value beyond the id of every message.",
					 sequence ? sequence : psprintf("%s$id", NameStr(queue->name)))));
}

/* Raise an error unless the sequence counts as we made it count. */
static void
check_sequence(Queue *queue)
{
	HeapTuple	tuple = NULL;
	Form_pg_sequence form;
	bool		good;

	/* The queue before what belongs to it, as who drops it does. */
	queue_lock(queue->relid, NameStr(queue->name), RowExclusiveLock);
	if (OidIsValid(queue->sequence))
	{
		/* As nextval does. */
		LockRelationOid(queue->sequence, RowExclusiveLock);
		tuple = SearchSysCache1(SEQRELID, ObjectIdGetDatum(queue->sequence));
	}
	if (!HeapTupleIsValid(tuple))
		sequence_altered(queue, _("The queue's sequence was dropped."));
	form = (Form_pg_sequence) GETSTRUCT(tuple);
	good = form->seqincrement == IDENTITY_RESERVE && form->seqcache == 1 && !form->seqcycle;
	ReleaseSysCache(tuple);
	if (!good)
		sequence_altered(queue, _("The queue's sequence was altered."));
}

/* Draw a reservation. */
static int64
draw(Queue *queue)
{
	QueueShared *q = queue->shared;
	int64		limit;
	int64		reserved;

	SpinLockAcquire(&q->id_mutex);
	limit = q->id_limit;
	SpinLockRelease(&q->id_mutex);

	/* What others have added by now they drew before us. */
	reserved = nextval_internal(queue->sequence, false);
	if (reserved < limit)
		sequence_altered(queue,
						 psprintf(_("The queue's sequence was set back: it gave " INT64_FORMAT " after " INT64_FORMAT "."),
								  reserved, limit - 1));
	return reserved;
}

/*
 * See to it that a crash cannot forget what the sequence has given out.  With
 * asynchronous commit others see messages, and their ids, before anything of
 * the sender's has reached the disk.
 */
static void
flush_reservation(Oid sequence)
{
	Relation	rel = relation_open(sequence, AccessShareLock);
	Buffer		buffer = ReadBuffer(rel, 0);
	XLogRecPtr	lsn;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	lsn = PageGetLSN(BufferGetPage(buffer));
	UnlockReleaseBuffer(buffer);
	if (RelationNeedsWAL(rel))
		XLogFlush(lsn);
	relation_close(rel, AccessShareLock);
}

/* Whole reservations for a batch. */
static void
allocate_many(Queue *queue, int n, int64 *ids)
{
	int64		reserved = 0;
	int			done = 0;
	int			used = 0;

	check_sequence(queue);
	while (done < n)
	{
		CHECK_FOR_INTERRUPTS();
		reserved = draw(queue);
		for (used = 0; used < IDENTITY_RESERVE && done < n; used++)
			ids[done++] = reserved + used;
	}
	flush_reservation(queue->sequence);

	/* Whoever sends after us gets greater ids. */
	add_reserved(queue->shared, reserved + used, reserved + IDENTITY_RESERVE);
}

void
identity_allocate(Queue *queue, int n, int64 *ids)
{
	QueueShared *q = queue->shared;
	int64		id;

	if (n >= IDENTITY_RESERVE)
	{
		allocate_many(queue, n, ids);
		return;
	}
	while (!take_reserved(q, n, &id))
	{
		int64		reserved;

		CHECK_FOR_INTERRUPTS();
		check_sequence(queue);
		reserved = draw(queue);
		flush_reservation(queue->sequence);
		add_reserved(q, reserved, reserved + IDENTITY_RESERVE);
	}
	for (int i = 0; i < n; i++)
		ids[i] = id + i;
}
