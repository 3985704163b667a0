/*
 * turn.c
 *		The turns of keys: messages that have waited for others of their key.
 *
 * In an ordered queue a key's next message is that with the lowest id of those
 * in queue.deferred and those that wait in the segments.  There the order of
 * ids is that of places (insert.c), so the first one in its place is the
 * lowest.  The claim has the key first and takes its snapshot then: what
 * another receiver did to a message of the key before is seen.
 */
#include "postgres.h"

#include "access/relation.h"
#include "engine/dead_letter.h"
#include "engine/deferred.h"
#include "engine/extension.h"
#include "engine/leased.h"
#include "engine/reader.h"
#include "engine/turn.h"
#include "miscadmin.h"
#include "stop_point.h"
#include "storage/bufmgr.h"
#include "storage/ipc.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* A message of a key, found and not leased yet. */
typedef struct Candidate
{
	bool		found;
	int64		id;
	LeasePlace	place;
	int			attempts;		/* the number of this delivery */
	Verdict		verdict;		/* LIVE or WAIT; of one in the segments */
} Candidate;

/* A key's turn, and how far it has come. */
typedef struct Turn
{
	ClaimScan  *scan;
	KeyTurn		key;
	Snapshot	snapshot;
	int			room;			/* messages that may still be leased */
	int64		barrier;		/* id of a dead letter that stops the key */
	bool		parked;			/* the rest waits for more than a lease */
	Candidate	deferred;
	Candidate	waiting;		/* in the segments */

	/* The segments that waiting messages may be in, in their order. */
	int			nsegments;
	int			segments[QUEUE_MAX_SEGMENTS];
	uint64		sequences[QUEUE_MAX_SEGMENTS];
} Turn;

/* List the segments, as they are now. */
static void
list_segments(Turn *turn)
{
	QueueShared *q = turn->scan->q;

	LWLockAcquire(&q->lock, LW_SHARED);
	turn->nsegments = q->lane.nscan;
	for (int i = 0; i < turn->nsegments; i++)
	{
		turn->segments[i] = q->lane.scan_order[i];
		turn->sequences[i] = q->segments[turn->segments[i]].sequence;
	}
	LWLockRelease(&q->lock);
}

/* Search a page for the key's next message, from an offset up to a last one. */
static bool
search_page(Turn *turn, int segno, Relation rel, BlockNumber block, OffsetNumber off,
			OffsetNumber last)
{
	Candidate  *candidate = &turn->waiting;
	Buffer		buffer = ReadBuffer(rel, block);
	Page		page;
	OffsetNumber filled;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buffer);
	filled = PageIsNew(page) ? InvalidOffsetNumber : PageGetMaxOffsetNumber(page);
	last = Min(last, filled);
	for (; !candidate->found && off <= last; off++)
	{
		ItemId		item = PageGetItemId(page, off);
		HeapTupleHeader header;
		TransactionId xid;
		int64		hash;

		if (!ItemIdIsNormal(item))
			continue;
		header = (HeapTupleHeader) PageGetItem(page, item);
		if (!tuple_key_hash(header, &hash) || hash != turn->key.hash)
			continue;
		candidate->verdict = tuple_judge(header, turn->snapshot, buffer, &xid);

		/* One that is not sent yet comes when it is: it is noted. */
		if (candidate->verdict == VERDICT_DEAD || !tuple_inserted(header, turn->snapshot))
			continue;
		candidate->found = true;
		candidate->id = tuple_message_id(header);
		candidate->attempts = 1;
		candidate->place.relid = RelationGetRelid(rel);
		candidate->place.segment = segno;
		candidate->place.due_at = 0;
		ItemPointerSet(&candidate->place.tid, block, off);
	}
	UnlockReleaseBuffer(buffer);
	return candidate->found;
}

/*
 * Find the key's first waiting message in the segments, and have what waits
 * begin with it.
 */
static void
find_waiting(Turn *turn)
{
	KeyWaiting *waiting = &turn->key.waiting;

	turn->waiting.found = false;
	for (int i = 0; waiting->n > 0 && i < turn->nsegments; i++)
	{
		uint64		sequence = turn->sequences[i];
		SegmentPlace from = FIRST_PLACE;
		SegmentPlace last = MakePlace(MaxBlockNumber, MaxOffsetNumber);
		Relation	rel;

		if (sequence < waiting->first.sequence || sequence > waiting->last.sequence)
			continue;
		if (sequence == waiting->first.sequence)
			from = waiting->first.place;
		if (sequence == waiting->last.sequence)
			last = waiting->last.place;
		rel = scan_open(turn->scan, turn->segments[i]);
		if (rel == NULL)
			continue;
		for (BlockNumber block = PlaceBlock(from);
			 block <= PlaceBlock(last) && block < RelationGetNumberOfBlocks(rel); block++)
		{
			CHECK_FOR_INTERRUPTS();
			if (!search_page(turn, turn->segments[i], rel, block,
							 block == PlaceBlock(from) ? PlaceOffset(from) : FirstOffsetNumber,
							 block == PlaceBlock(last) ? PlaceOffset(last) : MaxOffsetNumber))
				continue;
			waiting->first.sequence = sequence;
			waiting->first.place = place_of_tid(&turn->waiting.place.tid);
			return;
		}
	}
	waiting->n = 0;
}

