/*
 * argument.c
 *		Checks of what SQL hands over, with one wording for each.
 */
#include "postgres.h"

#include "argument.h"
#include "utils/jsonb.h"

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
