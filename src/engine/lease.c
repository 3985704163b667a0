/*
 * lease.c
 *		Leases: which consumer has which message, until when.
 *
 * Slots are claimed and given up by compare-and-swap of their word, so that
 * an acknowledgement, an expiry and an extension of the same lease cannot
 * both happen.  Whoever has brought a slot to another state than HELD owns
 * its other fields; RETURNED ones are the list's.  A hash on the message's
 * place finds out that it is leased; its buckets are guarded by spinlocks, a
 * few buckets each.
 *
 * What a transaction did to leases is undone or finished at its end from a
 * list kept by this backend.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "common/hashfn.h"
#include "engine/lease.h"
#include "engine/receipt.h"
#include "engine/wake.h"
#include "guc.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "workers/worker.h"

#define HASH_LOCKS		128

/* What a receipt has room for; generation 0 is no lease's. */
#define MAX_GENERATION	((UINT64CONST(1) << (RECEIPT_BITS - LEASE_SLOT_BITS)) - 1)

typedef struct LeaseSlot
{
	pg_atomic_uint64 word;		/* generation << 8 | LeaseState */
	int64		id;				/* message id */
	int			queue;			/* element of queue_state->queues */
	int			attempts;
	int			kind;			/* LeaseKind */
	int			pid;
	int			retries;
	int			next;			/* in the free or a returned list */
	TransactionId prepared;		/* took it and was prepared since */
	TimestampTz leased_at;
	TimestampTz expires_at;

	/*
	 * Where the message is, and for as long as it is being moved, where to;
	 * each has an entry of the hash, numbered 2 * slot + element.
	 */
	int			current;
	LeasePlace	places[2];
	int			hash_next[2];
} LeaseSlot;

typedef struct LeaseShared
{
	slock_t		free_mutex;
	int			free_head;
	int			high_water;		/* slots beyond were never used */
	int			nbuckets;		/* a power of two */
	pg_atomic_uint32 used;
	pg_atomic_uint32 timed;		/* of those, timed leases */
	uint64		receipt_keys[RECEIPT_KEYS]; /* by chance, at each start */
	LeaseRef	void_ref;		/* whose receipt would be 0 */
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
	LeaseRef	ref;
	LeaseAction action;
	LeaseOutcome outcome;		/* of LEASE_DID_SETTLE */
	bool		moved;			/* of LEASE_DID_MOVE: it has another place */
	bool		ended;			/* of LEASE_DID_SETTLE: its time was over */
	SubTransactionId subid;
} LeaseDeed;

static LeaseShared *leases = NULL;
static int *buckets = NULL;

static LeaseDeed *deeds = NULL;
static int	ndeeds = 0;
static int	max_deeds = 0;

#define WORD(generation, state)	(((uint64) (generation) << 8) | (state))
#define WORD_GENERATION(word)	((word) >> 8)
#define WORD_STATE(word)		((LeaseState) ((word) & 0xFF))

#define REF(generation, slotno)	((LeaseRef) (generation) << LEASE_SLOT_BITS | (slotno))
#define REF_GENERATION(ref)		((ref) >> LEASE_SLOT_BITS)
#define REF_SLOTNO(ref)			((int) ((ref) & (LEASE_MAX_SLOTS - 1)))
#define REF_WORD(ref, state)	WORD(REF_GENERATION(ref), state)

