/*
 * http_post.c
 *		A bare HTTP client: client.h says what it does.
 *
 * POST requests by libcurl's multi interface, as many at a time as the window
 * says, with the headers the relay sends.  How many requests there have been
 * says nginx's status page, and counts the one it is asked by.
 */
#include "client.h"

#include <curl/curl.h>

static CURLM * multi;
static CURL * *idle;			/* handles without a request */
static long nidle;
static struct curl_slist *headers;
static char url[200];
static const char *body;
static char page[500];			/* of the status */

static size_t
take_body(char *data, size_t size, size_t n, void *unused)
{
	size_t		length = strlen(page);

	snprintf(page + length, sizeof(page) - length, "%.*s", (int) (size * n), data);
	return size * n;
}

static void
send_message(long number)
{
	if (curl_multi_add_handle(multi, idle[--nidle]) != CURLM_OK)
		die("cannot start a request");
}

static void
take_confirmations(void)
{
	long		before = confirmed;

	while (confirmed == before)
	{
		int			running;
		int			left;
		CURLMsg    *message;

		if (curl_multi_perform(multi, &running) != CURLM_OK)
			die("perform");
		while ((message = curl_multi_info_read(multi, &left)) != NULL)
		{
			CURL	   *easy = message->easy_handle;
			long		status = 0;

			if (message->data.result != CURLE_OK)
				die(curl_easy_strerror(message->data.result));
			curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
			if (status != 204)
				die("the server refuses");
			curl_multi_remove_handle(multi, easy);
			idle[nidle++] = easy;
			confirmed++;
		}
		if (confirmed == before && curl_multi_poll(multi, NULL, 0, 1000, NULL) != CURLM_OK)
			die("poll");
	}
}

/* Handles for so many requests at a time. */
static void
prepare(long n)
{
	idle = allocate(n * sizeof(CURL *));
	multi = curl_multi_init();
	if (multi == NULL)
		die("out of memory");
	curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, n);
	headers = curl_slist_append(headers, "Expect:");
	headers = curl_slist_append(headers, "User-Agent: queue");
	headers = curl_slist_append(headers, "Content-Type: application/json");
	for (nidle = 0; nidle < n; nidle++)
	{
		CURL	   *easy = curl_easy_init();

		if (easy == NULL)
			die("out of memory");
		curl_easy_setopt(easy, CURLOPT_URL, url);
		curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
		curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body);
		curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, 30000L);
		curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
		idle[nidle] = easy;
	}
}

int
main(int argc, char **argv)
{
	long		window;
	long		requests;

	if (argc != 6)
		die("usage: PORT PATH MESSAGES WINDOW BODY");
	body = argv[5];
	window = atol(argv[4]);
	curl_global_init(CURL_GLOBAL_DEFAULT);
	if (atol(argv[3]) == 0)
	{
		CURL	   *easy = curl_easy_init();
		const char *line;

		/* "server accepts handled requests", and a line with three numbers. */
		snprintf(url, sizeof(url), "http://127.0.0.1:%s/status", argv[1]);
		curl_easy_setopt(easy, CURLOPT_URL, url);
		curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_body);
		if (curl_easy_perform(easy) != CURLE_OK)
			die("no status");
		line = strstr(page, "requests\n");
		if (line == NULL || sscanf(line, "requests %*d %*d %ld", &requests) != 1)
			die("the status cannot be read");
		curl_easy_cleanup(easy);
		printf("%ld\n", requests);
		return 0;
	}
	snprintf(url, sizeof(url), "http://127.0.0.1:%s/%s", argv[1], argv[2]);
	prepare(window > 0 ? window : 1);
	publish_all(atol(argv[3]), window);
	return 0;
}
