/*
 * constrained.c
 *		Queues whose owner has added constraints, defaults, generated columns
 *		or indexes.
 *
 * Insertion in such a queue uses the executor's functions for them; no other
 * queue comes here.  The expressions are the owner's code, run in the sender's
 * session: they run as the owner, restricted as in maintenance commands, and
 * with a fixed search_path.  After an error the end of the (sub)transaction
 * restores all that.
 */
#include "postgres.h"

#include "access/attmap.h"
#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "compat.h"
#include "engine/constrained.h"
#include "engine/owner.h"
#include "engine/registry.h"
#include "engine/segment.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_utilcmd.h"
#include "rewrite/rewriteHandler.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

/* A column without a value from the sender. */
typedef struct ColumnDefault
{
	ExprState  *expr;			/* NULL: none, the column is NULL */
	bool		domain;			/* it has to accept NULL */
	void	   *domain_extra;
} ColumnDefault;

struct Constrained
{
	Relation	rel;
	EState	   *estate;
	ResultRelInfo *target;
	TupleTableSlot *slot;		/* values, then the tuple made of them */
	ColumnDefault *defaults;	/* by column */
	bool		explain;		/* the sender may see the row that failed */
};

bool
constrained_needed(Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);
	TupleConstr *constr = desc->constr;

	if (rel->rd_rel->relhasindex)
		return true;

	/* id and enqueued_at are NOT NULL, so there should be some. */
	if (constr != NULL &&
		(constr->num_check > 0 || constr->num_defval > 0 || constr->has_generated_stored))
		return true;
	for (int i = Anum_message_enqueued_at; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		/* User-defined types can be domains, with constraints of their own. */
		if (att->attnotnull ||
			(i >= Natts_message && !att->attisdropped && att->atttypid >= FirstGenbkiObjectId))
			return true;
	}
	return false;
}

/* Whether a column takes its default when the sender gave no value. */
static bool
takes_default(int column)
{
	return column > Natts_message ||
		column == Anum_message_expires_at || column == Anum_message_priority ||
		column == Anum_message_key || column == Anum_message_headers;
}

static void
prepare_defaults(Constrained *c)
{
	TupleDesc	desc = RelationGetDescr(c->rel);

	c->defaults = palloc0(sizeof(ColumnDefault) * desc->natts);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		Expr	   *expr;

		if (att->attisdropped || att->attgenerated != '\0' || !takes_default(att->attnum))
			continue;
		expr = (Expr *) build_column_default(c->rel, att->attnum);
		if (expr != NULL)
			c->defaults[i].expr = ExecPrepareExpr(expr, c->estate);
		else
			c->defaults[i].domain = (get_typtype(att->atttypid) == TYPTYPE_DOMAIN);
	}
}

Constrained *
constrained_begin(Relation rel, Oid queue)
{
	Constrained *c = palloc0(sizeof(Constrained));
	MemoryContext old;
	OwnerContext caller;

	c->rel = rel;
	c->explain = pg_class_aclcheck(queue, GetUserId(), ACL_SELECT) == ACLCHECK_OK;
	c->estate = CreateExecutorState();
	old = MemoryContextSwitchTo(c->estate->es_query_cxt);
	c->target = makeNode(ResultRelInfo);
	InitResultRelInfo(c->target, rel, 0, NULL, 0);
	c->slot = ExecInitExtraTupleSlot(c->estate, RelationGetDescr(rel), &TTSOpsVirtual);

	/* Preparing simplifies expressions, which can call functions in them. */
	owner_begin(rel->rd_rel->relowner, &caller);
	ExecOpenIndices(c->target, false);
	prepare_defaults(c);
	owner_end(&caller);
	MemoryContextSwitchTo(old);
	return c;
}

/* Fill in a column for which the sender gave no value. */
static void
apply_default(Constrained *c, int i)
{
	ColumnDefault *def = &c->defaults[i];
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(c->rel), i);

	if (def->expr != NULL)
		c->slot->tts_values[i] = ExecEvalExpr(def->expr, GetPerTupleExprContext(c->estate),
											  &c->slot->tts_isnull[i]);
	else if (def->domain)
		domain_check((Datum) 0, true, att->atttypid, &def->domain_extra, c->estate->es_query_cxt);
}

/* As for headers from a sender: receivers rely on it. */
static void
check_default_headers(Datum headers)
{
	Jsonb	   *jb = DatumGetJsonbP(headers);

	if (!JB_ROOT_IS_OBJECT(jb))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("headers must be a JSON object"),
				 errdetail("The column's default is not.")));
}

