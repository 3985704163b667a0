/*
 * lease.c
 *		Leases: which consumer has which message, until when.
 *
 * Slots are claimed and given up by compare-and-swap of their word, so that
 * an acknowledgement, an expiry and an extension of the same lease cannot
 * both happen.  Whoever has brought a slot to SETTLING or MOVING owns its
 * other fields.  A hash on the message's place finds out that it is leased;
 * its buckets are guarded by spinlocks, a few buckets each.
 *
 * What a transaction did to leases is undone or finished at its end from a
 * list kept by this backend.
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "guc.h"
#include "lease.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "wake.h"
#include "worker.h"

#define HASH_LOCKS		128

#define GENERATION_BITS	(63 - LEASE_SLOT_BITS)
#define MAX_GENERATION	((UINT64CONST(1) << GENERATION_BITS) - 1)

typedef struct LeaseShared
{
	slock_t		free_mutex;
	int			free_head;
	int			high_water;		/* slots beyond were never used */
	int			nbuckets;		/* a power of two */
	pg_atomic_uint32 timed;		/* timed leases in use */
	slock_t		hash_mutex[HASH_LOCKS];
	LeaseSlot	slots[FLEXIBLE_ARRAY_MEMBER];
	/* int buckets[nbuckets] follows */
} LeaseShared;

typedef enum LeaseAction
{
	LEASE_DID_TAKE,				/* a new or renewed lease */
	LEASE_DID_CHECK,			/* a returned one is being looked at */
	LEASE_DID_REMOVE,			/* a returned one's message is moved away */
	LEASE_DID_SETTLE,
	LEASE_DID_MOVE
} LeaseAction;

typedef struct LeaseDeed
{
	int			slotno;
	LeaseAction action;
	LeaseOutcome outcome;		/* of LEASE_DID_SETTLE */
	uint64		generation;
	SubTransactionId subid;
	/* for LEASE_DID_MOVE: where the message was */
	Oid			relid;
	ItemPointerData tid;
	int16		segment;
} LeaseDeed;

static LeaseShared *leases = NULL;
static int *buckets = NULL;

static LeaseDeed *deeds = NULL;
static int	ndeeds = 0;
static int	max_deeds = 0;

#define WORD(generation, state)	(((uint64) (generation) << 8) | (state))
#define WORD_GENERATION(word)	((word) >> 8)

static int
bucket_count(void)
{
	return pg_nextpower2_32(queue_max_leases);
}

static Size
slots_size(void)
{
	return MAXALIGN(add_size(offsetof(LeaseShared, slots),
							 mul_size(queue_max_leases, sizeof(LeaseSlot))));
}

Size
lease_shmem_size(void)
{
	return add_size(slots_size(), mul_size(bucket_count(), sizeof(int)));
}

void
lease_shmem_init(bool found)
{
	bool		mine;
	uint64		generation;

	leases = ShmemInitStruct("queue leases", lease_shmem_size(), &mine);
	buckets = (int *) ((char *) leases + slots_size());
	if (found)
		return;

	/*
	 * Generations start from the clock, 65536 a second, and a slot is used
	 * less often than that: receipts from before a restart match none.
	 */
	generation = ((uint64) GetCurrentTimestamp() / (USECS_PER_SEC / 65536)) & MAX_GENERATION;

	SpinLockInit(&leases->free_mutex);
	leases->free_head = 0;
	leases->high_water = 0;
	leases->nbuckets = bucket_count();
	pg_atomic_init_u32(&leases->timed, 0);
	for (int i = 0; i < HASH_LOCKS; i++)
		SpinLockInit(&leases->hash_mutex[i]);
	for (int i = 0; i < leases->nbuckets; i++)
		buckets[i] = -1;
	for (int i = 0; i < queue_max_leases; i++)
	{
		LeaseSlot  *slot = &leases->slots[i];

		memset(slot, 0, sizeof(LeaseSlot));
		pg_atomic_init_u64(&slot->word, WORD(generation, LEASE_FREE));
		slot->next = (i + 1 < queue_max_leases) ? i + 1 : -1;
		slot->hash_next = -1;
	}
}

static int
place_bucket(Oid relid, ItemPointer tid)
{
	uint64		place = ((uint64) relid << 32) ^
		((uint64) ItemPointerGetBlockNumberNoCheck(tid) << 9) ^
		ItemPointerGetOffsetNumberNoCheck(tid);

	return murmurhash32((uint32) (place ^ (place >> 32))) & (leases->nbuckets - 1);
}

