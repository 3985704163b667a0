/*
 * launcher.h
 *		Starts a maintenance worker in every database that has the extension.
 */
#ifndef QUEUE_WORKERS_LAUNCHER_H
#define QUEUE_WORKERS_LAUNCHER_H

/* Have the postmaster start the launcher; from _PG_init. */
extern void launcher_register(void);

extern PGDLLEXPORT void queue_launcher_main(Datum arg);

#endif							/* QUEUE_WORKERS_LAUNCHER_H */