/* Have what waits begin after the message that was found last. */
static void
pass_waiting(Turn *turn)
{
	KeyWaiting *waiting = &turn->key.waiting;

	waiting->first.place++;
	if (key_place_before(waiting->last, waiting->first))
		waiting->n = 0;
	else
		waiting->n = Max(waiting->n - 1, 1);
	find_waiting(turn);
}

static void
find_deferred(Turn *turn, DeferredScan *deferred)
{
	Candidate  *candidate = &turn->deferred;
	DeferredRow row;

	candidate->found = deferred_next_of_key(deferred, &row);
	if (!candidate->found)
		return;
	candidate->id = row.id;
	candidate->attempts = row.attempts + 1;
	candidate->verdict = VERDICT_LIVE;
	candidate->place.relid = RelationGetRelid(deferred->rel);
	candidate->place.segment = LEASE_IN_DEFERRED;
	candidate->place.due_at = row.due_at;
	candidate->place.tid = row.tid;
}

/*
 * Another transaction has the candidate locked: have it looked at again when
 * that has ended.
 */
static void
look_again(Turn *turn, const Candidate *candidate)
{
	QueueShared *q = turn->scan->q;

	if (candidate->place.segment == LEASE_IN_DEFERRED)
		(void) bound_lower(&q->next_due, candidate->place.due_at);
	else
	{
		SegmentPlace place = place_of_tid(&candidate->place.tid);

		reader_note(q, candidate->place.segment, place, place, candidate->id,
					InvalidTransactionId, true);
	}
}

/*
 * Lease a candidate: first lease it, then judge again.  Returns what became of
 * it: LIVE, it is leased; DEAD, it is gone; WAIT, it cannot be leased now, as
 * it is locked, or on a lease that knows of no key.
 */
static Verdict
lease_candidate(Turn *turn, const Candidate *candidate, Relation rel)
{
	ClaimScan  *scan = turn->scan;
	Lease		lease = {.q = scan->q,.id = candidate->id,.place = candidate->place};
	LeaseTaking taking;
	Verdict		verdict;
	HeapTuple	tuple;
	Claim	   *claim;

	lease_reserve();
	key_turn_take(&turn->key);
	taking = lease_take(scan->q, &lease.place, lease.id, candidate->attempts, scan->kind,
						scan->now, scan->expires_at, turn->key.keyno, &scan->limits, &lease.ref);
	if (taking != LEASE_TAKEN)
	{
		key_leave(turn->key.keyno, -1);
		scan->out_of_leases |= (taking == LEASE_NONE_FREE);
		return VERDICT_WAIT;
	}
	STOP_POINT("turn-taken");
	verdict = leased_fetch(rel, &lease, turn->snapshot, &tuple);
	if (verdict != VERDICT_LIVE)
	{
		lease_drop(lease.ref);
		if (verdict == VERDICT_WAIT)
			look_again(turn, candidate);
		return verdict;
	}
	claim = scan_add_claim(scan, lease.ref, lease.id, candidate->attempts, lease.place.segment);
	claim->tuple = tuple;
	claim->keyed = true;
	claim->hash = turn->key.hash;
	turn->room--;
	if (counter_read(&scan->q->counters, COUNTER_READY) > 0 && lease.place.segment != LEASE_IN_DEFERRED)
		counter_add(&scan->q->counters, COUNTER_READY, -1);
	return VERDICT_LIVE;
}

