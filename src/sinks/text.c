/*
 * text.c
 *		Text that comes from outside, and text that leaves.
 */
#include "postgres.h"

#include <stdarg.h>

#include "common/base64.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "relay/sink.h"
#include "sinks/text.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

/* More than is left of any text, and space for the longest pieces of one. */
#define SAY_MAX		4096

void
text_clean(char *out, Size size, const char *text, Size length, int encoding)
{
	Size		n = 0;

	while (length > 0)
	{
		const unsigned char *c = (const unsigned char *) text;
		int			bytes = 1;
		char		instead = '\0';

		if (*c < ' ' || *c == 0x7F)
			instead = ' ';
		else if (IS_HIGHBIT_SET(*c))
		{
			bytes = pg_encoding_verifymbchar(encoding, text, (int) Min(length, 64));
			if (bytes <= 0)
			{
				bytes = 1;
				instead = '?';
			}
			else if (encoding != GetDatabaseEncoding())
				instead = '?';
			else if (encoding == PG_UTF8 && c[0] == 0xC2 && c[1] < 0xA0)
				instead = ' ';	/* more control characters */
		}

		if (n + (instead ? 1 : bytes) >= size)
			break;
		if (instead)
			out[n++] = instead;
		else
		{
			memmove(out + n, text, bytes);
			n += bytes;
		}
		text += bytes;
		length -= bytes;
	}
	while (n > 0 && out[n - 1] == ' ')
		n--;
	out[n] = '\0';
}

void
text_hide(char *text, int length, bool clipped, const char *secret)
{
	int			n = secret ? strlen(secret) : 0;

	for (int i = 0; n > 0 && i < length; i++)
	{
		int			rest = length - i;

		if ((rest >= n || clipped) && memcmp(text + i, secret, Min(n, rest)) == 0)
			memset(text + i, '*', Min(n, rest));
	}
}

void
text_say(char *error, const char *format,...)
{
	char		text[SAY_MAX];
	va_list		args;

	va_start(args, format);
	(void) vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	text_clean(error, SINK_ERROR_SIZE, text, strlen(text), GetDatabaseEncoding());
}

/* Append what stands for a character that cannot stand in a JSON string as it is. */
static void
append_escaped(StringInfo out, char c)
{
	switch (c)
	{
		case '"':
		case '\\':
			appendStringInfoChar(out, '\\');
			appendStringInfoChar(out, c);
			break;
		case '\b':
			appendStringInfoString(out, "\\b");
			break;
		case '\f':
			appendStringInfoString(out, "\\f");
			break;
		case '\n':
			appendStringInfoString(out, "\\n");
			break;
		case '\r':
			appendStringInfoString(out, "\\r");
			break;
		case '\t':
			appendStringInfoString(out, "\\t");
			break;
		default:
			appendStringInfo(out, "\\u%04x", (unsigned char) c);
			break;
	}
}

/* The character in each byte of a word. */
#define EACH_BYTE(c)	(UINT64CONST(0x0101010101010101) * (c))

/* The high bit of the first byte of a word that is zero, and perhaps of later ones. */
#define ZERO_BYTES(w)	(((w) - EACH_BYTE(1)) & ~(w) & EACH_BYTE(0x80))

/*
 * Whether eight characters can stand in a JSON string as they are.  See "Bit
 * Twiddling Hacks" by Sean Eron Anderson, on a byte less than n.
 */
static inline bool
are_plain(uint64 word)
{
	uint64		control = (word - EACH_BYTE(' ')) & ~word & EACH_BYTE(0x80);

	return (control | ZERO_BYTES(word ^ EACH_BYTE('"')) | ZERO_BYTES(word ^ EACH_BYTE('\\'))) == 0;
}

