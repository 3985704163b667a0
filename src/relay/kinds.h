/*
 * kinds.h
 *		The kinds of sinks there are, and what options each has.
 *
 * The core knows a kind by its entry in the table of kinds.c alone: what
 * servers, user mappings and relays of it may be given, how that is checked,
 * and the struct the sink gets it in.  The code that publishes is a library,
 * loaded by the worker that needs it.
 */
#ifndef QUEUE_RELAY_KINDS_H
#define QUEUE_RELAY_KINDS_H

typedef enum OptionPlace
{
	ON_SERVER,
	ON_MAPPING,					/* never shown, whatever is wrong with it */
	ON_RELAY
} OptionPlace;

/* How an option is checked, and as what it is stored. */
typedef enum OptionType
{
	OPTION_BOOL,				/* bool */
	OPTION_SUPERUSER_BOOL,		/* the same, for servers of superusers only */
	OPTION_INT,					/* int */
	OPTION_SIZE,				/* int64; bytes, or with a unit */
	OPTION_DURATION,			/* int64, microseconds; seconds or an interval */
	OPTION_TEXT,				/* const char * */
	OPTION_SECRET,				/* the same, in user mappings only */
	OPTION_CHOICE,				/* const char *, one of the choices */
	OPTION_ENUM,				/* an enum: which of the choices */
	OPTION_TEMPLATE,			/* const Template * */
	OPTION_ROUTINE,				/* Oid; what it is checked for, and where it
								 * is kept, see administration.c */
	OPTION_WAIVER,				/* bool, that only a superuser sets to false */
	OPTION_HOSTS,				/* const char *, host:port and others with
								 * commas */
	OPTION_PROPERTIES,			/* const char *, of those permitted */
	OPTION_READ_FILE,			/* const char *: a file the server reads */
	OPTION_WRITE_DIRECTORY		/* const char *: one the server writes to */
} OptionType;

/* When an option of a server or a user mapping must be there for a relay to connect. */
typedef enum OptionNeed
{
	NEED_NEVER,
	NEED_UNLESS_SUPERUSER,		/* the relay's owner is one */
	NEED_ALWAYS
} OptionNeed;

typedef struct SinkOption
{
	const char *name;
	OptionPlace place;
	OptionType	type;
	Size		offset;			/* in the kind's struct */

	/*
	 * Range of a number, in bytes for sizes and in seconds for durations;
	 * bytes of a text, max 0 for any number.
	 */
	int64		min;
	int64		max;
	const char *const *choices; /* up to a NULL */
	const char *preset;			/* the value if none is given; NULL: zero */
	OptionNeed	need;

	/* Says what a value must be, NULL if it is that. */
	const char *(*check) (const char *value);
	const struct Property *properties;	/* that are permitted; see lists.h */
} SinkOption;

typedef struct SinkKind
{
	const char *name;

	/*
	 * Relays of this kind have a server, of the foreign data wrapper
	 * queue_<name>; the sink is the library of the same name.  Otherwise it
	 * is in the core.
	 */
	bool		has_server;

	/* Of its struct, which begins with SinkOptions. */
	Size		size;
	const SinkOption *options;
	int			noptions;

	/* Raise an error for relay options that do not go together. */
	void		(*check) (const void *options);

	/* Better words for what NEED_UNLESS_SUPERUSER refuses, or NULL. */
	const char *login_missing;
} SinkKind;

extern const SinkKind sql_kind;

/* The kind servers of a foreign data wrapper are for, NULL if none. */
extern const SinkKind *kind_of_wrapper(Oid wrapper);

/* The kind by its name, NULL if there is none. */
extern const SinkKind *kind_find(const char *name, int length);

/* The names of all wrappers, for a hint. */
extern char *kind_wrappers(void);

/* The options of every relay come before the kind's own; NULL after the last. */
extern const SinkOption *kind_option(const SinkKind *kind, int n);

#endif							/* QUEUE_RELAY_KINDS_H */