/*
 * The lease on a message at a place of this database.  The id tells it from
 * one that held the place before and whose lease has not ended yet (TRUNCATE,
 * VACUUM); the database, from one copied from it, whose tables have the same
 * OIDs.
 */
static int
find_in_bucket(int bucket, Oid relid, ItemPointer tid, int64 id)
{
	int			slotno = buckets[bucket];

	while (slotno >= 0)
	{
		LeaseSlot  *slot = &leases->slots[slotno];

		if (slot->relid == relid && slot->id == id &&
			ItemPointerEquals(&slot->tid, tid) &&
			queue_state->queues[slot->queue].dboid == MyDatabaseId)
			break;
		slotno = slot->hash_next;
	}
	return slotno;
}

static void
hash_insert(int slotno)
{
	LeaseSlot  *slot = &leases->slots[slotno];
	int			bucket = place_bucket(slot->relid, &slot->tid);

	SpinLockAcquire(&leases->hash_mutex[bucket % HASH_LOCKS]);
	slot->hash_next = buckets[bucket];
	buckets[bucket] = slotno;
	SpinLockRelease(&leases->hash_mutex[bucket % HASH_LOCKS]);
}

static void
hash_remove(int slotno)
{
	LeaseSlot  *slot = &leases->slots[slotno];
	int			bucket = place_bucket(slot->relid, &slot->tid);
	int		   *link;

	SpinLockAcquire(&leases->hash_mutex[bucket % HASH_LOCKS]);
	for (link = &buckets[bucket]; *link >= 0; link = &leases->slots[*link].hash_next)
	{
		if (*link == slotno)
		{
			*link = slot->hash_next;
			break;
		}
	}
	SpinLockRelease(&leases->hash_mutex[bucket % HASH_LOCKS]);
	slot->hash_next = -1;
}

LeaseState
lease_state(Oid relid, ItemPointer tid, int64 id)
{
	int			bucket = place_bucket(relid, tid);
	LeaseState	state = LEASE_FREE;
	int			slotno;

	SpinLockAcquire(&leases->hash_mutex[bucket % HASH_LOCKS]);
	slotno = find_in_bucket(bucket, relid, tid, id);
	if (slotno >= 0)
	{
		state = LeaseWordState(pg_atomic_read_u64(&leases->slots[slotno].word));

		/* Taken this moment, and not marked so yet. */
		if (state == LEASE_FREE)
			state = LEASE_HELD;
	}
	SpinLockRelease(&leases->hash_mutex[bucket % HASH_LOCKS]);
	return state;
}

/* Count a lease in or out of the segment it keeps from being truncated. */
static void
count_in_segment(LeaseSlot *slot, int32 change)
{
	if (slot->segment != LEASE_IN_DEFERRED)
		pg_atomic_fetch_add_u32(&queue_state->queues[slot->queue].segments[slot->segment].leases,
								change);
}

static void
remember(int slotno, LeaseAction action)
{
	LeaseDeed  *deed = &deeds[ndeeds];

	Assert(ndeeds < max_deeds);
	ndeeds++;
	deed->slotno = slotno;
	deed->action = action;
	deed->outcome = LEASE_ACKED;
	deed->generation = WORD_GENERATION(pg_atomic_read_u64(&leases->slots[slotno].word));
	deed->subid = GetCurrentSubTransactionId();
}

/* Strike the latest deed on a slot off the list. */
static void
forget_deed(int slotno)
{
	for (int i = ndeeds - 1; i >= 0; i--)
	{
		if (deeds[i].slotno == slotno)
		{
			memmove(&deeds[i], &deeds[i + 1], (ndeeds - i - 1) * sizeof(LeaseDeed));
			ndeeds--;
			return;
		}
	}
}

void
lease_reserve(int n)
{
	if (ndeeds + n <= max_deeds)
		return;
	max_deeds = Max(ndeeds + n, Max(64, max_deeds * 2));
	if (deeds == NULL)
		deeds = MemoryContextAlloc(TopMemoryContext, max_deeds * sizeof(LeaseDeed));
	else
		deeds = repalloc_huge(deeds, (Size) max_deeds * sizeof(LeaseDeed));
}

/* A slot's generation goes up with each lease, so that old receipts fail. */
static void
set_held(LeaseSlot *slot)
{
	uint64		generation = WORD_GENERATION(pg_atomic_read_u64(&slot->word));

	generation = (generation + 1) & MAX_GENERATION;
	pg_write_barrier();
	pg_atomic_write_u64(&slot->word, WORD(generation, LEASE_HELD));
}

