/*
 * view.c
 *		What the view queue.relays shows.
 *
 * It takes no lock it would have to wait for, and raises no error on account
 * of one relay or queue: what is not to be had is NULL.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xlog.h"
#include "catalog/pg_class.h"
#include "compat.h"
#include "engine/frontier.h"
#include "engine/registry.h"
#include "engine/rights.h"
#include "engine/tables.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "funcapi.h"
#include "guc.h"
#include "miscadmin.h"
#include "relay/configuration.h"
#include "relay/supervision.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

/* Pages looked at for the oldest message that waits. */
#define OLDEST_MAX_PAGES	16

PG_FUNCTION_INFO_V1(queue_relay_list);

/* What a relay's workers are doing: of several the latter of these. */
static const struct
{
	RelayActivity activity;
	const char *name;
}			states[] = {
	{RELAY_STOPPED, "stopped"},
	{RELAY_IDLE, "idle"},
	{RELAY_BACKING_OFF, "backing off"},
	{RELAY_RUNNING, "running"},
};

/* A relay's workers taken together. */
typedef struct RelaySum
{
	int			nslots;
	int			nworkers;		/* attached */
	int			state;			/* of states */
	uint64		published;
	uint64		failed;
	uint64		dropped;
	int			in_flight;
	TimestampTz oldest;			/* 0: none, like the next two */
	TimestampTz started_at;		/* of the first */
	TimestampTz last_error_at;
	char		last_error[RELAY_ERROR_SIZE];
	bool		any_free;		/* of all slots there are */
} RelaySum;

/* The earlier of two times, of which 0 is none. */
static TimestampTz
earlier(TimestampTz a, TimestampTz b)
{
	return a == 0 || (b != 0 && b < a) ? b : a;
}

static void
add_slot(RelaySum *sum, RelaySlot *slot)
{
	RelayActivity activity = (RelayActivity) pg_atomic_read_u32(&slot->activity);

	if (slot->pid == 0)
		activity = slot->restart_at > GetCurrentTimestamp() ? RELAY_BACKING_OFF : RELAY_STOPPED;
	else if (activity == RELAY_STOPPED)
		activity = RELAY_IDLE;
	for (int i = sum->state; i < lengthof(states); i++)
	{
		if (states[i].activity == activity)
			sum->state = i;
	}
	sum->nslots++;
	sum->published += pg_atomic_read_u64(&slot->published);
	sum->failed += pg_atomic_read_u64(&slot->failed);
	sum->dropped += pg_atomic_read_u64(&slot->dropped);
	sum->in_flight += pg_atomic_read_u32(&slot->in_flight);
	sum->oldest = earlier(sum->oldest, (TimestampTz) pg_atomic_read_u64(&slot->oldest));
	if (slot->pid != 0)
	{
		sum->nworkers++;
		sum->started_at = earlier(sum->started_at, slot->started_at);
	}
	if (slot->last_error_at > sum->last_error_at)
	{
		sum->last_error_at = slot->last_error_at;
		strlcpy(sum->last_error, slot->last_error, RELAY_ERROR_SIZE);
	}
}

static void
add_up(const RelayConfig *relay, RelaySum *sum)
{
	memset(sum, 0, sizeof(*sum));
	LWLockAcquire(&relay_shared->lock, LW_SHARED);
	for (int number = 0; number < relay->workers; number++)
	{
		RelaySlot  *slot = relay_slot_find(MyDatabaseId, relay->name, number);

		if (slot)
			add_slot(sum, slot);
	}
	sum->any_free = relay_slot_find(InvalidOid, "", 0) != NULL;
	LWLockRelease(&relay_shared->lock);
}

/* Columns of queue.relay_list. */
enum
{
	LIST_NAME,
	LIST_QUEUE,
	LIST_SERVER,
	LIST_STATE,
	LIST_PUBLISHED,
	LIST_FAILED,
	LIST_DROPPED,
	LIST_IN_FLIGHT,
	LIST_LAG_MESSAGES,
	LIST_LAG_SECONDS,
	LIST_LAST_ERROR,
	LIST_LAST_ERROR_AT,
	LIST_STARTED_AT,
	LIST_WORKERS,
	LIST_OWNER,
	LIST_OPTIONS,
	LIST_COLUMNS
};

