/*
 * text.h
 *		Text that comes from outside, and text that leaves.
 *
 * Compiled into the core and into the libraries of the sinks.
 */
#ifndef QUEUE_SINKS_TEXT_H
#define QUEUE_SINKS_TEXT_H

#include "lib/stringinfo.h"
#include "utils/jsonb.h"

/*
 * Put text from outside into a buffer of a size: what is not valid in its
 * encoding or not to be had in the database's becomes "?", control characters
 * blanks, and it is clipped between two characters.  out may be text itself.
 * Raises nothing and needs no transaction.
 */
extern void text_clean(char *out, Size size, const char *text, Size length, int encoding);

/*
 * Blank out a secret in text from outside; of clipped text the end too, if that
 * may be its beginning.  NULL: there is none.
 */
extern void text_hide(char *text, int length, bool clipped, const char *secret);

/* The same as text_clean() for a text made here, of pieces that were cleaned or are ours. */
extern void text_say(char *error, const char *format,...) pg_attribute_printf(2, 3);

/*
 * Append jsonb as text.  False, with something of it appended, when it has
 * more than that many bytes: a numeric of some bytes can have 100 kB of digits.
 */
extern bool text_json(StringInfo out, JsonbContainer *container, Size most);

/* The same for text, as a JSON string. */
extern bool text_json_string(StringInfo out, const char *text, int length, Size most);

/* Append bytes in base64; false if that is more than any message may have. */
extern bool text_base64(StringInfo out, const char *data, int length);

/*
 * Append text as it may stand anywhere in a URL: all but letters, digits, "-",
 * ".", "_" and "~" as "%" and two digits.
 */
extern void text_url(StringInfo out, const char *text, int length);

/*
 * Text in UTF-8, palloc'd or itself.  Needs client_encoding to be that, and
 * raises an error for what has no equivalent.
 */
extern const char *text_utf8(const char *text, int *length);

#endif							/* QUEUE_SINKS_TEXT_H */