/* Set in a message what a column's default has given, in a memory context. */
static void
take_over_default(Message *message, AttrNumber column, Datum value, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);

	switch (column)
	{
		case Anum_message_expires_at:
			message->expires_at = DatumGetTimestampTz(value);
			break;
		case Anum_message_priority:
			message->priority = DatumGetInt16(value);
			message->has_priority = true;
			break;
		case Anum_message_key:
			message->key = DatumGetTextPCopy(value);
			break;
		case Anum_message_headers:
			check_default_headers(value);
			message->headers = PG_DETOAST_DATUM_COPY(value);
			break;
	}
	MemoryContextSwitchTo(old);
}

static void
check_row(Constrained *c)
{
	MemoryContext old = CurrentMemoryContext;

	if (RelationGetDescr(c->rel)->constr == NULL)
		return;
	PG_TRY();
	{
		ExecConstraints(c->target, c->slot, c->estate);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		if (c->explain)
			PG_RE_THROW();

		/* The detail shows the whole row, which the sender may not see. */
		MemoryContextSwitchTo(old);
		error = CopyErrorData();
		if (error->sqlerrcode == ERRCODE_CHECK_VIOLATION ||
			error->sqlerrcode == ERRCODE_NOT_NULL_VIOLATION)
			error->detail = NULL;
		FlushErrorState();
		ReThrowError(error);
	}
	PG_END_TRY();
}

HeapTuple
constrained_form(Constrained *c, Message *message)
{
	TupleDesc	desc = RelationGetDescr(c->rel);
	TupleTableSlot *slot = c->slot;
	MemoryContext caller_context = CurrentMemoryContext;
	HeapTuple	tuple;
	OwnerContext caller;

	owner_begin(c->rel->rd_rel->relowner, &caller);
	MemoryContextSwitchTo(GetPerTupleMemoryContext(c->estate));

	ExecClearTuple(slot);
	memset(slot->tts_isnull, true, desc->natts * sizeof(bool));
	message_fill(&message_columns, message, slot->tts_values, slot->tts_isnull);
	for (int i = 0; i < desc->natts; i++)
	{
		if (!slot->tts_isnull[i] || (c->defaults[i].expr == NULL && !c->defaults[i].domain))
			continue;
		apply_default(c, i);
		if (i < Natts_message && !slot->tts_isnull[i])
			take_over_default(message, i + 1, slot->tts_values[i], caller_context);
	}
	slot->tts_isnull[Anum_message_key_hash - 1] = (message->key == NULL);
	if (message->key != NULL)
		slot->tts_values[Anum_message_key_hash - 1] = Int64GetDatum(message_key_hash(message->key));
	ExecStoreVirtualTuple(slot);
	slot->tts_tableOid = RelationGetRelid(c->rel);

	if (desc->constr != NULL && desc->constr->has_generated_stored)
		ExecComputeStoredGenerated(c->target, c->estate, slot, CMD_INSERT);
	check_row(c);

	MemoryContextSwitchTo(caller_context);
	owner_end(&caller);
	tuple = ExecCopySlotHeapTuple(slot);
	ExecClearTuple(slot);
	ResetPerTupleExprContext(c->estate);
	return tuple;
}

void
constrained_index(Constrained *c, HeapTuple tuple)
{
	TupleDesc	desc = RelationGetDescr(c->rel);
	TupleTableSlot *slot = c->slot;
	OwnerContext caller;

	if (c->target->ri_NumIndices == 0)
		return;
	ExecClearTuple(slot);
	heap_deform_tuple(tuple, desc, slot->tts_values, slot->tts_isnull);
	ExecStoreVirtualTuple(slot);
	slot->tts_tid = tuple->t_self;
	slot->tts_tableOid = RelationGetRelid(c->rel);

	owner_begin(c->rel->rd_rel->relowner, &caller);
	list_free(INSERT_INDEX_TUPLES(c->target, slot, c->estate));
	owner_end(&caller);
	ExecClearTuple(slot);
	ResetPerTupleExprContext(c->estate);
}

void
constrained_end(Constrained *c)
{
	ExecCloseIndices(c->target);
	ExecResetTupleTable(c->estate->es_tupleTable, false);
	FreeExecutorState(c->estate);
	pfree(c);
}
