/*
 * names.h
 *		A name that is not among those there are, and which may have been meant.
 */
#ifndef QUEUE_RELAY_NAMES_H
#define QUEUE_RELAY_NAMES_H

#include "lib/stringinfo.h"

typedef struct Names
{
	const char *given;
	const char *closest;		/* NULL: none that looks like it */
	int			distance;		/* of that */
	StringInfoData all;
} Names;

/* All there are are to be added, and then there is a hint. */
extern void names_begin(Names *names, const char *given);
extern void names_add(Names *names, const char *name);

/* What is named, and several of it, are given for the hint. */
extern char *names_hint(const Names *names, const char *one, const char *several);

/* Which of some names, up to a NULL, a value is; -1, and what it must be, if it is none. */
extern int	names_find(const char *const *names, const char *value, char **must_be);

#endif							/* QUEUE_RELAY_NAMES_H */
