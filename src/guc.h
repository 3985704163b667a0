/*
 * guc.h
 *		Settings of the extension (queue.*).
 */
#ifndef QUEUE_GUC_H
#define QUEUE_GUC_H

extern int	queue_max_queues;	/* postmaster */
extern int	queue_max_queues_per_role;	/* -1: half of them */
extern int	queue_max_leases;	/* postmaster */
extern int	queue_max_leases_per_role;	/* -1: half of them */
extern int	queue_max_relays;	/* postmaster */
extern int	queue_max_relays_per_role;	/* -1: half of them */
extern int	queue_segment_size; /* superuser, in MB */
extern int	queue_sweep_interval;	/* superuser, in seconds */
extern int	queue_straggler_age;	/* superuser, in seconds */
extern int	queue_inbox_retention;	/* superuser, in minutes */

extern void guc_init(void);

#endif							/* QUEUE_GUC_H */
