/*
 * producer.h
 *		A producer of librdkafka, and the thread that waits for it.
 *
 * What librdkafka can only do by waiting (transactions, and its own end) a
 * thread of ours does.  It shares with the worker this struct alone, which
 * malloc() made.
 */
#ifndef QUEUE_SINKS_KAFKA_PRODUCER_H
#define QUEUE_SINKS_KAFKA_PRODUCER_H

#include <librdkafka/rdkafka.h>
#include <pthread.h>

#include "relay/sink.h"
#include "sinks/options/kafka.h"

typedef enum ProducerJob
{
	JOB_NONE,
	JOB_BEGIN,					/* make itself known as the one of its
								 * transactional id */
	JOB_COMMIT,
	JOB_ABORT,
	JOB_END
} ProducerJob;

typedef struct Producer
{
	rd_kafka_t *handle;
	rd_kafka_queue_t *events;	/* the worker's alone, as is the next */
	const char *secret;			/* to be in no words; NULL: none */
	pthread_t	thread;
	int			readable;		/* a pipe: there are events, or the job is
								 * done */

	/* Under the lock, and looked at by both. */
	pthread_mutex_t lock;
	pthread_cond_t asked;
	int			writable;		/* -1: nobody wants to know */
	ProducerJob job;			/* under way */
	bool		done;			/* it is not any more */
	bool		abandoned;		/* the thread is to free all this */
	rd_kafka_resp_err_t code;	/* what it failed for, if it did */
	char		error[SINK_ERROR_SIZE];
} Producer;

/* What librdkafka has to say of all but messages. */
typedef struct ProducerNews
{
	bool		lost;			/* it is of no more use */
	bool		trouble;		/* it is */
	char		error[SINK_ERROR_SIZE];
} ProducerNews;

/* Make one, connected; NULL, with the reason in error, if that fails. */
extern Producer *producer_open(const SinkConfig *config, char *error);

/* Be rid of it, within moments whatever the other side does. */
extern void producer_close(Producer *producer);

/*
 * Have the thread do something, which is over when producer_done() says so; it
 * failed if there is a code then, and the reason is in error.
 */
extern void producer_ask(Producer *producer, ProducerJob job);
extern bool producer_done(Producer *producer, rd_kafka_resp_err_t *code, char *error);

/*
 * Begin a transaction.  While there is one this fails, for what it has come to
 * be no good for if it is no good any more.
 */
extern rd_kafka_resp_err_t producer_begin(Producer *producer, char *error);

/* Take an event off the queue, NULL if there is none. */
extern rd_kafka_event_t *producer_event(Producer *producer);

/* Read an event that is an error. */
extern void producer_news(Producer *producer, rd_kafka_event_t *event, ProducerNews *news);

/* What the pipe says has been heeded. */
extern void producer_drain(Producer *producer);

#endif							/* QUEUE_SINKS_KAFKA_PRODUCER_H */
