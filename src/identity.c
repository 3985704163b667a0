/*
 * identity.c
 *		Message ids: a shared counter with a WAL-logged reservation ahead.
 *
 * The queue's sequence counts by IDENTITY_RESERVE; each value v reserves
 * v .. v + IDENTITY_RESERVE - 1 for the counter in shared memory.  What a
 * crash leaves of a reservation is never handed out: ids have gaps, and no
 * id is used twice.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xlog.h"
#include "commands/sequence.h"
#include "identity.h"
#include "storage/bufmgr.h"
#include "storage/spin.h"
#include "utils/rel.h"

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

int64
identity_allocate(Queue *queue, int n)
{
	QueueShared *q = queue->shared;
	int64		id;

	while (!take_reserved(q, n, &id))
	{
		int64		reserved;

		queue_lock(queue->sequence, NameStr(queue->name), RowExclusiveLock);
		reserved = nextval_internal(queue->sequence, false);

		flush_reservation(queue->sequence);

		/*
		 * Adjacent reservations join; otherwise what was left of the old one
		 * is given up.  A reservation drawn earlier may arrive here later
		 * than its successor, and is dropped so that ids never go back.
		 */
		SpinLockAcquire(&q->id_mutex);
		if (reserved == q->id_limit)
			q->id_limit += IDENTITY_RESERVE;
		else if (reserved > q->id_limit)
		{
			q->next_id = reserved;
			q->id_limit = reserved + IDENTITY_RESERVE;
		}
		SpinLockRelease(&q->id_mutex);
	}
	return id;
}
