/*
 * cloudevents.h
 *		Messages as CloudEvents 1.0.
 *
 * In binary mode the body stays as it is, and the attributes are headers as
 * each protocol names them; in structured mode both are one JSON object.
 */
#ifndef QUEUE_SINKS_CLOUDEVENTS_H
#define QUEUE_SINKS_CLOUDEVENTS_H

#include "relay/sink.h"
#include "sinks/content.h"
#include "sinks/template.h"

/* Longest type, source and subject, in bytes. */
#define CLOUDEVENTS_TEXT	1024

typedef enum CloudEventsMode
{
	CLOUDEVENTS_OFF,
	CLOUDEVENTS_BINARY,
	CLOUDEVENTS_STRUCTURED
} CloudEventsMode;

/* The options of a relay, part of the struct of each kind that has them. */
typedef struct CloudEventsOptions
{
	CloudEventsMode mode;
	const Template *type;		/* NULL: every message is refused */
	const Template *source;		/* NULL: "/<queue>" */
	const Template *subject;	/* NULL: none */
} CloudEventsOptions;

/* In UTF-8, not empty, and without control characters. */
typedef struct CloudEventsAttribute
{
	const char *name;			/* lower-case letters */
	const char *value;			/* ends with a zero byte as well */
	int			length;
} CloudEventsAttribute;

/* All but datacontenttype, which is the body's content type. */
typedef struct CloudEvent
{
	int			n;
	CloudEventsAttribute attributes[7];
} CloudEvent;

/*
 * Make an event of a message and its body, as content_body() has it: the
 * attributes that are to be headers, none unless the mode is binary; and, if
 * the mode is structured, another body.  The queue's name is in UTF-8.  What
 * is made is palloc'd.  False, with the reason in error, if that cannot be.
 */
extern bool cloudevents_make(const CloudEventsOptions *options, const char *queue,
							 const struct Message *message, Content *content,
							 CloudEvent *event, char *error);

#endif							/* QUEUE_SINKS_CLOUDEVENTS_H */
