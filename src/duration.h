/*
 * duration.h
 *		Intervals as microseconds.
 */
#ifndef QUEUE_DURATION_H
#define QUEUE_DURATION_H

#include "utils/timestamp.h"

/*
 * Length of an interval in microseconds, a month counted as 30 days.  Raises
 * 22023, naming the option, if it is less than least or over ten years.
 */
extern int64 duration_microseconds(const char *option, const Interval *interval, int64 least);

#endif							/* QUEUE_DURATION_H */