/* Append a JSON string; false if that makes out longer than to most. */
static bool
append_string(StringInfo out, const char *text, int length, Size most)
{
	const char *end = text + length;

	if (out->len > most || (Size) length > most - out->len)
		return false;
	enlargeStringInfo(out, length + 2);
	appendStringInfoCharMacro(out, '"');
	while (text < end && out->len <= most)
	{
		char	   *to;
		uint64		word;

		/* Short ones are the rule, so they are copied while looked at. */
		enlargeStringInfo(out, end - text);
		to = out->data + out->len;
		while (end - text >= sizeof(word))
		{
			memcpy(&word, text, sizeof(word));
			if (!are_plain(word))
				break;
			memcpy(to, &word, sizeof(word));
			text += sizeof(word);
			to += sizeof(word);
		}
		while (text < end && (unsigned char) *text >= ' ' && *text != '"' && *text != '\\')
			*to++ = *text++;
		*to = '\0';
		out->len = to - out->data;
		if (text < end)
			append_escaped(out, *text++);
	}
	appendStringInfoCharMacro(out, '"');
	return out->len <= most;
}

/* Append two characters. */
static inline void
append_two(StringInfo out, char first, char second)
{
	appendStringInfoCharMacro(out, first);
	appendStringInfoCharMacro(out, second);
}

static bool
append_scalar(StringInfo out, const JsonbValue *v, Size most)
{
	switch (v->type)
	{
		case jbvString:
			return append_string(out, v->val.string.val, v->val.string.len, most);
		case jbvNumeric:
			{
				char	   *digits =
					DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(v->val.numeric)));

				appendStringInfoString(out, digits);
				pfree(digits);
				break;
			}
		case jbvBool:
			appendStringInfoString(out, v->val.boolean ? "true" : "false");
			break;
		default:
			appendStringInfoString(out, "null");
			break;
	}
	return out->len <= most;
}

bool
text_json_string(StringInfo out, const char *text, int length, Size most)
{
	return append_string(out, text, length, out->len + most);
}

bool
text_json(StringInfo out, JsonbContainer *container, Size most)
{
	JsonbIterator *it = JsonbIteratorInit(container);
	JsonbIteratorToken token;
	JsonbValue	v;
	bool		first = true;
	bool		scalar = false;
	bool		fits = true;

	most += out->len;
	while (fits && (token = JsonbIteratorNext(&it, &v, false)) != WJB_DONE)
	{
		CHECK_FOR_INTERRUPTS();
		if (!first && token != WJB_END_ARRAY && token != WJB_END_OBJECT)
			append_two(out, ',', ' ');
		first = false;
		switch (token)
		{
			case WJB_BEGIN_ARRAY:
				scalar = v.val.array.rawScalar;
				if (!scalar)
					appendStringInfoCharMacro(out, '[');
				first = true;
				break;
			case WJB_BEGIN_OBJECT:
				appendStringInfoCharMacro(out, '{');
				first = true;
				break;
			case WJB_KEY:
				fits = append_scalar(out, &v, most);
				append_two(out, ':', ' ');
				first = true;
				break;
			case WJB_VALUE:
			case WJB_ELEM:
				fits = append_scalar(out, &v, most);
				break;
			case WJB_END_ARRAY:
				if (!scalar)
					appendStringInfoCharMacro(out, ']');
				break;
			case WJB_END_OBJECT:
				appendStringInfoCharMacro(out, '}');
				break;
			default:
				break;
		}
	}
	return fits && out->len <= most;
}

bool
text_base64(StringInfo out, const char *data, int length)
{
	int			most;
	int			n;

	if (length > SINK_MAX_MESSAGE / 4 * 3)
		return false;
	most = pg_b64_enc_len(length);
	enlargeStringInfo(out, most + 1);
	n = pg_b64_encode((const void *) data, length, out->data + out->len, most);
	if (n < 0)
		return false;
	out->len += n;
	out->data[out->len] = '\0';
	return true;
}

void
text_url(StringInfo out, const char *text, int length)
{
	for (int i = 0; i < length; i++)
	{
		unsigned char c = text[i];

		if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
			c == '-' || c == '.' || c == '_' || c == '~')
			appendStringInfoChar(out, c);
		else
			appendStringInfo(out, "%%%02X", c);
	}
}

const char *
text_utf8(const char *text, int *length)
{
	char	   *converted = pg_server_to_any(text, *length, PG_UTF8);

	if (converted != text)
		*length = strlen(converted);
	return converted;
}