/*
 * Shared memory
 */

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

	leases = ShmemInitStruct("queue leases", lease_shmem_size(), &mine);
	buckets = (int *) ((char *) leases + slots_size());
	if (found)
		return;

	/* With other keys, receipts from before a restart are nobody's. */
	if (!pg_strong_random(leases->receipt_keys, sizeof(leases->receipt_keys)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));

	leases->void_ref = receipt_decode(leases->receipt_keys, 0);

	SpinLockInit(&leases->free_mutex);
	leases->free_head = 0;
	leases->high_water = 0;
	leases->nbuckets = bucket_count();
	pg_atomic_init_u32(&leases->used, 0);
	pg_atomic_init_u32(&leases->timed, 0);
	for (int i = 0; i < HASH_LOCKS; i++)
		SpinLockInit(&leases->hash_mutex[i]);
	for (int i = 0; i < leases->nbuckets; i++)
		buckets[i] = -1;
	for (int i = 0; i < queue_max_leases; i++)
	{
		LeaseSlot  *slot = &leases->slots[i];

		memset(slot, 0, sizeof(LeaseSlot));
		pg_atomic_init_u64(&slot->word, WORD(0, LEASE_FREE));
		slot->next = (i + 1 < queue_max_leases) ? i + 1 : -1;
		slot->hash_next[0] = slot->hash_next[1] = -1;
	}
}

int64
lease_receipt(LeaseRef ref)
{
	return receipt_encode(leases->receipt_keys, ref);
}

LeaseRef
lease_of_receipt(int64 receipt)
{
	LeaseRef	ref;

	shmem_require();
	if (receipt == 0)
		return 0;
	ref = receipt_decode(leases->receipt_keys, receipt);
	return REF_GENERATION(ref) > 0 && REF_SLOTNO(ref) < queue_max_leases ? ref : 0;
}

/*
 * The hash of places
 */

static int
place_bucket(int queue, const LeasePlace *place, int64 id)
{
	uint64		hash;

	if (place->segment == LEASE_IN_DEFERRED)
		hash = ((uint64) queue << 48) ^ (uint64) id ^ (uint64) place->due_at;
	else
		hash = ((uint64) place->relid << 32) ^
			((uint64) ItemPointerGetBlockNumberNoCheck(&place->tid) << 9) ^
			ItemPointerGetOffsetNumberNoCheck(&place->tid);

	return murmurhash32((uint32) (hash ^ (hash >> 32))) & (leases->nbuckets - 1);
}

static inline slock_t *
bucket_mutex(int bucket)
{
	return &leases->hash_mutex[bucket % HASH_LOCKS];
}

/*
 * The entry of a message at a place, -1 if there is none.  In a segment the id
 * tells it from one that held the place before and whose lease has not ended
 * yet (TRUNCATE, VACUUM); the database, from one copied from it, whose tables
 * have the same OIDs.
 */
static int
find_in_bucket(int bucket, int queue, const LeasePlace *place, int64 id)
{
	int			entry = buckets[bucket];

	while (entry >= 0)
	{
		LeaseSlot  *slot = &leases->slots[entry / 2];
		LeasePlace *other = &slot->places[entry % 2];

		if (slot->id != id)
			;
		else if (place->segment == LEASE_IN_DEFERRED)
		{
			if (other->segment == LEASE_IN_DEFERRED && slot->queue == queue &&
				other->due_at == place->due_at)
				break;
		}
		else if (other->segment != LEASE_IN_DEFERRED && other->relid == place->relid &&
				 ItemPointerEquals(&other->tid, unconstify(ItemPointerData *, &place->tid)) &&
				 queue_state->queues[slot->queue].dboid == MyDatabaseId)
			break;
		entry = slot->hash_next[entry % 2];
	}
	return entry;
}

static void
hash_insert(int slotno, int which)
{
	LeaseSlot  *slot = &leases->slots[slotno];
	int			bucket = place_bucket(slot->queue, &slot->places[which], slot->id);

	SpinLockAcquire(bucket_mutex(bucket));
	slot->hash_next[which] = buckets[bucket];
	buckets[bucket] = 2 * slotno + which;
	SpinLockRelease(bucket_mutex(bucket));
}

static void
hash_remove(int slotno, int which)
{
	LeaseSlot  *slot = &leases->slots[slotno];
	int			bucket = place_bucket(slot->queue, &slot->places[which], slot->id);
	int		   *link = &buckets[bucket];

	SpinLockAcquire(bucket_mutex(bucket));
	while (*link >= 0 && *link != 2 * slotno + which)
		link = &leases->slots[*link / 2].hash_next[*link % 2];
	if (*link >= 0)
		*link = slot->hash_next[which];
	SpinLockRelease(bucket_mutex(bucket));
	slot->hash_next[which] = -1;
}

