/*
 * statistics.c
 *		What the views queue.stats and queue.leases show.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xact.h"
#include "catalog/pg_inherits.h"
#include "compat.h"
#include "engine/extension.h"
#include "engine/lease.h"
#include "engine/problem.h"
#include "engine/registry.h"
#include "engine/rights.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/resowner.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(queue_stats);
PG_FUNCTION_INFO_V1(queue_lease_list);
PG_FUNCTION_INFO_V1(queue_maintenance_list);

/* Columns of queue_stats. */
enum
{
	STATS_OLDEST = NCOUNTERS,	/* the counters come before it */
	STATS_WAITING,
	STATS_SEGMENTS,
	STATS_BYTES,
	STATS_COLUMNS
};

typedef struct StatsRow
{
	bool		known;
	Datum		values[STATS_COLUMNS];
	bool		isnull[STATS_COLUMNS];
} StatsRow;

/* Lock a table for reading, if that needs no waiting. */
static bool
try_lock(Oid relid)
{
	return ConditionalLockRelationOid(relid, AccessShareLock);
}

/*
 * Size on disk of a table, its toast table included; *nsegments counts those
 * that are there.  False if it cannot be told without waiting.
 */
static bool
segment_size(Oid relid, int64 *bytes, int *nsegments)
{
	Relation	rel;
	Oid			toast_relid;

	if (!try_lock(relid))
		return false;
	rel = try_relation_open(relid, NoLock);
	if (rel == NULL)
		return true;			/* dropped by SQL a moment ago */
	(*nsegments)++;
	*bytes += (int64) RelationGetNumberOfBlocks(rel) * BLCKSZ;
	toast_relid = rel->rd_rel->reltoastrelid;
	relation_close(rel, NoLock);
	if (!OidIsValid(toast_relid))
		return true;
	if (!try_lock(toast_relid) || (rel = try_relation_open(toast_relid, NoLock)) == NULL)
		return false;
	*bytes += (int64) RelationGetNumberOfBlocks(rel) * BLCKSZ;
	relation_close(rel, NoLock);
	return true;
}

/* Number and size of a queue's segments, or NULLs. */
static void
segment_sizes(QueueShared *q, StatsRow *row)
{
	int			nsegments = 0;
	int64		bytes = 0;

	for (int i = 0; i < q->nsegments; i++)
	{
		if (!segment_size(q->segments[i].relid, &bytes, &nsegments))
			return;
	}
	row->values[STATS_SEGMENTS] = Int32GetDatum(nsegments);
	row->values[STATS_BYTES] = Int64GetDatum(bytes);
	row->isnull[STATS_SEGMENTS] = row->isnull[STATS_BYTES] = false;
}

/*
 * The queue's shared element, loaded if this is the queue's first use.  NULL
 * if that would wait for a lock.
 */
static QueueShared *
find_shared(Oid relid)
{
	QueueShared *q = queue_find_shared(relid);
	Queue	   *queue;
	ListCell   *lc;

	if (q != NULL && queue_loaded(q))
		return q;
	if (!try_lock(extension_relation("queue_definition")) ||
		!try_lock(extension_relation("queue_definition_pkey")) ||
		!try_lock(relid))
		return NULL;
	foreach(lc, find_inheritance_children(relid, NoLock))
	{
		if (!try_lock(lfirst_oid(lc)))
			return NULL;
	}
	queue = queue_by_relid(relid);
	return queue ? queue->shared : NULL;
}

static void
read_stats(Oid relid, StatsRow *row)
{
	QueueShared *q = find_shared(relid);
	TimestampTz oldest;

	if (q == NULL)
		return;
	oldest = (TimestampTz) pg_atomic_read_u64(&q->reader.last_enqueued_at);
	for (int i = 0; i < NCOUNTERS; i++)
	{
		int64		value = counter_read(&q->counters, i);

		row->values[i] = Int64GetDatum(Max(value, 0));
	}
	row->values[STATS_OLDEST] = TimestampTzGetDatum(oldest);
	row->values[STATS_WAITING] = Int32GetDatum(pg_atomic_read_u32(&q->waiters.n));
	row->known = true;
	memset(row->isnull, false, STATS_SEGMENTS * sizeof(bool));
	row->isnull[STATS_OLDEST] = (counter_read(&q->counters, COUNTER_READY) == 0 || oldest == 0);
	segment_sizes(q, row);
}

