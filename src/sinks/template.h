/*
 * template.h
 *		Text with placeholders for what a message has.
 *
 * {key} stands for the message's key, {header:NAME} for a header that is text,
 * a number or a boolean.  Compiled into the core, which makes templates of
 * options, and into the libraries of the sinks, which fill them.
 */
#ifndef QUEUE_SINKS_TEMPLATE_H
#define QUEUE_SINKS_TEMPLATE_H

#include "relay/sink.h"

typedef enum TemplateKind
{
	TEMPLATE_TEXT,
	TEMPLATE_KEY,
	TEMPLATE_HEADER
} TemplateKind;

typedef struct TemplatePart
{
	TemplateKind kind;
	const char *text;			/* itself, or the header's name */
	int			length;
} TemplatePart;

typedef struct Template
{
	int			nparts;
	TemplatePart parts[FLEXIBLE_ARRAY_MEMBER];
} Template;

/* What a text must be, to say so. */
#define TEMPLATE_RULE	"text in which braces occur as {key} and {header:NAME} only"

/* Make a template, palloc'd as one piece; NULL if the text is none. */
extern Template *template_compile(const char *text);

/*
 * Fill a template in.  The result is palloc'd, in UTF-8, and has at most so
 * many bytes; what names it in errors.  NULL, with the reason in error, if the
 * message lacks something or it would be longer.  Raises an error for what has
 * no equivalent in UTF-8, see text_utf8().
 */
extern const char *template_fill(const Template *template, const struct Message *message, int most,
								 const char *what, int *length, char *error);

/*
 * The same for a URL: what is filled in is escaped, see text_url(), so that it
 * stays within its part of a path or query.  (A path's segment "." or ".." can
 * come of it all the same.)
 */
extern const char *template_fill_url(const Template *template, const struct Message *message,
									 int most, const char *what, int *length, char *error);

#endif							/* QUEUE_SINKS_TEMPLATE_H */