LeaseState
lease_state(Oid relid, ItemPointer tid, int64 id)
{
	LeasePlace	place = {.relid = relid,.tid = *tid};
	int			bucket = place_bucket(0, &place, id);
	LeaseState	state = LEASE_FREE;
	int			entry;

	SpinLockAcquire(bucket_mutex(bucket));
	entry = find_in_bucket(bucket, 0, &place, id);
	if (entry >= 0)
	{
		state = WORD_STATE(pg_atomic_read_u64(&leases->slots[entry / 2].word));

		/* Taken this moment, and not marked so yet. */
		if (state == LEASE_FREE)
			state = LEASE_HELD;
	}
	SpinLockRelease(bucket_mutex(bucket));
	return state;
}

/*
 * Slots
 */

/* Count a lease in or out of the segment it keeps from being truncated. */
static void
count_in_segment(LeaseSlot *slot, int which, int32 change)
{
	int			segment = slot->places[which].segment;

	if (segment != LEASE_IN_DEFERRED)
		pg_atomic_fetch_add_u32(&queue_state->queues[slot->queue].segments[segment].leases, change);
}

static inline LeaseSlot *
ref_slot(LeaseRef ref)
{
	return &leases->slots[REF_SLOTNO(ref)];
}

/* A slot that is ours is in another state from now on, its fields written. */
static void
set_state(LeaseRef ref, LeaseState state)
{
	pg_write_barrier();
	pg_atomic_write_u64(&ref_slot(ref)->word, REF_WORD(ref, state));
}

/* Make a lease ours, from one state; false if it is in another. */
static bool
change_state(LeaseRef ref, LeaseState from, LeaseState to)
{
	uint64		expected = REF_WORD(ref, from);

	return pg_atomic_compare_exchange_u64(&ref_slot(ref)->word, &expected, REF_WORD(ref, to));
}

/*
 * Make a held lease ours.  One whose fields are being changed is still held,
 * and so is one that is being moved: for that we wait if asked to.
 */
static bool
seize(LeaseRef ref, LeaseState to, bool wait)
{
	if (ref == 0)
		return false;
	for (;;)
	{
		uint64		word;

		if (change_state(ref, LEASE_HELD, to))
			return true;
		word = pg_atomic_read_u64(&ref_slot(ref)->word);
		if (word == REF_WORD(ref, LEASE_BUSY))
			pg_spin_delay();
		else if (word == REF_WORD(ref, LEASE_MOVING) && wait)
		{
			CHECK_FOR_INTERRUPTS();
			pg_usleep(1000);
		}
		else if (word != REF_WORD(ref, LEASE_HELD))
			return false;
	}
}

static void
copy_lease(LeaseRef ref, Lease *lease)
{
	LeaseSlot  *slot = ref_slot(ref);

	lease->ref = ref;
	lease->state = WORD_STATE(pg_atomic_read_u64(&slot->word));
	lease->kind = slot->kind;
	lease->q = &queue_state->queues[slot->queue];
	lease->id = slot->id;
	lease->place = slot->places[slot->current];
	lease->attempts = slot->attempts;
	lease->pid = slot->pid;
	lease->retries = slot->retries;
	lease->leased_at = slot->leased_at;
	lease->expires_at = slot->expires_at;
}

bool
lease_read(int slotno, Lease *lease)
{
	LeaseSlot  *slot = &leases->slots[slotno];

	for (;;)
	{
		uint64		word = pg_atomic_read_u64(&slot->word);

		if (WORD_STATE(word) == LEASE_FREE)
			return false;
		pg_read_barrier();
		copy_lease(REF(WORD_GENERATION(word), slotno), lease);
		pg_read_barrier();
		if (WORD_STATE(word) != LEASE_BUSY && pg_atomic_read_u64(&slot->word) == word)
			return true;
		pg_spin_delay();
	}
}

