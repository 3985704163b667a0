/*
 * credentials.c
 *		What requests are logged in by.
 */
#include "postgres.h"

#include "sinks/http/credentials.h"
#include "sinks/text.h"

static void
add_secret(Credentials *credentials, const char *secret)
{
	Assert(credentials->nsecrets < lengthof(credentials->secrets));
	if (secret[0])
		credentials->secrets[credentials->nsecrets++] = secret;
}

/* User name and password, as HTTP's basic authentication has them. */
static void
add_login(Credentials *credentials, const char *username, const char *password)
{
	char	   *both = psprintf("%s:%s", username, password);
	int			length = strlen(both);
	const char *utf8 = text_utf8(both, &length);
	StringInfoData base64;

	initStringInfo(&base64);
	(void) text_base64(&base64, utf8, length);
	credentials->header = psprintf("Authorization: Basic %s", base64.data);
	add_secret(credentials, base64.data);
	length = strlen(password);
	add_secret(credentials, text_utf8(password, &length));
}

/* The header as it is, "<scheme> <secret>" as a rule. */
static void
add_header(Credentials *credentials, const char *header)
{
	const char *secret = strchr(header, ' ');

	credentials->header = psprintf("Authorization: %s", header);
	add_secret(credentials, header);
	if (secret)
		add_secret(credentials, secret + 1);
}

bool
credentials_make(Credentials *credentials, const HttpOptions *options, char *error)
{
	memset(credentials, 0, sizeof(Credentials));
	if ((options->username != NULL) + (options->token != NULL) + (options->authorization != NULL) > 1)
	{
		strlcpy(error, "the user mapping has more than one of options \"username\", \"token\" and \"authorization\"",
				SINK_ERROR_SIZE);
		return false;
	}
	if (options->username)
		add_login(credentials, options->username, options->password ? options->password : "");
	else if (options->token)
	{
		credentials->header = psprintf("Authorization: Bearer %s", options->token);
		add_secret(credentials, options->token);
	}
	else if (options->authorization)
		add_header(credentials, options->authorization);
	return true;
}

void
credentials_hide(const Credentials *credentials, char *words, int length, bool clipped)
{
	for (int i = 0; i < credentials->nsecrets; i++)
		text_hide(words, length, clipped, credentials->secrets[i]);
}
