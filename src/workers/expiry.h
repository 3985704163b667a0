/*
 * expiry.h
 *		Failing the leases that have expired.
 */
#ifndef QUEUE_WORKERS_EXPIRY_H
#define QUEUE_WORKERS_EXPIRY_H

#include "datatype/timestamp.h"

/*
 * Fail the leases of this database that have expired.  Call it outside a
 * transaction.  A lease that cannot be failed is reported and tried again
 * later.  Returns when to call it again.
 */
extern TimestampTz expire_leases(void);

#endif							/* QUEUE_WORKERS_EXPIRY_H */
