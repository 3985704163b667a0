/*
 * wait.c
 *		Waiting for the network as a PostgreSQL process should.
 */
#include "postgres.h"

#include "compat.h"
#include "miscadmin.h"
#include "sinks/net/wait.h"
#include "utils/timestamp.h"

bool
net_wait(pgsocket socket, int events, TimestampTz deadline)
{
	for (;;)
	{
		long		timeout = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
		int			rc;

		if (timeout <= 0)
			return false;
		rc = WaitLatchOrSocket(MyLatch,
							   WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH | events,
							   socket, timeout, WAIT_EVENT("QueueRelayConnect"));
		if (rc & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
		}
		if (rc & events)
			return true;
	}
}