/*
 * queue.queue_stats: (queue).  A queue that cannot be read, whatever the
 * reason, has NULLs in its row and does not keep the others' from being shown.
 */
Datum
queue_stats(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	TupleDesc	desc;
	StatsRow	row;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	shmem_require();
	row.known = false;
	memset(row.isnull, true, sizeof(row.isnull));
	if (!may_watch_queue(relid))
		PG_RETURN_NULL();

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		read_stats(relid, &row);

		/* This releases the locks, too. */
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
			ReThrowError(error);
		FreeErrorData(error);
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		row.known = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	if (!row.known)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), row.values, row.isnull)));
}

/* queue.lease_list: (). */
Datum
queue_lease_list(PG_FUNCTION_ARGS)
{
	static const char *const kinds[] = {
		[LEASE_TIMED] = "receive",
		[LEASE_TRANSACTION] = "pop",
		[LEASE_PROCESS] = "relay",
	};
	static const char *const states[] = {
		[LEASE_HELD] = "held",
		[LEASE_SETTLING] = "settling",
		[LEASE_RETURNED] = "returned",
		[LEASE_CHECKING] = "returned",
		[LEASE_MOVING] = "held",
		[LEASE_LEAVING] = "returned",
		[LEASE_BUSY] = "held",
	};
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	LeaseCursor cursor = 0;
	Lease		lease;

	shmem_require();
	InitMaterializedSRF(fcinfo, 0);
	while (lease_next(&cursor, &lease))
	{
		Datum		values[8];
		bool		isnull[8] = {false};
		Oid			relid;

		if (lease.q->dboid != MyDatabaseId)
			continue;
		relid = lease.q->relid;
		if (!may_watch_queue(relid))
			continue;

		values[0] = ObjectIdGetDatum(relid);
		values[1] = Int64GetDatum(lease.id);
		values[2] = Int32GetDatum(lease.attempts);
		values[3] = CStringGetTextDatum(kinds[lease.kind]);
		values[4] = CStringGetTextDatum(states[lease.state]);
		values[5] = TimestampTzGetDatum(lease.leased_at);
		values[6] = TimestampTzGetDatum(lease.expires_at);
		isnull[6] = (lease.expires_at == DT_NOEND);
		values[7] = Int32GetDatum(lease.pid);
		isnull[7] = (lease.pid == 0);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, isnull);
	}
	return (Datum) 0;
}

Datum
queue_maintenance_list(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Problem    *problems;
	int			n;

	shmem_require();
	InitMaterializedSRF(fcinfo, 0);

	/* No catalog is asked under a lock. */
	n = problem_list(&problems);
	for (int i = 0; i < n; i++)
	{
		Problem    *problem = &problems[i];
		Datum		values[8];
		bool		isnull[8] = {false};

		if (OidIsValid(problem->relid) ? !may_watch_queue(problem->relid) : !may_watch())
			continue;
		values[0] = ObjectIdGetDatum(problem->relid);
		isnull[0] = !OidIsValid(problem->relid);
		values[1] = CStringGetTextDatum(problem->activity);
		values[2] = CStringGetTextDatum(problem->error);
		values[3] = CStringGetTextDatum(unpack_sql_state(problem->sqlstate));
		values[4] = Int32GetDatum(problem->failures);
		values[5] = TimestampTzGetDatum(problem->first_failed_at);
		values[6] = TimestampTzGetDatum(problem->last_failed_at);
		values[7] = TimestampTzGetDatum(problem->retry_at);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, isnull);
	}
	return (Datum) 0;
}
