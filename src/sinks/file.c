/*
 * file.c
 *		Sink that writes messages to files, one line of JSON each.
 *
 * The file being written is <name>.part; it is closed by giving it its name
 * for good, <name>-<time>.ndjson, and never touched again.  What poll() finds
 * to be written it writes, and confirms when fsync() has succeeded, so that
 * all messages in flight succeed or fail as one.
 *
 * A file whose fsync() failed cannot be trusted any more, as the next call
 * may succeed without having written anything.  It is cut back to what was on
 * disk before and closed, and the messages go to a new file.  So does what a
 * crash leaves in <name>.part beyond the last whole line.
 *
 * Writing to a disk does not wait for anybody in the sense of sink.h, and
 * could not be interrupted.
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "catalog/pg_type.h"
#include "common/base64.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "relay/sink.h"
#include "sinks/options/file.h"
#include "sinks/text.h"
#include "storage/fd.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

PG_MODULE_MAGIC;

/* What is written at once, about. */
#define OUTPUT_MAX		(4 * 1024 * 1024)

/* A large message's buffer is not kept. */
#define OUTPUT_KEPT		(8 * 1024 * 1024)

/* What is read at once of a file that was left. */
#define READ_SIZE		(256 * 1024)

/* For the owner, and the group the directory gives its files. */
#define FILE_MODE		(S_IRUSR | S_IWUSR | S_IRGRP)

typedef struct FileSink
{
	Sink		base;
	const FileOptions *options;
	const char *name;
	char	   *part;			/* <name>.part */
	int			directory;		/* descriptors, -1: none */
	int			fd;
	off_t		durable;		/* what of the file is on disk */
	TimestampTz begun_at;		/* when its first line came */
	TimestampTz closed_at;		/* the time in the last file's name */
	MemoryContext context;		/* of one message's encoding */
	StringInfoData output;		/* lines of those in flight */
	int			nitems;
	SinkItem  **items;			/* window of them at most */
} FileSink;

PGDLLEXPORT const SinkRoutine *queue_sink(void);

/* Say what the system would not do; returns false. */
static bool
failed(const FileSink *sink, const char *what, char *error)
{
	text_say(error, "could not %s file \"%s/%s\": %s",
			 what, sink->options->directory, sink->part, strerror(errno));
	return false;
}

static int
sync_fd(int fd)
{
	int			rc;

	/* Whatever setting fsync says: others rely on what was confirmed. */
	do
		rc = fsync(fd);
	while (rc != 0 && errno == EINTR);
	return rc;
}

/*
 * Files
 */

/*
 * Cut off what a crash has left incomplete: a line without its end, or bytes
 * that were never written and read as zeros, which no line contains.
 */
static bool
cut_torn(FileSink *sink, off_t size, char *error)
{
	char	   *buffer = palloc(READ_SIZE);
	off_t		whole = 0;
	off_t		pos = 0;
	bool		zeros = false;

	while (!zeros && pos < size)
	{
		ssize_t		n = pread(sink->fd, buffer, READ_SIZE, pos);
		const char *zero;
		ssize_t		good;

		if (n < 0 && errno != EINTR)
		{
			pfree(buffer);
			return failed(sink, "read", error);
		}
		CHECK_FOR_INTERRUPTS();
		if (n < 0)
			continue;
		if (n == 0)
			break;

		zero = memchr(buffer, '\0', n);
		zeros = zero != NULL;
		good = zeros ? zero - buffer : n;
		while (good > 0 && buffer[good - 1] != '\n')
			good--;
		if (good > 0)
			whole = pos + good;
		pos += n;
	}
	pfree(buffer);

	if (whole < size)
	{
		ereport(LOG,
				(errmsg("file \"%s/%s\" has an incomplete end: cut from %lld to %lld bytes",
						sink->options->directory, sink->part, (long long) size, (long long) whole)));
		if (ftruncate(sink->fd, whole) != 0)
			return failed(sink, "truncate", error);
	}
	if (sync_fd(sink->fd) != 0)
		return failed(sink, "fsync", error);
	sink->durable = whole;
	return true;
}

