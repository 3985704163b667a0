/*
 * lease_account.c
 *		What the leases of one queue have in common: counts, a list, a bound.
 */
#include "postgres.h"

#include "engine/lease_account.h"
#include "guc.h"
#include "storage/shmem.h"

/* A slot while it is on the list of its queue. */
typedef struct ReturnedLease
{
	int64		id;				/* of the message */
	int			next;			/* slot, -1 at the end */
} ReturnedLease;

/* Returned leases, by ascending id of their messages. */
typedef struct ReturnedList
{
	LWLock		lock;			/* guards the rest but n, and the elements */
	int			head;
	int			tail;
	int			latest;			/* put in last, and still there; or -1 */

	/*
	 * Changed after the list was, without the lock, so it can be behind it,
	 * for an instant even below zero.  Read as a hint: some or none.
	 */
	pg_atomic_uint32 n;
} ReturnedList;

typedef struct LeaseAccount
{
	ReturnedList returned;
	TimeBound	next_expiry;	/* lower bound of the next take-over */

	/* Counted without a lock, by the process that owns the slot. */
	pg_atomic_uint32 used;		/* slots, those given back included */
	pg_atomic_uint32 in_segment[QUEUE_MAX_SEGMENTS];
} LeaseAccount;

typedef struct AccountShared
{
	pg_atomic_uint32 used;		/* slots of all queues; counted likewise */
	LeaseAccount accounts[FLEXIBLE_ARRAY_MEMBER];
	/* ReturnedLease returned_leases[queue_max_leases] follows, by slot */
} AccountShared;

static AccountShared *shared = NULL;
static ReturnedLease *returned_leases = NULL;

static Size
accounts_size(void)
{
	return MAXALIGN(add_size(offsetof(AccountShared, accounts),
							 mul_size(queue_max_queues, sizeof(LeaseAccount))));
}

Size
lease_account_shmem_size(void)
{
	return add_size(accounts_size(), mul_size(queue_max_leases, sizeof(ReturnedLease)));
}

void
lease_account_shmem_init(void)
{
	bool		found;

	shared = ShmemInitStruct("queue lease accounts", lease_account_shmem_size(), &found);
	returned_leases = (ReturnedLease *) ((char *) shared + accounts_size());
	if (found)
		return;

	pg_atomic_init_u32(&shared->used, 0);
	for (int i = 0; i < queue_max_queues; i++)
	{
		LeaseAccount *account = &shared->accounts[i];

		LWLockInitialize(&account->returned.lock, queue_state->lwlock_tranche);
		account->returned.head = account->returned.tail = account->returned.latest = -1;
		pg_atomic_init_u32(&account->returned.n, 0);
		bound_init(&account->next_expiry, DT_NOEND);
		pg_atomic_init_u32(&account->used, 0);
		for (int j = 0; j < QUEUE_MAX_SEGMENTS; j++)
			pg_atomic_init_u32(&account->in_segment[j], 0);
	}
}

static inline LeaseAccount *
account_of(QueueShared *q)
{
	return &shared->accounts[QueueIndex(q)];
}

void
lease_account_reset(QueueShared *q)
{
	bound_write(&account_of(q)->next_expiry, DT_NOEND);
}

/*
 * Counts
 */

void
account_count(int queue, int32 change)
{
	pg_atomic_fetch_add_u32(&shared->used, change);
	pg_atomic_fetch_add_u32(&shared->accounts[queue].used, change);
}

void
account_count_in_segment(int queue, int segno, int32 change)
{
	pg_atomic_fetch_add_u32(&shared->accounts[queue].in_segment[segno], change);
}

int
lease_count_in_segment(QueueShared *q, int segno)
{
	return pg_atomic_read_u32(&account_of(q)->in_segment[segno]);
}

