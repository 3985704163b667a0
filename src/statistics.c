/*
 * statistics.c
 *		What the views queue.stats and queue.leases show.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "catalog.h"
#include "fmgr.h"
#include "funcapi.h"
#include "guc.h"
#include "lease.h"
#include "miscadmin.h"
#include "segment.h"
#include "storage/bufmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "compat.h"

PG_FUNCTION_INFO_V1(queue_stats);
PG_FUNCTION_INFO_V1(queue_lease_list);

/* A gauge that concurrent changes can bring below zero for a moment. */
static Datum
gauge(pg_atomic_uint64 *counter)
{
	return Int64GetDatum(Max((int64) pg_atomic_read_u64(counter), 0));
}

/* Size on disk of a queue's segments and their toast tables. */
static int64
segment_bytes(QueueShared *q, int *nsegments)
{
	int64		bytes = 0;

	*nsegments = 0;
	for (int i = 0; i < q->nsegments; i++)
	{
		Relation	rel = try_relation_open(q->segments[i].relid, AccessShareLock);

		if (rel == NULL)
			continue;
		(*nsegments)++;
		bytes += (int64) RelationGetNumberOfBlocks(rel) * BLCKSZ;
		if (OidIsValid(rel->rd_rel->reltoastrelid))
		{
			Relation	toast = relation_open(rel->rd_rel->reltoastrelid, AccessShareLock);

			bytes += (int64) RelationGetNumberOfBlocks(toast) * BLCKSZ;
			relation_close(toast, AccessShareLock);
		}
		relation_close(rel, AccessShareLock);
	}
	return bytes;
}

Datum
queue_stats(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	Queue	   *queue = queue_by_relid(relid);
	QueueShared *q;
	TupleDesc	desc;
	Datum		values[13];
	bool		isnull[13] = {false};
	int			nsegments;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (queue == NULL)
		PG_RETURN_NULL();
	queue_check_rights(relid, NameStr(queue->name), ACL_SELECT);

	q = queue->shared;
	values[0] = gauge(&q->ready);
	values[1] = gauge(&q->leased);
	values[2] = gauge(&q->deferred);
	values[3] = gauge(&q->dead);
	values[4] = gauge(&q->sent);
	values[5] = gauge(&q->received);
	values[6] = gauge(&q->acked);
	values[7] = gauge(&q->failed);
	values[8] = gauge(&q->expired);
	values[9] = TimestampTzGetDatum(pg_atomic_read_u64(&q->frontier_time));
	isnull[9] = (pg_atomic_read_u64(&q->ready) == 0 || pg_atomic_read_u64(&q->frontier_time) == 0);
	values[10] = Int32GetDatum(pg_atomic_read_u32(&q->nwaiting));
	values[12] = Int64GetDatum(segment_bytes(q, &nsegments));
	values[11] = Int32GetDatum(nsegments);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, isnull)));
}

Datum
queue_lease_list(PG_FUNCTION_ARGS)
{
	static const char *const kinds[] = {"receive", "pop", "relay"};
	static const char *const states[] = {NULL, "held", "settling", "returned", "held"};
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	shmem_require();
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < queue_max_leases; i++)
	{
		LeaseSlot  *slot = lease_slot(i);
		LeaseSlot	copy;
		uint64		word = pg_atomic_read_u64(&slot->word);
		QueueShared *q;
		Datum		values[8];
		bool		isnull[8] = {false};
		Oid			relid;

		if (LeaseWordState(word) == LEASE_FREE)
			continue;
		pg_read_barrier();
		memcpy(&copy, slot, sizeof(LeaseSlot));
		pg_read_barrier();
		if (pg_atomic_read_u64(&slot->word) != word)
			continue;
		q = &queue_state->queues[copy.queue];
		relid = q->relid;
		if (q->dboid != MyDatabaseId || get_rel_name(relid) == NULL ||
			pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
			continue;

		values[0] = ObjectIdGetDatum(relid);
		values[1] = Int64GetDatum(copy.id);
		values[2] = Int32GetDatum(copy.attempts);
		values[3] = CStringGetTextDatum(kinds[copy.kind]);
		values[4] = CStringGetTextDatum(states[LeaseWordState(word)]);
		values[5] = TimestampTzGetDatum(copy.leased_at);
		values[6] = TimestampTzGetDatum(copy.expires_at);
		isnull[6] = (copy.expires_at == DT_NOEND);
		values[7] = Int32GetDatum(copy.pid);
		isnull[7] = (copy.pid == 0);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, isnull);
	}
	return (Datum) 0;
}
