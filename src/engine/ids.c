/*
 * ids.c
 *		Message ids: a shared counter with a WAL-logged reservation ahead.
 *
 * The queue's sequence counts by IDS_RESERVED; each value v reserves v .. v +
 * IDS_RESERVED - 1 for the counter in shared memory.  What a crash leaves of a
 * reservation is never used: ids have gaps, and no id is used twice.
 *
 * A large batch uses whole reservations, past the counter, as other senders
 * draw too and adjacent ones would be rare.  Then it moves the counter beyond
 * them.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xlog.h"
#include "catalog/pg_sequence.h"
#include "commands/sequence.h"
#include "engine/ids.h"
#include "engine/tables.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/spin.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

void
ids_init(IdRange *range)
{
	SpinLockInit(&range->mutex);
	range->next = range->limit = 0;
}

void
ids_reset(IdRange *range)
{
	SpinLockAcquire(&range->mutex);
	range->next = range->limit = 0;
	SpinLockRelease(&range->mutex);
}

/* Take n reserved ids, if there are as many. */
static bool
take_reserved(IdRange *range, int n, int64 *id)
{
	bool		enough;

	SpinLockAcquire(&range->mutex);
	enough = range->limit - range->next >= n;
	if (enough)
	{
		*id = range->next;
		range->next += n;
	}
	SpinLockRelease(&range->mutex);
	return enough;
}

/*
 * Give the counter the rest of a reservation: an adjacent one is joined to the
 * ids it has, which are otherwise given up.  A reservation can come here after
 * one that was drawn later; it is dropped, so that ids never go back.
 */
static void
add_reserved(IdRange *range, int64 first, int64 limit)
{
	SpinLockAcquire(&range->mutex);
	if (first == range->limit)
		range->limit = limit;
	else if (first > range->limit)
	{
		range->next = first;
		range->limit = limit;
	}
	SpinLockRelease(&range->mutex);
}

static void
sequence_altered(const char *name, Oid sequence, const char *detail)
{
	char	   *sequence_name = get_rel_name(sequence);

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the ids of queue \"%s\" cannot be continued", name),
			 errdetail_internal("%s", detail),
			 errhint("Restore the sequence \"%s\": INCREMENT %d CACHE 1 NO CYCLE, and a value beyond the id of every message.",
					 sequence_name ? sequence_name : psprintf("%s$id", name), IDS_RESERVED)));
}

/* Raise an error unless the sequence counts as it was made to. */
static void
check_sequence(Oid queue, const char *name, Oid sequence)
{
	HeapTuple	tuple = NULL;
	Form_pg_sequence form;
	bool		good;

	/* The queue's table before its sequence, in the order of DROP. */
	queue_lock(queue, name, RowExclusiveLock);
	if (OidIsValid(sequence))
	{
		/* The lock that nextval takes. */
		LockRelationOid(sequence, RowExclusiveLock);
		tuple = SearchSysCache1(SEQRELID, ObjectIdGetDatum(sequence));
	}
	if (!HeapTupleIsValid(tuple))
		sequence_altered(name, sequence, _("The queue's sequence was dropped."));
	form = (Form_pg_sequence) GETSTRUCT(tuple);
	good = form->seqincrement == IDS_RESERVED && form->seqcache == 1 && !form->seqcycle;
	ReleaseSysCache(tuple);
	if (!good)
		sequence_altered(name, sequence, _("The queue's sequence was altered."));
}

/* Draw a reservation. */
static int64
draw(IdRange *range, const char *name, Oid sequence)
{
	int64		limit;
	int64		reserved;

	SpinLockAcquire(&range->mutex);
	limit = range->limit;
	SpinLockRelease(&range->mutex);

	/* Ids in the counter were drawn before, so this must be greater. */
	reserved = nextval_internal(sequence, false);
	if (reserved < limit)
		sequence_altered(name, sequence,
						 psprintf(_("The queue's sequence was set back: it gave " INT64_FORMAT " after " INT64_FORMAT "."),
								  reserved, limit - 1));
	return reserved;
}

/*
 * Flush the WAL of the sequence, so that a crash cannot take back what it
 * gave.  With asynchronous commit other sessions see messages, and their ids,
 * before any WAL of the sender has reached the disk.
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

/* Ids for a batch, from whole reservations. */
static void
allocate_many(IdRange *range, Oid queue, const char *name, Oid sequence, int n, int64 *ids)
{
	int64		reserved = 0;
	int			done = 0;
	int			used = 0;

	check_sequence(queue, name, sequence);
	while (done < n)
	{
		CHECK_FOR_INTERRUPTS();
		reserved = draw(range, name, sequence);
		for (used = 0; used < IDS_RESERVED && done < n; used++)
			ids[done++] = reserved + used;
	}
	flush_reservation(sequence);

	/* Messages sent after the batch get greater ids. */
	add_reserved(range, reserved + used, reserved + IDS_RESERVED);
}

void
ids_allocate(IdRange *range, Oid queue, const char *name, Oid sequence, int n, int64 *ids)
{
	int64		id;

	if (n >= IDS_RESERVED)
	{
		allocate_many(range, queue, name, sequence, n, ids);
		return;
	}
	while (!take_reserved(range, n, &id))
	{
		int64		reserved;

		CHECK_FOR_INTERRUPTS();
		check_sequence(queue, name, sequence);
		reserved = draw(range, name, sequence);
		flush_reservation(sequence);
		add_reserved(range, reserved, reserved + IDS_RESERVED);
	}
	for (int i = 0; i < n; i++)
		ids[i] = id + i;
}
