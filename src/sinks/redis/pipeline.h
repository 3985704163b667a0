/*
 * pipeline.h
 *		What a connection owes answers for, in the order it was asked.
 *
 * With option replicas an item that was answered is kept until an answer to
 * WAIT confirms it, which holds for all that was answered before.
 */
#ifndef QUEUE_SINKS_REDIS_PIPELINE_H
#define QUEUE_SINKS_REDIS_PIPELINE_H

#include "relay/sink.h"

typedef enum Asked
{
	ASKED_ITEM,					/* the command of an item */
	ASKED_WAIT,					/* how many replicas have what was before */
	ASKED_ASKING,				/* leave for the next item */
	ASKED_PING					/* whether it is there */
} Asked;

typedef struct Question
{
	Asked		asked;
	SinkItem   *item;
} Question;

typedef struct Pipeline
{
	int			size;
	uint64		due;			/* the next one to be answered */
	uint64		next;			/* the next one to be asked */
	Question   *questions;		/* by number modulo size */
	int			nkept;
	SinkItem  **kept;			/* answered, without a verdict */
} Pipeline;

/* For so many items in flight at a time, in the current memory context. */
extern void pipeline_init(Pipeline *pipeline, int window);

/* The question that is to be answered next; NULL: none. */
extern const Question *pipeline_due(const Pipeline *pipeline);

extern void pipeline_ask(Pipeline *pipeline, Asked asked, SinkItem *item);

/* An answer has come to that question, which is valid until one is asked. */
extern const Question *pipeline_answer(Pipeline *pipeline);

/* Keep an item that was answered. */
extern void pipeline_keep(Pipeline *pipeline, SinkItem *item);

#endif							/* QUEUE_SINKS_REDIS_PIPELINE_H */
