/*
 * http_options.c
 *		What options of the sink for HTTP servers must be.
 */
#include "postgres.h"

#include "common/base64.h"
#include "sinks/http_options.h"

#define SECRET_PREFIX	"whsec_"

/* Headers that are made of other options, or are the connection's. */
static const char *const reserved_headers[] = {
	"authorization", "connection", "content-length", "content-type", "cookie", "expect", "host",
	"keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding",
	"upgrade", "webhook-id", "webhook-signature", "webhook-timestamp"
};

/* Whether a character may stand in a URL; braces are those of templates. */
static bool
is_url_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
		(c != '\0' && strchr("-._~:/?[]@!$&'()*+,;=%", c) != NULL);
}

static bool
is_url_text(const char *text, const char *also)
{
	for (; *text; text++)
	{
		if (!is_url_char(*text) && strchr(also, *text) == NULL)
			return false;
	}
	return true;
}

/* Whether the beginning of a text, of that length, is a host, perhaps with a port. */
static bool
is_host(const char *text, int length)
{
	bool		bracketed = text[0] == '[';
	int			host = bracketed ? strcspn(text, "]") + 1 : strcspn(text, ":/?");
	const char *port = text + host + 1;

	if (host == 0 || host > length || memchr(text, '@', length) != NULL ||
		(!bracketed && memchr(text, '[', host) != NULL))
		return false;
	if (host == length)
		return true;
	return text[host] == ':' && length - host >= 2 && length - host <= 6 &&
		strspn(port, "0123456789") == length - host - 1 && atoi(port) >= 1 && atoi(port) <= 65535;
}

const char *
http_check_url(const char *text)
{
	static const char rule[] =
		"a URL that begins with http:// or https:// and a host, without user name, password and fragment";
	const char *host;

	if (pg_strncasecmp(text, "http://", 7) == 0)
		host = text + 7;
	else if (pg_strncasecmp(text, "https://", 8) == 0)
		host = text + 8;
	else
		return rule;
	return is_host(host, strcspn(host, "/?")) && is_url_text(text, "") ? NULL : rule;
}

const char *
http_check_path(const char *text)
{
	return (text[0] == '/' || text[0] == '?') && is_url_text(text, "{}") ? NULL :
		"a path that begins with \"/\", or a query that begins with \"?\", with other characters percent-escaped";
}

/* Whether it is a name of a header, in RFC 9110's words a token. */
static bool
is_token(const char *text, int length)
{
	for (int i = 0; i < length; i++)
	{
		char		c = text[i];

		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
			  (c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL)))
			return false;
	}
	return length > 0 && length < 128;
}

/* Whether a header of that name may be given. */
static bool
is_free_name(const char *text, int length)
{
	for (int i = 0; i < lengthof(reserved_headers); i++)
	{
		if (strlen(reserved_headers[i]) == length &&
			pg_strncasecmp(reserved_headers[i], text, length) == 0)
			return false;
	}
	return is_token(text, length);
}

const char *
http_check_header_name(const char *text)
{
	return is_free_name(text, strlen(text)) ? NULL :
		"the name of a header that is not the connection's or made of other options";
}

bool
http_parse_headers(const char *text, HttpHeader *headers, int *n)
{
	*n = 0;
	while (*text)
	{
		int			length = strcspn(text, "\n");
		int			name = strcspn(text, ":\n");
		int			value = name + 1;
		HttpHeader *header = &headers[*n];

		if (*n >= HTTP_HEADERS || text[name] != ':' || !is_free_name(text, name))
			return false;
		while (value < length && text[value] == ' ')
			value++;
		for (int i = value; i < length; i++)
		{
			if ((unsigned char) text[i] < ' ' || text[i] == 0x7F)
				return false;
		}
		header->name = pnstrdup(text, name);
		header->value = template_compile(pnstrdup(text + value, length - value));
		if (header->value == NULL || value == length)
			return false;
		(*n)++;
		text += length;
		if (*text == '\n')
			text++;
	}
	return *n > 0;
}

const char *
http_check_headers(const char *text)
{
	HttpHeader	headers[HTTP_HEADERS];
	int			n;

	return http_parse_headers(text, headers, &n) ? NULL :
		"lines \"Name: value\", with {key} and {header:NAME} in values, of headers that are not the connection's or made of other options";
}

bool
http_parse_statuses(const char *text, HttpStatuses *statuses)
{
	bool		any = false;

	memset(statuses, 0, sizeof(HttpStatuses));
	for (;;)
	{
		int			first;

		text += strspn(text, " ,");
		if (*text == '\0')
			return any;
		if (*text < '2' || *text > '5')
			return false;
		first = (*text - '0') * 100;
		if (text[1] == 'x' && text[2] == 'x')
			memset(statuses->has + first, true, 100);
		else if (text[1] >= '0' && text[1] <= '9' && text[2] >= '0' && text[2] <= '9')
			statuses->has[first + (text[1] - '0') * 10 + text[2] - '0'] = true;
		else
			return false;
		any = true;
		text += 3;
		if (*text && strchr(" ,", *text) == NULL)
			return false;
	}
}

const char *
http_check_statuses(const char *text)
{
	HttpStatuses statuses;

	return http_parse_statuses(text, &statuses) ? NULL :
		"a list of status codes and their classes, such as \"2xx, 409\"";
}

bool
http_parse_secrets(const char *text, HttpSecret *secrets, int *n)
{
	int			prefix = strlen(SECRET_PREFIX);

	for (*n = 0;; (*n)++)
	{
		HttpSecret *secret = &secrets[*n];
		int			length;

		text += strspn(text, " ,");
		if (*text == '\0')
			return *n > 0;
		length = strcspn(text, " ,");
		if (*n >= HTTP_SECRETS || length <= prefix || strncmp(text, SECRET_PREFIX, prefix) != 0 ||
			pg_b64_dec_len(length - prefix) > HTTP_SECRET_MAX + 2)
			return false;
		else
		{
			unsigned char bytes[HTTP_SECRET_MAX + 4];

			secret->length = pg_b64_decode(text + prefix, length - prefix, (void *) bytes, sizeof(bytes));
			if (secret->length < HTTP_SECRET_MIN || secret->length > HTTP_SECRET_MAX)
				return false;
			memcpy(secret->bytes, bytes, secret->length);
		}
		text += length;
	}
}

const char *
http_check_secrets(const char *text)
{
	HttpSecret	secrets[HTTP_SECRETS];
	int			n;

	return http_parse_secrets(text, secrets, &n) ? NULL :
		"\"whsec_\" and 24 to 64 bytes in base64, or several of these with blanks between";
}

/* Whether all of it may stand in a header: printable ASCII. */
static bool
is_printable(const char *text)
{
	for (; *text; text++)
	{
		if (*text < ' ' || *text > '~')
			return false;
	}
	return true;
}

const char *
http_check_credential(const char *text)
{
	return text[0] && is_printable(text) ? NULL : "printable ASCII characters";
}

const char *
http_check_username(const char *text)
{
	for (const char *c = text; *c; c++)
	{
		if ((unsigned char) *c < ' ' || *c == 0x7F || *c == ':')
			return "text without colons and control characters";
	}
	return NULL;
}
