/*
 * keys.c
 *		Keys whose messages go out in order, or only so many at a time.
 *
 * A key in a slot is on lease, ready, in a turn, or parked: then its next
 * message waits for something that is not a lease, its due time or somebody
 * who sends a dead letter again, and whoever finds that that has come calls
 * key_wait.  A slot without a lease and without a waiting message is free.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "engine/keys.h"
#include "guc.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/timestamp.h"

#define KEY_LOCKS	128

typedef struct KeySlot
{
	/* Constant while the slot is in use. */
	int64		hash;
	int			queue;			/* element of queue_state->queues; -1: free */

	/* Under the lock of its bucket. */
	int			next;			/* in the bucket; or in the free list */
	int			limit;			/* leases after which messages wait */
	int			leased;			/* leases, those given back included */
	int			first_lease;	/* their slots, in the order taken; or -1 */
	int			last_lease;
	uint64		claim;			/* that took it last */
	KeyWaiting	waiting;
	TimestampTz since;			/* when the waiting began */
	int			turn;			/* process that has a turn; 0: none */
	bool		news;			/* for which the key is to have another turn */
	int64		awaits;			/* id for the cursors to pass first, or 0 */

	/*
	 * On the ready list, or just taken off it; set under the bucket's lock.
	 * The slot is not freed meanwhile.
	 */
	bool		listed;

	int			ready_next;		/* under the list's spinlock */
} KeySlot;

/* The leases of a key, by slot of the lease; under the lock of its bucket. */
typedef struct KeyLease
{
	int			next;
	int			previous;
} KeyLease;

/* Of one queue. */
typedef struct KeyAccount
{
	slock_t		mutex;
	int			ready_head;		/* under mutex */
	int			ready_tail;
	pg_atomic_uint32 nready;	/* changed under mutex, read as a hint */
	pg_atomic_uint32 used;		/* slots; counted without a lock */
} KeyAccount;

typedef struct KeyShared
{
	pg_atomic_uint64 claims;	/* counted */
	pg_atomic_uint32 used;		/* slots of all queues */
	int			nbuckets;		/* a power of two */
	slock_t		free_mutex;
	int			free_head;		/* under free_mutex */
	LWLockPadded locks[KEY_LOCKS];
	KeyAccount	accounts[FLEXIBLE_ARRAY_MEMBER];
	/* KeySlot slots[queue_max_keys], KeyLease leases[queue_max_leases], */
	/* int buckets[nbuckets] follow */
} KeyShared;

static KeyShared *shared = NULL;
static KeySlot *slots = NULL;
static KeyLease *key_leases = NULL;
static int *buckets = NULL;

static Size
accounts_size(void)
{
	return MAXALIGN(add_size(offsetof(KeyShared, accounts),
							 mul_size(queue_max_queues, sizeof(KeyAccount))));
}

static Size
slots_size(void)
{
	return MAXALIGN(mul_size(queue_max_keys, sizeof(KeySlot)));
}

static Size
leases_size(void)
{
	return MAXALIGN(mul_size(queue_max_leases, sizeof(KeyLease)));
}

Size
keys_shmem_size(void)
{
	return add_size(add_size(accounts_size(), slots_size()),
					add_size(leases_size(),
							 mul_size(pg_nextpower2_32(queue_max_keys), sizeof(int))));
}

