/*
 * pipeline.c
 *		What a connection owes answers for, in the order it was asked.
 */
#include "postgres.h"

#include "sinks/redis/pipeline.h"

static Question *
question(const Pipeline *pipeline, uint64 number)
{
	return &pipeline->questions[number % pipeline->size];
}

void
pipeline_init(Pipeline *pipeline, int window)
{
	memset(pipeline, 0, sizeof(Pipeline));

	/*
	 * With each item an ASKING and a WAIT; besides, a PING and a WAIT for
	 * what is kept.
	 */
	pipeline->size = 3 * window + 2;
	pipeline->questions = palloc0(pipeline->size * sizeof(Question));
	pipeline->kept = palloc(window * sizeof(SinkItem *));
}

const Question *
pipeline_due(const Pipeline *pipeline)
{
	return pipeline->due < pipeline->next ? question(pipeline, pipeline->due) : NULL;
}

void
pipeline_ask(Pipeline *pipeline, Asked asked, SinkItem *item)
{
	Question   *asking = question(pipeline, pipeline->next);

	if (pipeline->next - pipeline->due >= pipeline->size)
		elog(ERROR, "a server of Redis owes too many answers");
	asking->asked = asked;
	asking->item = item;
	pipeline->next++;
}

const Question *
pipeline_answer(Pipeline *pipeline)
{
	const Question *answered = pipeline_due(pipeline);

	if (answered)
		pipeline->due++;
	return answered;
}

void
pipeline_keep(Pipeline *pipeline, SinkItem *item)
{
	pipeline->kept[pipeline->nkept++] = item;
}
