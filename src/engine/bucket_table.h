/*
 * bucket_table.h
 *		The tables that a queue's dedup keys lie in.
 *
 * They are in the schema queue and belong to the owner of the extension, so
 * that the queue's owner can neither read nor alter them.  queue.dedup_bucket
 * says whose they are; that they go with the queue is a dependency.  They are
 * read and written past the executor.
 */
#ifndef QUEUE_ENGINE_BUCKET_TABLE_H
#define QUEUE_ENGINE_BUCKET_TABLE_H

#include "nodes/pg_list.h"
#include "utils/rel.h"

/* Columns of queue.dedup_bucket. */
#define Anum_bucket_relid	1
#define Anum_bucket_queue	2
#define Natts_bucket		2

/* What an entry says. */
typedef struct BucketEntry
{
	uint64		hash;			/* of the key */
	int64		id;				/* of the message */
	int64		fingerprint;	/* of the message */
	bool		content;		/* the key was made of the message */
	text	   *key;			/* not toasted */
	TransactionId xmin;			/* of one that was found: who entered it, or 0 */
} BucketEntry;

/* REINDEX CONCURRENTLY makes a second index for a while. */
#define BUCKET_MAX_INDEXES	4

/* A bucket's table while it is open. */
typedef struct BucketTable
{
	Relation	heap;
	bool		write;
	int			nindexes;
	Relation	indexes[BUCKET_MAX_INDEXES];
	Relation	valid;			/* one that has all entries */
} BucketTable;

typedef enum BucketFinding
{
	BUCKET_HAS_NOT,
	BUCKET_HAS,
	BUCKET_IN_PROGRESS			/* a transaction in progress is entering it */
} BucketFinding;

/* The tables of a queue, or NIL; and the queues that have some. */
extern List *bucket_tables(Oid queue);
extern List *bucket_queues(void);

/* Make one for a queue, which the caller has locked against others that do. */
extern Oid	bucket_table_create(Oid queue);

/* The same unless the queue has one. */
extern void bucket_table_provide(Oid queue);

/* Open one.  False if it is gone, or none of the queue's any more. */
extern bool bucket_table_open(Oid relid, Oid queue, bool write, BucketTable *table);

/* Close it; it stays locked if it was opened to be written to. */
extern void bucket_table_close(BucketTable *table);

/*
 * Look a key up, whatever snapshots there are.  Of several entries that were
 * committed the one with the highest id counts, and is stored in *found.
 */
extern BucketFinding bucket_table_find(BucketTable *table, const BucketEntry *entry,
									   BucketEntry *found, TransactionId *xid);

extern void bucket_table_insert(BucketTable *table, const BucketEntry *entry);

/*
 * Make a queue's tables depend on it, unless they do: a restore does not bring
 * that back.
 */
extern void bucket_tables_attach(Oid queue);

/* Drop what is left of a queue that is gone; nothing else uses it. */
extern void bucket_tables_drop(Oid queue);

#endif							/* QUEUE_ENGINE_BUCKET_TABLE_H */