void
keys_shmem_init(void)
{
	bool		found;

	shared = ShmemInitStruct("queue keys", keys_shmem_size(), &found);
	slots = (KeySlot *) ((char *) shared + accounts_size());
	key_leases = (KeyLease *) ((char *) slots + slots_size());
	buckets = (int *) ((char *) key_leases + leases_size());
	if (found)
		return;

	pg_atomic_init_u64(&shared->claims, 0);
	pg_atomic_init_u32(&shared->used, 0);
	shared->nbuckets = pg_nextpower2_32(queue_max_keys);
	SpinLockInit(&shared->free_mutex);
	shared->free_head = 0;
	for (int i = 0; i < KEY_LOCKS; i++)
		LWLockInitialize(&shared->locks[i].lock, queue_state->lwlock_tranche);
	for (int i = 0; i < queue_max_queues; i++)
	{
		KeyAccount *account = &shared->accounts[i];

		SpinLockInit(&account->mutex);
		account->ready_head = account->ready_tail = -1;
		pg_atomic_init_u32(&account->nready, 0);
		pg_atomic_init_u32(&account->used, 0);
	}
	memset(slots, 0, slots_size());
	for (int i = 0; i < queue_max_keys; i++)
	{
		slots[i].queue = -1;
		slots[i].next = (i + 1 < queue_max_keys) ? i + 1 : -1;
	}
	for (int i = 0; i < shared->nbuckets; i++)
		buckets[i] = -1;
}

static inline KeyAccount *
account_of(QueueShared *q)
{
	return &shared->accounts[QueueIndex(q)];
}

static inline int
bucket_of(int queue, int64 hash)
{
	uint64		mixed = (uint64) hash ^ ((uint64) queue << 32);

	return murmurhash32((uint32) (mixed ^ (mixed >> 32))) & (shared->nbuckets - 1);
}

static inline LWLock *
lock_of(int bucket)
{
	return &shared->locks[bucket % KEY_LOCKS].lock;
}

/* Lock the bucket of a slot that cannot become free meanwhile. */
static LWLock *
lock_slot(int keyno)
{
	LWLock	   *lock = lock_of(bucket_of(slots[keyno].queue, slots[keyno].hash));

	LWLockAcquire(lock, LW_EXCLUSIVE);
	return lock;
}

uint64
key_claim(void)
{
	return pg_atomic_add_fetch_u64(&shared->claims, 1);
}

int
keys_ready(QueueShared *q)
{
	return (int) pg_atomic_read_u32(&account_of(q)->nready);
}

int
keys_used(QueueShared *q)
{
	return (int) pg_atomic_read_u32(&account_of(q)->used);
}

/*
 * Slots.  The bucket of the key is locked.
 */

static int
find_slot(int bucket, int queue, int64 hash)
{
	int			keyno = buckets[bucket];

	Assert(LWLockHeldByMe(lock_of(bucket)));
	while (keyno >= 0 && (slots[keyno].hash != hash || slots[keyno].queue != queue))
		keyno = slots[keyno].next;
	return keyno;
}

/*
 * Whether another slot may be used for a queue: keys that wait must not fill
 * them all for those of other roles.
 */
static bool
may_use_slot(QueueShared *q)
{
	uint32		used = pg_atomic_read_u32(&shared->used);
	uint32		owned = 0;

	if (used < (uint32) queue_max_keys / 2 || q->owner_is_superuser)
		return true;
	for (int i = 0; i < queue_max_queues; i++)
	{
		QueueShared *other = &queue_state->queues[i];

		if (OidIsValid(other->relid) && other->owner == q->owner)
			owned += pg_atomic_read_u32(&shared->accounts[i].used);
	}
	return owned < (uint32) (queue_max_keys + 1) / 2;
}

static int
make_slot(QueueShared *q, int bucket, int64 hash)
{
	int			keyno;
	KeySlot    *slot;

	if (!may_use_slot(q))
		return -1;
	SpinLockAcquire(&shared->free_mutex);
	keyno = shared->free_head;
	if (keyno >= 0)
		shared->free_head = slots[keyno].next;
	SpinLockRelease(&shared->free_mutex);
	if (keyno < 0)
		return -1;

	slot = &slots[keyno];
	memset(slot, 0, sizeof(KeySlot));
	slot->hash = hash;
	slot->queue = QueueIndex(q);
	slot->limit = 1;
	slot->first_lease = slot->last_lease = -1;
	slot->next = buckets[bucket];
	buckets[bucket] = keyno;
	pg_atomic_fetch_add_u32(&shared->used, 1);
	pg_atomic_fetch_add_u32(&account_of(q)->used, 1);
	return keyno;
}