/* Lease the key's next messages, in order of id, as long as that is possible. */
static void
take_messages(Turn *turn, DeferredScan *deferred)
{
	ClaimScan  *scan = turn->scan;
	bool		ordered = scan->settings->ordered;

	find_deferred(turn, deferred);
	find_waiting(turn);
	while (!scan_full(scan) && turn->room > 0 && (turn->deferred.found || turn->waiting.found))
	{
		bool		is_deferred = turn->deferred.found &&
			(!turn->waiting.found || turn->deferred.id < turn->waiting.id);
		Candidate  *next = is_deferred ? &turn->deferred : &turn->waiting;
		Verdict		verdict;

		CHECK_FOR_INTERRUPTS();
		if (next->id > turn->barrier)
		{
			turn->parked = true;
			return;
		}
		if (ordered && is_deferred && next->place.due_at > scan->now)
		{
			/* By now another claim may have found it due. */
			(void) bound_lower(&scan->q->next_due, next->place.due_at);
			turn->parked = true;
			return;
		}

		/*
		 * An earlier one may lie where no claim has come to yet, or one that
		 * could not see it: after a restart, or if this one was sent with a
		 * delay.
		 */
		if (ordered && is_deferred && next->id > reader_passed(scan->q, turn->snapshot))
		{
			turn->key.awaits = next->id;
			turn->parked = true;
			return;
		}

		/*
		 * What they have passed since the turn began is known to the next
		 * one.
		 */
		if (ordered && is_deferred && key_turn_news(&turn->key))
			return;

		/* In an unordered queue one that is not due yet is in nobody's way. */
		if (is_deferred && next->place.due_at > scan->now)
		{
			find_deferred(turn, deferred);
			continue;
		}
		verdict = next->verdict;
		if (verdict == VERDICT_WAIT)
			look_again(turn, next);
		else
			verdict = lease_candidate(turn, next, is_deferred ? deferred->rel :
									  scan->rels[next->place.segment]);
		if (scan->out_of_leases || scan->limits.stopped)
			return;
		if (verdict == VERDICT_WAIT && ordered)
		{
			turn->parked = true;
			return;
		}
		if (is_deferred)
			find_deferred(turn, deferred);
		else
			pass_waiting(turn);
	}
}

/* The turn of one key, begun; what is left of what waits stays in it. */
static void
run_turn(Turn *turn)
{
	ClaimScan  *scan = turn->scan;
	DeferredScan deferred;

	STOP_POINT("turn-begun");
	turn->snapshot = RegisterSnapshot(GetLatestSnapshot());
	turn->parked = false;
	turn->barrier = PG_INT64_MAX;
	turn->room = INT_MAX;
	if (!scan->settings->ordered && scan->keyed)
		turn->room = scan->rule.limit - turn->key.leased;
	if (scan->settings->block_on_dead)
		(void) dead_letter_of_key(scan->relid, turn->key.hash, turn->snapshot, &turn->barrier);
	STOP_POINT("turn-judged");
	list_segments(turn);

	deferred_begin_key(&deferred, scan->relid, turn->key.hash, turn->snapshot);
	take_messages(turn, &deferred);
	deferred_end_key(&deferred);
	turn->key.waiting.in_deferred = turn->deferred.found;
	UnregisterSnapshot(turn->snapshot);
}

/* Lower the id that the cursors are to pass before turns_wake looks at keys. */
static void
await_id(QueueShared *q, int64 id)
{
	uint64		old = pg_atomic_read_u64(&q->reader.awaited_id);

	while ((int64) old > id &&
		   !pg_atomic_compare_exchange_u64(&q->reader.awaited_id, &old, (uint64) id))
		;
}

/* What the keys know of that has been sent by now, see reader_passed. */
static int64
passed_by_now(QueueShared *q)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	int64		passed = reader_passed(q, snapshot);

	UnregisterSnapshot(snapshot);
	return passed;
}

static void
end_turn(Turn *turn)
{
	QueueShared *q = turn->scan->q;
	int64		awaits = turn->key.awaits;
	int64		hash = turn->key.hash;

	key_turn_end(&turn->key, !turn->parked);
	if (awaits == 0)
		return;

	/*
	 * The slot says what it awaits, then this, and then what has been passed
	 * is read.  Pairs with turns_wake, which reads the latter after the
	 * cursors have moved: one of the two sees the other.
	 */
	await_id(q, awaits);
	if (awaits <= passed_by_now(q))
		key_gone(q, hash);
}

void
turns_wake(ClaimScan *scan)
{
	QueueShared *q = scan->q;
	int64		awaited = (int64) pg_atomic_read_u64(&q->reader.awaited_id);
	int64		passed;

	if (likely(awaited == PG_INT64_MAX))
		return;
	passed = passed_by_now(q);
	if (awaited > passed)
		return;
	pg_atomic_exchange_u64(&q->reader.awaited_id, PG_INT64_MAX);
	await_id(q, keys_passed(q, passed));
}

static void
abandon_turn(int code, Datum arg)
{
	key_turn_end((KeyTurn *) DatumGetPointer(arg), true);
}

/* Begin the next turn, unless the element is another queue's by now. */
static bool
begin_turn(Turn *turn)
{
	ClaimScan  *scan = turn->scan;
	QueueShared *q = scan->q;
	bool		begun;

	LWLockAcquire(&q->lock, LW_SHARED);
	begun = pg_atomic_read_u32(&q->generation) == scan->generation &&
		key_turn_begin(q, scan->rule.claim, &turn->key);
	LWLockRelease(&q->lock);
	return begun;
}

