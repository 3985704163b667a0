/*
 * options.c
 *		Options of relays, servers and user mappings; rows of queue.relay.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/reloptions.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "common/hashfn.h"
#include "compat.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "relay/relay.h"
#include "relay/sink.h"
#include "sinks/text.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

PG_FUNCTION_INFO_V1(queue_amqp_validator);
PG_FUNCTION_INFO_V1(queue_postgres_validator);

#define RELAY_ANY	(RELAY_SQL | RELAY_POSTGRES | RELAY_AMQP)

/* AMQP's short strings: names of exchanges, routing keys. */
#define SHORT_STRING	255

typedef enum OptionPlace
{
	ON_SERVER,
	ON_MAPPING,
	ON_RELAY
} OptionPlace;

typedef enum OptionType
{
	TYPE_TEXT,					/* max bytes, 0 for any; min 1: not empty */
	TYPE_INTEGER,				/* min to max */
	TYPE_TIME,					/* seconds or an interval; min to max seconds */
	TYPE_BOOLEAN,
	TYPE_TEMPLATE,				/* text with {key} and {header:NAME} */
	TYPE_CHOICE
} OptionType;

typedef struct Option
{
	const char *name;
	OptionPlace place;
	int			kinds;
	OptionType	type;
	int			min;
	int			max;
	const char *choices;		/* separated by a comma and a space */
} Option;

static const Option options[] = {
	{"host", ON_SERVER, RELAY_AMQP | RELAY_POSTGRES, TYPE_TEXT, 1, 0},
	{"port", ON_SERVER, RELAY_AMQP | RELAY_POSTGRES, TYPE_INTEGER, 1, 65535},
	{"vhost", ON_SERVER, RELAY_AMQP, TYPE_TEXT, 1, SHORT_STRING},
	{"dbname", ON_SERVER, RELAY_POSTGRES, TYPE_TEXT, 1, 0},
	{"sslmode", ON_SERVER, RELAY_AMQP, TYPE_CHOICE, 0, 0,
	"disable, require, verify-ca, verify-full"},
	{"sslmode", ON_SERVER, RELAY_POSTGRES, TYPE_CHOICE, 0, 0,
	"disable, allow, prefer, require, verify-ca, verify-full"},
	{"sslrootcert", ON_SERVER, RELAY_AMQP | RELAY_POSTGRES, TYPE_TEXT, 1, 0},

	{"username", ON_MAPPING, RELAY_AMQP, TYPE_TEXT, 1, 0},
	{"user", ON_MAPPING, RELAY_POSTGRES, TYPE_TEXT, 1, 0},
	{"password", ON_MAPPING, RELAY_AMQP | RELAY_POSTGRES, TYPE_TEXT, 0, 0},

	{"batch", ON_RELAY, RELAY_ANY, TYPE_INTEGER, 1, 10000},
	{"max_attempts", ON_RELAY, RELAY_ANY, TYPE_INTEGER, 1, 1000},
	{"confirm_timeout", ON_RELAY, RELAY_POSTGRES | RELAY_AMQP, TYPE_TIME, 1, SECS_PER_DAY},
	{"exchange", ON_RELAY, RELAY_AMQP, TYPE_TEXT, 0, SHORT_STRING},
	{"routing_key", ON_RELAY, RELAY_AMQP, TYPE_TEMPLATE, 0, SHORT_STRING},
	{"mandatory", ON_RELAY, RELAY_AMQP, TYPE_BOOLEAN},
	{"persistent", ON_RELAY, RELAY_AMQP, TYPE_BOOLEAN},
	{"strict_order", ON_RELAY, RELAY_AMQP, TYPE_BOOLEAN},
	{"queue", ON_RELAY, RELAY_POSTGRES, TYPE_TEXT, 1, NAMEDATALEN - 1},
	{"procedure", ON_RELAY, RELAY_SQL, TYPE_TEXT, 1, 0},
};

static const char *const wrapper_names[] = {"queue_postgres", "queue_amqp"};
static const RelayKind wrapper_kinds[] = {RELAY_POSTGRES, RELAY_AMQP};

/* Name of a kind of sink, as in the names of its library and wrapper. */
const char *
relay_kind_name(RelayKind kind)
{
	switch (kind)
	{
		case RELAY_SQL:
			return "sql";
		case RELAY_POSTGRES:
			return "postgres";
		case RELAY_AMQP:
			return "amqp";
	}
	return NULL;				/* keep the compiler quiet */
}

/* Which kind of sink servers of a foreign data wrapper are for. */
bool
relay_kind_of_server(Oid fdwid, RelayKind *kind)
{
	const char *name = GetForeignDataWrapper(fdwid)->fdwname;

	for (int i = 0; i < lengthof(wrapper_names); i++)
	{
		if (strcmp(name, wrapper_names[i]) == 0)
		{
			*kind = wrapper_kinds[i];
			return true;
		}
	}
	return false;
}

