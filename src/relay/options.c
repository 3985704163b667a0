/*
 * options.c
 *		Options of servers, user mappings and relays, by the table of kinds.
 */
#include "postgres.h"

#include "access/reloptions.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "compat.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "relay/lists.h"
#include "relay/names.h"
#include "relay/options.h"
#include "sinks/template.h"
#include "sinks/text.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"

PG_FUNCTION_INFO_V1(queue_sink_validator);

/*
 * A role that may have what is dangerous on a server, and what that is.
 * Without a role it is for superusers only.
 */
typedef struct Guard
{
	OptionType	type;
	Oid			role;
	const char *role_name;
	const char *what;
	const char *does;
} Guard;

static const Guard guards[] = {
	{OPTION_READ_FILE, ROLE_PG_READ_SERVER_FILES, "pg_read_server_files", "file", "read files"},
	{OPTION_SUPERUSER_BOOL, InvalidOid, NULL, NULL, "reach this machine and its networks"},
	{OPTION_WRITE_DIRECTORY, ROLE_PG_WRITE_SERVER_FILES, "pg_write_server_files", "directory", "write files"},
};

static const SinkOption *
find_option(const SinkKind *kind, OptionPlace place, const char *name)
{
	const SinkOption *option;

	for (int i = 0; (option = kind_option(kind, i)) != NULL; i++)
	{
		if (option->place == place && strcmp(option->name, name) == 0)
			return option;
	}
	return NULL;
}

/* Raise the error for an option that does not exist here. */
static void
unknown_option(const SinkKind *kind, OptionPlace place, const char *name)
{
	static const char *const owners[] = {
		[ON_SERVER] = "servers",[ON_MAPPING] = "user mappings",[ON_RELAY] = "relays"
	};
	const SinkOption *option;
	const char *elsewhere = NULL;
	Names		names;

	names_begin(&names, name);
	for (int i = 0; (option = kind_option(kind, i)) != NULL; i++)
	{
		if (option->place == place)
			names_add(&names, option->name);
		else if (strcmp(option->name, name) == 0)
			elsewhere = owners[option->place];
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid option \"%s\"", name),
			 elsewhere ? errhint("It is an option of %s.", elsewhere) :
			 errhint("%s", names_hint(&names, "option", "options"))));
}

/* Raise the error for a value; what says what it should be. */
static void
bad_value(const SinkOption *option, const char *value, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 option->place == ON_MAPPING && value[0] != '\0' ?
			 errmsg("invalid value for option \"%s\"", option->name) :
			 errmsg("invalid value for option \"%s\": \"%s\"", option->name, value),
			 errhint("It must be %s.", what)));
}

/* A whole number within the option's range. */
static int64
read_int(const SinkOption *option, const char *value)
{
	char	   *end;
	long		number;

	errno = 0;
	number = strtol(value, &end, 10);
	if (errno != 0 || end == value || *end != '\0' ||
		number < option->min || number > option->max)
		bad_value(option, value, psprintf("an integer from " INT64_FORMAT " to " INT64_FORMAT,
										  option->min, option->max));
	return number;
}

/* A number of bytes, which may have a unit as those of settings have. */
static int64
read_size(const SinkOption *option, const char *value)
{
	double		bytes;

	if (!parse_real(value, &bytes, GUC_UNIT_BYTE, NULL) ||
		!(bytes >= option->min && bytes <= option->max))
		bad_value(option, value,
				  psprintf("a size from " INT64_FORMAT " to " INT64_FORMAT " bytes; units are kB, MB, GB and TB",
						   option->min, option->max));
	return (int64) bytes;
}

/* Seconds, or an interval without months, as microseconds; -1 if it is neither. */
static int64
parse_duration(const char *value)
{
	char	   *end;
	long		seconds;
	char	   *field[MAXDATEFIELDS];
	int			ftype[MAXDATEFIELDS];
	char		buffer[256];
	int			nf;
	int			dtype;
	struct pg_itm_in itm = {0};

	errno = 0;
	seconds = strtol(value, &end, 10);
	if (errno == 0 && end != value && *end == '\0' && seconds >= 0 && seconds <= INT_MAX)
		return seconds * USECS_PER_SEC;
	if (ParseDateTime(value, buffer, sizeof(buffer), field, ftype, MAXDATEFIELDS, &nf) != 0 ||
		DecodeInterval(field, ftype, nf, INTERVAL_FULL_RANGE, &dtype, &itm) != 0 ||
		dtype != DTK_DELTA || itm.tm_mon != 0 || itm.tm_year != 0 ||
		itm.tm_mday < 0 || itm.tm_mday > INT_MAX / SECS_PER_DAY ||
		itm.tm_usec < 0 || itm.tm_usec > INT_MAX * USECS_PER_SEC)
		return -1;
	return itm.tm_mday * USECS_PER_DAY + itm.tm_usec;
}