int
lease_take(QueueShared *q, Oid relid, int segment, ItemPointer tid, int64 id,
		   int attempts, LeaseKind kind, TimestampTz now, TimestampTz expires_at)
{
	int			bucket = place_bucket(relid, tid);
	slock_t    *mutex = &leases->hash_mutex[bucket % HASH_LOCKS];
	int			slotno;
	LeaseSlot  *slot;

	SpinLockAcquire(mutex);
	if (find_in_bucket(bucket, relid, tid, id) >= 0)
	{
		SpinLockRelease(mutex);
		return LEASE_TAKEN_ALREADY;
	}

	SpinLockAcquire(&leases->free_mutex);
	slotno = leases->free_head;
	if (slotno < 0)
	{
		SpinLockRelease(&leases->free_mutex);
		SpinLockRelease(mutex);
		return LEASE_NONE_FREE;
	}
	slot = &leases->slots[slotno];
	leases->free_head = slot->next;
	if (slotno >= leases->high_water)
		leases->high_water = slotno + 1;
	SpinLockRelease(&leases->free_mutex);

	slot->id = id;
	slot->relid = relid;
	slot->tid = *tid;
	slot->segment = segment;
	slot->queue = QueueIndex(q);
	slot->attempts = attempts;
	slot->kind = kind;
	slot->pid = MyProcPid;
	slot->leased_at = now;
	slot->expires_at = expires_at;
	slot->hash_next = buckets[bucket];
	buckets[bucket] = slotno;
	SpinLockRelease(mutex);

	count_in_segment(slot, 1);
	if (kind == LEASE_TIMED)
		pg_atomic_fetch_add_u32(&leases->timed, 1);
	pg_atomic_fetch_add_u64(&q->leased, 1);
	set_held(slot);
	remember(slotno, LEASE_DID_TAKE);
	return slotno;
}

/* Take a slot out of use; its word says that it is ours. */
static void
free_slot(int slotno)
{
	LeaseSlot  *slot = &leases->slots[slotno];
	uint64		word = pg_atomic_read_u64(&slot->word);

	hash_remove(slotno);
	count_in_segment(slot, -1);
	if (slot->kind == LEASE_TIMED)
		pg_atomic_fetch_sub_u32(&leases->timed, 1);
	pg_atomic_fetch_sub_u64(&queue_state->queues[slot->queue].leased, 1);

	/* Still the same generation: the receipt has ended, the next differs. */
	pg_atomic_write_u64(&slot->word, WORD(WORD_GENERATION(word), LEASE_FREE));
	SpinLockAcquire(&leases->free_mutex);
	slot->next = leases->free_head;
	leases->free_head = slotno;
	SpinLockRelease(&leases->free_mutex);
}

/* Hang a slot that is ours on the list the next receiver takes from. */
static void
return_slot(int slotno)
{
	LeaseSlot  *slot = &leases->slots[slotno];
	QueueShared *q = &queue_state->queues[slot->queue];
	uint64		word = pg_atomic_read_u64(&slot->word);

	if (slot->kind == LEASE_TIMED)
		pg_atomic_fetch_sub_u32(&leases->timed, 1);
	slot->kind = LEASE_TRANSACTION;
	slot->expires_at = DT_NOEND;
	slot->pid = 0;
	slot->next = -1;
	pg_atomic_write_u64(&slot->word, WORD(WORD_GENERATION(word), LEASE_RETURNED));

	SpinLockAcquire(&q->returned_mutex);
	if (q->returned_tail >= 0)
		leases->slots[q->returned_tail].next = slotno;
	else
		q->returned_head = slotno;
	q->returned_tail = slotno;
	SpinLockRelease(&q->returned_mutex);
	pg_atomic_fetch_sub_u64(&q->leased, 1);
	pg_atomic_fetch_add_u32(&q->nreturned, 1);
}

void
lease_drop(int slotno)
{
	forget_deed(slotno);
	free_slot(slotno);
}