/* Raise the error for an option that does not exist here. */
static void
unknown_option(const char *name, RelayKind kind, OptionPlace place)
{
	StringInfoData valid;

	initStringInfo(&valid);
	for (int i = 0; i < lengthof(options); i++)
	{
		if (options[i].place == place && (options[i].kinds & kind))
			appendStringInfo(&valid, "%s%s", valid.len > 0 ? ", " : "", options[i].name);
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid option \"%s\"", name),
			 valid.len > 0 ?
			 errhint("Valid options here are: %s.", valid.data) :
			 errhint("There are no valid options here.")));
}

/* Raise the error for a value; what says what it should be. */
static void
bad_value(const char *name, const char *value, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for option \"%s\": \"%s\"", name, value),
			 errhint("It must be %s.", what)));
}

/* Whether a text has no other braces than {key} and {header:NAME}. */
static bool
valid_template(const char *text)
{
	while (*(text += strcspn(text, "{}")))
	{
		const char *end = strchr(text, '}');

		if (end == NULL ||
			!(strncmp(text, "{key}", 5) == 0 ||
			  (strncmp(text, "{header:", 8) == 0 && end > text + 8)))
			return false;
		text = end + 1;
	}
	return true;
}

static bool
is_choice(const char *choices, const char *value)
{
	for (;;)
	{
		int			length = strcspn(choices, ",");

		if (strlen(value) == length && strncmp(choices, value, length) == 0)
			return true;
		if (choices[length] == '\0')
			return false;
		choices += length + 2;
	}
}

int64
relay_option_time(const char *value)
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
		dtype != DTK_DELTA || itm.tm_mon != 0 || itm.tm_year != 0 || itm.tm_mday != 0)
		return -1;
	return itm.tm_usec;
}

static void
check_option(DefElem *given, RelayKind kind, OptionPlace place)
{
	const char *name = given->defname;
	const char *value = defGetString(given);
	const Option *option = NULL;
	char	   *end;
	long		number;
	bool		truth;

	for (int i = 0; i < lengthof(options) && option == NULL; i++)
	{
		if (options[i].place == place && (options[i].kinds & kind) &&
			strcmp(options[i].name, name) == 0)
			option = &options[i];
	}
	if (option == NULL)
		unknown_option(name, kind, place);

	/* Not to be shown, whatever is wrong with it. */
	if (place == ON_MAPPING)
	{
		if (value[0] == '\0' && option->min > 0)
			bad_value(name, "", "text that is not empty");
		return;
	}

	switch (option->type)
	{
		case TYPE_TEMPLATE:
			if (!valid_template(value))
				bad_value(name, value, "text in which braces occur as {key} and {header:NAME} only");
			pg_fallthrough;
		case TYPE_TEXT:
			if (value[0] == '\0' && option->min > 0)
				bad_value(name, value, "text that is not empty");
			if (option->max > 0 && strlen(value) > option->max)
				bad_value(name, value, psprintf("at most %d bytes long", option->max));
			break;
		case TYPE_INTEGER:
			errno = 0;
			number = strtol(value, &end, 10);
			if (errno != 0 || end == value || *end != '\0' ||
				number < option->min || number > option->max)
				bad_value(name, value, psprintf("an integer from %d to %d", option->min, option->max));
			break;
		case TYPE_TIME:
			if (relay_option_time(value) < option->min * USECS_PER_SEC ||
				relay_option_time(value) > option->max * USECS_PER_SEC)
				bad_value(name, value, psprintf("a time from %d to %d seconds", option->min, option->max));
			break;
		case TYPE_BOOLEAN:
			if (!parse_bool(value, &truth))
				bad_value(name, value, "true or false");
			break;
		case TYPE_CHOICE:
			if (!is_choice(option->choices, value))
				bad_value(name, value, psprintf("one of %s", option->choices));
			break;
	}
}

/* Whether a role may have the server read files. */
static bool
may_read_files(Oid role)
{
	return superuser_arg(role) || has_privs_of_role(role, ROLE_PG_READ_SERVER_FILES);
}

static Datum
validate(FunctionCallInfo fcinfo, RelayKind kind)
{
	Oid			catalog = PG_GETARG_OID(1);
	ListCell   *cell;

	foreach(cell, untransformRelOptions(PG_GETARG_DATUM(0)))
	{
		DefElem    *option = lfirst(cell);

		if (catalog == ForeignServerRelationId)
		{
			check_option(option, kind, ON_SERVER);
			if (strcmp(option->defname, "sslrootcert") == 0 && !may_read_files(GetUserId()))
				ereport(ERROR,
						(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						 errmsg("permission denied to have a server with option \"sslrootcert\""),
						 errdetail("It names a file, so only superusers and members of role pg_read_server_files may own or change such a server.")));
		}
		else if (catalog == UserMappingRelationId)
			check_option(option, kind, ON_MAPPING);
		else
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid option \"%s\"", option->defname),
					 errhint("Options belong to servers and user mappings.")));
	}
	PG_RETURN_VOID();
}