static int64
read_duration(const SinkOption *option, const char *value)
{
	int64		duration = parse_duration(value);

	if (duration < option->min * USECS_PER_SEC || duration > option->max * USECS_PER_SEC)
		bad_value(option, value, psprintf("a time from " INT64_FORMAT " to " INT64_FORMAT " seconds",
										  option->min, option->max));
	return duration;
}

/* A text within the option's range of bytes. */
static const char *
read_text(const SinkOption *option, const char *value)
{
	if (value[0] == '\0' && option->min > 0)
		bad_value(option, value, "text that is not empty");
	if (option->max > 0 && strlen(value) > option->max)
		bad_value(option, value, psprintf("at most " INT64_FORMAT " bytes long", option->max));
	return pstrdup(value);
}

/* Which of the option's choices it is. */
static int
read_choice(const SinkOption *option, const char *value)
{
	char	   *must_be;
	int			choice = names_find(option->choices, value, &must_be);

	if (choice < 0)
		bad_value(option, value, must_be);
	return choice;
}

static const Template *
read_template(const SinkOption *option, const char *value)
{
	const Template *template = template_compile(value);

	if (template == NULL)
		bad_value(option, value, TEMPLATE_RULE);
	(void) read_text(option, value);
	return template;
}

static bool
read_bool(const SinkOption *option, const char *value)
{
	bool		result = false;

	if (!parse_bool(value, &result))
		bad_value(option, value, "true or false");
	return result;
}

/* A directory's path must not depend on where the server was started. */
static const char *
read_directory(const SinkOption *option, const char *value)
{
	if (!is_absolute_path(value))
		bad_value(option, value, "an absolute path");
	return read_text(option, value);
}

/* Check a value, and store it where the option says. */
static void
read_value(const SinkOption *option, const char *value, void *options)
{
	void	   *field = (char *) options + option->offset;
	const char *rule = option->check ? option->check(value) : NULL;

	if (rule)
		bad_value(option, value, rule);
	switch (option->type)
	{
		case OPTION_BOOL:
		case OPTION_WAIVER:
		case OPTION_SUPERUSER_BOOL:
			*(bool *) field = read_bool(option, value);
			break;
		case OPTION_INT:
			*(int *) field = (int) read_int(option, value);
			break;
		case OPTION_SIZE:
			*(int64 *) field = read_size(option, value);
			break;
		case OPTION_DURATION:
			*(int64 *) field = read_duration(option, value);
			break;
		case OPTION_SECRET:
			Assert(option->place == ON_MAPPING);
			pg_fallthrough;
		case OPTION_TEXT:
		case OPTION_READ_FILE:
			*(const char **) field = read_text(option, value);
			break;
		case OPTION_HOSTS:
			if (!hosts_valid(value))
				bad_value(option, value, "hosts as host:port, with commas between");
			*(const char **) field = read_text(option, value);
			break;
		case OPTION_PROPERTIES:
			properties_check(option->name, value, option->properties);
			*(const char **) field = read_text(option, value);
			break;
		case OPTION_WRITE_DIRECTORY:
			*(const char **) field = read_directory(option, value);
			break;
		case OPTION_CHOICE:
			*(const char **) field = option->choices[read_choice(option, value)];
			break;
		case OPTION_ENUM:
			*(int *) field = read_choice(option, value);
			break;
		case OPTION_TEMPLATE:
			*(const Template **) field = read_template(option, value);
			break;
		case OPTION_ROUTINE:
			/* Looked up by who creates a relay. */
			(void) read_text(option, value);
			break;
	}
}

/* Put those of a list of options that exist into the kind's struct. */
static void
read_list(const SinkKind *kind, OptionPlace place, List *given, void *options)
{
	ListCell   *cell;

	foreach(cell, given)
	{
		DefElem    *element = lfirst(cell);
		const SinkOption *option = find_option(kind, place, element->defname);

		if (option)
			read_value(option, defGetString(element), options);
	}
}