static inline bool
any_waiting(const KeySlot *slot)
{
	return slot->waiting.n > 0 || slot->waiting.in_deferred;
}

static void
free_if_unused(int keyno)
{
	KeySlot    *slot = &slots[keyno];
	int		   *link;

	if (slot->leased > 0 || any_waiting(slot) || slot->listed || slot->turn != 0)
		return;
	link = &buckets[bucket_of(slot->queue, slot->hash)];
	while (*link >= 0 && *link != keyno)
		link = &slots[*link].next;
	Assert(*link == keyno);
	*link = slot->next;
	pg_atomic_fetch_sub_u32(&shared->used, 1);
	pg_atomic_fetch_sub_u32(&shared->accounts[slot->queue].used, 1);
	slot->queue = -1;
	SpinLockAcquire(&shared->free_mutex);
	slot->next = shared->free_head;
	shared->free_head = keyno;
	SpinLockRelease(&shared->free_mutex);
}

/* Add messages that lie from one place to another to those that wait in the segments. */
static void
extend_waiting(KeyWaiting *waiting, KeyPlace first, KeyPlace last, int n)
{
	if (waiting->n == 0 || key_place_before(first, waiting->first))
		waiting->first = first;
	if (waiting->n == 0 || key_place_before(waiting->last, last))
		waiting->last = last;
	waiting->n = n < INT_MAX - waiting->n ? waiting->n + n : INT_MAX;
}

/* Add a waiting message to what waits. */
static void
add_waiting(KeySlot *slot, const KeyPlace *place)
{
	if (!any_waiting(slot))
		slot->since = GetCurrentTimestamp();
	if (place == NULL)
		slot->waiting.in_deferred = true;
	else
		extend_waiting(&slot->waiting, *place, *place, 1);
}

/*
 * Put a key on the list of those that are ready, if there is something for
 * it to do.  True if it was not there yet.
 */
static bool
make_ready(int keyno)
{
	KeySlot    *slot = &slots[keyno];
	KeyAccount *account = &shared->accounts[slot->queue];

	/* Who has the turn may have looked already; what it does itself it knows. */
	if (slot->turn != 0 && slot->turn != MyProcPid)
		slot->news = true;
	if (slot->listed || slot->turn != 0 || !any_waiting(slot) || slot->leased >= slot->limit)
		return false;
	slot->listed = true;
	SpinLockAcquire(&account->mutex);
	slot->ready_next = -1;
	if (account->ready_tail >= 0)
		slots[account->ready_tail].ready_next = keyno;
	else
		account->ready_head = keyno;
	account->ready_tail = keyno;
	pg_atomic_fetch_add_u32(&account->nready, 1);
	SpinLockRelease(&account->mutex);
	return true;
}

static int
take_ready(KeyAccount *account)
{
	int			keyno;

	SpinLockAcquire(&account->mutex);
	keyno = account->ready_head;
	if (keyno >= 0)
	{
		account->ready_head = slots[keyno].ready_next;
		if (account->ready_head < 0)
			account->ready_tail = -1;
		pg_atomic_fetch_sub_u32(&account->nready, 1);
	}
	SpinLockRelease(&account->mutex);
	return keyno;
}

/*
 * Claims
 */

/*
 * Whether a claim may take another message of a key that it meets.  Of an
 * ordered queue's it may if it has all that are on lease, and passed none.
 */
static bool
may_take(const KeySlot *slot, const KeyRule *rule)
{
	if (slot->turn != 0 || slot->listed)
		return false;
	if (!rule->ordered)
		return slot->leased < rule->limit;
	return !any_waiting(slot) && (slot->leased == 0 || slot->claim == rule->claim);
}

