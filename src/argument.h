/*
 * argument.h
 *		Arguments of SQL functions: their checks, with one wording for each.
 *
 * An error names the argument as SQL does, the value, and what would do.
 */
#ifndef QUEUE_ARGUMENT_H
#define QUEUE_ARGUMENT_H

#include "fmgr.h"

/* Elements an array may have; as many can be allocated at once. */
#define ARGUMENT_MAX_ELEMENTS	10000000

/* Bytes a key may have: two of them and a role go into an entry of a btree. */
#define ARGUMENT_MAX_KEY		1024

/* An array's elements; values is NULL if there is no array, only NULLs. */
typedef struct ArgumentArray
{
	const char *name;
	int			n;
	Datum	   *values;
	bool	   *isnull;
} ArgumentArray;

/* Raise 22004 if an argument is NULL. */
extern void argument_required(FunctionCallInfo fcinfo, int argno, const char *name);

/* A text that must not be NULL: 22004. */
extern text *argument_text(FunctionCallInfo fcinfo, int argno, const char *name);

/*
 * Raise 22023 if a text that something is called by is empty, or has more
 * bytes than go into an index together with others.
 */
extern void argument_check_key(const text *value, const char *name);

/* Such a text that must not be NULL: 22004. */
extern text *argument_key(FunctionCallInfo fcinfo, int argno, const char *name);

/* An integer that must not be NULL, 22004, or less than least, 22023. */
extern int32 argument_integer(FunctionCallInfo fcinfo, int argno, const char *name, int32 least);

/*
 * An interval in microseconds, or default_value if it is NULL.  Raises 22023
 * if it is less than least or over ten years.
 */
extern int64 argument_duration(FunctionCallInfo fcinfo, int argno, const char *name,
							   int64 least, int64 default_value);

/*
 * The elements of an array: 22004 if it is NULL, 54000 if it has too many.
 * One that goes with another array may be NULL, which stands for as many
 * NULLs, and must otherwise be as long: 2202E.
 */
extern void argument_array(FunctionCallInfo fcinfo, int argno, const char *name,
						   const ArgumentArray *other, ArgumentArray *array);

/* Raise 22004 if an element is NULL. */
extern void argument_elements_required(const ArgumentArray *array);

static inline NullableDatum
argument_element(const ArgumentArray *array, int i)
{
	NullableDatum element = {.isnull = true};

	if (array->values != NULL)
	{
		element.value = array->values[i];
		element.isnull = array->isnull[i];
	}
	return element;
}

/* Raise 22023 unless a message's headers are a JSON object. */
extern void argument_headers(Datum headers);

#endif							/* QUEUE_ARGUMENT_H */
