/*
 * duration.c
 *		Intervals as microseconds.
 */
#include "postgres.h"

#include "duration.h"
#include "utils/builtins.h"

/* Longest duration: far enough, and no sum with a timestamp overflows. */
#define MAX_DAYS	3660

int64
duration_microseconds(const char *option, const Interval *interval, int64 least)
{
	int64		days = (int64) interval->month * DAYS_PER_MONTH + interval->day;
	int64		result = 0;

	days += interval->time / USECS_PER_DAY;
	if (days >= -MAX_DAYS && days <= MAX_DAYS)
		result = ((int64) interval->month * DAYS_PER_MONTH + interval->day) * USECS_PER_DAY +
			interval->time;
	if (days < -MAX_DAYS || days > MAX_DAYS || result < least)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for \"%s\": %s", option,
						DatumGetCString(DirectFunctionCall1(interval_out,
															IntervalPGetDatum(interval)))),
				 least > 0 ?
				 errhint("It must be positive and at most ten years.") :
				 errhint("It must not be negative, and at most ten years.")));
	return result;
}
