/*
 * inbox.c
 *		What has been accepted once, and is not to be accepted again.
 *
 * queue.inbox has a row for each message accepted.  It is written by SQL as
 * the table's owner, as nobody else has rights on it; its unique index is what
 * makes two who enter the same message wait for each other.
 *
 * A row that has expired counts for nothing, whether or not the maintenance
 * worker has removed it yet.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "engine/durable.h"
#include "engine/extension.h"
#include "engine/inbox.h"
#include "engine/owner.h"
#include "guc.h"
#include "miscadmin.h"
#include "stop_point.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

/* One of the messages to be entered. */
typedef struct Entry
{
	text	   *name;
	int			position;		/* among the caller's */
	bool		fresh;
} Entry;

/* Parameters of the statements: the first four are a row's key. */
enum
{
	QUEUE,
	ROLE,
	CONSUMER,
	NAME,						/* or names, in their order */
	EXPIRES_AT,
	OLD_EXPIRES_AT,
	NPARAMETERS
};

#define KEY_TYPES	REGCLASSOID, TEXTOID, TEXTOID
#define KEY_IS \
	" WHERE relid = $1 AND role = $2 AND consumer = $3 AND message_id = $4"

static OwnerStatement insert_names = {
	"INSERT INTO queue.inbox (relid, role, consumer, message_id, expires_at)"
	" SELECT $1, $2, $3, m.id, $5 FROM pg_catalog.unnest($4) AS m (id)"
	" ON CONFLICT DO NOTHING RETURNING message_id",
	5, {KEY_TYPES, TEXTARRAYOID, TIMESTAMPTZOID}
};

static OwnerStatement find_name = {
	"SELECT expires_at, xmin FROM queue.inbox" KEY_IS,
	4, {KEY_TYPES, TEXTOID}
};

static OwnerStatement renew_name = {
	"UPDATE queue.inbox SET expires_at = $5" KEY_IS " AND expires_at = $6",
	6, {KEY_TYPES, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID}
};

/* By name as the index has it, then by position. */
static int
compare_entries(const void *a, const void *b)
{
	const Entry *x = a;
	const Entry *y = b;
	int			x_length = VARSIZE_ANY_EXHDR(x->name);
	int			y_length = VARSIZE_ANY_EXHDR(y->name);
	int			result;

	result = memcmp(VARDATA_ANY(x->name), VARDATA_ANY(y->name), Min(x_length, y_length));
	if (result == 0)
		result = x_length - y_length;
	return result != 0 ? result : x->position - y->position;
}

static bool
same_name(const Entry *x, const Entry *y)
{
	int			length = VARSIZE_ANY_EXHDR(x->name);

	return length == VARSIZE_ANY_EXHDR(y->name) &&
		memcmp(VARDATA_ANY(x->name), VARDATA_ANY(y->name), length) == 0;
}

/*
 * Insert rows for entries of different names, but for those that have one.
 * Their order is the index's, so that two who enter the same do not deadlock;
 * rows are returned as they are inserted.
 */
static int
insert_entries(Datum *values, int n, Entry *entries)
{
	Datum	   *names = palloc(sizeof(Datum) * n);
	int			inserted;
	int			at = 0;

	for (int i = 0; i < n; i++)
		names[i] = PointerGetDatum(entries[i].name);
	values[NAME] = PointerGetDatum(construct_array(names, n, TEXTOID, -1, false, TYPALIGN_INT));
	inserted = (int) owner_run(&insert_names, values, NULL);
	for (int row = 0; row < inserted; row++)
	{
		bool		isnull;
		Entry		found = {.name = DatumGetTextPP(owner_value(row, 1, &isnull))};

		while (at < n && !same_name(&entries[at], &found))
			at++;
		if (at == n)
			elog(ERROR, "rows of queue.inbox are not in the order of their names");
		entries[at].fresh = true;
	}
	return inserted;
}

/*
 * Take over the row of an entry that was not inserted, if it has expired, or
 * insert it after all, if it has been removed meanwhile.
 */
static void
renew_entry(Datum *values, Entry *entry, int64 ttl)
{
	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();
		bool		isnull;

		CHECK_FOR_INTERRUPTS();
		STOP_POINT("inbox-known");
		values[NAME] = PointerGetDatum(entry->name);
		values[EXPIRES_AT] = TimestampTzGetDatum(now + ttl);
		if (owner_run(&find_name, values, NULL) > 0)
		{
			values[OLD_EXPIRES_AT] = owner_value(0, 1, &isnull);
			if (DatumGetTimestampTz(values[OLD_EXPIRES_AT]) > now)
			{
				durable_commit(DatumGetTransactionId(owner_value(0, 2, &isnull)));
				return;
			}
			STOP_POINT("inbox-expired");
			entry->fresh = owner_run(&renew_name, values, NULL) > 0;
		}
		else
			(void) insert_entries(values, 1, entry);
		if (entry->fresh)
			return;
	}
}

int
inbox_enter(const InboxOwner *owner, int n, const Datum *names, int64 ttl, bool *fresh)
{
	Relation	inbox = table_open(extension_relation("inbox"), RowExclusiveLock);
	Entry	   *entries = palloc(sizeof(Entry) * Max(n, 1));
	Datum		values[NPARAMETERS] = {0};
	OwnerContext caller_rights;
	int			different = 0;
	int			nfresh;

	for (int i = 0; i < n; i++)
	{
		entries[i].name = DatumGetTextPP(names[i]);
		entries[i].position = i;
		entries[i].fresh = false;
		fresh[i] = false;
	}
	qsort(entries, n, sizeof(Entry), compare_entries);
	for (int i = 0; i < n; i++)
	{
		if (different == 0 || !same_name(&entries[i], &entries[different - 1]))
			entries[different++] = entries[i];
	}

	values[QUEUE] = ObjectIdGetDatum(owner->queue);
	values[ROLE] = PointerGetDatum(owner->role);
	values[CONSUMER] = PointerGetDatum(owner->consumer);
	values[EXPIRES_AT] = TimestampTzGetDatum(GetCurrentTimestamp() + ttl);
	owner_begin_sql(inbox->rd_rel->relowner, &caller_rights);
	nfresh = (different > 0) ? insert_entries(values, different, entries) : 0;
	for (int i = 0; nfresh < different && i < different; i++)
	{
		if (!entries[i].fresh)
			renew_entry(values, &entries[i], ttl);
	}
	owner_end_sql(&caller_rights);
	table_close(inbox, NoLock);

	nfresh = 0;
	for (int i = 0; i < different; i++)
	{
		fresh[entries[i].position] = entries[i].fresh;
		nfresh += entries[i].fresh;
	}
	pfree(entries);
	return nfresh;
}

int64
inbox_retention(void)
{
	return queue_inbox_retention * USECS_PER_MINUTE;
}

text *
inbox_role(void)
{
	return cstring_to_text(GetUserNameFromId(GetUserId(), false));
}
