/*
 * credentials.h
 *		What requests are logged in by.
 */
#ifndef QUEUE_SINKS_HTTP_CREDENTIALS_H
#define QUEUE_SINKS_HTTP_CREDENTIALS_H

#include "sinks/options/http.h"

typedef struct Credentials
{
	const char *header;			/* "Authorization: ...", NULL: none */

	/* What is to be seen by nobody: one that has another in it comes first. */
	int			nsecrets;
	const char *secrets[2];
} Credentials;

/* Make them of options; false, with the reason in error, if that cannot be. */
extern bool credentials_make(Credentials *credentials, const HttpOptions *options, char *error);

/*
 * Blank them out in words of a server, which may repeat them; clipped if more
 * of the words followed, and so perhaps the rest of a secret.
 */
extern void credentials_hide(const Credentials *credentials, char *words, int length, bool clipped);

#endif							/* QUEUE_SINKS_HTTP_CREDENTIALS_H */