KeyMeeting
key_meet(QueueShared *q, int64 hash, const KeyRule *rule, const KeyPlace *place, bool ready,
		 int *keyno)
{
	int			bucket = bucket_of(QueueIndex(q), hash);
	KeyMeeting	result = KEY_WAITS;
	KeySlot    *slot;

	LWLockAcquire(lock_of(bucket), LW_EXCLUSIVE);
	*keyno = find_slot(bucket, QueueIndex(q), hash);
	if (*keyno < 0)
		*keyno = make_slot(q, bucket, hash);
	if (*keyno < 0)
		result = KEY_NO_SPACE;
	else
	{
		slot = &slots[*keyno];
		slot->limit = rule->limit;
		if (may_take(slot, rule))
		{
			slot->leased++;
			slot->claim = rule->claim;
			result = KEY_TAKEN;
		}
		else
		{
			add_waiting(slot, place);
			if (ready)
				(void) make_ready(*keyno);
		}
	}
	LWLockRelease(lock_of(bucket));
	return result;
}

bool
key_join(QueueShared *q, int64 hash, int *keyno)
{
	int			bucket = bucket_of(QueueIndex(q), hash);
	bool		joined;

	LWLockAcquire(lock_of(bucket), LW_EXCLUSIVE);
	*keyno = find_slot(bucket, QueueIndex(q), hash);
	joined = *keyno >= 0 && slots[*keyno].turn == 0 && !slots[*keyno].listed;
	if (joined)
		slots[*keyno].leased++;
	LWLockRelease(lock_of(bucket));
	return joined;
}

bool
key_wait(QueueShared *q, int64 hash, const KeyPlace *place, bool ready)
{
	int			bucket = bucket_of(QueueIndex(q), hash);
	int			keyno;

	LWLockAcquire(lock_of(bucket), LW_EXCLUSIVE);
	keyno = find_slot(bucket, QueueIndex(q), hash);
	if (keyno < 0)
		keyno = make_slot(q, bucket, hash);
	if (keyno >= 0)
	{
		add_waiting(&slots[keyno], place);
		if (ready)
			(void) make_ready(keyno);
	}
	LWLockRelease(lock_of(bucket));
	return keyno >= 0;
}

void
key_gone(QueueShared *q, int64 hash)
{
	int			bucket = bucket_of(QueueIndex(q), hash);
	int			keyno;

	LWLockAcquire(lock_of(bucket), LW_EXCLUSIVE);
	keyno = find_slot(bucket, QueueIndex(q), hash);
	if (keyno >= 0)
		(void) make_ready(keyno);
	LWLockRelease(lock_of(bucket));
}

void
key_wait_again(int keyno, const KeyPlace *place)
{
	LWLock	   *lock = lock_slot(keyno);

	Assert(slots[keyno].leased > 0);
	add_waiting(&slots[keyno], place);
	LWLockRelease(lock);
}

int64
key_hash(int keyno)
{
	return slots[keyno].hash;
}

int
key_leased(int keyno)
{
	LWLock	   *lock = lock_slot(keyno);
	int			leased = slots[keyno].leased;

	LWLockRelease(lock);
	return leased;
}

void
key_enter(int keyno, int slotno)
{
	LWLock	   *lock = lock_slot(keyno);
	KeySlot    *slot = &slots[keyno];

	Assert(slot->leased > 0);
	key_leases[slotno].next = -1;
	key_leases[slotno].previous = slot->last_lease;
	if (slot->last_lease >= 0)
		key_leases[slot->last_lease].next = slotno;
	else
		slot->first_lease = slotno;
	slot->last_lease = slotno;
	LWLockRelease(lock);
}

