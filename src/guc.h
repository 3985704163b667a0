/*
 * guc.h
 *		Settings of the extension (queue.*).
 */
#ifndef QUEUE_GUC_H
#define QUEUE_GUC_H

extern int	queue_max_queues;	/* postmaster */
extern int	queue_max_leases;	/* postmaster */
extern int	queue_max_relays;	/* postmaster */
extern int	queue_max_relays_per_role;	/* -1: half of them */
extern int	queue_segment_size; /* sighup, in MB */
extern int	queue_sweep_interval;	/* sighup, in seconds */
extern int	queue_straggler_age;	/* sighup, in seconds */
extern int	queue_inbox_retention;	/* sighup, in minutes */

extern void guc_init(void);

#endif							/* QUEUE_GUC_H */
