/*
 * file.h
 *		Options of the sink that writes files.
 */
#ifndef QUEUE_SINKS_OPTIONS_FILE_H
#define QUEUE_SINKS_OPTIONS_FILE_H

#include "relay/sink.h"

/* Longest name: what is appended to it fits into what file systems take. */
#define FILE_NAME_LENGTH	200

typedef struct FileOptions
{
	SinkOptions base;

	const char *directory;

	const char *name;			/* NULL: the queue's */
	int64		rotate_size;	/* bytes */
	int64		rotate_age;		/* microseconds */
} FileOptions;

/* Whether files may be called that: visible, and in the directory. */
static inline bool
file_name_valid(const char *name)
{
	for (const char *c = name; *c; c++)
	{
		if (*c == '/' || (unsigned char) *c < ' ' || *c == 0x7F)
			return false;
	}
	return name[0] != '\0' && name[0] != '.' && strlen(name) <= FILE_NAME_LENGTH;
}

#endif							/* QUEUE_SINKS_OPTIONS_FILE_H */
