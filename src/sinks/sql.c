/*
 * sql.c
 *		Sink that calls a procedure of this database.
 *
 * publish() takes messages, and poll() works on them: the procedure's effects
 * and the deletion of the messages are one transaction, which fails as one.
 *
 * What a procedure sets is undone after its call, and what else it leaves in
 * the session after its transaction.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "background.h"
#include "engine/claim.h"
#include "engine/extension.h"
#include "engine/settle.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "relay/session.h"
#include "relay/sink.h"
#include "sinks/options/sql.h"
#include "sinks/sql_procedure.h"
#include "sinks/text.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

/*
 * Messages of one transaction when the procedure takes them one by one, and
 * how long to go on adding to it: what a handler locks is locked until then.
 */
#define ONE_BY_ONE_MAX	50
#define ONE_BY_ONE_TIME (50 * INT64CONST(1000))

typedef struct SqlSink
{
	Sink		base;
	Oid			procedure;
	char	   *activity;		/* what others see us doing */
	bool		batch;			/* it takes an array */
	bool		ready;			/* it was there to be called */
	int			nitems;
	SinkItem  **items;			/* window of them at most */
} SqlSink;

/*
 * After an error outside or inside a transaction: end that and put the
 * error's message into a buffer of SINK_ERROR_SIZE.  Returns its SQLSTATE.
 */
static int
recover(MemoryContext context, bool report, char *message)
{
	ErrorData  *edata = background_failed(context, report);
	int			sqlstate = edata->sqlerrcode;

	text_say(message, "%s", edata->message ? edata->message : "");
	FreeErrorData(edata);
	return sqlstate;
}

static Sink *
sql_open(const SinkConfig *config, char *error)
{
	SqlSink    *sink = palloc0(sizeof(SqlSink));
	MemoryContext caller = CurrentMemoryContext;
	volatile bool ok = true;

	sink->base.config = config;
	sink->procedure = ((const SqlOptions *) config->options)->procedure;
	sink->items = palloc(config->window * sizeof(SinkItem *));

	PG_TRY();
	{
		background_begin();
		procedure_check(sink->procedure, config->owner, &sink->batch);
		sink->activity = MemoryContextStrdup(caller, psprintf("CALL %s", format_procedure(sink->procedure)));
		background_end();
	}
	PG_CATCH();
	{
		recover(caller, false, error);
		ok = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	sink->base.call_items = sink->batch ? 0 : ONE_BY_ONE_MAX;
	return ok ? &sink->base : NULL;
}

static SinkState
sql_publish(Sink *base, SinkItem **items, int n, char *error)
{
	SqlSink    *sink = (SqlSink *) base;

	memcpy(sink->items, items, n * sizeof(SinkItem *));
	sink->nitems = n;
	return SINK_FULL;
}

/*
 * Call the procedure; what it returns, NULL mostly, is nobody's business.  No
 * setting it changes, nor a role it takes on, is there for the next call.
 */
static void
call(FmgrInfo *function, Datum argument)
{
	LOCAL_FCINFO(fcinfo, 1);
	int			nest_level = NewGUCNestLevel();

	InitFunctionCallInfoData(*fcinfo, function, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = argument;
	fcinfo->args[0].isnull = false;
	FunctionCallInvoke(fcinfo);
	AtEOXact_GUC(false, nest_level);
	CommandCounterIncrement();
}

/*
 * Work on the messages in a transaction; returns how many it came to, the
 * rest is left when the time is over.  A message that cannot be settled any
 * more, the queue having been purged, is passed over.
 */
static int
work(SqlSink *sink, int nitems)
{
	const SinkConfig *config = sink->base.config;
	MemoryContext caller = CurrentMemoryContext;
	TimestampTz start = GetCurrentTimestamp();
	Oid			type;
	TupleDesc	desc;
	FmgrInfo	function;
	Datum	   *datums = palloc(nitems * sizeof(Datum));
	SettleTable table = {0};
	int			done = 0;
	int			n = 0;

	sink->ready = false;
	background_begin();
	MemoryContextSwitchTo(caller);

	procedure_check(sink->procedure, config->owner, &sink->batch);
	fmgr_info(sink->procedure, &function);
	type = get_rel_type_id(extension_relation("message"));
	desc = lookup_rowtype_tupdesc_copy(type, -1);
	sink->ready = true;

	while (done < nitems && GetCurrentTimestamp() - start <= ONE_BY_ONE_TIME)
	{
		SinkItem   *item = sink->items[done++];

		if (!settle_ack_lease(lease_of_receipt(item->message->receipt), &table))
			continue;
		datums[n++] = procedure_argument(desc, item->message, item->failures);
		if (sink->batch)
			continue;

		/* The table is not in use while it is called. */
		settle_close(&table);
		call(&function, datums[--n]);
	}
	settle_close(&table);
	if (n > 0)
		call(&function, PointerGetDatum(construct_array(datums, n, type, -1, false, TYPALIGN_DOUBLE)));

	background_end();
	return done;
}

/* Errors that say nothing of the message. */
static bool
is_trouble(int sqlstate)
{
	int			category = ERRCODE_TO_CATEGORY(sqlstate);

	return category == ERRCODE_INSUFFICIENT_RESOURCES ||
		category == ERRCODE_OPERATOR_INTERVENTION ||
		category == ERRCODE_SYSTEM_ERROR;
}

static SinkState
sql_poll(Sink *base, char *error)
{
	SqlSink    *sink = (SqlSink *) base;
	MemoryContext caller = CurrentMemoryContext;
	int			nitems = sink->nitems;
	volatile int done = 0;
	volatile bool refused = false;
	volatile SinkState state = SINK_READY;

	if (nitems == 0)
		return SINK_READY;

	sink->nitems = 0;
	pgstat_report_activity(STATE_RUNNING, sink->activity);
	PG_TRY();
	{
		done = work(sink, nitems);
	}
	PG_CATCH();
	{
		int			sqlstate = recover(caller, nitems == 1, error);

		if (!sink->ready || is_trouble(sqlstate))
		{
			/* One that is cancelled or too large again and again is suspect. */
			state = sink->ready &&
				(sqlstate == ERRCODE_QUERY_CANCELED || sqlstate == ERRCODE_OUT_OF_MEMORY) ?
				SINK_LOST : SINK_ENDED;
		}
		else
			refused = true;
	}
	PG_END_TRY();
	pgstat_report_activity(STATE_IDLE, NULL);
	relay_session_reset();
	MemoryContextSwitchTo(caller);

	if (refused)
		base->config->verdict(sink->items, nitems, SINK_REFUSED, error);
	else if (state == SINK_READY)
	{
		base->config->verdict(sink->items, done, SINK_SETTLED, NULL);
		base->config->verdict(sink->items + done, nitems - done, SINK_UNTRIED, NULL);
	}
	return state;
}

static void
sql_wait(Sink *base, SinkWait *wait)
{
	/* All is done by poll(), at once. */
}

static void
sql_close(Sink *base)
{
}

const SinkRoutine sql_sink = {
	.magic = SINK_MAGIC,
	.version = SINK_VERSION,
	.local = true,
	.order = SINK_ORDER_AS_ONE,
	.open = sql_open,
	.publish = sql_publish,
	.poll = sql_poll,
	.wait = sql_wait,
	.close = sql_close,
};
