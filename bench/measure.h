/*
 * measure.h
 *		Time, percentiles, and what is done when something goes wrong.
 */
#include <error.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static inline void
die(const char *what)
{
	error(1, 0, "%s", what);
}

/* Seconds of a clock that only goes on. */
static inline double
now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static inline void *
allocate(size_t size)
{
	void	   *memory = calloc(1, size);

	if (memory == NULL)
		die("out of memory");
	return memory;
}

static inline int
compare_seconds(const void *a, const void *b)
{
	double		x = *(const double *) a;
	double		y = *(const double *) b;

	return (x > y) - (x < y);
}

/* The value that so many percent do not exceed, in microseconds. */
static inline double
percentile(double *seconds, long n, int percent)
{
	qsort(seconds, n, sizeof(double), compare_seconds);
	return seconds[(n - 1) * percent / 100] * 1e6;
}

/* Let everybody fall asleep who waits for the next message. */
static inline void
pause_between(void)
{
	usleep(3000);
}
