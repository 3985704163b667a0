/*
 * overdue.h
 *		Leases that ended and were not settled in time: receivers take them over.
 */
#ifndef QUEUE_ENGINE_OVERDUE_H
#define QUEUE_ENGINE_OVERDUE_H

#include "engine/registry.h"
#include "engine/scan.h"

/*
 * Take leases over that ended, and were not settled by the maintenance worker
 * when their messages would be due again: each counts as a failed attempt.
 * Adds those to be delivered to the scan.
 */
extern void overdue_claim(Queue *queue, ClaimScan *scan);

/* What queue.maintenance calls the work, and the error of such an attempt. */
extern const char overdue_activity[];
extern const char overdue_error[];

/*
 * An ended lease could not be settled: report it, and try again after a wait
 * that grows each time.
 */
extern void overdue_report_trouble(const Lease *lease, const ErrorData *error);

#endif							/* QUEUE_ENGINE_OVERDUE_H */