/* Give the file its name for good; false if it still has that of a part. */
static bool
close_file(FileSink *sink, char *error)
{
	char		name[MAXPGPATH];
	struct stat st;

	/* Names sort as the files were written, whatever the clock does. */
	sink->closed_at = Max(sink->closed_at + 1, GetCurrentTimestamp());
	for (;;)
	{
		struct pg_tm tm;
		fsec_t		fsec;

		if (timestamp2tm(sink->closed_at, NULL, &tm, &fsec, NULL, NULL) != 0)
		{
			errno = ERANGE;
			return failed(sink, "name", error);
		}
		snprintf(name, sizeof(name), "%s-%04d%02d%02dT%02d%02d%02d.%06dZ.ndjson", sink->name,
				 tm.tm_year, tm.tm_mon, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, (int) fsec);
		if (fstatat(sink->directory, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
			break;
		sink->closed_at++;
	}
	if (errno != ENOENT || renameat(sink->directory, sink->part, sink->directory, name) != 0)
		return failed(sink, "rename", error);

	/* The lock goes with the descriptor, whatever close() says. */
	(void) close(sink->fd);
	sink->fd = -1;
	if (sync_fd(sink->directory) != 0)
		return failed(sink, "fsync the directory of", error);
	return true;
}

/* Let go of the file as it is, for the next to see what it is worth. */
static void
abandon(FileSink *sink)
{
	if (sink->fd >= 0)
		(void) close(sink->fd);
	sink->fd = -1;
}

/* Open the part and lock it against other relays. */
static bool
lock_part(FileSink *sink, struct stat *st, char *error)
{
	for (;;)
	{
		struct stat now;

		sink->fd = openat(sink->directory, sink->part,
						  O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC,
						  FILE_MODE);
		if (sink->fd < 0)
			return failed(sink, "open", error);
		if (fstat(sink->fd, st) != 0)
			return failed(sink, "stat", error);
		if (!S_ISREG(st->st_mode))
		{
			text_say(error, "\"%s/%s\" is not a regular file", sink->options->directory, sink->part);
			return false;
		}
		if (flock(sink->fd, LOCK_EX | LOCK_NB) != 0)
		{
			if (errno != EWOULDBLOCK)
				return failed(sink, "lock", error);
			text_say(error, "file \"%s/%s\" is in use, by another relay perhaps: each needs a name of its own",
					 sink->options->directory, sink->part);
			return false;
		}

		/* Whoever had the lock before may have given it its name for good. */
		if (fstat(sink->fd, st) != 0)
			return failed(sink, "stat", error);
		if (fstatat(sink->directory, sink->part, &now, AT_SYMLINK_NOFOLLOW) == 0 &&
			now.st_dev == st->st_dev && now.st_ino == st->st_ino)
			return true;
		abandon(sink);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * Begin a new file.  One that was left behind is completed first: it is never
 * added to, as nobody knows what became of its last writes.
 */
static bool
try_begin_file(FileSink *sink, char *error)
{
	for (;;)
	{
		struct stat st;

		if (!lock_part(sink, &st, error))
			return false;
		sink->durable = 0;
		if (st.st_size > 0 && !cut_torn(sink, st.st_size, error))
			return false;
		if (sink->durable == 0)
			break;
		if (!close_file(sink, error))
			return false;
	}

	/* The process's umask is the data directory's. */
	if (fchmod(sink->fd, FILE_MODE) != 0)
		return failed(sink, "set the mode of", error);
	if (sync_fd(sink->directory) != 0)
		return failed(sink, "fsync the directory of", error);
	return true;
}

static bool
begin_file(FileSink *sink, char *error)
{
	if (try_begin_file(sink, error))
		return true;
	abandon(sink);				/* it may be another's */
	return false;
}

/* Go on in a new file. */
static bool
rotate(FileSink *sink, char *error)
{
	return close_file(sink, error) && begin_file(sink, error);
}

static bool
write_output(FileSink *sink, char *error)
{
	int			written = 0;

	while (written < sink->output.len)
	{
		ssize_t		n = write(sink->fd, sink->output.data + written, sink->output.len - written);

		if (n < 0 && errno == EINTR)
			continue;
		if (n == 0)
			errno = ENOSPC;
		if (n <= 0)
			return failed(sink, "write to", error);
		written += n;
	}
	if (sync_fd(sink->fd) != 0)
		return failed(sink, "fsync", error);
	return true;
}

/* What was written must be in a file that others find, and nothing else. */
static bool
check_file(FileSink *sink, char *error)
{
	struct stat st;

	if (fstat(sink->fd, &st) != 0)
		return failed(sink, "stat", error);
	if (st.st_nlink > 0 && st.st_size == sink->durable + sink->output.len)
		return true;
	text_say(error, "file \"%s/%s\" was removed or changed by others",
			 sink->options->directory, sink->part);
	return false;
}

/* Have the messages in flight on disk. */
static bool
write_durably(FileSink *sink, char *error)
{
	if (sink->durable > 0 && sink->durable + sink->output.len > sink->options->rotate_size &&
		!rotate(sink, error))
		return false;
	if (!write_output(sink, error))
	{
		/* If that fails, too, the next to open it cuts what is not whole. */
		if (ftruncate(sink->fd, sink->durable) != 0 || sync_fd(sink->fd) != 0)
			abandon(sink);
		return false;
	}
	if (!check_file(sink, error))
	{
		abandon(sink);
		return false;
	}
	if (sink->durable == 0)
		sink->begun_at = GetCurrentTimestamp();
	sink->durable += sink->output.len;
	return true;
}

/*
 * Messages
 */

static bool
too_large(char *error)
{
	strlcpy(error, "message is too large for a relay", SINK_ERROR_SIZE);
	return false;
}

/* Append bytes as JSON; false if that is too much. */
static bool
append_base64(StringInfo line, const bytea *body)
{
	int			length = VARSIZE_ANY_EXHDR(body);
	int			most;
	int			n;

	if (length > SINK_MAX_MESSAGE / 4 * 3)
		return false;
	most = pg_b64_enc_len(length);
	appendStringInfoChar(line, '"');
	enlargeStringInfo(line, most + 1);
	n = pg_b64_encode((const void *) VARDATA_ANY(body), length, line->data + line->len, most);
	if (n < 0)
		return false;
	line->len += n;
	line->data[line->len] = '\0';
	appendStringInfoChar(line, '"');
	return true;
}

/* Append a message's line to the output; false, with the reason, if that cannot be. */
static bool
encode(FileSink *sink, const Message *message, char *error)
{
	StringInfoData line;
	char		time[MAXDATELEN + 1];
	int			utc = 0;
	const char *utf8;
	int			length;

	initStringInfo(&line);
	JsonEncodeDateTime(time, TimestampTzGetDatum(message->enqueued_at), TIMESTAMPTZOID, &utc);
	appendStringInfo(&line, "{\"id\": " INT64_FORMAT ", \"enqueued_at\": \"%s\"", message->id, time);
	if (message->key)
	{
		appendStringInfoString(&line, ", \"key\": ");
		if (!text_json_string(&line, VARDATA_ANY(message->key), VARSIZE_ANY_EXHDR(message->key),
							  SINK_MAX_MESSAGE))
			return too_large(error);
	}
	if (message->headers)
	{
		appendStringInfoString(&line, ", \"headers\": ");
		if (!text_json(&line, &((Jsonb *) message->headers)->root, SINK_MAX_MESSAGE))
			return too_large(error);
	}
	if (message->has_priority)
		appendStringInfo(&line, ", \"priority\": %d", message->priority);
	if (message->payload)
	{
		appendStringInfoString(&line, ", \"content_type\": \"application/json\", \"payload\": ");
		if (!text_json(&line, &((Jsonb *) message->payload)->root, SINK_MAX_MESSAGE))
			return too_large(error);
	}
	if (message->body)
	{
		appendStringInfoString(&line, ", \"content_type\": \"application/octet-stream\", \"body\": ");
		if (!append_base64(&line, message->body))
			return too_large(error);
	}
	appendStringInfoString(&line, "}\n");

	length = line.len;
	if (length > SINK_MAX_MESSAGE)
		return too_large(error);
	utf8 = text_utf8(line.data, &length);
	if (length > SINK_MAX_MESSAGE)
		return too_large(error);
	appendBinaryStringInfo(&sink->output, utf8, length);
	return true;
}

/* The same for a message that cannot be encoded at all, as text_utf8() says. */
static bool
try_to_encode(FileSink *sink, const Message *message, char *error)
{
	MemoryContext caller = MemoryContextSwitchTo(sink->context);
	int			before = sink->output.len;
	volatile bool encoded = false;

	if (message->payload && message->body)
	{
		strlcpy(error, "message has both a payload and a body", SINK_ERROR_SIZE);
		MemoryContextSwitchTo(caller);
		return false;
	}
	PG_TRY();
	{
		encoded = encode(sink, message, error);
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		if (ERRCODE_TO_CATEGORY(geterrcode()) == ERRCODE_OPERATOR_INTERVENTION)
			PG_RE_THROW();
		MemoryContextSwitchTo(sink->context);
		edata = CopyErrorData();
		FlushErrorState();
		sink->output.len = before;
		text_say(error, "%s", edata->message ? edata->message : "message cannot be encoded");
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	MemoryContextReset(sink->context);
	return encoded;
}

/*
 * The sink
 */

static void
file_close(Sink *base)
{
	FileSink   *sink = (FileSink *) base;
	char		ignored[SINK_ERROR_SIZE];

	/* Nobody is to wait for the rest of a file that gets no more. */
	if (sink->fd >= 0 && sink->durable > 0)
		(void) close_file(sink, ignored);
	else if (sink->fd >= 0)
		(void) unlinkat(sink->directory, sink->part, 0);
	abandon(sink);
	if (sink->directory >= 0)
		(void) close(sink->directory);
	ReleaseExternalFD();
	ReleaseExternalFD();
	MemoryContextDelete(sink->context);
	pfree(sink->output.data);
	pfree(sink->items);
	pfree(sink);
}

static Sink *
file_open(const SinkConfig *config, char *error)
{
	const FileOptions *options = config->options;
	FileSink   *sink;

	if (options->name == NULL && !file_name_valid(config->queue))
	{
		text_say(error, "no file can be called like queue \"%s\": set option \"name\" of the relay",
				 config->queue);
		return NULL;
	}
	if (!AcquireExternalFD())
	{
		strlcpy(error, "too many open files on this server", SINK_ERROR_SIZE);
		return NULL;
	}
	if (!AcquireExternalFD())
	{
		ReleaseExternalFD();
		strlcpy(error, "too many open files on this server", SINK_ERROR_SIZE);
		return NULL;
	}

	sink = palloc0(sizeof(FileSink));
	sink->base.config = config;
	sink->base.innocent = true; /* no message makes a disk fail */
	sink->options = options;
	sink->name = options->name ? options->name : config->queue;
	sink->part = psprintf("%s.part", sink->name);
	sink->fd = -1;
	initStringInfo(&sink->output);
	sink->items = palloc(config->window * sizeof(SinkItem *));
	sink->context = AllocSetContextCreate(CurrentMemoryContext, "queue file sink",
										  ALLOCSET_DEFAULT_SIZES);
	sink->directory = open(options->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (sink->directory < 0)
		text_say(error, "could not open directory \"%s\": %s", options->directory, strerror(errno));
	else if (begin_file(sink, error))
		return &sink->base;

	file_close(&sink->base);
	return NULL;
}

static bool
file_publish(Sink *base, SinkItem *item)
{
	FileSink   *sink = (FileSink *) base;
	int			before = sink->output.len;
	char		error[SINK_ERROR_SIZE];

	if (sink->nitems >= base->config->window || before > OUTPUT_MAX)
		return false;
	if (!try_to_encode(sink, item->message, error))
	{
		base->config->verdict(item, SINK_REFUSED, error);
		return true;
	}

	/* The next file is for what makes this one too large. */
	if (sink->nitems > 0 && sink->output.len > sink->options->rotate_size)
	{
		sink->output.len = before;
		return false;
	}
	sink->items[sink->nitems++] = item;
	return true;
}

static bool
file_poll(Sink *base, char *error)
{
	FileSink   *sink = (FileSink *) base;
	int			nitems = sink->nitems;

	if (nitems > 0)
	{
		if (!write_durably(sink, error))
			return false;
		sink->nitems = 0;
		resetStringInfo(&sink->output);
		if (sink->output.maxlen > OUTPUT_KEPT)
		{
			pfree(sink->output.data);
			initStringInfo(&sink->output);
		}
		for (int i = 0; i < nitems; i++)
			base->config->verdict(sink->items[i], SINK_CONFIRMED, NULL);
	}

	if (sink->durable > 0 &&
		(sink->durable >= sink->options->rotate_size ||
		 GetCurrentTimestamp() - sink->begun_at >= sink->options->rotate_age))
		return rotate(sink, error);
	return true;
}

static pgsocket
file_wait(Sink *base, int *events, TimestampTz *until)
{
	FileSink   *sink = (FileSink *) base;

	*until = sink->durable > 0 ? sink->begun_at + sink->options->rotate_age : DT_NOEND;
	return PGINVALID_SOCKET;
}

static const SinkRoutine file_sink = {
	.magic = SINK_MAGIC,
	.version = SINK_VERSION,
	.as_one = true,
	.open = file_open,
	.publish = file_publish,
	.poll = file_poll,
	.wait = file_wait,
	.close = file_close,
};

const SinkRoutine *
queue_sink(void)
{
	return &file_sink;
}