/* Whether a lease on some queue is one of this database. */
static bool
is_here(const Lease *lease)
{
	return lease->q->dboid == MyDatabaseId;
}

/*
 * What this transaction did
 */

static void
remember(LeaseRef ref, LeaseAction action)
{
	LeaseDeed  *deed = &deeds[ndeeds];

	Assert(ndeeds < max_deeds);
	ndeeds++;
	deed->ref = ref;
	deed->action = action;
	deed->outcome = LEASE_ACKED;
	deed->moved = false;
	deed->ended = false;
	deed->subid = GetCurrentSubTransactionId();
}

/* The latest deed on a lease, NULL if there is none. */
static LeaseDeed *
latest_deed(LeaseRef ref)
{
	for (int i = ndeeds - 1; i >= 0; i--)
	{
		if (deeds[i].ref == ref)
			return &deeds[i];
	}
	return NULL;
}

/* Strike it off the list; false if there is none. */
static bool
forget_deed(LeaseRef ref)
{
	LeaseDeed  *deed = latest_deed(ref);

	if (deed == NULL)
		return false;
	memmove(deed, deed + 1, (deeds + ndeeds - deed - 1) * sizeof(LeaseDeed));
	ndeeds--;
	return true;
}

void
lease_reserve(int n)
{
	int			max;

	if (ndeeds + n <= max_deeds)
		return;
	max = Max(ndeeds + n, Max(64, max_deeds * 2));
	if (deeds == NULL)
		deeds = MemoryContextAllocHuge(TopMemoryContext, (Size) max * sizeof(LeaseDeed));
	else
		deeds = repalloc_huge(deeds, (Size) max * sizeof(LeaseDeed));
	max_deeds = max;
}

int
lease_pending(void)
{
	return ndeeds;
}

/*
 * Taking and giving up
 */

int
lease_allowance(QueueShared *q, int n)
{
	int			most = queue_max_leases_per_role;
	int64		used = 0;

	if (most < 0)
		most = queue_max_leases / 2;
	if (q->owner_is_superuser || !OidIsValid(q->owner) ||
		(int64) pg_atomic_read_u32(&leases->used) + n <= most)
		return n;
	for (int i = 0; i < queue_max_queues; i++)
	{
		QueueShared *other = &queue_state->queues[i];

		if (OidIsValid(other->relid) && other->owner == q->owner)
			used += pg_atomic_read_u32(&other->slots_used);
	}
	if (used >= most)
		return 0;
	return (int) Min(n, most - used);
}

/*
 * A lease that is ours begins, with another generation than any before in its
 * slot, so that old receipts fail; and one whose receipt is a positive number.
 */
static LeaseRef
set_held(int slotno)
{
	LeaseSlot  *slot = &leases->slots[slotno];
	uint64		generation = WORD_GENERATION(pg_atomic_read_u64(&slot->word));
	LeaseRef	ref;

	do
	{
		generation = generation == MAX_GENERATION ? 1 : generation + 1;
		ref = REF(generation, slotno);
	} while (ref == leases->void_ref);
	set_state(ref, LEASE_HELD);
	return ref;
}

/* The fields of a lease that begins. */
static void
begin_lease(LeaseSlot *slot, int attempts, LeaseKind kind, TimestampTz now, TimestampTz expires_at)
{
	slot->attempts = attempts;
	slot->kind = kind;
	slot->pid = MyProcPid;
	slot->retries = 0;
	slot->prepared = InvalidTransactionId;
	slot->leased_at = now;
	slot->expires_at = expires_at;
}

/* What others must know of a lease that has begun. */
static LeaseRef
announce_lease(int slotno)
{
	LeaseSlot  *slot = &leases->slots[slotno];
	LeaseRef	ref = set_held(slotno);

	if (slot->kind == LEASE_TIMED)
	{
		pg_atomic_fetch_add_u32(&leases->timed, 1);
		lease_look_by(&queue_state->queues[slot->queue], slot->expires_at);
	}
	remember(ref, LEASE_DID_TAKE);
	return ref;
}