void
turns_claim(ClaimScan *scan)
{
	Turn	   *turn;

	if (keys_ready(scan->q) == 0)
		return;
	turn = palloc0(sizeof(Turn));
	turn->scan = scan;
	turn->key.keyno = -1;
	PG_ENSURE_ERROR_CLEANUP(abandon_turn, PointerGetDatum(&turn->key));
	{
		while (!scan_full(scan) && begin_turn(turn))
		{
			run_turn(turn);
			end_turn(turn);
		}
	}
	PG_END_ENSURE_ERROR_CLEANUP(abandon_turn, PointerGetDatum(&turn->key));
	pfree(turn);

	/* There is more for others to do. */
	if (scan->nclaims > 0 && scan_full(scan) && keys_ready(scan->q) > 0)
		wake_waiters(&scan->q->waiters, 1);
}

/*
 * Claims that were made past the turns
 */

static int
compare_keys(const void *a, const void *b)
{
	const Claim *x = a;
	const Claim *y = b;

	if (x->hash != y->hash)
		return x->hash < y->hash ? -1 : 1;
	return (x->id > y->id) - (x->id < y->id);
}

/*
 * The id from which on messages of a key may not go; PG_INT64_MAX if all may.
 * If something of the key is in queue.deferred it is remembered, so that what
 * is met later waits for it.
 */
static int64
barrier_of(ClaimScan *scan, int64 hash, Snapshot snapshot)
{
	int64		barrier = PG_INT64_MAX;
	DeferredScan deferred;
	DeferredRow row;

	if (scan->settings->block_on_dead)
		(void) dead_letter_of_key(scan->relid, hash, snapshot, &barrier);
	deferred_begin_key(&deferred, scan->relid, hash, snapshot);
	if (deferred_next_of_key(&deferred, &row))
	{
		barrier = Min(barrier, row.id);
		(void) key_wait(scan->q, hash, NULL, false);
	}
	deferred_end_key(&deferred);
	return barrier;
}

int
turns_check(ClaimScan *scan, int from)
{
	Snapshot	snapshot;
	int			kept = from;
	int			n = scan->nclaims;
	int64		barrier = PG_INT64_MAX;

	if (!scan->settings->ordered || from == n)
		return 0;
	STOP_POINT("turn-check");
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	qsort(scan->claims + from, n - from, sizeof(Claim), compare_keys);
	for (int i = from; i < n; i++)
	{
		Claim	   *claim = &scan->claims[i];

		if (claim->keyed)
		{
			if (i == from || !claim[-1].keyed || claim->hash != claim[-1].hash)
				barrier = barrier_of(scan, claim->hash, snapshot);

			/* It waits for its key's turn then, unless its lease has ended. */
			if (claim->id > barrier)
			{
				lease_give_back(claim->ref);
				continue;
			}
		}
		scan->claims[kept++] = *claim;
	}
	UnregisterSnapshot(snapshot);
	scan->nclaims = kept;
	return n - kept;
}

/* The hash of the key of a message that is read; false if it has none. */
static bool
hash_of(Relation rel, const Lease *lease, HeapTuple tuple, int64 *hash)
{
	bool		isnull;
	Datum		value;

	if (lease->place.segment != LEASE_IN_DEFERRED)
		return tuple_key_hash(tuple->t_data, hash);
	value = heap_getattr(tuple, Anum_deferred_key_hash, RelationGetDescr(rel), &isnull);
	*hash = isnull ? 0 : DatumGetInt64(value);
	return !isnull;
}

bool
turns_return(ClaimScan *scan, Relation rel, const Lease *lease, HeapTuple tuple)
{
	QueueShared *q = scan->q;
	bool		deferred = (lease->place.segment == LEASE_IN_DEFERRED);
	KeyPlace	place = {0};
	int64		hash = 0;

	if (lease->key < 0 && (!scan->keyed || !hash_of(rel, lease, tuple, &hash)))
		return false;
	if (!deferred)
		place = key_place(q, lease->place.segment, place_of_tid(&lease->place.tid));
	if (lease->key >= 0)
	{
		key_wait_again(lease->key, deferred ? NULL : &place);
		lease_drop(lease->ref);
	}
	else if (key_wait(q, hash, deferred ? NULL : &place, false))
	{
		/* The turn comes after the lease has ended, or would be in vain. */
		lease_drop(lease->ref);
		key_gone(q, hash);
	}
	else
	{
		scan->out_of_keys = true;
		lease_put_back(lease->ref);
	}
	return true;
}
