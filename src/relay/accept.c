/*
 * accept.c
 *		Accept messages from a relay of another database, each once.
 *
 * In the inbox a message is known by the queue it comes to, the name of the
 * queue it comes from, its id there and when it was sent there: ids alone
 * could be handed out a second time when a source loses its last transactions
 * in a failover.
 */
#include "postgres.h"

#include "argument.h"
#include "compat.h"
#include "engine/inbox.h"
#include "engine/insert.h"
#include "engine/registry.h"
#include "engine/tables.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(queue_relay_accept);

/* Arguments of queue.relay_accept. */
enum
{
	ARG_SOURCE,
	ARG_QUEUE,
	ARG_IDS,
	ARG_ENQUEUED_ATS,
	ARG_PAYLOADS,
	ARG_BODIES,
	ARG_KEYS,
	ARG_HEADERS,
	NARGS
};

static const char *const argument_names[NARGS] = {
	"source", "queue", "ids", "enqueued_ats", "payloads", "bodies", "keys", "headers"
};

/*
 * Enter messages in the inbox: which of them were not there.  The caller's
 * right is that to send to the queue.
 */
static bool *
enter(Oid queue, text *source, const ArgumentArray *ids, const ArgumentArray *enqueued_ats,
	  int *nfresh)
{
	InboxOwner	owner = {.queue = queue,.role = cstring_to_text(""),.consumer = source};
	Datum	   *names = palloc(sizeof(Datum) * Max(ids->n, 1));
	bool	   *fresh = palloc(sizeof(bool) * Max(ids->n, 1));

	for (int i = 0; i < ids->n; i++)
	{
		char		name[64];

		snprintf(name, sizeof(name), INT64_FORMAT "@" INT64_FORMAT,
				 DatumGetInt64(ids->values[i]), DatumGetTimestampTz(enqueued_ats->values[i]));
		names[i] = CStringGetTextDatum(name);
	}
	*nfresh = inbox_enter(&owner, ids->n, names, inbox_retention(), fresh);
	return fresh;
}

Datum
queue_relay_accept(PG_FUNCTION_ARGS)
{
	Queue	   *queue;
	Oid			relid;
	bool	   *fresh;
	int			nfresh;
	int			n;
	int			nsent = 0;
	int64	   *ids;
	bool		ordered;
	ArgumentArray columns[NARGS];
	Message    *messages;

	PreventCommandIfReadOnly("queue.relay_accept()");
	PreventCommandIfParallelMode("queue.relay_accept()");
	for (int i = 0; i < NARGS; i++)
		argument_required(fcinfo, i, argument_names[i]);
	queue = queue_by_name(PG_GETARG_TEXT_PP(ARG_QUEUE), ACL_INSERT);
	relid = queue->relid;
	queue_lock(relid, NameStr(queue->name), RowExclusiveLock);

	for (int i = ARG_IDS; i < NARGS; i++)
		argument_array(fcinfo, i, argument_names[i], i > ARG_IDS ? &columns[ARG_IDS] : NULL,
					   &columns[i]);
	argument_elements_required(&columns[ARG_IDS]);
	argument_elements_required(&columns[ARG_ENQUEUED_ATS]);
	n = columns[ARG_IDS].n;
	for (int i = 0; i < n; i++)
	{
		if (columns[ARG_PAYLOADS].isnull[i] == columns[ARG_BODIES].isnull[i])
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("a message must have either a payload or a body")));
		if (!columns[ARG_HEADERS].isnull[i])
			argument_headers(columns[ARG_HEADERS].values[i]);
	}

	fresh = enter(relid, argument_key(fcinfo, ARG_SOURCE, argument_names[ARG_SOURCE]),
				  &columns[ARG_IDS], &columns[ARG_ENQUEUED_ATS], &nfresh);
	if (nfresh == 0)
		PG_RETURN_INT32(0);

	/* Looked up again: SPI may have had it invalidated. */
	queue = queue_by_relid(relid);
	if (queue == NULL)
		queue_missing(text_to_cstring(PG_GETARG_TEXT_PP(ARG_QUEUE)));
	ids = palloc(sizeof(int64) * nfresh);
	ordered = insert_lock_order(queue);
	queue_allocate_ids(queue, nfresh, ids);
	messages = palloc0(sizeof(Message) * nfresh);
	for (int i = 0; i < n; i++)
	{
		if (!fresh[i])
			continue;
		message_set(&messages[nsent], ids[nsent],
					argument_element(&columns[ARG_KEYS], i),
					argument_element(&columns[ARG_HEADERS], i),
					argument_element(&columns[ARG_PAYLOADS], i),
					argument_element(&columns[ARG_BODIES], i));
		nsent++;
	}
	insert_batch(queue, nsent, messages);
	insert_unlock_order(queue, ordered);
	PG_RETURN_INT32(nsent);
}