LeaseTaking
lease_take(QueueShared *q, const LeasePlace *place, int64 id, int attempts, LeaseKind kind,
		   TimestampTz now, TimestampTz expires_at, LeaseRef *ref)
{
	int			queue = QueueIndex(q);
	int			bucket = place_bucket(queue, place, id);
	slock_t    *mutex = bucket_mutex(bucket);
	int			slotno;
	LeaseSlot  *slot;

	SpinLockAcquire(mutex);
	if (find_in_bucket(bucket, queue, place, id) >= 0)
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
	slot->queue = queue;
	slot->current = 0;
	slot->places[0] = *place;
	begin_lease(slot, attempts, kind, now, expires_at);
	slot->hash_next[0] = buckets[bucket];
	buckets[bucket] = 2 * slotno;
	SpinLockRelease(mutex);

	count_in_segment(slot, 0, 1);
	pg_atomic_fetch_add_u32(&leases->used, 1);
	pg_atomic_fetch_add_u32(&q->slots_used, 1);
	pg_atomic_fetch_add_u64(&q->leased, 1);
	*ref = announce_lease(slotno);
	return LEASE_TAKEN;
}

/* Take a slot out of use; its word says that it is ours. */
static void
free_slot(LeaseRef ref)
{
	LeaseSlot  *slot = ref_slot(ref);
	QueueShared *q = &queue_state->queues[slot->queue];

	hash_remove(REF_SLOTNO(ref), slot->current);
	count_in_segment(slot, slot->current, -1);
	if (slot->kind == LEASE_TIMED)
		pg_atomic_fetch_sub_u32(&leases->timed, 1);
	pg_atomic_fetch_sub_u64(&q->leased, 1);
	pg_atomic_fetch_sub_u32(&q->slots_used, 1);
	pg_atomic_fetch_sub_u32(&leases->used, 1);

	/* Still the same generation: the receipt has ended, the next differs. */
	set_state(ref, LEASE_FREE);
	SpinLockAcquire(&leases->free_mutex);
	slot->next = leases->free_head;
	leases->free_head = REF_SLOTNO(ref);
	SpinLockRelease(&leases->free_mutex);
}

/* Hang a slot that is ours on the list the next receiver takes from. */
static void
return_slot(LeaseRef ref)
{
	LeaseSlot  *slot = ref_slot(ref);
	QueueShared *q = &queue_state->queues[slot->queue];

	if (slot->kind == LEASE_TIMED)
		pg_atomic_fetch_sub_u32(&leases->timed, 1);
	slot->kind = LEASE_TRANSACTION;
	slot->expires_at = DT_NOEND;
	slot->pid = 0;
	slot->next = -1;
	slot->prepared = InvalidTransactionId;
	set_state(ref, LEASE_RETURNED);

	SpinLockAcquire(&q->returned_mutex);
	if (q->returned_tail >= 0)
		leases->slots[q->returned_tail].next = REF_SLOTNO(ref);
	else
		q->returned_head = REF_SLOTNO(ref);
	q->returned_tail = REF_SLOTNO(ref);
	SpinLockRelease(&q->returned_mutex);
	pg_atomic_fetch_sub_u64(&q->leased, 1);
	pg_atomic_fetch_add_u32(&q->nreturned, 1);
}

/* Return a slot that is ours, and have somebody receive its message. */
static void
hand_back(LeaseRef ref)
{
	QueueShared *q = &queue_state->queues[ref_slot(ref)->queue];

	return_slot(ref);
	pg_atomic_fetch_add_u64(&q->ready, 1);
	wake_waiters(q, 1);
}

/*
 * Give a held lease back; if its message is being moved, who moves it does so
 * when it is where it goes.  False if it has ended.
 */