int
lease_take_returned(QueueShared *q)
{
	int			slotno;
	LeaseSlot  *slot;
	uint64		word;

	if (pg_atomic_read_u32(&q->nreturned) == 0)
		return -1;

	SpinLockAcquire(&q->returned_mutex);
	slotno = q->returned_head;
	if (slotno >= 0)
	{
		q->returned_head = leases->slots[slotno].next;
		if (q->returned_head < 0)
			q->returned_tail = -1;
	}
	SpinLockRelease(&q->returned_mutex);
	if (slotno < 0)
		return -1;

	slot = &leases->slots[slotno];
	word = pg_atomic_read_u64(&slot->word);
	pg_atomic_write_u64(&slot->word, WORD(WORD_GENERATION(word), LEASE_SETTLING));
	pg_atomic_fetch_sub_u32(&q->nreturned, 1);
	pg_atomic_fetch_add_u64(&q->leased, 1);
	remember(slotno, LEASE_DID_CHECK);
	return slotno;
}

void
lease_renew(int slotno, LeaseKind kind, TimestampTz now, TimestampTz expires_at)
{
	LeaseSlot  *slot = &leases->slots[slotno];

	forget_deed(slotno);
	slot->kind = kind;
	slot->pid = MyProcPid;
	slot->leased_at = now;
	slot->expires_at = expires_at;
	if (kind == LEASE_TIMED)
		pg_atomic_fetch_add_u32(&leases->timed, 1);
	set_held(slot);
	remember(slotno, LEASE_DID_TAKE);
}

void
lease_put_back(int slotno)
{
	forget_deed(slotno);
	return_slot(slotno);
}

void
lease_remove_returned(int slotno)
{
	forget_deed(slotno);
	remember(slotno, LEASE_DID_REMOVE);
}

LeaseSlot *
lease_slot(int slotno)
{
	return &leases->slots[slotno];
}

int64
lease_receipt(int slotno)
{
	uint64		generation = WORD_GENERATION(pg_atomic_read_u64(&leases->slots[slotno].word));

	return (int64) (generation << LEASE_SLOT_BITS | slotno);
}

/* The slot a receipt names, NULL if there is none such. */
static LeaseSlot *
receipt_slot(int64 receipt, uint64 *generation)
{
	int			slotno = receipt & ((1 << LEASE_SLOT_BITS) - 1);

	shmem_require();
	if (receipt <= 0 || slotno >= queue_max_leases)
		return NULL;
	*generation = (uint64) receipt >> LEASE_SLOT_BITS;
	return &leases->slots[slotno];
}

/* A lease being moved is still held: wait the moment its move takes. */
static void
wait_while_moving(LeaseSlot *slot, uint64 generation)
{
	while (pg_atomic_read_u64(&slot->word) == WORD(generation, LEASE_MOVING))
	{
		CHECK_FOR_INTERRUPTS();
		pg_usleep(1000);
	}
}

Oid
lease_queue(int64 receipt)
{
	uint64		generation;
	LeaseSlot  *slot = receipt_slot(receipt, &generation);
	QueueShared *q;
	Oid			relid;

	if (slot == NULL)
		return InvalidOid;
	wait_while_moving(slot, generation);
	q = &queue_state->queues[slot->queue];
	relid = (q->dboid == MyDatabaseId) ? q->relid : InvalidOid;
	pg_read_barrier();
	if (pg_atomic_read_u64(&slot->word) != WORD(generation, LEASE_HELD))
		return InvalidOid;
	return relid;
}

/* Bring a held lease to SETTLING; NULL if it has ended. */
static LeaseSlot *
seize(int64 receipt)
{
	uint64		generation;
	LeaseSlot  *slot = receipt_slot(receipt, &generation);
	uint64		expected;

	if (slot == NULL)
		return NULL;
	wait_while_moving(slot, generation);
	expected = WORD(generation, LEASE_HELD);
	if (!pg_atomic_compare_exchange_u64(&slot->word, &expected, WORD(generation, LEASE_SETTLING)))
		return NULL;
	return slot;
}

LeaseSlot *
lease_begin_settle(int64 receipt)
{
	LeaseSlot  *slot;

	lease_reserve(1);
	slot = seize(receipt);
	if (slot != NULL)
		remember(slot - leases->slots, LEASE_DID_SETTLE);
	return slot;
}

static void
set_state(LeaseSlot *slot, LeaseState state)
{
	uint64		word = pg_atomic_read_u64(&slot->word);

	pg_write_barrier();
	pg_atomic_write_u64(&slot->word, WORD(WORD_GENERATION(word), state));
}

void
lease_mark(LeaseSlot *slot, LeaseOutcome outcome)
{
	for (int i = ndeeds - 1; i >= 0; i--)
	{
		if (deeds[i].slotno == slot - leases->slots)
		{
			deeds[i].outcome = outcome;
			return;
		}
	}
}

