/*
 * guc.c
 *		Settings: the extension's (queue.*), and PostgreSQL's that the code
 *		overrides.
 */
#include "postgres.h"

#include <limits.h>

#include "guc.h"
#include "miscadmin.h"

int			queue_max_queues = 128;
int			queue_max_queues_per_role = -1;
int			queue_max_leases = 65536;
int			queue_max_leases_per_role = -1;
int			queue_max_keys = 65536;
int			queue_max_relays = 32;
int			queue_max_relays_per_role = -1;
int			queue_segment_size = 64;
int			queue_sweep_interval = 60;
int			queue_straggler_age = 60;
int			queue_inbox_retention = 7 * 24 * 60;

/*
 * Define the settings.  Those that size shared memory can be defined only
 * while the postmaster loads its libraries.
 */
void
guc_init(void)
{
	DefineCustomIntVariable("queue.segment_size",
							"Size at which a queue's tail segment is switched.",
							NULL,
							&queue_segment_size,
							64, 1, 16384,
							PGC_SUSET,
							GUC_UNIT_MB,
							NULL, NULL, NULL);
	DefineCustomIntVariable("queue.sweep_interval",
							"Time between searches for messages that were inserted past the extension.",
							"Such rows come from a restore, logical replication or SQL on a segment.",
							&queue_sweep_interval,
							60, 1, INT_MAX / 1000,
							PGC_SUSET,
							GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomIntVariable("queue.straggler_age",
							"Time after which the last messages of an otherwise drained segment are moved on.",
							NULL,
							&queue_straggler_age,
							60, 1, INT_MAX / 1000,
							PGC_SUSET,
							GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomIntVariable("queue.inbox_retention",
							"Time for which a message that a relay brought, or a consumer accepted, is recognised.",
							NULL,
							&queue_inbox_retention,
							7 * 24 * 60, 1, INT_MAX / 60,
							PGC_SUSET,
							GUC_UNIT_MIN,
							NULL, NULL, NULL);

	DefineCustomIntVariable("queue.max_leases_per_role",
							"Messages on lease at the same time in the queues of one role that is not a superuser.",
							"-1 means half of queue.max_leases.",
							&queue_max_leases_per_role,
							-1, -1, 1 << 20,
							PGC_SUSET,
							0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("queue.max_queues_per_role",
							"Queues of one role that is no superuser in use at the same time, in all databases.",
							"-1 is half of queue.max_queues.",
							&queue_max_queues_per_role,
							-1, -1, 10000,
							PGC_SUSET,
							0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("queue.max_relays_per_role",
							"Relays of one role that is not a superuser, in all databases.",
							"-1 means half of queue.max_relays, or of max_worker_processes if that is less.",
							&queue_max_relays_per_role,
							-1, -1, 1000,
							PGC_SUSET,
							0,
							NULL, NULL, NULL);

	/* Can't define PGC_POSTMASTER variables after startup. */
	if (process_shared_preload_libraries_in_progress)
	{
		DefineCustomIntVariable("queue.max_queues",
								"Queues in use at the same time, in all databases.",
								NULL,
								&queue_max_queues,
								128, 1, 10000,
								PGC_POSTMASTER,
								0,
								NULL, NULL, NULL);
		DefineCustomIntVariable("queue.max_leases",
								"Messages on lease at the same time, in all queues.",
								NULL,
								&queue_max_leases,
								65536, 16, 1 << 20,
								PGC_POSTMASTER,
								0,
								NULL, NULL, NULL);
		DefineCustomIntVariable("queue.max_keys",
								"Keys of ordered and key-limited queues with messages on lease or waiting, in all queues.",
								NULL,
								&queue_max_keys,
								65536, 16, 1 << 24,
								PGC_POSTMASTER,
								0,
								NULL, NULL, NULL);
		DefineCustomIntVariable("queue.max_relays",
								"Relays running at the same time, in all databases.",
								NULL,
								&queue_max_relays,
								32, 1, 1000,
								PGC_POSTMASTER,
								0,
								NULL, NULL, NULL);
	}

	MarkGUCPrefixReserved("queue");
}

void
guc_override(const char *name, const char *value, GucSource source)
{
	const char *now = GetConfigOption(name, false, false);

	/* Even with the same value, the one that RESET restores may differ. */
	if (source == PGC_S_OVERRIDE || now == NULL || strcmp(now, value) != 0)
		SetConfigOption(name, value, PGC_SUSET, source);
}
