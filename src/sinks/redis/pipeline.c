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
pipeline_init(Pipeline *pipeline, int size)
{
	pipeline->size = size;
	pipeline->first = pipeline->due = pipeline->next = 0;
	pipeline->nwaits = 0;
	pipeline->questions = palloc0(size * sizeof(Question));
}

int
pipeline_space(const Pipeline *pipeline)
{
	return pipeline->size - (int) (pipeline->next - pipeline->first);
}

bool
pipeline_due(const Pipeline *pipeline)
{
	return pipeline->due < pipeline->next;
}

void
pipeline_ask(Pipeline *pipeline, Asked asked, SinkItem *item)
{
	Question   *asking = question(pipeline, pipeline->next);

	Assert(pipeline_space(pipeline) > 0);
	asking->asked = asked;
	asking->item = item;
	pipeline->next++;
	if (asked == ASKED_WAIT)
		pipeline->nwaits++;
}

Question *
pipeline_answer(Pipeline *pipeline)
{
	Question   *answered;

	if (!pipeline_due(pipeline))
		return NULL;
	answered = question(pipeline, pipeline->due++);
	if (answered->asked == ASKED_WAIT)
		pipeline->nwaits--;
	return answered;
}

SinkItem *
pipeline_take_answered(Pipeline *pipeline)
{
	for (; pipeline->first < pipeline->due; pipeline->first++)
	{
		SinkItem   *item = question(pipeline, pipeline->first)->item;

		if (item)
		{
			question(pipeline, pipeline->first)->item = NULL;
			return item;
		}
	}
	return NULL;
}

void
pipeline_trim(Pipeline *pipeline)
{
	while (pipeline->first < pipeline->due && question(pipeline, pipeline->first)->item == NULL)
		pipeline->first++;
}