/* Open a segment to look at it; NULL if that would have to wait, or is no use. */
static Relation
try_open(Oid relid)
{
	Relation	rel;

	if (!ConditionalLockRelationOid(relid, AccessShareLock))
		return NULL;
	rel = try_relation_open(relid, NoLock);
	if (rel == NULL)
		UnlockRelationOid(relid, AccessShareLock);
	else if (!table_columns_valid(rel) ||
			 (RecoveryInProgress() && rel->rd_rel->relpersistence != RELPERSISTENCE_PERMANENT))
	{
		relation_close(rel, AccessShareLock);
		rel = NULL;
	}
	return rel;
}

/*
 * When the oldest message nobody has leased was sent, 0 if there seems to be
 * none: the first one from the cursor on, or what the cursor met last.
 */
static TimestampTz
oldest_waiting(QueueShared *q, Oid relid, Snapshot snapshot)
{
	Oid			relids[QUEUE_MAX_SEGMENTS];
	BlockNumber blocks[QUEUE_MAX_SEGMENTS];
	int			n;

	LWLockAcquire(&q->lock, LW_SHARED);
	n = q->relid == relid ? q->lane.nscan : 0;
	for (int i = 0; i < n; i++)
	{
		int			segno = q->lane.scan_order[i];

		relids[i] = q->segments[segno].relid;
		blocks[i] = PlaceBlock(pg_atomic_read_u64(&q->reader.segments[segno].cursor));
	}
	LWLockRelease(&q->lock);

	for (int i = 0, pages = 0; i < n && pages < OLDEST_MAX_PAGES; i++)
	{
		Relation	rel = try_open(relids[i]);
		BlockNumber block = blocks[i];
		TimestampTz oldest = 0;

		if (rel == NULL)
			continue;
		for (; oldest == 0 && block < RelationGetNumberOfBlocks(rel) &&
			 pages < OLDEST_MAX_PAGES; block++, pages++)
		{
			HeapTuple	tuples[MaxHeapTuplesPerPage];
			bool		isnull;

			if (frontier_page_tuples(rel, block, snapshot, true, tuples) > 0)
				oldest = DatumGetTimestampTz(heap_getattr(tuples[0], Anum_message_enqueued_at,
														  RelationGetDescr(rel), &isnull));
		}
		relation_close(rel, AccessShareLock);
		if (oldest != 0)
			return oldest;
	}
	return (TimestampTz) pg_atomic_read_u64(&q->reader.last_enqueued_at);
}

/* A queue's shared element, NULL if nobody has used it since the start. */
static QueueShared *
find_shared(Oid relid)
{
	QueueShared *q = queue_find_shared(relid);

	return q != NULL && queue_loaded(q) ? q : NULL;
}

/* What a relay was told, its procedure or function with it. */
static Datum
shown_options(const RelayConfig *relay, const char *procedure)
{
	StringInfoData shown;

	if (procedure == NULL)
		return relay->given;
	initStringInfo(&shown);
	appendStringInfo(&shown, "{\"%s\": ", relay->server_name ? "transform" : "procedure");
	escape_json(&shown, procedure);
	appendStringInfoChar(&shown, '}');
	return DirectFunctionCall2(jsonb_concat, relay->given,
							   DirectFunctionCall1(jsonb_in, CStringGetDatum(shown.data)));
}

/* Whether the current user may see a relay. */
static bool
may_see(const RelayConfig *relay)
{
	return may_watch() || may_watch_queue(relay->queue) ||
		(OidIsValid(relay->owner) && has_privs_of_role(GetUserId(), relay->owner));
}

static Datum
text_or_null(const char *value, bool *isnull)
{
	*isnull = value == NULL;
	return value ? CStringGetTextDatum(value) : (Datum) 0;
}

