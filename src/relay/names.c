/*
 * names.c
 *		A name that is not among those there are, and which may have been meant.
 */
#include "postgres.h"

#include "relay/names.h"
#include "utils/varlena.h"

/* A name so many letters off, or half of them, is another word. */
#define FARTHEST		4

void
names_begin(Names *names, const char *given)
{
	int			half = strlen(given) / 2;

	names->given = given;
	names->closest = NULL;
	names->distance = Min(FARTHEST, half) + 1;
	initStringInfo(&names->all);
}

void
names_add(Names *names, const char *name)
{
	int			length = strlen(names->given);

	appendStringInfo(&names->all, "%s%s", names->all.len > 0 ? ", " : "", name);

	/* What is absurdly long is like none, and would be an error to compare. */
	if (length < NAMEDATALEN)
	{
		int			distance = varstr_levenshtein_less_equal(names->given, length, name, strlen(name),
															 1, 1, 1, names->distance - 1, true);

		if (distance < names->distance)
		{
			names->distance = distance;
			names->closest = name;
		}
	}
}

char *
names_hint(const Names *names, const char *one, const char *several)
{
	if (names->closest)
		return psprintf("Perhaps you meant the %s \"%s\".", one, names->closest);
	if (names->all.len > 0)
		return psprintf("Valid %s here are: %s.", several, names->all.data);
	return psprintf("There are no valid %s here.", several);
}

int
names_find(const char *const *names, const char *value, char **must_be)
{
	StringInfoData all;

	initStringInfo(&all);
	appendStringInfoString(&all, "one of ");
	for (int i = 0; names[i]; i++)
	{
		if (strcmp(names[i], value) == 0)
			return i;
		appendStringInfo(&all, "%s%s", i > 0 ? ", " : "", names[i]);
	}
	*must_be = all.data;
	return -1;
}
