/*
 * producer.c
 *		A producer of librdkafka, and the thread that waits for it.
 *
 * The worker's process has librdkafka's threads in it, one for each broker and
 * one more, and ours.  All have every signal blocked: the process's own thread
 * is the one that PostgreSQL's handlers run in.
 */
#include "postgres.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "sinks/kafka/configure.h"
#include "sinks/kafka/producer.h"
#include "sinks/text.h"
#include "storage/ipc.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

/* To connect may take so long, and is looked at so often. */
#define CONNECT_TIME	(8 * USECS_PER_SEC)
#define CONNECT_LOOK	20L

/* The thread waits for so long before it sees whether it is to end, in ms. */
#define JOB_TIME		200

/* How long its end is waited for, in ms: a look-up of a name can hold it up. */
#define END_TIME		1000

/* So many that do not end, and the process ends in their stead. */
#define ABANDONED_MAX	3

/* What has to be closed when the process ends, as exit() must find no thread. */
static Producer *living;

/* Producers that did not end in time, and have not since. */
static pthread_mutex_t abandoned_lock = PTHREAD_MUTEX_INITIALIZER;
static int	abandoned;
static int	exit_code;

static int
add_abandoned(int n)
{
	int			result;

	pthread_mutex_lock(&abandoned_lock);
	result = abandoned += n;
	pthread_mutex_unlock(&abandoned_lock);
	return result;
}

/*
 * Words of librdkafka, which can be those of a broker, as they may be shown.
 */
static void
say(const Producer *producer, const char *words, char *error)
{
	char	   *copy = pstrdup(words);

	text_hide(copy, strlen(copy), false, producer->secret);
	text_clean(error, SINK_ERROR_SIZE, copy, strlen(copy), PG_UTF8);
	pfree(copy);
}

/*
 * The thread
 */

static void
producer_free(Producer *producer)
{
	pthread_cond_destroy(&producer->asked);
	pthread_mutex_destroy(&producer->lock);
	free(producer);
}

/* One of the calls that wait, once; false if it is to be called again. */
static bool
try_job(Producer *producer, ProducerJob job, rd_kafka_error_t **error)
{
	switch (job)
	{
		case JOB_BEGIN:
			*error = rd_kafka_init_transactions(producer->handle, JOB_TIME);
			break;
		case JOB_COMMIT:
			*error = rd_kafka_commit_transaction(producer->handle, JOB_TIME);
			break;
		case JOB_ABORT:
			*error = rd_kafka_abort_transaction(producer->handle, JOB_TIME);
			break;
		default:
			*error = NULL;
			return true;
	}
	if (*error == NULL || !rd_kafka_error_is_retriable(*error))
		return true;
	rd_kafka_error_destroy(*error);
	*error = NULL;
	return false;
}

/* The worker wants to know that the job is done; the lock is held. */
static void
report(Producer *producer, const rd_kafka_error_t *error)
{
	producer->code = error ? rd_kafka_error_code(error) : RD_KAFKA_RESP_ERR_NO_ERROR;
	producer->error[0] = '\0';
	if (error)
		strncat(producer->error, rd_kafka_error_string(error), SINK_ERROR_SIZE - 1);
	producer->done = true;
	producer->job = JOB_NONE;
	if (producer->writable >= 0 && write(producer->writable, "", 1) < 0)
		return;					/* the pipe is full, so it has been told */
}

static void *
thread_main(void *arg)
{
	Producer   *producer = arg;
	bool		left;

	pthread_mutex_lock(&producer->lock);
	while (producer->job != JOB_END)
	{
		ProducerJob job = producer->job;
		rd_kafka_error_t *error;
		bool		over;

		if (job == JOB_NONE)
		{
			pthread_cond_wait(&producer->asked, &producer->lock);
			continue;
		}
		pthread_mutex_unlock(&producer->lock);
		over = try_job(producer, job, &error);
		pthread_mutex_lock(&producer->lock);
		if (over && producer->job == job)
			report(producer, error);
		if (error)
			rd_kafka_error_destroy(error);
	}
	pthread_mutex_unlock(&producer->lock);

	/* The other side is asked for nothing, and not waited for. */
	rd_kafka_purge(producer->handle, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT |
				   RD_KAFKA_PURGE_F_NON_BLOCKING);
	rd_kafka_destroy_flags(producer->handle, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);

	pthread_mutex_lock(&producer->lock);
	producer->done = true;
	left = producer->abandoned;
	pthread_cond_signal(&producer->asked);
	pthread_mutex_unlock(&producer->lock);
	if (left)
	{
		producer_free(producer);
		add_abandoned(-1);
	}
	return NULL;
}