int
lease_allowance(QueueShared *q, int n)
{
	int			most = queue_max_leases_per_role;
	int64		used = 0;

	if (most < 0)
		most = queue_max_leases / 2;
	if (q->owner_is_superuser || !OidIsValid(q->owner) ||
		(int64) pg_atomic_read_u32(&shared->used) + n <= most)
		return n;
	for (int i = 0; i < queue_max_queues; i++)
	{
		QueueShared *other = &queue_state->queues[i];

		if (OidIsValid(other->relid) && other->owner == q->owner)
			used += pg_atomic_read_u32(&shared->accounts[i].used);
	}
	if (used >= most)
		return 0;
	return (int) Min(n, most - used);
}

/*
 * The bound of when leases may be taken over
 */

TimestampTz
lease_next_look(QueueShared *q)
{
	return bound_read(&account_of(q)->next_expiry);
}

void
lease_look_by(QueueShared *q, TimestampTz when)
{
	/*
	 * Pairs with bound_raise in lease_raise_look.  Here the lease is HELD
	 * before the bound is read; there the bound is raised before the lease is
	 * read.  So the lease is seen there, or the raised bound here.
	 */
	pg_memory_barrier();
	(void) bound_lower(&account_of(q)->next_expiry, when);
}

void
lease_raise_look(QueueShared *q)
{
	/* A full barrier; pairs with the one in lease_look_by. */
	(void) bound_raise(&account_of(q)->next_expiry);
}

void
lease_look_now(QueueShared *q)
{
	/* No barrier: a search that raises the bound later reads all leases. */
	bound_write(&account_of(q)->next_expiry, DT_NOBEGIN);
}

/*
 * Leases given back
 */

int
lease_count_returned(QueueShared *q)
{
	int			n = (int) pg_atomic_read_u32(&account_of(q)->returned.n);

	return Max(n, 0);
}

/*
 * Put a lease in its place.  Leases that are returned together come by ascending
 * id, so mostly the place is behind the one before, or at one of the ends.
 */
static void
put_in_order(ReturnedList *list, int slotno, int64 id)
{
	int			before = -1;
	int			after;

	Assert(LWLockHeldByMeInMode(&list->lock, LW_EXCLUSIVE));
	if (list->tail >= 0 && returned_leases[list->tail].id <= id)
		before = list->tail;
	else if (list->latest >= 0 && returned_leases[list->latest].id <= id)
		before = list->latest;
	after = before >= 0 ? returned_leases[before].next : list->head;
	while (after >= 0 && returned_leases[after].id <= id)
	{
		before = after;
		after = returned_leases[after].next;
	}

	returned_leases[slotno].id = id;
	returned_leases[slotno].next = after;
	if (before >= 0)
		returned_leases[before].next = slotno;
	else
		list->head = slotno;
	if (after < 0)
		list->tail = slotno;
	list->latest = slotno;
}

void
account_return(int queue, int slotno, int64 id)
{
	ReturnedList *list = &shared->accounts[queue].returned;

	/*
	 * The list, then the count, then the barrier in wake_waiters
	 * (slot_hand_back). A receiver reads the count after the barrier in
	 * wait_begin: it sees the lease, or it is woken.
	 */
	LWLockAcquire(&list->lock, LW_EXCLUSIVE);
	put_in_order(list, slotno, id);
	LWLockRelease(&list->lock);
	pg_atomic_fetch_add_u32(&list->n, 1);
}

int
account_take_returned(int queue)
{
	ReturnedList *list = &shared->accounts[queue].returned;
	int			slotno;

	if (pg_atomic_read_u32(&list->n) == 0)
		return -1;
	LWLockAcquire(&list->lock, LW_EXCLUSIVE);
	slotno = list->head;
	if (slotno >= 0)
	{
		list->head = returned_leases[slotno].next;
		if (list->head < 0)
			list->tail = -1;
		if (list->latest == slotno)
			list->latest = -1;
	}
	LWLockRelease(&list->lock);
	if (slotno >= 0)
		pg_atomic_fetch_sub_u32(&list->n, 1);
	return slotno;
}
