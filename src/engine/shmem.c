/*
 * shmem.c
 *		Shared memory: its request, its initialisation, its absence.
 */
#include "postgres.h"

#include "compat.h"
#include "engine/lease.h"
#include "engine/shmem.h"
#include "engine/wake.h"
#include "guc.h"
#include "miscadmin.h"
#include "relay/relay.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "workers/problem.h"
#include "workers/worker.h"

QueueState *queue_state = NULL;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

static Size
queue_state_size(void)
{
	return add_size(offsetof(QueueState, queues),
					mul_size(queue_max_queues, sizeof(QueueShared)));
}

static void
queue_shmem_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();

	RequestAddinShmemSpace(MAXALIGN(queue_state_size()));
	RequestAddinShmemSpace(MAXALIGN(lease_shmem_size()));
	RequestAddinShmemSpace(MAXALIGN(wake_shmem_size()));
	RequestAddinShmemSpace(MAXALIGN(launcher_shmem_size()));
	RequestAddinShmemSpace(MAXALIGN(relay_shmem_size()));
	RequestAddinShmemSpace(MAXALIGN(problem_shmem_size()));
}

/* Set up an element once; who gets it later finds the locks in place. */
static void
queue_shared_init(QueueShared *q)
{
	LWLockInitialize(&q->lock, queue_state->lwlock_tranche);
	LWLockInitialize(&q->extend_lock, queue_state->lwlock_tranche);
	SpinLockInit(&q->id_mutex);
	SpinLockInit(&q->returned_mutex);
	SpinLockInit(&q->wait_mutex);
	pg_atomic_init_u32(&q->generation, 0);
	pg_atomic_init_u32(&q->loaded, 0);
	pg_atomic_init_u32(&q->tail, 0);
	pg_atomic_init_u64(&q->appended, 0);
	pg_atomic_init_u32(&q->turn, 0);
	pg_atomic_init_u32(&q->nlooks, 0);
	pg_atomic_init_u32(&q->nreturned, 0);
	pg_atomic_init_u64(&q->next_due, 0);
	pg_atomic_init_u64(&q->next_expiry, (uint64) DT_NOEND);
	pg_atomic_init_u32(&q->slots_used, 0);
	pg_atomic_init_u32(&q->nwaiting, 0);
	pg_atomic_init_u32(&q->wants_segment, 0);
	pg_atomic_init_u32(&q->wants_sweep, 0);
	pg_atomic_init_u64(&q->ready, 0);
	pg_atomic_init_u64(&q->leased, 0);
	pg_atomic_init_u64(&q->deferred, 0);
	pg_atomic_init_u64(&q->dead, 0);
	pg_atomic_init_u64(&q->sent, 0);
	pg_atomic_init_u64(&q->received, 0);
	pg_atomic_init_u64(&q->acked, 0);
	pg_atomic_init_u64(&q->failed, 0);
	pg_atomic_init_u64(&q->expired, 0);
	pg_atomic_init_u64(&q->frontier_time, 0);
	q->returned_head = q->returned_tail = -1;
	q->wait_head = q->wait_tail = -1;
	for (int i = 0; i < QUEUE_MAX_SEGMENTS; i++)
	{
		SegmentShared *seg = &q->segments[i];

		pg_atomic_init_u32(&seg->state, SEGMENT_UNUSED);
		pg_atomic_init_u32(&seg->nblocks, 0);
		pg_atomic_init_u64(&seg->room, 0);
		pg_atomic_init_u64(&seg->cursor, MakePlace(0, FirstOffsetNumber));
		pg_atomic_init_u64(&seg->appended, 0);
		pg_atomic_init_u32(&seg->leases, 0);
	}
}

static void
queue_shmem_startup(void)
{
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	queue_state = ShmemInitStruct("queue", queue_state_size(), &found);
	if (!found)
	{
		memset(queue_state, 0, queue_state_size());
		queue_state->lwlock_tranche = NEW_LWLOCK_TRANCHE("queue");
		LWLockInitialize(&queue_state->registry_lock, queue_state->lwlock_tranche);
		pg_atomic_init_u32(&queue_state->queue_generation, 0);
		for (int i = 0; i < queue_max_queues; i++)
			queue_shared_init(&queue_state->queues[i]);
	}
	lease_shmem_init(found);
	wake_shmem_init(found);
	launcher_shmem_init(found);
	relay_shmem_init(found);
	problem_shmem_init(found);
	LWLockRelease(AddinShmemInitLock);

	NAME_LWLOCK_TRANCHE(queue_state->lwlock_tranche, "queue");
}

/* Ask for shared memory; from _PG_init, while the postmaster loads us. */
void
shmem_init(void)
{
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = queue_shmem_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = queue_shmem_startup;
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
