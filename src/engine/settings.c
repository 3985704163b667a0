/*
 * settings.c
 *		What a queue is set to: a row of queue.queue_definition.
 */
#include "postgres.h"

#include "access/attnum.h"
#include "duration.h"
#include "engine/settings.h"
#include "utils/builtins.h"

/* What a setting that is a word can be. */
typedef struct Word
{
	const char *word;
	int			meaning;
} Word;

static const Word on_dead_words[] = {{"continue", false}, {"block", true}, {NULL}};
static const Word dedup_words[] = {
	{"off", DEDUP_OFF}, {"key", DEDUP_KEY}, {"content", DEDUP_CONTENT}, {NULL}
};

static int
read_word(const Datum *values, AttrNumber column, const char *name, const Word *words,
		  const char *hint)
{
	char	   *value = TextDatumGetCString(values[column - 1]);

	for (; words->word != NULL; words++)
	{
		if (strcmp(words->word, value) == 0)
			return words->meaning;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for \"%s\": \"%s\"", name, value),
			 errhint("%s", hint)));
	return 0;
}

static int
read_integer(const Datum *values, AttrNumber column, const char *name, int least)
{
	int			value = DatumGetInt32(values[column - 1]);

	if (value < least)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for \"%s\": %d", name, value),
				 errhint("It must be at least %d.", least)));
	return value;
}

static int64
read_duration(const Datum *values, AttrNumber column, const char *name, int64 least)
{
	return duration_microseconds(name, DatumGetIntervalP(values[column - 1]), least);
}

void
settings_read(const Datum *values, QueueSettings *settings)
{
	settings->lease = read_duration(values, Anum_queue_lease, "lease", 1);
	settings->max_attempts = read_integer(values, Anum_queue_max_attempts, "max_attempts", 1);
	settings->backoff = read_duration(values, Anum_queue_backoff, "backoff", 0);
	settings->backoff_max = read_duration(values, Anum_queue_backoff_max, "backoff_max", 0);
	settings->ordered = DatumGetBool(values[Anum_queue_ordered - 1]);
	settings->block_on_dead = read_word(values, Anum_queue_on_dead, "on_dead", on_dead_words,
										_("It must be \"continue\" or \"block\"."));
	settings->key_concurrency = read_integer(values, Anum_queue_key_concurrency, "key_concurrency", 0);
	settings->max_in_flight = read_integer(values, Anum_queue_max_in_flight, "max_in_flight", 0);
	settings->rate = read_integer(values, Anum_queue_rate, "rate", 0);
	settings->rate_interval = read_duration(values, Anum_queue_rate_interval, "rate_interval", 1);
	settings->dedup = read_word(values, Anum_queue_dedup, "dedup", dedup_words,
								_("It must be \"off\", \"key\" or \"content\"."));
	settings->dedup_window = read_duration(values, Anum_queue_dedup_window, "dedup_window", 1);

	if (settings->ordered && settings->key_concurrency > 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"key_concurrency\" cannot be used in an ordered queue: %d",
						settings->key_concurrency),
				 errdetail("In an ordered queue the messages of a key go to one receiver at a time."),
				 errhint("Set it to 0, or \"ordered\" to false.")));
	if (settings->block_on_dead && !settings->ordered)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"on_dead\" can be \"block\" only in an ordered queue"),
				 errhint("Set \"ordered\" to true, or \"on_dead\" to \"continue\".")));
}
