/*
 * stop_point.c
 *		Places where a test can stop a process.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "stop_point.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/proc.h"

#ifdef QUEUE_STOP_POINTS

void
stop_point(const char *name)
{
	uint32		hash = DatumGetUInt32(hash_any((const unsigned char *) name, strlen(name)));
	int			timeout = LockTimeout;
	LOCKTAG		tag;

	/* What pg_advisory_lock(int, int) locks. */
	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, hash, (uint32) MyProcPid, 2);

	/* The place need not be one where an interrupt may be answered. */
	HOLD_INTERRUPTS();
	if (LockAcquire(&tag, ShareLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
	{
		LockTimeout = 0;
		(void) LockAcquire(&tag, ShareLock, true, false);
		LockTimeout = timeout;

		/* The wait has reset the latch, perhaps set for the caller. */
		SetLatch(MyLatch);
	}
	LockRelease(&tag, ShareLock, true);
	RESUME_INTERRUPTS();
}

#endif