static bool
give_back(LeaseRef ref)
{
	for (;;)
	{
		uint64		word;

		if (seize(ref, LEASE_BUSY, false))
		{
			hand_back(ref);
			return true;
		}
		if (change_state(ref, LEASE_MOVING, LEASE_LEAVING))
			return true;

		/* Arrived between the two, perhaps. */
		word = pg_atomic_read_u64(&ref_slot(ref)->word);
		if (word != REF_WORD(ref, LEASE_HELD) && word != REF_WORD(ref, LEASE_BUSY) &&
			word != REF_WORD(ref, LEASE_MOVING))
			return false;
	}
}

void
lease_drop(LeaseRef ref)
{
	LeaseDeed  *deed = latest_deed(ref);

	if (deed == NULL)
		return;

	/* One just taken can be somebody's already, if it is timed. */
	if (deed->action == LEASE_DID_TAKE && !seize(ref, LEASE_BUSY, false))
		return;
	forget_deed(ref);
	free_slot(ref);
}

void
lease_give_back(LeaseRef ref)
{
	LeaseDeed  *deed = latest_deed(ref);

	if (deed != NULL && deed->action == LEASE_DID_TAKE && give_back(ref))
		forget_deed(ref);
}

bool
lease_take_returned(QueueShared *q, Lease *lease)
{
	int			slotno;
	LeaseRef	ref;

	if (pg_atomic_read_u32(&q->nreturned) == 0)
		return false;

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
		return false;

	ref = REF(WORD_GENERATION(pg_atomic_read_u64(&leases->slots[slotno].word)), slotno);
	set_state(ref, LEASE_CHECKING);
	pg_atomic_fetch_sub_u32(&q->nreturned, 1);
	pg_atomic_fetch_add_u64(&q->leased, 1);
	remember(ref, LEASE_DID_CHECK);
	copy_lease(ref, lease);
	return true;
}

void
lease_renew(LeaseRef *ref, int attempts, LeaseKind kind, TimestampTz now, TimestampTz expires_at)
{
	if (!forget_deed(*ref))
		return;
	begin_lease(ref_slot(*ref), attempts, kind, now, expires_at);
	*ref = announce_lease(REF_SLOTNO(*ref));
}

void
lease_put_back(LeaseRef ref)
{
	if (forget_deed(ref))
		return_slot(ref);
}

void
lease_remove_returned(LeaseRef ref)
{
	if (forget_deed(ref))
		remember(ref, LEASE_DID_REMOVE);
}

/*
 * Settling
 */

Oid
lease_queue(LeaseRef ref)
{
	QueueShared *q;
	Oid			relid;
	uint64		word;

	if (ref == 0)
		return InvalidOid;

	/* Only a look: whoever settles it seizes it. */
	q = &queue_state->queues[ref_slot(ref)->queue];
	relid = (q->dboid == MyDatabaseId) ? q->relid : InvalidOid;
	pg_read_barrier();
	word = pg_atomic_read_u64(&ref_slot(ref)->word);
	if (word == REF_WORD(ref, LEASE_HELD) || word == REF_WORD(ref, LEASE_MOVING) ||
		word == REF_WORD(ref, LEASE_BUSY))
		return relid;
	return InvalidOid;
}

bool
lease_begin_settle(LeaseRef ref, Lease *lease)
{
	lease_reserve(1);
	if (!seize(ref, LEASE_SETTLING, true))
		return false;
	remember(ref, LEASE_DID_SETTLE);
	copy_lease(ref, lease);
	return true;
}

bool
lease_begin_expire(LeaseRef ref, TimestampTz now, Lease *lease)
{
	lease_reserve(1);
	if (!seize(ref, LEASE_BUSY, false))
		return false;
	copy_lease(ref, lease);
	if (lease->kind != LEASE_TIMED || lease->expires_at > now)
	{
		set_state(ref, LEASE_HELD);
		return false;
	}
	set_state(ref, LEASE_SETTLING);
	remember(ref, LEASE_DID_SETTLE);
	deeds[ndeeds - 1].ended = true;
	return true;
}

void
lease_mark(LeaseRef ref, LeaseOutcome outcome)
{
	LeaseDeed  *deed = latest_deed(ref);

	if (deed != NULL)
		deed->outcome = outcome;
}

