/*
 * lists.c
 *		Options that are lists: of hosts, and of properties of a library.
 */
#include "postgres.h"

#include "relay/lists.h"
#include "relay/names.h"

/* What separates properties. */
#define BLANKS			" \t\r\n"

#define PORT_MAX		65535

/* The end of a host in brackets or of a name, NULL if it is none. */
static const char *
host_end(const char *host)
{
	const char *end;

	if (*host == '[')
	{
		end = host + 1 + strspn(host + 1, "0123456789abcdefABCDEF:.");
		return *end == ']' && end > host + 1 ? end + 1 : NULL;
	}
	end = host + strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_");
	return end > host ? end : NULL;
}

bool
hosts_valid(const char *value)
{
	for (;;)
	{
		const char *end = host_end(value);

		if (end == NULL)
			return false;
		if (*end == ':')
		{
			int			digits = strspn(end + 1, "0123456789");
			long		port = strtol(end + 1, NULL, 10);

			if (digits == 0 || digits > 5 || port < 1 || port > PORT_MAX)
				return false;
			end += 1 + digits;
		}
		if (*end == '\0')
			return true;
		if (*end != ',')
			return false;
		value = end + 1;
	}
}

/* Raise the error for a property that may not be given. */
static void
not_permitted(const char *option, const char *name, const Property *permitted)
{
	Names		names;

	names_begin(&names, name);
	for (const Property *each = permitted; each->name; each++)
		names_add(&names, each->name);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("property \"%s\" is not permitted in option \"%s\"", name, option),
			 errhint("%s", names_hint(&names, "property", "properties"))));
}

static void
check_value(const Property *property, const char *value)
{
	char	   *must_be;
	char	   *end;
	long		number;

	if (property->max > 0)
	{
		errno = 0;
		number = strtol(value, &end, 10);
		if (errno != 0 || end == value || *end != '\0' ||
			number < property->min || number > property->max)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid value for property \"%s\": \"%s\"", property->name, value),
					 errhint("It must be an integer from %ld to %ld.", property->min, property->max)));
		return;
	}
	if (property->choices && names_find(property->choices, value, &must_be) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for property \"%s\": \"%s\"", property->name, value),
				 errhint("It must be %s.", must_be)));
}

void
properties_check(const char *option, const char *value, const Property *permitted)
{
	char	   *state;
	char	   *pair = strtok_r(pstrdup(value), BLANKS, &state);

	for (; pair; pair = strtok_r(NULL, BLANKS, &state))
	{
		char	   *text = strchr(pair, '=');
		const Property *property = permitted;

		if (text == NULL || text == pair || text[1] == '\0')
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid value for option \"%s\": \"%s\"", option, pair),
					 errhint("It must be properties as name=value, with blanks between.")));
		*text++ = '\0';
		while (property->name && strcmp(property->name, pair) != 0)
			property++;
		if (property->name == NULL)
			not_permitted(option, pair, permitted);
		check_value(property, text);
	}
}
