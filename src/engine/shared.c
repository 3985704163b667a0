/*
 * shared.c
 *		What the processes share of each queue in use.
 */
#include "postgres.h"

#include "compat.h"
#include "engine/shared.h"
#include "guc.h"
#include "storage/shmem.h"

QueueState *queue_state = NULL;

Size
shared_shmem_size(void)
{
	return add_size(offsetof(QueueState, queues),
					mul_size(queue_max_queues, sizeof(QueueShared)));
}

/* Initialise an element at the start, with the locks, which shared_reset leaves as they are. */
static void
init_element(QueueShared *q)
{
	LWLockInitialize(&q->lock, queue_state->lwlock_tranche);
	pg_atomic_init_u32(&q->generation, 0);
	pg_atomic_init_u32(&q->loaded, 0);
	for (int i = 0; i < QUEUE_MAX_SEGMENTS; i++)
	{
		Segment    *seg = &q->segments[i];

		pg_atomic_init_u32(&seg->state, SEGMENT_UNUSED);
		space_init(&seg->space, queue_state->lwlock_tranche);
		pg_atomic_init_u64(&seg->appended, 0);
		pg_atomic_init_u64(&q->reader.segments[i].cursor, FIRST_PLACE);
	}
	pg_atomic_init_u32(&q->lane.tail, 0);
	pg_atomic_init_u64(&q->lane.appended, 0);
	pg_atomic_init_u32(&q->reader.turn, 0);
	pg_atomic_init_u64(&q->reader.passed_id, 0);
	pg_atomic_init_u64(&q->reader.awaited_id, PG_INT64_MAX);
	pg_atomic_init_u64(&q->reader.last_enqueued_at, 0);
	notes_init(&q->reader.notes);
	ids_init(&q->ids);
	wait_list_init(&q->waiters);
	counters_init(&q->counters);
	bound_init(&q->next_due, DT_NOBEGIN);
	pg_atomic_init_u32(&q->flight_was_full, 0);
	pg_atomic_init_u64(&q->rate_arrival, 0);
	pg_atomic_init_u32(&q->wants_segment, 0);
	pg_atomic_init_u32(&q->wants_sweep, 0);
}

void
shared_reset(QueueShared *q)
{
	Assert(LWLockHeldByMeInMode(&q->lock, LW_EXCLUSIVE));

	/* Not the waiters: processes still in that list find out themselves. */
	pg_atomic_write_u32(&q->loaded, 0);
	q->nsegments = q->lane.nscan = 0;
	for (int i = 0; i < QUEUE_MAX_SEGMENTS; i++)
		pg_atomic_write_u32(&q->segments[i].state, SEGMENT_UNUSED);
	pg_atomic_write_u64(&q->lane.appended, 0);
	q->reader.scanned = 0;
	pg_atomic_write_u32(&q->reader.turn, 0);
	pg_atomic_write_u64(&q->reader.passed_id, 0);
	pg_atomic_write_u64(&q->reader.awaited_id, PG_INT64_MAX);
	pg_atomic_write_u64(&q->reader.last_enqueued_at, 0);
	notes_reset(&q->reader.notes);
	ids_reset(&q->ids);
	counters_reset(&q->counters);
	bound_write(&q->next_due, DT_NOBEGIN);
	pg_atomic_write_u32(&q->flight_was_full, 0);
	pg_atomic_write_u64(&q->rate_arrival, 0);
	pg_atomic_write_u32(&q->wants_segment, 0);
	pg_atomic_write_u32(&q->wants_sweep, 0);
	q->swept_at = 0;
	q->counted = false;
	q->unparked = 0;
}

void
shared_shmem_init(void)
{
	bool		found;

	queue_state = ShmemInitStruct("queue", shared_shmem_size(), &found);
	if (!found)
	{
		memset(queue_state, 0, shared_shmem_size());
		queue_state->lwlock_tranche = NEW_LWLOCK_TRANCHE("queue");
		LWLockInitialize(&queue_state->registry_lock, queue_state->lwlock_tranche);
		pg_atomic_init_u32(&queue_state->queue_generation, 0);
		for (int i = 0; i < queue_max_queues; i++)
			init_element(&queue_state->queues[i]);
	}
	NAME_LWLOCK_TRANCHE(queue_state->lwlock_tranche, "queue");
}

void
shmem_require(void)
{
	if (queue_state == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("queue must be loaded via \"shared_preload_libraries\""),
				 errhint("Add queue to shared_preload_libraries in postgresql.conf and restart the server.")));
}