/* Tell those who have to know when a timed lease ends. */
static void
notice_expiry(LeaseSlot *slot)
{
	QueueShared *q = &queue_state->queues[slot->queue];

	lease_look_by(q, slot->expires_at);
	maintenance_wake_by(q->dboid, slot->expires_at);
}

/* Let a timed lease that is ours end at a time. */
static void
set_expiry(LeaseRef ref, TimestampTz expires_at)
{
	LeaseSlot  *slot = ref_slot(ref);

	slot->expires_at = expires_at;
	set_state(ref, LEASE_HELD);
	notice_expiry(slot);
}

void
lease_cancel_settle(LeaseRef ref, TimestampTz expires_at)
{
	if (forget_deed(ref))
		set_expiry(ref, expires_at);
}

void
lease_retry_expiry(LeaseRef ref, TimestampTz when)
{
	LeaseSlot  *slot = ref_slot(ref);

	if (!seize(ref, LEASE_BUSY, false))
		return;
	slot->retries++;

	/* Not sooner than its consumer has got it extended to meanwhile. */
	set_expiry(ref, Max(when, slot->expires_at));
}

bool
lease_extend(LeaseRef ref, TimestampTz expires_at)
{
	if (!seize(ref, LEASE_BUSY, true))
		return false;
	if (ref_slot(ref)->kind != LEASE_TIMED)
	{
		set_state(ref, LEASE_HELD);
		return false;
	}
	ref_slot(ref)->retries = 0;
	set_expiry(ref, expires_at);
	return true;
}

bool
lease_release(LeaseRef ref)
{
	return give_back(ref);
}

int
lease_high_water(void)
{
	return leases->high_water;
}

bool
lease_any_timed(void)
{
	return pg_atomic_read_u32(&leases->timed) > 0;
}

void
lease_look_by(QueueShared *q, TimestampTz when)
{
	uint64		old;

	/*
	 * The lease is held before we look at the bound, as lease_overdue raises
	 * it before he looks at the lease: one of us sees what the other did.
	 */
	pg_memory_barrier();
	old = pg_atomic_read_u64(&q->next_expiry);
	while ((TimestampTz) old > when &&
		   !pg_atomic_compare_exchange_u64(&q->next_expiry, &old, (uint64) when))
		;
}

/*
 * Moving
 */

bool
lease_begin_move(LeaseRef ref, Lease *lease)
{
	lease_reserve(1);
	if (!change_state(ref, LEASE_HELD, LEASE_MOVING))
		return false;
	remember(ref, LEASE_DID_MOVE);
	copy_lease(ref, lease);
	return true;
}

void
lease_move(LeaseRef ref, const LeasePlace *place)
{
	LeaseSlot  *slot = ref_slot(ref);
	LeaseDeed  *deed = latest_deed(ref);
	int			which = 1 - slot->current;

	if (deed == NULL || deed->moved)
		return;
	slot->places[which] = *place;
	count_in_segment(slot, which, 1);
	hash_insert(REF_SLOTNO(ref), which);
	deed->moved = true;
}

/* The move is over: the lease keeps one of its places. */
static void
finish_move(LeaseDeed *deed, bool arrived)
{
	LeaseSlot  *slot = ref_slot(deed->ref);

	if (deed->moved)
	{
		int			left = arrived ? slot->current : 1 - slot->current;

		hash_remove(REF_SLOTNO(deed->ref), left);
		count_in_segment(slot, left, -1);
		slot->current = 1 - left;
	}
	if (!change_state(deed->ref, LEASE_MOVING, LEASE_HELD))
		hand_back(deed->ref);
	else if (slot->kind == LEASE_TIMED)
		lease_look_by(&queue_state->queues[slot->queue], slot->expires_at);
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
		LeaseSlot  *slot = &leases->slots[slotno];
		int			next = slot->next;

		pg_atomic_fetch_sub_u32(&q->nreturned, 1);
		pg_atomic_fetch_add_u64(&q->leased, 1);
		free_slot(REF(WORD_GENERATION(pg_atomic_read_u64(&slot->word)), slotno));
		slotno = next;
	}

	for (int i = 0; i < leases->high_water; i++)
	{
		Lease		lease;

		if (!lease_read(i, &lease) || lease.q != q)
			continue;
		if (change_state(lease.ref, LEASE_HELD, LEASE_BUSY))
			free_slot(lease.ref);
		else
			all = false;
	}
	return all;
}

