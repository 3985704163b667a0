/*
 * file.c
 *		Sink that writes messages to files, one line of JSON each.
 *
 * The file being written is <name>.part; it is closed by giving it its name
 * for good, <name>-<time>.ndjson, and never touched again.  A call is written
 * as a whole, and confirmed when fsync() has succeeded.
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

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "relay/sink.h"
#include "sinks/envelope.h"
#include "sinks/options/file.h"
#include "sinks/text.h"
#include "storage/fd.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"

PG_MODULE_MAGIC;

/* What is written at once. */
#define CALL_BYTES		(4 * 1024 * 1024)

/* The buffer of more than that is not kept. */
#define LINES_KEPT		(8 * 1024 * 1024)

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
	StringInfoData lines;		/* of the messages in flight */
	SinkItem  **items;			/* these, window of them at most */
	int			nitems;
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
	TimestampTz now = GetCurrentTimestamp();
	char		name[MAXPGPATH];
	struct stat st;

	/* Names sort as the files were written, whatever the clock does. */
	sink->closed_at = Max(sink->closed_at + 1, now);
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
write_lines(FileSink *sink, char *error)
{
	int			written = 0;

	while (written < sink->lines.len)
	{
		ssize_t		n = write(sink->fd, sink->lines.data + written, sink->lines.len - written);

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

/* The file must be one that others find, and have what we wrote and nothing else. */
static bool
check_file(FileSink *sink, off_t size, char *error)
{
	struct stat st;

	if (fstat(sink->fd, &st) != 0)
		return failed(sink, "stat", error);
	if (st.st_nlink > 0 && st.st_size == size)
		return true;
	text_say(error, "file \"%s/%s\" was removed or changed by others",
			 sink->options->directory, sink->part);
	return false;
}

/* Have the lines on disk, in this file or the next. */
static bool
write_durably(FileSink *sink, char *error)
{
	if (sink->durable > 0 && sink->durable + sink->lines.len > sink->options->rotate_size &&
		!rotate(sink, error))
		return false;
	if (!write_lines(sink, error))
	{
		/* If that fails, too, the next to open it cuts what is not whole. */
		if (ftruncate(sink->fd, sink->durable) != 0 || sync_fd(sink->fd) != 0)
			abandon(sink);
		return false;
	}
	if (!check_file(sink, sink->durable + sink->lines.len, error))
	{
		abandon(sink);
		return false;
	}
	if (sink->durable == 0)
		sink->begun_at = GetCurrentTimestamp();
	sink->durable += sink->lines.len;
	return true;
}

/*
 * Messages
 */

static bool
file_encode(Sink *base, const SinkItem *item, StringInfo out, char *error)
{
	if (!envelope_json(out, item->message, error))
		return false;
	appendStringInfoChar(out, '\n');
	return true;
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
	sink->base.call_bytes = Min(CALL_BYTES, options->rotate_size);
	sink->options = options;
	sink->name = options->name ? options->name : config->queue;
	sink->part = psprintf("%s.part", sink->name);
	sink->fd = -1;
	initStringInfo(&sink->lines);
	sink->items = palloc(config->window * sizeof(SinkItem *));
	sink->directory = open(options->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (sink->directory < 0)
		text_say(error, "could not open directory \"%s\": %s", options->directory, strerror(errno));
	else if (begin_file(sink, error))
		return &sink->base;

	file_close(&sink->base);
	return NULL;
}

static SinkState
file_publish(Sink *base, SinkItem **items, int n, char *error)
{
	FileSink   *sink = (FileSink *) base;

	for (int i = 0; i < n; i++)
		appendBinaryStringInfo(&sink->lines, items[i]->data, items[i]->size);
	memcpy(sink->items, items, n * sizeof(SinkItem *));
	sink->nitems = n;
	return SINK_FULL;
}

/* Forget the lines that are written, and the memory of very long ones. */
static void
reset_lines(FileSink *sink)
{
	resetStringInfo(&sink->lines);
	if (sink->lines.maxlen > LINES_KEPT)
	{
		sink->lines.data = repalloc(sink->lines.data, LINES_KEPT);
		sink->lines.maxlen = LINES_KEPT;
	}
}

static SinkState
file_poll(Sink *base, char *error)
{
	FileSink   *sink = (FileSink *) base;
	int			nitems = sink->nitems;

	/* No message makes a disk fail. */
	if (nitems > 0)
	{
		if (!write_durably(sink, error))
			return SINK_ENDED;
		reset_lines(sink);
		sink->nitems = 0;
		base->config->verdict(sink->items, nitems, SINK_CONFIRMED, NULL);
	}
	if (sink->durable > 0 &&
		(sink->durable >= sink->options->rotate_size ||
		 GetCurrentTimestamp() - sink->begun_at >= sink->options->rotate_age) &&
		!rotate(sink, error))
		return SINK_ENDED;
	return SINK_READY;
}

static void
file_wait(Sink *base, SinkWait *wait)
{
	FileSink   *sink = (FileSink *) base;

	if (sink->durable > 0)
		wait->until = sink->begun_at + sink->options->rotate_age;
}

static const SinkRoutine file_sink = {
	.magic = SINK_MAGIC,
	.version = SINK_VERSION,
	.order = SINK_ORDER_AS_ONE,
	.open = file_open,
	.encode = file_encode,
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
