/*
 * lists.h
 *		Options that are lists: of hosts, and of properties of a library.
 */
#ifndef QUEUE_RELAY_LISTS_H
#define QUEUE_RELAY_LISTS_H

/* A property that may be given. */
typedef struct Property
{
	const char *name;

	/*
	 * A number in this range; text, of the choices if there are any, if max
	 * is 0.
	 */
	long		min;
	long		max;
	const char *const *choices; /* up to a NULL */
} Property;

/* Whether a value is host or host:port, or several of them with commas between. */
extern bool hosts_valid(const char *value);

/*
 * Raise an error unless a value is name=value, or several of them with blanks
 * between, and all of them are of those that may be given, up to one without a
 * name.
 */
extern void properties_check(const char *option, const char *value, const Property *permitted);

#endif							/* QUEUE_RELAY_LISTS_H */