/* The kind's struct as it is when nothing is given. */
static void *
begin_options(const SinkKind *kind)
{
	void	   *options = palloc0(kind->size);
	const SinkOption *option;

	/* A kind that has no such option keeps the order, and waives nothing. */
	((SinkOptions *) options)->strict_order = true;
	((SinkOptions *) options)->password_required = true;
	for (int i = 0; (option = kind_option(kind, i)) != NULL; i++)
	{
		Assert(option->offset < kind->size);
		if (option->preset)
			read_value(option, option->preset, options);
	}
	return options;
}

/* Raise an error for a name that is no option's, also where the value is null. */
static void
check_names(const SinkKind *kind, Datum jsonb)
{
	Jsonb	   *object = DatumGetJsonbP(jsonb);
	JsonbIterator *it = JsonbIteratorInit(&object->root);
	JsonbValue	v;
	JsonbIteratorToken token;

	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		char	   *name;

		if (token != WJB_KEY)
			continue;
		name = pnstrdup(v.val.string.val, v.val.string.len);
		if (find_option(kind, ON_RELAY, name) == NULL)
			unknown_option(kind, ON_RELAY, name);
	}
}

void
relay_options_check(const SinkKind *kind, Datum given)
{
	List	   *list = relay_options_list(given);

	check_names(kind, given);
	read_list(kind, ON_RELAY, list, begin_options(kind));
}

void
relay_options_check_together(const SinkKind *kind, List *all)
{
	void	   *options = begin_options(kind);

	read_list(kind, ON_RELAY, all, options);
	if (kind->check)
		kind->check(options);
}

void *
relay_options_read(const SinkKind *kind, List *server, List *mapping, List *relay, Oid routine)
{
	void	   *options = begin_options(kind);
	const SinkOption *option;

	read_list(kind, ON_SERVER, server, options);
	read_list(kind, ON_MAPPING, mapping, options);
	read_list(kind, ON_RELAY, relay, options);
	for (int i = 0; (option = kind_option(kind, i)) != NULL; i++)
	{
		if (option->type == OPTION_ROUTINE)
			*(Oid *) ((char *) options + option->offset) = routine;
	}
	return options;
}

/* The guard of an option, NULL if it has none or lets the role pass. */
static const Guard *
stopped_by(const SinkOption *option, Oid role)
{
	for (int i = 0; i < lengthof(guards); i++)
	{
		if (guards[i].type == option->type)
			return superuser_arg(role) ||
				(OidIsValid(guards[i].role) && has_privs_of_role(role, guards[i].role)) ? NULL : &guards[i];
	}
	return NULL;
}

bool
relay_options_permitted(const SinkKind *kind, List *server, const char *server_name,
						Oid server_owner, List *mapping, bool superuser, char *error)
{
	const SinkOption *option;
	const char *login_option = NULL;
	bool		waived = false;

	for (int i = 0; (option = kind_option(kind, i)) != NULL; i++)
	{
		bool		on_server = option->place == ON_SERVER;
		bool		given = relay_options_get(on_server ? server : mapping, option->name) != NULL;
		const Guard *guard = given && on_server ? stopped_by(option, server_owner) : NULL;

		if (guard)
		{
			text_say(error, "the owner of server \"%s\" is not permitted to have it %s (option \"%s\")",
					 server_name, guard->does, option->name);
			return false;
		}
		if (given && option->type == OPTION_WAIVER)
			waived = !read_bool(option, relay_options_get(mapping, option->name));
		if (given || option->place == ON_RELAY)
			continue;
		if (option->need == NEED_ALWAYS)
		{
			text_say(error, on_server ? "the server has no option \"%s\"" :
					 "the relay's owner has no user mapping with option \"%s\"", option->name);
			return false;
		}
		if (option->need == NEED_UNLESS_SUPERUSER)
			login_option = option->name;
	}
	if (login_option == NULL || superuser || waived)
		return true;
	if (kind->login_missing)
		strlcpy(error, kind->login_missing, SINK_ERROR_SIZE);
	else
		text_say(error, "option \"%s\" of the user mapping is required, as the relay's owner is not a superuser",
				 login_option);
	return false;
}

