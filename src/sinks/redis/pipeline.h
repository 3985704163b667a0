/*
 * pipeline.h
 *		What a connection owes answers for, in the order it was asked.
 *
 * An item that was answered stays until those before it and what confirms it
 * have been: with option replicas the answer to WAIT, which holds for all
 * before it.
 */
#ifndef QUEUE_SINKS_REDIS_PIPELINE_H
#define QUEUE_SINKS_REDIS_PIPELINE_H

#include "relay/sink.h"

typedef enum Asked
{
	ASKED_ITEM,					/* the command of an item */
	ASKED_WAIT,					/* how many replicas have what was before */
	ASKED_OTHER					/* whatever the answer is, it is all the same */
} Asked;

typedef struct Question
{
	Asked		asked;
	SinkItem   *item;			/* without a verdict */
} Question;

typedef struct Pipeline
{
	int			size;
	uint64		first;			/* the oldest question that is kept */
	uint64		due;			/* the next one to be answered */
	uint64		next;			/* the next one to be asked */
	int			nwaits;			/* of ASKED_WAIT that are due */
	Question   *questions;		/* by number modulo size */
} Pipeline;

/* For so many questions at a time, in the current memory context. */
extern void pipeline_init(Pipeline *pipeline, int size);

/* How many more there is space for. */
extern int	pipeline_space(const Pipeline *pipeline);

/* Whether answers are due. */
extern bool pipeline_due(const Pipeline *pipeline);

extern void pipeline_ask(Pipeline *pipeline, Asked asked, SinkItem *item);

/* An answer has come: to this question, NULL if to none. */
extern Question *pipeline_answer(Pipeline *pipeline);

/* The oldest item that was answered and has no verdict yet, which it gets now; NULL: none. */
extern SinkItem *pipeline_take_answered(Pipeline *pipeline);

/* Forget what is settled. */
extern void pipeline_trim(Pipeline *pipeline);

#endif							/* QUEUE_SINKS_REDIS_PIPELINE_H */