void
producer_ask(Producer *producer, ProducerJob job)
{
	pthread_mutex_lock(&producer->lock);
	producer->job = job;
	producer->done = false;
	pthread_cond_signal(&producer->asked);
	pthread_mutex_unlock(&producer->lock);
}

bool
producer_done(Producer *producer, rd_kafka_resp_err_t *code, char *error)
{
	char		text[SINK_ERROR_SIZE];
	bool		done;

	pthread_mutex_lock(&producer->lock);
	done = producer->done;
	*code = producer->code;
	memcpy(text, producer->error, SINK_ERROR_SIZE);
	pthread_mutex_unlock(&producer->lock);
	if (done && *code != RD_KAFKA_RESP_ERR_NO_ERROR)
		say(producer, text, error);
	return done;
}

rd_kafka_resp_err_t
producer_begin(Producer *producer, char *error)
{
	rd_kafka_error_t *trouble = rd_kafka_begin_transaction(producer->handle);
	rd_kafka_resp_err_t code;

	if (trouble == NULL)
		return RD_KAFKA_RESP_ERR_NO_ERROR;
	code = rd_kafka_error_code(trouble);
	say(producer, rd_kafka_error_string(trouble), error);
	rd_kafka_error_destroy(trouble);
	return code;
}

/*
 * Events
 */

rd_kafka_event_t *
producer_event(Producer *producer)
{
	return rd_kafka_queue_poll(producer->events, 0);
}

void
producer_drain(Producer *producer)
{
	char		buffer[64];

	while (read(producer->readable, buffer, sizeof(buffer)) == sizeof(buffer))
		;
}

void
producer_news(Producer *producer, rd_kafka_event_t *event, ProducerNews *news)
{
	rd_kafka_resp_err_t code = rd_kafka_event_error(event);
	const char *words = rd_kafka_event_error_string(event);
	char		fatal[SINK_ERROR_SIZE];

	if (code == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN)
	{
		/* What was said of one of them before says more. */
		news->lost = true;
		if (news->trouble)
			return;
	}
	if (code == RD_KAFKA_RESP_ERR__FATAL)
	{
		news->lost = true;
		if (rd_kafka_fatal_error(producer->handle, fatal, sizeof(fatal)) != RD_KAFKA_RESP_ERR_NO_ERROR)
			words = fatal;
	}
	news->trouble = true;
	if (words == NULL || words[0] == '\0')
		words = rd_kafka_err2str(code);
	say(producer, words, news->error);
}

/*
 * Open and close
 */

static void
close_at_exit(int code, Datum arg)
{
	if (living)
		producer_close(living);
	exit_code = code;
}

/*
 * What else is called at the end of a process, as by the library for TLS, takes
 * away what threads that are left may yet use.
 */
static void
leave(void)
{
	if (add_abandoned(0) > 0)
		_exit(exit_code);
}

static void
block_signals(sigset_t *before)
{
	sigset_t	all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, before);
}

/* A pipe neither end of which waits. */
static bool
make_pipe(int *ends)
{
	if (pipe(ends) != 0)
		return false;
	for (int i = 0; i < 2; i++)
	{
		if (fcntl(ends[i], F_SETFL, O_NONBLOCK) < 0 || fcntl(ends[i], F_SETFD, FD_CLOEXEC) < 0)
		{
			close(ends[0]);
			close(ends[1]);
			return false;
		}
	}
	return true;
}

/* What the thread is waited for with: nobody sets this clock. */
static void
make_condition(pthread_cond_t *condition)
{
	pthread_condattr_t attributes;

	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(condition, &attributes);
	pthread_condattr_destroy(&attributes);
}

/* What librdkafka says when it makes nothing of a configuration. */
static void
say_why_not(const char *words, char *error)
{
	if (strstr(words, "ssl.ca.pem") == NULL)
	{
		text_clean(error, SINK_ERROR_SIZE, words, strlen(words), PG_UTF8);
		return;
	}

	/* Who may read this may not know what is in the file. */
	strlcpy(error, "could not read the certificates of option \"sslrootcert\"", SINK_ERROR_SIZE);
	ereport(LOG, (errmsg("%s", error), errdetail_internal("%s", words)));
}

