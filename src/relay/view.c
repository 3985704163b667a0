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

static const char *
state_name(RelayConfig *relay, RelaySlot *slot)
{
	if (relay->paused)
		return "paused";
	if (slot->pid == 0)
		return slot->restart_at > GetCurrentTimestamp() ? "backing off" : "stopped";
	switch ((RelayActivity) pg_atomic_read_u32(&slot->activity))
	{
		case RELAY_RUNNING:
			return "running";
		case RELAY_BACKING_OFF:
			return "backing off";
		default:
			return "idle";
	}
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
	LIST_IN_FLIGHT,
	LIST_LAG_MESSAGES,
	LIST_LAG_SECONDS,
	LIST_LAST_ERROR,
	LIST_LAST_ERROR_AT,
	LIST_STARTED_AT,
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

/* What a relay was told, its procedure with it. */
static Datum
shown_options(const RelayConfig *relay, const char *procedure)
{
	StringInfoData shown;

	if (procedure == NULL)
		return relay->given;
	initStringInfo(&shown);
	appendStringInfoString(&shown, "{\"procedure\": ");
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

/* Why a relay that has no slot has none. */
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
		RelaySlot	none = {0};
		RelaySlot	slot;
		RelaySlot  *found;
		bool		any_free;
		TimestampTz oldest;
		QueueShared *q;
		ForeignServer *server;

		if (!may_see(relay))
			continue;

		LWLockAcquire(&relay_shared->lock, LW_SHARED);
		found = relay_slot_find(MyDatabaseId, relay->name);
		slot = found ? *found : none;
		any_free = relay_slot_find(InvalidOid, "") != NULL;
		LWLockRelease(&relay_shared->lock);

		server = OidIsValid(relay->server) ?
			GetForeignServerExtended(relay->server, FSV_MISSING_OK) : NULL;
		values[LIST_NAME] = CStringGetTextDatum(relay->name);
		values[LIST_QUEUE] = text_or_null(get_rel_name(relay->queue), &nulls[LIST_QUEUE]);
		values[LIST_SERVER] = text_or_null(server ? server->servername : relay->server_name,
										   &nulls[LIST_SERVER]);
		values[LIST_STATE] = CStringGetTextDatum(state_name(relay, &slot));
		values[LIST_PUBLISHED] = Int64GetDatum(pg_atomic_read_u64(&slot.published));
		values[LIST_FAILED] = Int64GetDatum(pg_atomic_read_u64(&slot.failed));
		values[LIST_IN_FLIGHT] = Int32GetDatum(pg_atomic_read_u32(&slot.in_flight));

		q = find_shared(relay->queue);
		oldest = (TimestampTz) pg_atomic_read_u64(&slot.oldest);
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

		values[LIST_LAST_ERROR] = text_or_null(slot.last_error_at != 0 ? slot.last_error :
											   found == NULL ? why_no_slot(relay, any_free) : NULL,
											   &nulls[LIST_LAST_ERROR]);
		values[LIST_LAST_ERROR_AT] = TimestampTzGetDatum(slot.last_error_at);
		nulls[LIST_LAST_ERROR_AT] = slot.last_error_at == 0;
		values[LIST_STARTED_AT] = TimestampTzGetDatum(slot.started_at);
		nulls[LIST_STARTED_AT] = slot.pid == 0;
		values[LIST_OWNER] = text_or_null(OidIsValid(relay->owner) ?
										  GetUserNameFromId(relay->owner, true) : NULL,
										  &nulls[LIST_OWNER]);
		values[LIST_OPTIONS] = shown_options(relay, OidIsValid(relay->procedure) ?
											 format_procedure(relay->procedure) : relay->procedure_name);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
