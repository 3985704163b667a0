/*
 * ddl.h
 *		Stopping workers for DDL that needs a database to itself.
 */
#ifndef QUEUE_WORKERS_DDL_H
#define QUEUE_WORKERS_DDL_H

/* Set the ProcessUtility hook; from _PG_init. */
extern void ddl_init(void);

#endif							/* QUEUE_WORKERS_DDL_H */
