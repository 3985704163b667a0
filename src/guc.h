/*
 * guc.h
 *		Settings: the extension's (queue.*), and PostgreSQL's that the code
 *		overrides.
 */
#ifndef QUEUE_GUC_H
#define QUEUE_GUC_H

#include "utils/guc.h"

extern int	queue_max_queues;	/* postmaster */
extern int	queue_max_queues_per_role;	/* -1: half of them */
extern int	queue_max_keys;
extern int	queue_max_leases;	/* postmaster */
extern int	queue_max_leases_per_role;	/* -1: half of them */
extern int	queue_max_relays;	/* postmaster */
extern int	queue_max_relays_per_role;	/* -1: half of them */
extern int	queue_segment_size; /* superuser, in MB */
extern int	queue_sweep_interval;	/* superuser, in seconds */
extern int	queue_straggler_age;	/* superuser, in seconds */
extern int	queue_inbox_retention;	/* superuser, in minutes */

/* The search_path for all SQL that the extension runs, as whatever role. */
#define SAFE_SEARCH_PATH	"pg_catalog, pg_temp"

extern void guc_init(void);

/*
 * Set a setting of PostgreSQL's in this session: with PGC_S_SESSION until it
 * is set again, with PGC_S_OVERRIDE as the value that RESET restores, too.
 */
extern void guc_override(const char *name, const char *value, GucSource source);

#endif							/* QUEUE_GUC_H */