/* Start all threads there will be but those of brokers. */
static Producer *
start(rd_kafka_conf_t *conf, char *error)
{
	Producer   *producer = calloc(1, sizeof(Producer));
	int			ends[2];
	char		words[SINK_ERROR_SIZE];
	sigset_t	before;
	int			status = 0;

	if (producer == NULL || !make_pipe(ends))
	{
		free(producer);
		rd_kafka_conf_destroy(conf);
		strlcpy(error, "could not make a pipe: out of descriptors or memory", SINK_ERROR_SIZE);
		return NULL;
	}
	producer->readable = ends[0];
	producer->writable = ends[1];
	pthread_mutex_init(&producer->lock, NULL);
	make_condition(&producer->asked);

	block_signals(&before);
	producer->handle = rd_kafka_new(RD_KAFKA_PRODUCER, conf, words, sizeof(words));
	if (producer->handle)
	{
		status = pthread_create(&producer->thread, NULL, thread_main, producer);
		if (status != 0)
			rd_kafka_destroy_flags(producer->handle, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);

	if (producer->handle == NULL || status != 0)
	{
		if (producer->handle == NULL)
		{
			rd_kafka_conf_destroy(conf);
			say_why_not(words, error);
		}
		else
			strlcpy(error, "could not start a thread", SINK_ERROR_SIZE);
		close(ends[0]);
		close(ends[1]);
		producer_free(producer);
		return NULL;
	}
	producer->events = rd_kafka_queue_get_main(producer->handle);
	rd_kafka_queue_io_event_enable(producer->events, producer->writable, "", 1);
	return producer;
}

/*
 * Whether it has heard from a cluster; the answers are ones it has at hand.  A
 * cluster need not have an id.
 */
static bool
is_connected(Producer *producer)
{
	char	   *cluster = rd_kafka_clusterid(producer->handle, 0);

	if (cluster == NULL)
		return rd_kafka_controllerid(producer->handle, 0) >= 0;
	rd_kafka_mem_free(producer->handle, cluster);
	return true;
}

/* Wait until it is connected and may publish. */
static bool
connect_producer(Producer *producer, bool transactional, char *error)
{
	TimestampTz deadline = GetCurrentTimestamp() + CONNECT_TIME;
	ProducerNews news = {0};
	bool		asked = false;

	for (;;)
	{
		rd_kafka_event_t *event;
		rd_kafka_resp_err_t code = RD_KAFKA_RESP_ERR_NO_ERROR;

		producer_drain(producer);
		while ((event = producer_event(producer)) != NULL)
		{
			if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_ERROR)
				producer_news(producer, event, &news);
			rd_kafka_event_destroy(event);
		}
		if (news.lost)
			break;
		if (transactional && !asked)
		{
			producer_ask(producer, JOB_BEGIN);
			asked = true;
		}
		if (is_connected(producer) &&
			(!transactional || producer_done(producer, &code, news.error)))
		{
			if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
				return true;
			break;
		}
		if (GetCurrentTimestamp() >= deadline)
			break;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 CONNECT_LOOK, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	strlcpy(error, news.error[0] ? news.error : "could not connect: no answer in time", SINK_ERROR_SIZE);
	return false;
}

Producer *
producer_open(const SinkConfig *config, char *error)
{
	static bool registered = false;
	const KafkaOptions *options = config->options;
	int			length = options->password ? strlen(options->password) : 0;
	rd_kafka_conf_t *conf;
	Producer   *producer;

	if (add_abandoned(0) >= ABANDONED_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("could not connect: look-ups of names do not end")));
	conf = configure(config, error);
	if (conf == NULL)
		return NULL;
	if (!registered)
	{
		on_proc_exit(close_at_exit, (Datum) 0);
		registered = true;
	}
	producer = start(conf, error);
	if (producer == NULL)
		return NULL;
	living = producer;
	if (options->password)
		producer->secret = text_utf8(options->password, &length);
	if (!connect_producer(producer, options->transactional, error))
	{
		producer_close(producer);
		return NULL;
	}
	return producer;
}

void
producer_close(Producer *producer)
{
	static bool leaving = false;
	struct timespec until;
	pthread_t	thread = producer->thread;
	int			writable = producer->writable;
	bool		ended;

	living = NULL;
	rd_kafka_queue_io_event_enable(producer->events, -1, NULL, 0);
	rd_kafka_queue_destroy(producer->events);

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += END_TIME / 1000;
	pthread_mutex_lock(&producer->lock);
	producer->writable = -1;
	producer->job = JOB_END;
	producer->done = false;
	pthread_cond_signal(&producer->asked);
	pthread_mutex_unlock(&producer->lock);
	close(producer->readable);
	close(writable);

	pthread_mutex_lock(&producer->lock);
	while (!producer->done &&
		   pthread_cond_timedwait(&producer->asked, &producer->lock, &until) == 0)
		;
	ended = producer->done;
	producer->abandoned = !ended;
	if (!ended && add_abandoned(1) == 1 && !leaving)
		leaving = atexit(leave) == 0;
	pthread_mutex_unlock(&producer->lock);

	/* A thread that is held up ends by itself, and frees what it has. */
	if (ended)
	{
		pthread_join(thread, NULL);
		producer_free(producer);
	}
	else
		pthread_detach(thread);
}