Datum
queue_amqp_validator(PG_FUNCTION_ARGS)
{
	return validate(fcinfo, RELAY_AMQP);
}

Datum
queue_postgres_validator(PG_FUNCTION_ARGS)
{
	return validate(fcinfo, RELAY_POSTGRES);
}

/* An object of texts, numbers and booleans as a list of DefElem of strings. */
List *
relay_options_parse(Datum jsonb)
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

static bool
has_option(List *given, const char *name)
{
	ListCell   *cell;

	foreach(cell, given)
	{
		if (strcmp(((DefElem *) lfirst(cell))->defname, name) == 0)
			return true;
	}
	return false;
}

/* Check a relay's own options; the procedure is not looked up here. */
void
relay_options_check(RelayKind kind, List *given)
{
	ListCell   *cell;

	foreach(cell, given)
		check_option(lfirst(cell), kind, ON_RELAY);
}

/* Check that nothing is missing among a relay's options. */
void
relay_options_check_enough(RelayKind kind, List *given)
{
	if (kind == RELAY_AMQP && !has_option(given, "exchange") && !has_option(given, "routing_key"))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"exchange\" or \"routing_key\" is missing"),
				 errhint("Without an exchange the routing key is the name of a queue of the broker.")));
}

/* The routine of this name with exactly one argument, of a type. */
static Oid
find_routine(List *names, Oid argument)
{
	FuncCandidateList found = FuncnameGetCandidates(names, 1, NIL, false, false, false, true);

	while (found && found->args[0] != argument)
		found = found->next;
	return found ? found->oid : InvalidOid;
}

/* The kind of a routine, '\0' if there is none. */
static char
routine_kind(Oid procedure)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(procedure));
	char		kind;

	if (!HeapTupleIsValid(tuple))
		return '\0';
	kind = ((Form_pg_proc) GETSTRUCT(tuple))->prokind;
	ReleaseSysCache(tuple);
	return kind;
}

/*
 * The routine of a name that takes one queue.message, or an array of them.
 */
Oid
relay_procedure_find(const char *name)
{
	List	   *names = stringToQualifiedNameList(name, NULL);
	Oid			message = get_rel_type_id(extension_relation("message"));
	Oid			procedure = find_routine(names, message);

	if (!OidIsValid(procedure))
		procedure = find_routine(names, get_array_type(message));
	if (!OidIsValid(procedure))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("procedure %s(queue.message) does not exist", name),
				 errhint("A relay calls a procedure with one argument of type queue.message, or queue.message[] for a batch.")));
	return procedure;
}

void
relay_procedure_check(Oid procedure, Oid owner, bool *batch)
{
	Oid			message = get_rel_type_id(extension_relation("message"));
	Oid		   *args = NULL;
	int			nargs = 0;
	char		kind = routine_kind(procedure);

	if (kind == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("the procedure of the relay does not exist any more")));
	if (kind != PROKIND_PROCEDURE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("%s is not a procedure", format_procedure(procedure))));
	(void) get_func_signature(procedure, &args, &nargs);
	if (nargs != 1 || (args[0] != message && args[0] != get_array_type(message)))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("%s does not take a message", format_procedure(procedure))));
	*batch = args[0] != message;
	if (object_aclcheck(ProcedureRelationId, procedure, owner, ACL_EXECUTE) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for procedure %s", format_procedure(procedure))));
}

/* What keeps a relay from running, as far as its row and its anchor tell. */
static const char *
config_problem(const RelayConfig *relay)
{
	if (!OidIsValid(relay->owner))
		return "the relay's type in schema queues does not exist any more";
	if (get_rel_name(relay->queue) == NULL)
		return "the relay's queue does not exist any more";
	if (relay->server_name &&
		(!OidIsValid(relay->server) || GetForeignServerExtended(relay->server, FSV_MISSING_OK) == NULL))
		return psprintf("server \"%s\" does not exist", relay->server_name);
	if (relay->server_name == NULL && !OidIsValid(relay->procedure))
		return relay->procedure_name ?
			psprintf("procedure %s does not exist", relay->procedure_name) :
			"the relay has neither a server nor a procedure";
	return NULL;
}