void
lease_cancel_settle(LeaseSlot *slot, TimestampTz expires_at)
{
	forget_deed(slot - leases->slots);
	slot->expires_at = expires_at;
	set_state(slot, LEASE_HELD);
}

bool
lease_extend(int64 receipt, TimestampTz expires_at)
{
	LeaseSlot  *slot = seize(receipt);

	if (slot == NULL)
		return false;
	slot->expires_at = expires_at;
	set_state(slot, LEASE_HELD);
	return true;
}

bool
lease_release(int64 receipt)
{
	LeaseSlot  *slot = seize(receipt);
	QueueShared *q;

	if (slot == NULL)
		return false;
	q = &queue_state->queues[slot->queue];
	return_slot(slot - leases->slots);
	pg_atomic_fetch_add_u64(&q->ready, 1);
	wake_waiters(q, 1);
	return true;
}

int
lease_expired(TimestampTz now, int64 *receipts, int max, TimestampTz *next)
{
	int			n = 0;

	*next = DT_NOEND;
	if (pg_atomic_read_u32(&leases->timed) == 0)
		return 0;
	for (int i = 0; i < leases->high_water && n < max; i++)
	{
		LeaseSlot  *slot = &leases->slots[i];
		uint64		word = pg_atomic_read_u64(&slot->word);
		TimestampTz expires_at;

		if (LeaseWordState(word) != LEASE_HELD)
			continue;
		pg_read_barrier();
		expires_at = slot->expires_at;
		if (queue_state->queues[slot->queue].dboid != MyDatabaseId)
			continue;
		if (expires_at <= now)
			receipts[n++] = (int64) (WORD_GENERATION(word) << LEASE_SLOT_BITS | i);
		else if (expires_at < *next)
			*next = expires_at;
	}
	return n;
}

int
lease_in_segment(QueueShared *q, int segment, int *slots, int max)
{
	int			n = 0;

	for (int i = 0; i < leases->high_water && n < max; i++)
	{
		LeaseSlot  *slot = &leases->slots[i];

		if (LeaseWordState(pg_atomic_read_u64(&slot->word)) == LEASE_HELD &&
			slot->queue == QueueIndex(q) && slot->segment == segment)
			slots[n++] = i;
	}
	return n;
}

bool
lease_begin_move(int slotno)
{
	LeaseSlot  *slot = &leases->slots[slotno];
	uint64		word = pg_atomic_read_u64(&slot->word);
	LeaseDeed  *deed;

	lease_reserve(1);
	if (LeaseWordState(word) != LEASE_HELD ||
		!pg_atomic_compare_exchange_u64(&slot->word, &word,
										WORD(WORD_GENERATION(word), LEASE_MOVING)))
		return false;
	remember(slotno, LEASE_DID_MOVE);
	deed = &deeds[ndeeds - 1];
	deed->relid = slot->relid;
	deed->tid = slot->tid;
	deed->segment = slot->segment;
	return true;
}

/* Let a slot that is ours point to another place. */
static void
relocate(int slotno, Oid relid, ItemPointer tid, int segment)
{
	LeaseSlot  *slot = &leases->slots[slotno];

	hash_remove(slotno);
	count_in_segment(slot, -1);
	slot->relid = relid;
	slot->tid = *tid;
	slot->segment = segment;
	count_in_segment(slot, 1);
	hash_insert(slotno);
}

void
lease_move(int slotno, Oid relid, ItemPointer tid)
{
	relocate(slotno, relid, tid, LEASE_IN_DEFERRED);
}

bool
lease_forget_queue(QueueShared *q)
{
	bool		all = true;
	int			slotno;

	SpinLockAcquire(&q->returned_mutex);
	slotno = q->returned_head;
	q->returned_head = q->returned_tail = -1;
	SpinLockRelease(&q->returned_mutex);
	while (slotno >= 0)
	{
		int			next = leases->slots[slotno].next;

		pg_atomic_fetch_sub_u32(&q->nreturned, 1);
		pg_atomic_fetch_add_u64(&q->leased, 1);
		free_slot(slotno);
		slotno = next;
	}

	for (int i = 0; i < leases->high_water; i++)
	{
		LeaseSlot  *slot = &leases->slots[i];
		uint64		word = pg_atomic_read_u64(&slot->word);

		if (LeaseWordState(word) == LEASE_FREE || slot->queue != QueueIndex(q))
			continue;
		if (LeaseWordState(word) == LEASE_HELD &&
			pg_atomic_compare_exchange_u64(&slot->word, &word,
										   WORD(WORD_GENERATION(word), LEASE_SETTLING)))
			free_slot(i);
		else
			all = false;
	}
	return all;
}