void
key_leave(int keyno, int slotno)
{
	LWLock	   *lock = lock_slot(keyno);
	KeySlot    *slot = &slots[keyno];
	QueueShared *q = &queue_state->queues[slot->queue];
	bool		ready;

	Assert(slot->leased > 0);
	if (slotno >= 0)
	{
		KeyLease   *lease = &key_leases[slotno];

		if (lease->previous >= 0)
			key_leases[lease->previous].next = lease->next;
		else
			slot->first_lease = lease->next;
		if (lease->next >= 0)
			key_leases[lease->next].previous = lease->previous;
		else
			slot->last_lease = lease->previous;
	}
	slot->leased--;
	ready = make_ready(keyno);
	free_if_unused(keyno);
	LWLockRelease(lock);

	/* The list first, then the barrier in wake_waiters. */
	if (ready)
		wake_waiters(&q->waiters, 1);
}

int
key_later(int keyno, int slotno, int *later, int max)
{
	LWLock	   *lock = lock_slot(keyno);
	int			n = 0;

	for (int i = key_leases[slotno].next; i >= 0 && n < max; i = key_leases[i].next)
		later[n++] = i;
	LWLockRelease(lock);
	return n;
}

/*
 * Turns
 */

bool
key_turn_begin(QueueShared *q, uint64 claim, KeyTurn *turn)
{
	KeyAccount *account = account_of(q);

	turn->q = q;
	while (pg_atomic_read_u32(&account->nready) > 0 &&
		   (turn->keyno = take_ready(account)) >= 0)
	{
		LWLock	   *lock = lock_slot(turn->keyno);
		KeySlot    *slot = &slots[turn->keyno];
		bool		begun = any_waiting(slot) && slot->leased < slot->limit;

		slot->listed = false;
		if (begun)
		{
			slot->turn = MyProcPid;
			slot->news = false;
			slot->awaits = turn->awaits = 0;
			slot->claim = claim;
			turn->hash = slot->hash;
			turn->leased = slot->leased;
			turn->waiting = slot->waiting;
			memset(&slot->waiting, 0, sizeof(KeyWaiting));
		}
		else
			free_if_unused(turn->keyno);
		LWLockRelease(lock);
		if (begun)
			return true;
	}
	turn->keyno = -1;
	return false;
}

/* Count a lease that is to begin in a turn. */
void
key_turn_take(KeyTurn *turn)
{
	LWLock	   *lock = lock_slot(turn->keyno);

	slots[turn->keyno].leased++;
	LWLockRelease(lock);
}

bool
key_turn_news(const KeyTurn *turn)
{
	LWLock	   *lock = lock_slot(turn->keyno);
	bool		news = slots[turn->keyno].waiting.n > 0;

	LWLockRelease(lock);
	return news;
}

void
key_turn_end(KeyTurn *turn, bool again)
{
	LWLock	   *lock;
	KeySlot    *slot;
	bool		ready = false;

	if (turn->keyno < 0)
		return;
	lock = lock_slot(turn->keyno);
	slot = &slots[turn->keyno];

	/* Messages that were met during the turn are there already. */
	if (turn->waiting.n > 0)
		extend_waiting(&slot->waiting, turn->waiting.first, turn->waiting.last, turn->waiting.n);
	slot->waiting.in_deferred |= turn->waiting.in_deferred;
	slot->turn = 0;
	slot->awaits = turn->awaits;
	if (again || slot->news)
		ready = make_ready(turn->keyno);
	free_if_unused(turn->keyno);
	LWLockRelease(lock);
	turn->keyno = -1;
	if (ready)
		wake_waiters(&turn->q->waiters, 1);
}

/*
 * All keys
 */

/* Lock the slot with this number, if it is in use. */
static LWLock *
lock_if_used(int keyno)
{
	/* Read without the lock, so it is looked at again. */
	int			queue = slots[keyno].queue;
	int64		hash = slots[keyno].hash;
	LWLock	   *lock;

	if (queue < 0)
		return NULL;
	lock = lock_of(bucket_of(queue, hash));
	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (slots[keyno].queue == queue && slots[keyno].hash == hash)
		return lock;
	LWLockRelease(lock);
	return NULL;
}

