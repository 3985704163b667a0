/*
 * argument.c
 *		Arguments of SQL functions: their checks, with one wording for each.
 */
#include "postgres.h"

#include "argument.h"
#include "compat.h"
#include "duration.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"

/* How much of a key that is too long an error shows, in bytes. */
#define KEY_SHOWN	40

void
argument_required(FunctionCallInfo fcinfo, int argno, const char *name)
{
	if (PG_ARGISNULL(argno))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" must not be null", name)));
}

text *
argument_text(FunctionCallInfo fcinfo, int argno, const char *name)
{
	argument_required(fcinfo, argno, name);
	return PG_GETARG_TEXT_PP(argno);
}

void
argument_check_key(const text *value, const char *name)
{
	int			length = VARSIZE_ANY_EXHDR(value);

	if (length == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" must not be empty", name)));
	if (length > ARGUMENT_MAX_KEY)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" is too long: \"%.*s...\"", name,
						pg_mbcliplen(VARDATA_ANY(value), length, KEY_SHOWN), VARDATA_ANY(value)),
				 errdetail("It has %d bytes, and may have %d.", length, ARGUMENT_MAX_KEY),
				 errhint("Use a digest of a longer one, such as md5().")));
}

text *
argument_key(FunctionCallInfo fcinfo, int argno, const char *name)
{
	text	   *value = argument_text(fcinfo, argno, name);

	argument_check_key(value, name);
	return value;
}

int32
argument_integer(FunctionCallInfo fcinfo, int argno, const char *name, int32 least)
{
	int32		value;

	argument_required(fcinfo, argno, name);
	value = PG_GETARG_INT32(argno);
	if (value < least)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for \"%s\": %d", name, value),
				 errhint("It must be at least %d.", least)));
	return value;
}

int64
argument_duration(FunctionCallInfo fcinfo, int argno, const char *name,
				  int64 least, int64 default_value)
{
	if (PG_ARGISNULL(argno))
		return default_value;
	return duration_microseconds(name, PG_GETARG_INTERVAL_P(argno), least);
}

void
argument_array(FunctionCallInfo fcinfo, int argno, const char *name,
			   const ArgumentArray *other, ArgumentArray *array)
{
	ArrayType  *value;
	int16		length;
	bool		byval;
	char		align;

	memset(array, 0, sizeof(ArgumentArray));
	array->name = name;
	if (other != NULL && PG_ARGISNULL(argno))
	{
		array->n = other->n;
		return;
	}
	argument_required(fcinfo, argno, name);
	value = PG_GETARG_ARRAYTYPE_P(argno);
	array->n = ArrayGetNItems(ARR_NDIM(value), ARR_DIMS(value));
	if (array->n > ARGUMENT_MAX_ELEMENTS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("argument \"%s\" has too many elements: %d", name, array->n),
				 errhint("It may have at most %d.", ARGUMENT_MAX_ELEMENTS)));
	if (other != NULL && array->n != other->n)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("argument \"%s\" must have as many elements as \"%s\"", name, other->name),
				 errdetail("It has %d, \"%s\" has %d.", array->n, other->name, other->n)));
	get_typlenbyvalalign(ARR_ELEMTYPE(value), &length, &byval, &align);
	deconstruct_array(value, ARR_ELEMTYPE(value), length, byval, align,
					  &array->values, &array->isnull, &array->n);
}

void
argument_elements_required(const ArgumentArray *array)
{
	for (int i = 0; i < array->n; i++)
	{
		if (argument_element(array, i).isnull)
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("argument \"%s\" must not contain nulls", array->name),
					 errdetail("Element %d is null.", i + 1)));
	}
}

void
argument_headers(Datum headers)
{
	Jsonb	   *jb = DatumGetJsonbP(headers);

	if (!JB_ROOT_IS_OBJECT(jb))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("headers must be a JSON object"),
				 errdetail("They are %s.", JsonbToCString(NULL, &jb->root, VARSIZE(jb)))));
}
