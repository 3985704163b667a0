/*
 * settings.h
 *		What a queue is set to: a row of queue.queue_definition.
 */
#ifndef QUEUE_ENGINE_SETTINGS_H
#define QUEUE_ENGINE_SETTINGS_H

/* Columns of queue.queue_definition. */
enum
{
	Anum_queue_relid = 1,
	Anum_queue_lease,
	Anum_queue_max_attempts,
	Anum_queue_backoff,
	Anum_queue_backoff_max,
	Anum_queue_ordered,
	Anum_queue_on_dead,
	Anum_queue_key_concurrency,
	Anum_queue_max_in_flight,
	Anum_queue_rate,
	Anum_queue_rate_interval,
	Anum_queue_dedup,
	Anum_queue_dedup_window,
	Natts_queue = Anum_queue_dedup_window
};

/* Which messages are recognised when they are sent again. */
typedef enum DedupMode
{
	DEDUP_OFF,
	DEDUP_KEY,					/* those sent with a dedup key */
	DEDUP_CONTENT				/* all, by what is in them */
} DedupMode;

/* Durations are in microseconds; a limit of 0 is none. */
typedef struct QueueSettings
{
	int64		lease;
	int			max_attempts;
	int64		backoff;
	int64		backoff_max;
	bool		ordered;		/* per key */
	bool		block_on_dead;	/* a dead letter stops its key */
	int			key_concurrency;	/* messages of a key on lease */
	int			max_in_flight;	/* messages on lease */
	int			rate;			/* handed out in each rate_interval */
	int64		rate_interval;
	DedupMode	dedup;
	int64		dedup_window;
} QueueSettings;

/* Whether messages of a key are limited, so that keys are kept account of. */
static inline bool
settings_limit_keys(const QueueSettings *settings)
{
	return settings->ordered || settings->key_concurrency > 0;
}

/* How many leases a key may have: on one message, for who takes a run of it, or on all. */
static inline int
settings_key_limit(const QueueSettings *settings)
{
	if (settings->ordered)
		return 1;
	return settings->key_concurrency > 0 ? settings->key_concurrency : PG_INT32_MAX;
}

/*
 * The settings in such a row, none of whose columns is NULL.  Raises 22023 for
 * a value that a setting must not have, alone or with the others.
 */
extern void settings_read(const Datum *values, QueueSettings *settings);

#endif							/* QUEUE_ENGINE_SETTINGS_H */
