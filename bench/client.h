/*
 * client.h
 *		What the bare clients share: the relays' peers, who publish with the
 *		same library and nothing else.
 *
 * Each is called with PORT TARGET MESSAGES WINDOW BODY.  It empties the target,
 * where it can, and publishes so many messages with no more than a window of
 * them unconfirmed; prints messages per second, and microseconds of its CPU
 * time for each.  With a window of 0 messages go one at a time, a pause before
 * each, and what is printed are the median and the 99th percentile of the time
 * from publishing one to its confirmation, in microseconds.  With no messages
 * it prints how many are in the target.
 */
#include "measure.h"

/* The client's own: publish a message, and wait until more are confirmed. */
static void send_message(long number);
static void take_confirmations(void);

static long confirmed;

/* Seconds of CPU time, of all threads. */
static inline double
cpu_time(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static inline void
publish_all(long messages, long window)
{
	double	   *latency = allocate(messages * sizeof(double));
	long		sent = 0;
	double		start;
	double		cpu;

	/* The first is not counted: it has the connection made. */
	send_message(sent++);
	while (confirmed < sent)
		take_confirmations();

	for (long i = 0; i < messages && window == 0; i++)
	{
		pause_between();
		start = now();
		send_message(sent++);
		while (confirmed < sent)
			take_confirmations();
		latency[i] = now() - start;
	}
	if (window == 0)
	{
		printf("%.1f %.1f\n", percentile(latency, messages, 50), percentile(latency, messages, 99));
		return;
	}

	start = now();
	cpu = cpu_time();
	while (confirmed <= messages)
	{
		if (sent <= messages && sent - confirmed < window)
			send_message(sent++);
		else
			take_confirmations();
	}
	printf("%.1f %.2f\n", messages / (now() - start), (cpu_time() - cpu) * 1e6 / messages);
}
