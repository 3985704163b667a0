/*
 * expiry.h
 *		Failing the leases that have expired.
 */
#ifndef QUEUE_WORKERS_EXPIRY_H
#define QUEUE_WORKERS_EXPIRY_H

#include "datatype/timestamp.h"

/*
 * Fail the leases of this database that have expired, in transactions of its
 * own; outside of one.  What fails for one of them is reported and tried again
 * later.  Returns when to come again.
 */
extern TimestampTz expire_leases(void);

#endif							/* QUEUE_WORKERS_EXPIRY_H */
