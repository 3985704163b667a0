/*
 * template.c
 *		Text with placeholders for what a message has.
 */
#include "postgres.h"

#include "compat.h"
#include "lib/stringinfo.h"
#include "message.h"
#include "sinks/template.h"
#include "sinks/text.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

/*
 * Find the next part of a text; returns where the one after it starts, or NULL
 * if the text is no template.
 */
static const char *
next_part(const char *text, TemplatePart *part)
{
	const char *end;

	part->kind = TEMPLATE_TEXT;
	part->text = text;
	part->length = strcspn(text, "{}");
	if (part->length > 0)
		return text + part->length;

	end = strchr(text, '}');
	if (strncmp(text, "{key}", 5) == 0)
		part->kind = TEMPLATE_KEY;
	else if (strncmp(text, "{header:", 8) == 0 && end != NULL && end > text + 8)
	{
		part->kind = TEMPLATE_HEADER;
		part->text = text + 8;
		part->length = end - part->text;
	}
	else
		return NULL;
	return end + 1;
}

Template *
template_compile(const char *text)
{
	Size		length = strlen(text);
	Size		parts = offsetof(Template, parts) + sizeof(TemplatePart) * length;
	Template   *template = palloc(parts + length + 1);
	const char *next = memcpy((char *) template + parts, text, length + 1);

	/* No part has less than a byte. */
	template->nparts = 0;
	while (*next)
	{
		next = next_part(next, &template->parts[template->nparts++]);
		if (next == NULL)
		{
			pfree(template);
			return NULL;
		}
	}
	return template;
}

/*
 * Append a value.  More than fits anyway is not looked at, and makes out too
 * long.
 */
static void
append_value(StringInfo out, const char *text, int length, bool url, int most)
{
	if (length > most)
		appendStringInfoSpaces(out, most + 1);
	else if (url)
	{
		text = text_utf8(text, &length);
		text_url(out, text, length);
	}
	else
		appendBinaryStringInfo(out, text, length);
}

/* Append the text of a header; false if there is none that is a scalar. */
static bool
append_header(StringInfo out, const Message *message, const TemplatePart *part, bool url, int most)
{
	JsonbValue	key;
	JsonbValue *v = NULL;
	const char *text;

	key.type = jbvString;
	key.val.string.val = unconstify(char *, part->text);
	key.val.string.len = part->length;
	if (message->headers)
		v = findJsonbValueFromContainer(&((Jsonb *) message->headers)->root, JB_FOBJECT, &key);
	if (v == NULL)
		return false;
	switch (v->type)
	{
		case jbvString:
			append_value(out, pnstrdup(v->val.string.val, v->val.string.len), v->val.string.len,
						 url, most);
			return true;
		case jbvNumeric:
			text = DatumGetCString(DirectFunctionCall1(numeric_out,
													   NumericGetDatum(v->val.numeric)));
			append_value(out, text, strlen(text), url, most);
			return true;
		case jbvBool:
			appendStringInfoString(out, v->val.boolean ? "true" : "false");
			return true;
		default:
			return false;
	}
}

static const char *
fill(const Template *template, const Message *message, bool url, int most, const char *what,
	 int *length, char *error)
{
	StringInfoData out;
	const char *result = NULL;

	initStringInfo(&out);
	for (int i = 0; i < template->nparts && out.len <= most; i++)
	{
		const TemplatePart *part = &template->parts[i];

		switch (part->kind)
		{
			case TEMPLATE_TEXT:
				appendBinaryStringInfo(&out, part->text, part->length);
				break;
			case TEMPLATE_KEY:
				if (message->key == NULL)
				{
					text_say(error, "message has no key for the %s", what);
					return NULL;
				}
				append_value(&out, VARDATA_ANY(message->key), VARSIZE_ANY_EXHDR(message->key),
							 url, most);
				break;
			case TEMPLATE_HEADER:
				if (!append_header(&out, message, part, url, most))
				{
					text_say(error, "message has no header \"%.*s\" for the %s",
							 part->length, part->text, what);
					return NULL;
				}
				break;
		}
	}

	*length = out.len;
	if (*length <= most)
		result = text_utf8(out.data, length);
	if (result && *length <= most)
		return result;
	text_say(error, "%s has more than %d bytes", what, most);
	return NULL;
}

const char *
template_fill(const Template *template, const Message *message, int most,
			  const char *what, int *length, char *error)
{
	return fill(template, message, false, most, what, length, error);
}

const char *
template_fill_url(const Template *template, const Message *message, int most,
				  const char *what, int *length, char *error)
{
	return fill(template, message, true, most, what, length, error);
}