/* Undo a deed, the transaction or subtransaction that did it having aborted. */
static void
undo(LeaseDeed *deed)
{
	LeaseSlot  *slot = &leases->slots[deed->slotno];
	QueueShared *q = &queue_state->queues[slot->queue];
	uint64		word = pg_atomic_read_u64(&slot->word);

	if (WORD_GENERATION(word) != deed->generation)
		return;

	switch (deed->action)
	{
		case LEASE_DID_TAKE:
			if (LeaseWordState(word) != LEASE_HELD ||
				!pg_atomic_compare_exchange_u64(&slot->word, &word,
												WORD(deed->generation, LEASE_SETTLING)))
				break;
			return_slot(deed->slotno);
			pg_atomic_fetch_add_u64(&q->ready, 1);
			wake_waiters(q, 1);
			break;
		case LEASE_DID_CHECK:
		case LEASE_DID_REMOVE:
			return_slot(deed->slotno);
			break;
		case LEASE_DID_SETTLE:
			set_state(slot, LEASE_HELD);
			if (slot->expires_at != DT_NOEND)
				maintenance_wake_by(MyDatabaseId, slot->expires_at);
			break;
		case LEASE_DID_MOVE:
			relocate(deed->slotno, deed->relid, &deed->tid, deed->segment);
			set_state(slot, LEASE_HELD);
			break;
	}
}

/*
 * Undo the latest deeds, from one on.  Leases that were taken are given back
 * in the order in which they were, after all that was done with them since.
 */
static void
undo_from(int first)
{
	for (int i = ndeeds - 1; i >= first; i--)
	{
		if (deeds[i].action != LEASE_DID_TAKE)
			undo(&deeds[i]);
	}
	for (int i = first; i < ndeeds; i++)
	{
		if (deeds[i].action == LEASE_DID_TAKE)
			undo(&deeds[i]);
	}
	ndeeds = first;
}

/* The transaction has committed, or is prepared. */
static void
finish(LeaseDeed *deed, bool prepared)
{
	LeaseSlot  *slot = &leases->slots[deed->slotno];
	QueueShared *q;
	uint64		word = pg_atomic_read_u64(&slot->word);

	if (WORD_GENERATION(word) != deed->generation)
		return;

	switch (deed->action)
	{
		case LEASE_DID_TAKE:
			break;
		case LEASE_DID_CHECK:
			return_slot(deed->slotno);
			break;
		case LEASE_DID_REMOVE:
			free_slot(deed->slotno);
			break;
		case LEASE_DID_SETTLE:

			/*
			 * Whether a prepared transaction's message is gone nobody knows
			 * yet; who takes it from the list looks at its tuple.
			 */
			if (prepared)
			{
				return_slot(deed->slotno);
				break;
			}
			q = &queue_state->queues[slot->queue];
			if (deed->outcome == LEASE_ACKED)
				pg_atomic_fetch_add_u64(&q->acked, 1);
			else if (deed->outcome == LEASE_FAILED)
				pg_atomic_fetch_add_u64(&q->failed, 1);
			if (slot->segment == LEASE_IN_DEFERRED)
				pg_atomic_fetch_sub_u64(&q->deferred, 1);
			free_slot(deed->slotno);
			break;
		case LEASE_DID_MOVE:
			set_state(slot, LEASE_HELD);
			break;
	}
}

static void
lease_xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PREPARE:
			for (int i = 0; i < ndeeds; i++)
				finish(&deeds[i], event == XACT_EVENT_PREPARE);
			ndeeds = 0;
			break;
		case XACT_EVENT_ABORT:
			undo_from(0);
			break;
		default:
			break;
	}
}

static void
lease_subxact_callback(SubXactEvent event, SubTransactionId subid,
					   SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		for (int i = ndeeds - 1; i >= 0 && deeds[i].subid >= subid; i--)
			deeds[i].subid = parent;
	}
	else if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		int			first = ndeeds;

		while (first > 0 && deeds[first - 1].subid >= subid)
			first--;
		undo_from(first);
	}
}

void
lease_init(void)
{
	RegisterXactCallback(lease_xact_callback, NULL);
	RegisterSubXactCallback(lease_subxact_callback, NULL);
}