void
keys_unpark(QueueShared *q, int *cursor, int max, int limit)
{
	int			woken = 0;

	if (keys_used(q) == 0)
		return;
	for (; *cursor < queue_max_keys && woken < max; (*cursor)++)
	{
		LWLock	   *lock = slots[*cursor].queue == QueueIndex(q) ? lock_if_used(*cursor) : NULL;

		if (lock == NULL)
			continue;
		if (slots[*cursor].queue == QueueIndex(q))
		{
			if (limit > 0)
				slots[*cursor].limit = limit;
			woken += make_ready(*cursor);
		}
		LWLockRelease(lock);
	}
	if (woken > 0)
		wake_waiters(&q->waiters, woken);
}

bool
key_knows(QueueShared *q, int64 hash, const KeyPlace *place)
{
	int			bucket = bucket_of(QueueIndex(q), hash);
	bool		known = false;
	int			keyno;

	LWLockAcquire(lock_of(bucket), LW_SHARED);
	keyno = find_slot(bucket, QueueIndex(q), hash);
	if (keyno >= 0)
	{
		KeyWaiting *waiting = &slots[keyno].waiting;

		known = slots[keyno].turn != 0 ||
			(waiting->n > 0 && !key_place_before(*place, waiting->first) &&
			 !key_place_before(waiting->last, *place));
	}
	LWLockRelease(lock_of(bucket));
	return known;
}

int64
keys_passed(QueueShared *q, int64 passed)
{
	int64		next = PG_INT64_MAX;
	int			woken = 0;

	for (int i = 0; i < queue_max_keys; i++)
	{
		LWLock	   *lock = slots[i].queue == QueueIndex(q) && slots[i].awaits != 0 ?
			lock_if_used(i) : NULL;

		if (lock == NULL)
			continue;
		if (slots[i].queue != QueueIndex(q) || slots[i].awaits == 0)
			;
		else if (slots[i].awaits > passed)
			next = Min(next, slots[i].awaits);
		else
		{
			slots[i].awaits = 0;
			woken += make_ready(i);
		}
		LWLockRelease(lock);
	}
	if (woken > 0)
		wake_waiters(&q->waiters, woken);
	return next;
}

void
keys_forget(QueueShared *q)
{
	if (keys_used(q) == 0)
		return;
	for (int i = 0; i < queue_max_keys; i++)
	{
		LWLock	   *lock = slots[i].queue == QueueIndex(q) ? lock_if_used(i) : NULL;

		if (lock == NULL)
			continue;
		if (slots[i].queue == QueueIndex(q))
		{
			/* One that is ready is freed by who takes it off the list. */
			memset(&slots[i].waiting, 0, sizeof(KeyWaiting));
			free_if_unused(i);
		}
		LWLockRelease(lock);
	}
}

void
keys_sweep(void)
{
	if (pg_atomic_read_u32(&shared->used) == 0)
		return;
	for (int i = 0; i < queue_max_keys; i++)
	{
		LWLock	   *lock = slots[i].turn != 0 ? lock_if_used(i) : NULL;

		if (lock == NULL)
			continue;
		if (slots[i].turn != 0 && BackendPidGetProc(slots[i].turn) == NULL)
		{
			/* What it had of the waiting messages is found by the sweep. */
			slots[i].turn = 0;
			free_if_unused(i);
		}
		LWLockRelease(lock);
	}
}

bool
keys_next(int *cursor, KeyCopy *copy)
{
	while (*cursor < queue_max_keys)
	{
		int			keyno = (*cursor)++;
		KeySlot    *slot = &slots[keyno];
		LWLock	   *lock = lock_if_used(keyno);

		if (lock == NULL)
			continue;
		copy->q = &queue_state->queues[slot->queue];
		copy->hash = slot->hash;
		copy->leased = slot->leased;
		copy->lease = slot->first_lease;
		copy->waiting = slot->waiting.n;
		copy->since = any_waiting(slot) ? slot->since : 0;
		LWLockRelease(lock);
		return true;
	}
	return false;
}