/*
 * The end of a transaction
 */

/* Undo a deed, the transaction or subtransaction that did it having aborted. */
static void
undo(LeaseDeed *deed)
{
	LeaseSlot  *slot = ref_slot(deed->ref);

	if (WORD_GENERATION(pg_atomic_read_u64(&slot->word)) != REF_GENERATION(deed->ref))
		return;

	switch (deed->action)
	{
		case LEASE_DID_TAKE:
			(void) give_back(deed->ref);
			break;
		case LEASE_DID_CHECK:
		case LEASE_DID_REMOVE:
			return_slot(deed->ref);
			break;
		case LEASE_DID_SETTLE:
			if (deed->ended)
			{
				/* Somebody else has had the message: the receipt stays void. */
				(void) set_held(REF_SLOTNO(deed->ref));
				notice_expiry(slot);
			}
			else if (slot->kind == LEASE_TIMED)
				set_expiry(deed->ref, slot->expires_at);
			else
				set_state(deed->ref, LEASE_HELD);
			break;
		case LEASE_DID_MOVE:
			finish_move(deed, false);
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
	LeaseSlot  *slot = ref_slot(deed->ref);
	QueueShared *q;

	if (WORD_GENERATION(pg_atomic_read_u64(&slot->word)) != REF_GENERATION(deed->ref))
		return;

	switch (deed->action)
	{
		case LEASE_DID_TAKE:
			if (prepared)
				slot->prepared = GetTopTransactionIdIfAny();
			break;
		case LEASE_DID_CHECK:
			return_slot(deed->ref);
			break;
		case LEASE_DID_REMOVE:
			free_slot(deed->ref);
			break;
		case LEASE_DID_SETTLE:

			/*
			 * Whether a prepared transaction's message is gone nobody knows
			 * yet; who takes it from the list looks at its tuple.
			 */
			if (prepared)
			{
				/* A delivery of an earlier transaction's is over in any case. */
				if (slot->prepared != GetTopTransactionIdIfAny())
					slot->attempts++;
				return_slot(deed->ref);
				break;
			}
			q = &queue_state->queues[slot->queue];
			if (deed->outcome == LEASE_ACKED)
				pg_atomic_fetch_add_u64(&q->acked, 1);
			else if (deed->outcome != LEASE_GONE)
				pg_atomic_fetch_add_u64(&q->failed, 1);
			if (deed->outcome == LEASE_EXPIRED)
				pg_atomic_fetch_add_u64(&q->expired, 1);
			if (slot->places[slot->current].segment == LEASE_IN_DEFERRED)
				pg_atomic_fetch_sub_u64(&q->deferred, 1);
			free_slot(deed->ref);
			break;
		case LEASE_DID_MOVE:
			finish_move(deed, true);
			break;
	}
}

void
lease_finish_prepared(void)
{
	for (int i = 0; i < leases->high_water; i++)
	{
		LeaseSlot  *slot = &leases->slots[i];
		Lease		lease;
		TransactionId xid = slot->prepared;

		if (!TransactionIdIsValid(xid) || !lease_read(i, &lease) ||
			!is_here(&lease) || TransactionIdIsInProgress(xid) ||
			!seize(lease.ref, LEASE_BUSY, false))
			continue;
		if (slot->prepared == xid && !TransactionIdDidCommit(xid))
		{
			hand_back(lease.ref);
			continue;
		}
		slot->prepared = InvalidTransactionId;
		set_state(lease.ref, LEASE_HELD);
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