/* Why a relay has fewer slots than workers. */
static const char *
why_no_slot(const RelayConfig *relay, bool any_free)
{
	bool		too_many;

	if (relay->paused)
		return NULL;
	if (relay->problem)
		return relay->problem;
	LWLockAcquire(&relay_shared->lock, LW_SHARED);
	too_many = relay_slots_of(relay->owner, InvalidOid) >= relay_role_limit();
	LWLockRelease(&relay_shared->lock);
	if (too_many && !superuser_arg(relay->owner))
		return "the relay's owner has as many relays as queue.max_relays_per_role allows";
	return any_free ? NULL : "no slot is free: increase queue.max_relays";
}

Datum
queue_relay_list(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	ListCell   *cell;

	shmem_require();
	InitMaterializedSRF(fcinfo, 0);
	foreach(cell, relay_config_list())
	{
		RelayConfig *relay = lfirst(cell);
		Datum		values[LIST_COLUMNS] = {0};
		bool		nulls[LIST_COLUMNS] = {0};
		RelaySum	sum;
		TimestampTz oldest;
		QueueShared *q;
		ForeignServer *server;

		if (!may_see(relay))
			continue;

		add_up(relay, &sum);
		server = OidIsValid(relay->server) ?
			GetForeignServerExtended(relay->server, FSV_MISSING_OK) : NULL;
		values[LIST_NAME] = CStringGetTextDatum(relay->name);
		values[LIST_QUEUE] = text_or_null(get_rel_name(relay->queue), &nulls[LIST_QUEUE]);
		values[LIST_SERVER] = text_or_null(server ? server->servername : relay->server_name,
										   &nulls[LIST_SERVER]);
		values[LIST_STATE] = CStringGetTextDatum(relay->paused ? "paused" : states[sum.state].name);
		values[LIST_PUBLISHED] = Int64GetDatum(sum.published);
		values[LIST_FAILED] = Int64GetDatum(sum.failed);
		values[LIST_DROPPED] = Int64GetDatum(sum.dropped);
		values[LIST_IN_FLIGHT] = Int32GetDatum(sum.in_flight);

		q = find_shared(relay->queue);
		oldest = sum.oldest;
		nulls[LIST_LAG_MESSAGES] = nulls[LIST_LAG_SECONDS] = q == NULL;
		if (q)
		{
			int64		lag = counter_read(&q->counters, COUNTER_READY) +
				counter_read(&q->counters, COUNTER_LEASED);
			int64		age = 0;

			if (oldest == 0 && lag > 0)
				oldest = oldest_waiting(q, relay->queue, GetActiveSnapshot());
			if (oldest != 0)
				age = GetCurrentTimestamp() - oldest;
			values[LIST_LAG_MESSAGES] = Int64GetDatum(Max(lag, 0));
			values[LIST_LAG_SECONDS] = Float8GetDatum(Max(age, 0) / (double) USECS_PER_SEC);
		}

		values[LIST_LAST_ERROR] = text_or_null(sum.last_error_at != 0 ? sum.last_error :
											   sum.nslots < relay->workers ?
											   why_no_slot(relay, sum.any_free) : NULL,
											   &nulls[LIST_LAST_ERROR]);
		values[LIST_LAST_ERROR_AT] = TimestampTzGetDatum(sum.last_error_at);
		nulls[LIST_LAST_ERROR_AT] = sum.last_error_at == 0;
		values[LIST_STARTED_AT] = TimestampTzGetDatum(sum.started_at);
		nulls[LIST_STARTED_AT] = sum.started_at == 0;
		values[LIST_WORKERS] = Int32GetDatum(sum.nworkers);
		values[LIST_OWNER] = text_or_null(OidIsValid(relay->owner) ?
										  GetUserNameFromId(relay->owner, true) : NULL,
										  &nulls[LIST_OWNER]);
		values[LIST_OPTIONS] = shown_options(relay, OidIsValid(relay->procedure) ?
											 format_procedure(relay->procedure) : relay->procedure_name);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