/* Make a RelayConfig of a row. */
static RelayConfig *
config_of_tuple(HeapTuple tuple, TupleDesc desc)
{
	RelayConfig *relay = palloc0(sizeof(RelayConfig));
	Datum		values[Natts_relay];
	bool		nulls[Natts_relay];
	StringInfoData all;
	Jsonb	   *given;

	heap_deform_tuple(tuple, desc, values, nulls);
	relay->name = TextDatumGetCString(values[Anum_relay_name - 1]);
	relay->anchor = DatumGetObjectId(values[Anum_relay_anchor - 1]);
	relay->queue = DatumGetObjectId(values[Anum_relay_queue - 1]);
	if (!nulls[Anum_relay_server - 1])
		relay->server_name = TextDatumGetCString(values[Anum_relay_server - 1]);
	if (!nulls[Anum_relay_procedure - 1])
		relay->procedure_name = TextDatumGetCString(values[Anum_relay_procedure - 1]);
	relay->paused = DatumGetBool(values[Anum_relay_paused - 1]);
	given = DatumGetJsonbP(values[Anum_relay_options - 1]);
	relay->given = JsonbPGetDatum(given);
	relay_anchor_read(relay);
	relay->problem = config_problem(relay);
	if (JB_ROOT_IS_OBJECT(given))
		relay->options = relay_options_parse(JsonbPGetDatum(given));
	else
		relay->problem = "options of a relay must be a JSON object";

	initStringInfo(&all);
	appendStringInfo(&all, "%u %u %u %u %u %s", relay->anchor, relay->queue, relay->owner,
					 relay->server, relay->procedure, JsonbToCString(NULL, &given->root, 0));
	relay->fingerprint = hash_bytes_extended((unsigned char *) all.data, all.len, 0);
	return relay;
}

/* All relays, or those of one name. */
static List *
read_relays(const char *name)
{
	Relation	rel = table_open(extension_relation("relay"), AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	List	   *result = NIL;
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		RelayConfig *relay = config_of_tuple(tuple, RelationGetDescr(rel));

		if (name == NULL || strcmp(relay->name, name) == 0)
			result = lappend(result, relay);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

List *
relay_config_list(void)
{
	return read_relays(NULL);
}

/* NULL if there is none of this name. */
RelayConfig *
relay_config_find(const char *name)
{
	List	   *found = read_relays(name);

	return found ? linitial(found) : NULL;
}

/* Add a list of options to a text that tells whether they have changed. */
static void
append_options(StringInfo all, List *options)
{
	ListCell   *cell;

	foreach(cell, options)
		appendStringInfo(all, "%s=%s\n", ((DefElem *) lfirst(cell))->defname,
						 defGetString(lfirst(cell)));
	appendStringInfoChar(all, '\n');
}

uint64
relay_server_options(const RelayConfig *relay, List **server_options,
					 List **mapping_options, RelayKind *kind, char *error)
{
	ForeignServer *server = GetForeignServerExtended(relay->server, FSV_MISSING_OK);
	AclResult	allowed;
	StringInfoData all;

	if (server == NULL)
	{
		strlcpy(error, "the server of the relay does not exist any more", SINK_ERROR_SIZE);
		return 0;
	}
	if (!relay_kind_of_server(server->fdwid, kind))
	{
		text_say(error, "server \"%s\" is not one a relay can publish to", server->servername);
		return 0;
	}
	allowed = object_aclcheck(ForeignServerRelationId, server->serverid, relay->owner, ACL_USAGE);
	if (allowed != ACLCHECK_OK)
	{
		text_say(error, "permission denied for server \"%s\"", server->servername);
		return 0;
	}
	if (has_option(server->options, "sslrootcert") && !may_read_files(server->owner))
	{
		text_say(error, "the owner of server \"%s\" is not permitted to have it read files (option \"sslrootcert\")",
				 server->servername);
		return 0;
	}

	*server_options = server->options;
	*mapping_options = NIL;
	if (SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(relay->owner),
							  ObjectIdGetDatum(server->serverid)) ||
		SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(InvalidOid),
							  ObjectIdGetDatum(server->serverid)))
		*mapping_options = GetUserMapping(relay->owner, server->serverid)->options;

	initStringInfo(&all);
	append_options(&all, *server_options);
	append_options(&all, *mapping_options);
	return hash_bytes_extended((unsigned char *) all.data, all.len, *kind) | 1;
}

/* The table of callbacks of a sink's library. */
const SinkRoutine *
relay_sink(RelayKind kind)
{
	char	   *library = psprintf("$libdir/queue_%s", relay_kind_name(kind));
	SinkInit	init = (SinkInit) load_external_function(library, "queue_sink", true, NULL);
	const SinkRoutine *loaded = init();

	if (loaded->magic != SINK_MAGIC || loaded->version != SINK_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("library \"%s\" is of another version of the extension", library)));
	return loaded;
}
