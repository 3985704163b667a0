/*
 * maintenance.h
 *		The worker that looks after the queues of one database.
 */
#ifndef QUEUE_WORKERS_MAINTENANCE_H
#define QUEUE_WORKERS_MAINTENANCE_H

/* One per database that has the extension; its argument is the database. */
extern PGDLLEXPORT void queue_maintenance_main(Datum arg);

#endif							/* QUEUE_WORKERS_MAINTENANCE_H */