int
relay_options_workers(List *given)
{
	const char *value = relay_options_get(given, "workers");
	int			workers = value ? atoi(value) : 1;

	return Max(1, Min(workers, SINK_MAX_WORKERS));
}

/* The kind a validator is for: it is named <kind>_validator. */
static const SinkKind *
kind_of_validator(Oid function)
{
	const char *name = get_func_name(function);
	const SinkKind *kind = name ? kind_find(name, strcspn(name, "_")) : NULL;

	if (kind == NULL)
		elog(ERROR, "function %u validates options of no kind of sink", function);
	return kind;
}

/* Raise the error for an option of a server that must be there and is not. */
static void
check_needed(const SinkKind *kind, OptionPlace place, List *given)
{
	const SinkOption *option;

	for (int i = 0; (option = kind_option(kind, i)) != NULL; i++)
	{
		if (option->place == place && option->need == NEED_ALWAYS &&
			relay_options_get(given, option->name) == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("option \"%s\" is missing", option->name)));
	}
}

/*
 * The validator of all foreign data wrappers here.
 */
Datum
queue_sink_validator(PG_FUNCTION_ARGS)
{
	const SinkKind *kind = kind_of_validator(fcinfo->flinfo->fn_oid);
	List	   *given = untransformRelOptions(PG_GETARG_DATUM(0));
	Oid			catalog = PG_GETARG_OID(1);
	OptionPlace place = catalog == UserMappingRelationId ? ON_MAPPING : ON_SERVER;
	void	   *options = begin_options(kind);
	ListCell   *cell;

	foreach(cell, given)
	{
		DefElem    *element = lfirst(cell);
		const SinkOption *option = find_option(kind, place, element->defname);
		const Guard *guard;

		if (catalog != ForeignServerRelationId && catalog != UserMappingRelationId)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid option \"%s\"", element->defname),
					 errhint("Options belong to servers and user mappings.")));
		if (option == NULL)
			unknown_option(kind, place, element->defname);
		read_value(option, defGetString(element), options);
		guard = stopped_by(option, GetUserId());
		if (guard)
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("permission denied to have a server with option \"%s\"", option->name),
					 guard->role_name == NULL ?
					 errdetail("Who has it can %s, so only superusers may own or change such a server.",
							   guard->does) :
					 errdetail("It names a %s, so only superusers and members of role %s may own or change such a server.",
							   guard->what, guard->role_name)));
		if (option->type == OPTION_WAIVER && !read_bool(option, defGetString(element)) && !superuser())
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("permission denied to have a user mapping with option \"%s\" false", option->name),
					 errdetail("Only superusers may create or change such a user mapping.")));
	}
	if (catalog == ForeignServerRelationId)
		check_needed(kind, place, given);
	PG_RETURN_VOID();
}

List *
relay_options_list(Datum jsonb)
{
	JsonbIterator *it;
	JsonbValue	v;
	JsonbIteratorToken token;
	Jsonb	   *object = DatumGetJsonbP(jsonb);
	List	   *result = NIL;
	char	   *name = NULL;

	if (!JB_ROOT_IS_OBJECT(object))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options of a relay must be a JSON object")));

	it = JsonbIteratorInit(&object->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		char	   *value = NULL;

		if (token == WJB_KEY)
			name = pnstrdup(v.val.string.val, v.val.string.len);
		if (token != WJB_VALUE)
			continue;

		switch (v.type)
		{
			case jbvString:
				value = pnstrdup(v.val.string.val, v.val.string.len);
				break;
			case jbvNumeric:
				value = DatumGetCString(DirectFunctionCall1(numeric_out,
															NumericGetDatum(v.val.numeric)));
				break;
			case jbvBool:
				value = pstrdup(v.val.boolean ? "true" : "false");
				break;
			case jbvNull:
				continue;
			default:
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("invalid value for option \"%s\"", name),
						 errhint("It must be text, a number or a boolean.")));
		}
		result = lappend(result, makeDefElem(name, (Node *) makeString(value), -1));
	}
	return result;
}

const char *
relay_options_get(List *given, const char *name)
{
	ListCell   *cell;

	foreach(cell, given)
	{
		DefElem    *option = lfirst(cell);

		if (strcmp(option->defname, name) == 0)
			return defGetString(option);
	}
	return NULL;
}
