/*
 * http_options.h
 *		What options of the sink for HTTP servers must be.
 *
 * Compiled into the core, which checks them when they are given, and into the
 * sink's library, which uses them.
 */
#ifndef QUEUE_SINKS_HTTP_OPTIONS_H
#define QUEUE_SINKS_HTTP_OPTIONS_H

#include "sinks/template.h"

/* Longest URL, and header of a request; most headers by option. */
#define HTTP_URL_LENGTH		8000
#define HTTP_HEADER_LENGTH	8000
#define HTTP_HEADERS		50

/* A signing secret, as Standard Webhooks have them; most of them. */
#define HTTP_SECRET_MIN		24
#define HTTP_SECRET_MAX		64
#define HTTP_SECRETS		8

/* A header of the request. */
typedef struct HttpHeader
{
	const char *name;
	const Template *value;
} HttpHeader;

/* Status codes, which have three digits. */
typedef struct HttpStatuses
{
	bool		has[1000];
} HttpStatuses;

typedef struct HttpSecret
{
	unsigned char bytes[HTTP_SECRET_MAX];
	int			length;
} HttpSecret;

/*
 * Options as they are used.  False if the text is none; what is made is
 * palloc'd.
 */
extern bool http_parse_headers(const char *text, HttpHeader *headers, int *n);
extern bool http_parse_statuses(const char *text, HttpStatuses *statuses);
extern bool http_parse_secrets(const char *text, HttpSecret *secrets, int *n);

/* What an option must be, NULL if it is that. */
extern const char *http_check_url(const char *text);
extern const char *http_check_path(const char *text);
extern const char *http_check_headers(const char *text);
extern const char *http_check_header_name(const char *text);
extern const char *http_check_statuses(const char *text);
extern const char *http_check_secrets(const char *text);
extern const char *http_check_username(const char *text);
extern const char *http_check_credential(const char *text);

#endif							/* QUEUE_SINKS_HTTP_OPTIONS_H */
