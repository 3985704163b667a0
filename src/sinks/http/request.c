/*
 * request.c
 *		A message as a request.
 *
 * What is appended is a RequestHead, the URL, the headers, and the body.
 */
#include "postgres.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "message.h"
#include "sinks/content.h"
#include "sinks/http/request.h"
#include "sinks/text.h"
#include "utils/timestamp.h"

/* The seconds from the Unix epoch to PostgreSQL's. */
#define EPOCH_OFFSET \
	((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY)

/* All headers together: what servers take is less. */
#define HEADERS_MAX		(64 * 1024)

#define SIGNATURE_SIZE	32

typedef struct RequestHead
{
	int			nheaders;
	int			body_length;
	int			url;			/* where they start */
	int			headers;
	int			body;
} RequestHead;

bool
request_prepare(Publication *publication, const HttpOptions *options, const char *queue, char *error)
{
	int			length = strlen(queue);
	char	   *base = pstrdup(options->url);

	publication->options = options;
	publication->queue = text_utf8(queue, &length);
	if (http_check_url(options->url) != NULL ||
		(options->headers &&
		 !http_parse_headers(options->headers, publication->headers, &publication->nheaders)) ||
		(options->signing_secret &&
		 !http_parse_secrets(options->signing_secret, publication->secrets, &publication->nsecrets)))
	{
		strlcpy(error, "an option is not what it must be", SINK_ERROR_SIZE);
		return false;
	}
	if (options->path && strchr(base, '?'))
	{
		strlcpy(error, "the server's option \"url\" has a query, so the relay can have no option \"path\"",
				SINK_ERROR_SIZE);
		return false;
	}
	publication->base = base;
	for (int i = 0; i < publication->nheaders; i++)
	{
		if (pg_strcasecmp(publication->headers[i].name, "user-agent") == 0)
			publication->user_agent = true;
	}
	return true;
}

/*
 * The next character of a path, as servers see it that decode first what tells
 * segments apart: there "..%2F" leads out of its place as well.
 */
static char
next_char(const char **path)
{
	char		c = **path;
	int			length = 1;

	if (pg_strncasecmp(*path, "%2e", 3) == 0)
	{
		c = '.';
		length = 3;
	}
	else if (pg_strncasecmp(*path, "%2f", 3) == 0 || pg_strncasecmp(*path, "%5c", 3) == 0)
	{
		c = '/';
		length = 3;
	}
	*path += length;
	return c;
}

/* Whether a path, which may have a query, has a segment that leads to another. */
static bool
has_dots(const char *path)
{
	int			length = 0;
	int			dots = 0;

	for (;;)
	{
		char		c = next_char(&path);

		if (c == '/' || c == '?' || c == '\0')
		{
			if (length == dots && (dots == 1 || dots == 2))
				return true;
			if (c != '/')
				return false;
			length = dots = 0;
		}
		else
		{
			length++;
			dots += c == '.';
		}
	}
}

static bool
append_url(const Publication *publication, const Message *message, StringInfo out, char *error)
{
	const Template *template = publication->options->path;
	const char *path = "";
	int			base = strlen(publication->base);
	int			length = 0;

	if (template)
	{
		path = template_fill_url(template, message, HTTP_URL_LENGTH, "path", &length, error);
		if (path == NULL)
			return false;
		path = pnstrdup(path, length);
	}

	/* What is filled in must not lead out of its place. */
	if (has_dots(path))
	{
		strlcpy(error, "a segment of the path would be \".\" or \"..\"", SINK_ERROR_SIZE);
		return false;
	}
	if (path[0] == '/' && publication->base[base - 1] == '/')
		base--;
	appendBinaryStringInfo(out, publication->base, base);
	appendStringInfoString(out, path);
	appendStringInfoChar(out, '\0');
	return true;
}

/*
 * Add a header; its value has no control characters, or the message is
 * refused.
 */
static bool
append_header(StringInfo out, RequestHead *head, const char *name, const char *value, int length,
			  char *error)
{
	for (int i = 0; i < length; i++)
	{
		if ((unsigned char) value[i] < ' ' || value[i] == 0x7F)
		{
			text_say(error, "header \"%s\" of the request would have control characters", name);
			return false;
		}
	}
	while (length > 0 && value[length - 1] == ' ')
		length--;

	/* A header without a value needs a semicolon to be one for libcurl. */
	appendStringInfo(out, length > 0 ? "%s: " : "%s;", name);
	appendBinaryStringInfo(out, value, length);
	appendStringInfoChar(out, '\0');
	head->nheaders++;
	if (out->len - head->headers <= HEADERS_MAX)
		return true;
	strlcpy(error, "headers of the request are too large", SINK_ERROR_SIZE);
	return false;
}

static bool
append_header_text(StringInfo out, RequestHead *head, const char *name, const char *value, char *error)
{
	return append_header(out, head, name, value, strlen(value), error);
}

/* An event's attribute: all but printable ASCII is percent-escaped in HTTP. */
static bool
append_attribute(StringInfo out, RequestHead *head, const CloudEventsAttribute *attribute, char *error)
{
	StringInfoData value;

	initStringInfo(&value);
	for (int i = 0; i < attribute->length; i++)
	{
		unsigned char c = attribute->value[i];

		if (c <= ' ' || c == '"' || c == '%' || c > '~')
			appendStringInfo(&value, "%%%02X", c);
		else
			appendStringInfoChar(&value, c);
	}
	return append_header(out, head, psprintf("ce-%s", attribute->name), value.data, value.len, error);
}

/*
 * The name of a message as it stands in headers: ASCII, and without the full
 * stop, which separates what is signed.
 */
static char *
name_of(const Publication *publication, const Message *message)
{
	StringInfoData name;
	StringInfoData escaped;

	initStringInfo(&escaped);
	text_url(&escaped, publication->queue, strlen(publication->queue));
	initStringInfo(&name);
	for (int i = 0; i < escaped.len; i++)
	{
		if (escaped.data[i] == '.')
			appendStringInfoString(&name, "%2E");
		else
			appendStringInfoChar(&name, escaped.data[i]);
	}
	appendStringInfo(&name, "/" INT64_FORMAT, message->id);
	return name.data;
}

/* The signatures of what is signed, one for each secret. */
static bool
append_signatures(const Publication *publication, const char *data, int length, StringInfo out)
{
	for (int i = 0; i < publication->nsecrets; i++)
	{
		const HttpSecret *secret = &publication->secrets[i];
		unsigned char signature[SIGNATURE_SIZE];
		unsigned int size = 0;

		if (HMAC(EVP_sha256(), secret->bytes, secret->length, (const unsigned char *) data, length,
				 signature, &size) == NULL || size != SIGNATURE_SIZE)
			return false;
		appendStringInfoString(out, i > 0 ? " v1," : "v1,");
		if (!text_base64(out, (const char *) signature, SIGNATURE_SIZE))
			return false;
	}
	return true;
}

/* As Standard Webhooks have it: over name, time and body. */
static bool
append_signed(const Publication *publication, const Message *message, const Content *content,
			  StringInfo out, RequestHead *head, char *error)
{
	const char *name = name_of(publication, message);
	char		now[32];
	StringInfoData what;
	StringInfoData signatures;

	snprintf(now, sizeof(now), INT64_FORMAT,
			 GetCurrentTimestamp() / USECS_PER_SEC + EPOCH_OFFSET);
	initStringInfo(&what);
	appendStringInfo(&what, "%s.%s.", name, now);
	appendBinaryStringInfo(&what, content->data, content->length);
	initStringInfo(&signatures);
	if (!append_signatures(publication, what.data, what.len, &signatures))
	{
		strlcpy(error, "could not sign the message", SINK_ERROR_SIZE);
		return false;
	}
	pfree(what.data);
	return append_header_text(out, head, "webhook-id", name, error) &&
		append_header_text(out, head, "webhook-timestamp", now, error) &&
		append_header_text(out, head, "webhook-signature", signatures.data, error);
}

static bool
append_headers(const Publication *publication, const Message *message, const Content *content,
			   const CloudEvent *event, StringInfo out, RequestHead *head, char *error)
{
	const HttpOptions *options = publication->options;

	if (message->payload || message->body || options->cloudevents.mode == CLOUDEVENTS_STRUCTURED)
	{
		if (!append_header_text(out, head, "Content-Type", content->type, error))
			return false;
	}
	else
	{
		/* Without a value it keeps libcurl from one of its own. */
		appendStringInfoString(out, "Content-Type:");
		appendStringInfoChar(out, '\0');
		head->nheaders++;
	}
	if (!publication->user_agent && !append_header_text(out, head, "User-Agent", "queue", error))
		return false;
	for (int i = 0; i < event->n; i++)
	{
		if (!append_attribute(out, head, &event->attributes[i], error))
			return false;
	}
	if (options->idempotency_header &&
		!append_header_text(out, head, options->idempotency_header,
							name_of(publication, message), error))
		return false;
	if (publication->nsecrets > 0 &&
		!append_signed(publication, message, content, out, head, error))
		return false;
	for (int i = 0; i < publication->nheaders; i++)
	{
		const HttpHeader *header = &publication->headers[i];
		char		what[256];
		int			length;
		const char *value;

		/* One that cannot be made of the message is left out. */
		if (!template_suits(header->value, message))
			continue;
		snprintf(what, sizeof(what), "header \"%s\" of the request", header->name);
		value = template_fill(header->value, message, HTTP_HEADER_LENGTH, what, &length, error);
		if (value == NULL || !append_header(out, head, header->name, value, length, error))
			return false;
	}
	return true;
}

bool
request_encode(const Publication *publication, const Message *message, StringInfo out, char *error)
{
	RequestHead head = {0};
	StringInfoData parts;
	Content		content;
	CloudEvent	event;

	if (!content_body(message, &content, error) ||
		!cloudevents_make(&publication->options->cloudevents, publication->queue, message,
						  &content, &event, error))
		return false;
	initStringInfo(&parts);
	head.url = parts.len;
	if (!append_url(publication, message, &parts, error))
		return false;
	head.headers = parts.len;
	if (!append_headers(publication, message, &content, &event, &parts, &head, error))
		return false;
	head.body = parts.len;
	head.body_length = content.length;
	appendBinaryStringInfo(out, (const char *) &head, sizeof(head));
	appendBinaryStringInfo(out, parts.data, parts.len);
	appendBinaryStringInfo(out, content.data, content.length);
	return true;
}

void
request_read(const char *data, Size size, Request *request)
{
	RequestHead head;
	const char *parts = data + sizeof(head);

	Assert(size >= sizeof(head));
	memcpy(&head, data, sizeof(head));
	Assert(size == sizeof(head) + head.body + head.body_length);
	request->url = parts + head.url;
	request->nheaders = head.nheaders;
	request->headers = parts + head.headers;
	request->body = parts + head.body;
	request->body_length = head.body_length;
}
