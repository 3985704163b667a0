/*
 * client.c
 *		Requests to an HTTP server, several at a time, without waiting.
 *
 * libcurl's callbacks note what they are told, in memory of malloc(), and
 * raise no errors.  It looks up names in threads of its own, which are to get no
 * signals and inherit what is blocked: while a request may be looking up a name
 * libcurl is called with all of them blocked.
 *
 * libcurl sends a request a second time by itself if a connection that was used
 * before ends without an answer, or an HTTP/2 server says that it has not begun
 * with it; which of these it was libcurl does not tell.  Here it must not, as a
 * relay's messages are published again by the relay only: a request that comes
 * to be sent on a second connection is given up (before_request).
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>

#include "relay/sink.h"
#include "sinks/http/address.h"
#include "sinks/http/client.h"
#include "sinks/net/certificate.h"
#include "sinks/text.h"
#include "storage/fd.h"
#include "utils/timestamp.h"

/* What is read of a response: more of its headers is an error, of its body not. */
#define HEADERS_MAX			(64 * 1024)
#define BODY_MAX			(64 * 1024)

#define CONNECT_TIMEOUT_MS	10000

/* Sockets of libcurl's besides the connections: what its threads wake it by. */
#define OTHER_SOCKETS		2

/* A request under way, and what has come of it. */
typedef struct Exchange
{
	Client	   *client;
	CURL	   *easy;
	struct curl_slist *lines;	/* of its header; an array, of malloc() */
	int			max_lines;
	bool		running;

	/* Noted by the callbacks. */
	bool		looking_up;		/* a name, perhaps */
	bool		sent;			/* it came to be, or some of it */
	Size		header_bytes;
	Size		body_bytes;
	char		words[ANSWER_WORDS];
	int			nwords;
	char		forbidden[INET6_ADDRSTRLEN];	/* an address */
	char		trouble[CURL_ERROR_SIZE];
} Exchange;

typedef struct Watched
{
	curl_socket_t socket;
	int			what;			/* CURL_POLL_... */
} Watched;

struct Client
{
	const HttpOptions *options;
	const char *authorization;	/* "Authorization: ...", or NULL */
	char	   *certificates;	/* PEM, or NULL */
	int			certificates_length;
	CURLM	   *multi;
	int			nplaces;
	Exchange   *exchanges;
	int			nacquired;		/* file descriptors accounted for */

	/* Noted by the callbacks. */
	int			nlookups;		/* requests that are looking up a name */
	Watched    *watched;		/* of malloc() */
	int			nwatched;
	int			max_watched;
	TimestampTz due;			/* when libcurl wants to be called */
};

static bool signals_blocked = false;
static sigset_t signals_before;

/* Until leave_curl(). */
static void
block_signals(void)
{
	sigset_t	all;

	if (signals_blocked)
		return;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &signals_before);
	signals_blocked = true;
}

/* To be called before libcurl is. */
static void
enter_curl(const Client *client)
{
	if (client->nlookups > 0)
		block_signals();
}

static void
leave_curl(void)
{
	if (signals_blocked)
		pthread_sigmask(SIG_SETMASK, &signals_before, NULL);
	signals_blocked = false;
}

/* A request has the address it needs, or needs none any more. */
static void
end_lookup(Exchange *exchange)
{
	if (exchange->looking_up)
		exchange->client->nlookups--;
	exchange->looking_up = false;
}

/*
 * Callbacks of libcurl
 */

static int
watch_socket(CURL * easy, curl_socket_t socket, int what, void *of_client, void *of_socket)
{
	Client	   *client = of_client;
	int			i = 0;

	while (i < client->nwatched && client->watched[i].socket != socket)
		i++;
	if (what == CURL_POLL_REMOVE)
	{
		if (i < client->nwatched)
			client->watched[i] = client->watched[--client->nwatched];
		return 0;
	}
	if (i == client->max_watched)
	{
		int			max = client->max_watched * 2 + 8;
		Watched    *more = realloc(client->watched, max * sizeof(Watched));

		if (more == NULL)
			return -1;
		client->watched = more;
		client->max_watched = max;
	}
	client->watched[i].socket = socket;
	client->watched[i].what = what;
	client->nwatched = Max(client->nwatched, i + 1);
	return 0;
}

static int
set_timer(CURLM * multi, long milliseconds, void *of_client)
{
	Client	   *client = of_client;

	client->due = milliseconds < 0 ? DT_NOEND :
		GetCurrentTimestamp() + milliseconds * INT64CONST(1000);
	return 0;
}

/* The first that is done for a name: no thread has been started for it. */
static int
before_lookup(void *resolver, void *reserved, void *of_exchange)
{
	Exchange   *exchange = of_exchange;

	block_signals();
	if (!exchange->looking_up)
		exchange->client->nlookups++;
	exchange->looking_up = true;
	return 0;
}

/* The address that will be connected to: checked here, no name can change it. */
static curl_socket_t
open_socket(void *of_exchange, curlsocktype purpose, struct curl_sockaddr *address)
{
	Exchange   *exchange = of_exchange;

	if (purpose != CURLSOCKTYPE_IPCXN)
		return CURL_SOCKET_BAD;
	if (!exchange->client->options->allow_private && !address_is_public(&address->addr))
	{
		const char *from = address->family == AF_INET6 ?
			(const char *) &((struct sockaddr_in6 *) &address->addr)->sin6_addr :
			(const char *) &((struct sockaddr_in *) &address->addr)->sin_addr;

		if (inet_ntop(address->family, from, exchange->forbidden, sizeof(exchange->forbidden)) == NULL)
			strlcpy(exchange->forbidden, "unknown", sizeof(exchange->forbidden));
		return CURL_SOCKET_BAD;
	}
	return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

static int
before_request(void *of_exchange, char *address, char *local, int port, int local_port)
{
	Exchange   *exchange = of_exchange;

	end_lookup(exchange);
	if (exchange->sent)
		return CURL_PREREQFUNC_ABORT;
	exchange->sent = true;
	return CURL_PREREQFUNC_OK;
}

static size_t
take_header(char *data, size_t size, size_t n, void *of_exchange)
{
	Exchange   *exchange = of_exchange;

	exchange->header_bytes += size * n;
	return exchange->header_bytes <= HEADERS_MAX ? size * n : 0;
}

static size_t
take_body(char *data, size_t size, size_t n, void *of_exchange)
{
	Exchange   *exchange = of_exchange;
	Size		length = size * n;
	Size		space = sizeof(exchange->words) - exchange->nwords;
	Size		kept = Min(length, space);

	memcpy(exchange->words + exchange->nwords, data, kept);
	exchange->nwords += kept;
	exchange->body_bytes += length;
	return exchange->body_bytes <= BODY_MAX ? length : 0;
}

/*
 * Open
 */

/* What holds for all requests of a place; false if libcurl has not all of it. */
static bool
set_up(Client *client, Exchange *exchange)
{
	const HttpOptions *options = client->options;
	CURL	   *easy = exchange->easy;
	bool		secure = pg_strncasecmp(options->url, "https:", 6) == 0;
	bool		ok = true;

#define SET(option, value) (ok = curl_easy_setopt(easy, option, value) == CURLE_OK && ok)
	SET(CURLOPT_PRIVATE, exchange);
	SET(CURLOPT_NOSIGNAL, 1L);
	SET(CURLOPT_QUICK_EXIT, 1L);
	SET(CURLOPT_ERRORBUFFER, exchange->trouble);

	/* Nothing comes from the environment or from files. */
	SET(CURLOPT_PROXY, "");
	SET(CURLOPT_NOPROXY, "*");
	SET(CURLOPT_NETRC, (long) CURL_NETRC_IGNORED);
	SET(CURLOPT_PROTOCOLS_STR, "http,https");
	SET(CURLOPT_FOLLOWLOCATION, 0L);
	SET(CURLOPT_HTTP09_ALLOWED, 0L);

	SET(CURLOPT_RESOLVER_START_FUNCTION, before_lookup);
	SET(CURLOPT_RESOLVER_START_DATA, exchange);
	SET(CURLOPT_OPENSOCKETFUNCTION, open_socket);
	SET(CURLOPT_OPENSOCKETDATA, exchange);
	SET(CURLOPT_PREREQFUNCTION, before_request);
	SET(CURLOPT_PREREQDATA, exchange);
	SET(CURLOPT_HEADERFUNCTION, take_header);
	SET(CURLOPT_HEADERDATA, exchange);
	SET(CURLOPT_WRITEFUNCTION, take_body);
	SET(CURLOPT_WRITEDATA, exchange);

	SET(CURLOPT_HTTP_VERSION, options->version == HTTP_VERSION_1_1 ?
		(long) CURL_HTTP_VERSION_1_1 : (long) CURL_HTTP_VERSION_2TLS);

	/*
	 * A request waits to see whether it can share the first one's connection,
	 * but not without TLS, where only the first one's answer would tell.
	 */
	SET(CURLOPT_PIPEWAIT, options->version != HTTP_VERSION_1_1 && secure ? 1L : 0L);
	SET(CURLOPT_TCP_KEEPALIVE, 1L);
	SET(CURLOPT_CONNECTTIMEOUT_MS, (long) CONNECT_TIMEOUT_MS);
	SET(CURLOPT_TIMEOUT_MS, (long) (options->timeout / 1000));
	SET(CURLOPT_PATH_AS_IS, 1L);
	SET(CURLOPT_POST, 1L);
	SET(CURLOPT_CUSTOMREQUEST, options->method);

	SET(CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);
	SET(CURLOPT_SSL_VERIFYPEER, options->trust >= HTTP_TRUST_CA ? 1L : 0L);
	SET(CURLOPT_SSL_VERIFYHOST, options->trust >= HTTP_TRUST_HOST ? 2L : 0L);
	if (client->certificates)
	{
		struct curl_blob blob = {client->certificates, client->certificates_length, CURL_BLOB_COPY};

		SET(CURLOPT_CAINFO_BLOB, &blob);
		SET(CURLOPT_CAPATH, NULL);
	}
#undef SET
	return ok;
}

/* Account for the sockets there may be; false if there are too many open files. */
static bool
acquire_descriptors(Client *client)
{
	while (client->nacquired < client->nplaces + OTHER_SOCKETS)
	{
		if (!AcquireExternalFD())
			return false;
		client->nacquired++;
	}
	return true;
}

/* Make libcurl's handles. */
static bool
make_handles(Client *client)
{
	static bool initialized = false;

	if (!initialized && curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
		return false;
	initialized = true;
	client->multi = curl_multi_init();
	if (client->multi == NULL)
		return false;
	curl_multi_setopt(client->multi, CURLMOPT_SOCKETFUNCTION, watch_socket);
	curl_multi_setopt(client->multi, CURLMOPT_SOCKETDATA, client);
	curl_multi_setopt(client->multi, CURLMOPT_TIMERFUNCTION, set_timer);
	curl_multi_setopt(client->multi, CURLMOPT_TIMERDATA, client);
#if LIBCURL_VERSION_NUM >= 0x081400
	curl_multi_setopt(client->multi, CURLMOPT_QUICK_EXIT, 1L);	/* threads are its own */
#endif
	curl_multi_setopt(client->multi, CURLMOPT_MAXCONNECTS, (long) client->nplaces);
	curl_multi_setopt(client->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long) client->nplaces);
	for (int i = 0; i < client->nplaces; i++)
	{
		Exchange   *exchange = &client->exchanges[i];

		exchange->client = client;
		exchange->easy = curl_easy_init();
		if (exchange->easy == NULL || !set_up(client, exchange))
			return false;
	}
	return true;
}

Client *
client_open(const HttpOptions *options, const char *authorization, int places, char *error)
{
	Client	   *client = palloc0(sizeof(Client));
	bool		made;

	client->options = options;
	client->authorization = authorization;
	client->due = DT_NOEND;
	client->nplaces = places;
	client->exchanges = palloc0(places * sizeof(Exchange));
	if (options->rootcert)
	{
		client->certificates = certificate_read(options->rootcert, &client->certificates_length, error);
		if (client->certificates == NULL)
			return NULL;
	}
	if (!acquire_descriptors(client))
	{
		strlcpy(error, "too many open files on this server", SINK_ERROR_SIZE);
		client_close(client);
		return NULL;
	}
	block_signals();
	made = make_handles(client);
	leave_curl();
	if (!made)
	{
		strlcpy(error, "could not set up libcurl", SINK_ERROR_SIZE);
		client_close(client);
		return NULL;
	}
	return client;
}

/*
 * Requests
 */

/* Have space for so many lines. */
static bool
make_lines(Exchange *exchange, int n)
{
	struct curl_slist *lines;

	if (n <= exchange->max_lines)
		return true;
	lines = realloc(exchange->lines, n * sizeof(struct curl_slist));
	if (lines == NULL)
		return false;
	exchange->lines = lines;
	exchange->max_lines = n;
	return true;
}

static void
add_line(Exchange *exchange, int *n, const char *text)
{
	struct curl_slist *line = &exchange->lines[*n];

	line->data = unconstify(char *, text);	/* which it only reads */
	line->next = NULL;
	if (*n > 0)
		line[-1].next = line;
	(*n)++;
}

/* Give libcurl the request. */
static bool
prepare(Exchange *exchange, const Request *request, const char *url, bool credentials)
{
	const Client *client = exchange->client;
	const char *header = request->headers;
	CURL	   *easy = exchange->easy;
	int			n = 0;

	if (!make_lines(exchange, request->nheaders + 2))
		return false;

	/* It is to wait for no leave to send the body. */
	add_line(exchange, &n, "Expect:");
	if (client->authorization && credentials)
		add_line(exchange, &n, client->authorization);
	for (int i = 0; i < request->nheaders; i++)
	{
		add_line(exchange, &n, header);
		header += strlen(header) + 1;
	}
	return curl_easy_setopt(easy, CURLOPT_URL, url) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_HTTPHEADER, exchange->lines) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE,
						 (curl_off_t) request->body_length) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_POSTFIELDS, request->body) == CURLE_OK;
}

bool
client_start(Client *client, int place, const Request *request, const char *url,
			 bool credentials, char *error)
{
	Exchange   *exchange = &client->exchanges[place];

	Assert(!exchange->running);
	exchange->sent = false;
	exchange->header_bytes = 0;
	exchange->body_bytes = 0;
	exchange->nwords = 0;
	exchange->forbidden[0] = '\0';
	exchange->trouble[0] = '\0';
	enter_curl(client);
	exchange->running = prepare(exchange, request, url, credentials) &&
		curl_multi_add_handle(client->multi, exchange->easy) == CURLM_OK;
	leave_curl();
	if (exchange->running)
		return true;
	strlcpy(error, "could not start a request", SINK_ERROR_SIZE);
	return false;
}

static int
poll_events(int what)
{
	return (what & CURL_POLL_IN ? POLLIN : 0) | (what & CURL_POLL_OUT ? POLLOUT : 0);
}

static int
curl_events(int revents)
{
	return (revents & (POLLIN | POLLHUP) ? CURL_CSELECT_IN : 0) |
		(revents & POLLOUT ? CURL_CSELECT_OUT : 0) |
		(revents & (POLLERR | POLLNVAL) ? CURL_CSELECT_ERR : 0);
}

/* Do what libcurl wants to be called for at this time; not for what has come. */
static void
call_when_due(Client *client)
{
	int			running;

	if (client->due > GetCurrentTimestamp())
		return;
	client->due = DT_NOEND;
	(void) curl_multi_socket_action(client->multi, CURL_SOCKET_TIMEOUT, 0, &running);
}

void
client_send(Client *client)
{
	enter_curl(client);
	call_when_due(client);
	leave_curl();
}

void
client_drive(Client *client)
{
	int			n = client->nwatched;
	struct pollfd *sockets = palloc((n + 1) * sizeof(struct pollfd));
	int			running;

	for (int i = 0; i < n; i++)
	{
		sockets[i].fd = client->watched[i].socket;
		sockets[i].events = poll_events(client->watched[i].what);
		sockets[i].revents = 0;
	}
	enter_curl(client);
	if (n > 0 && poll(sockets, n, 0) > 0)
	{
		for (int i = 0; i < n; i++)
		{
			if (sockets[i].revents)
				(void) curl_multi_socket_action(client->multi, sockets[i].fd,
												curl_events(sockets[i].revents), &running);
		}
	}
	call_when_due(client);
	leave_curl();
	pfree(sockets);
}

/* Why there is no connection. */
static void
say_unreachable(const Exchange *exchange, CURLcode code, char *error)
{
	long		number = 0;

	(void) curl_easy_getinfo(exchange->easy, CURLINFO_OS_ERRNO, &number);
	if (exchange->forbidden[0])
		text_say(error, "address %s is not a public one, and the server has not option \"allow_private\"",
				 exchange->forbidden);
	else if (code == CURLE_OPERATION_TIMEDOUT)
		strlcpy(error, "could not connect: timeout expired", SINK_ERROR_SIZE);
	else if (code == CURLE_COULDNT_CONNECT && number != 0)
		text_say(error, "could not connect: %s", strerror(number));
	else
		text_say(error, "could not connect: %s",
				 exchange->trouble[0] ? exchange->trouble : curl_easy_strerror(code));
}

/* What became of a request that has ended. */
static void
read_answer(const Exchange *exchange, CURLcode code, Answer *answer)
{
	long		status = 0;
	curl_off_t	retry_after = 0;
	char	   *redirect = NULL;

	(void) curl_easy_getinfo(exchange->easy, CURLINFO_RESPONSE_CODE, &status);
	answer->status = status;

	/* More of a body than is wanted is as good as all of it. */
	if (code == CURLE_WRITE_ERROR && exchange->body_bytes > BODY_MAX)
		code = CURLE_OK;
	if (code == CURLE_OK && status >= 200 && status <= 599)
	{
		(void) curl_easy_getinfo(exchange->easy, CURLINFO_RETRY_AFTER, &retry_after);
		(void) curl_easy_getinfo(exchange->easy, CURLINFO_REDIRECT_URL, &redirect);
		answer->kind = ANSWER_STATUS;
		answer->retry_after = retry_after;
		answer->redirect = redirect ? pstrdup(redirect) : NULL;
		memcpy(answer->words, exchange->words, exchange->nwords);
		answer->nwords = exchange->nwords;
	}
	else if (!exchange->sent)
	{
		answer->kind = ANSWER_UNREACHABLE;
		say_unreachable(exchange, code, answer->error);
	}
	else if (code == CURLE_OPERATION_TIMEDOUT)
	{
		answer->kind = ANSWER_TIMEOUT;
		text_say(answer->error, "no answer within %d s",
				 (int) (exchange->client->options->timeout / USECS_PER_SEC));
	}
	else
	{
		answer->kind = code == CURLE_ABORTED_BY_CALLBACK ? ANSWER_GONE : ANSWER_BROKEN;
		if (code == CURLE_OK)
			text_say(answer->error, "the server answered with status %ld", status);
		else if (code == CURLE_WRITE_ERROR && exchange->header_bytes > HEADERS_MAX)
			strlcpy(answer->error, "the server's answer has too many headers", SINK_ERROR_SIZE);
		else if (code == CURLE_ABORTED_BY_CALLBACK)
			strlcpy(answer->error, "connection closed by the server", SINK_ERROR_SIZE);
		else
			text_say(answer->error, "no answer: %s",
					 exchange->trouble[0] ? exchange->trouble : curl_easy_strerror(code));
	}
}

bool
client_answer(Client *client, Answer *answer)
{
	CURLMsg    *message;
	CURLcode	code;
	int			left;
	char	   *of_exchange = NULL;
	Exchange   *exchange;

	do
	{
		message = curl_multi_info_read(client->multi, &left);
		if (message == NULL)
			return false;
	} while (message->msg != CURLMSG_DONE);
	code = message->data.result;
	(void) curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &of_exchange);
	exchange = (Exchange *) of_exchange;

	memset(answer, 0, sizeof(Answer));
	answer->place = exchange - client->exchanges;
	read_answer(exchange, code, answer);
	enter_curl(client);
	(void) curl_multi_remove_handle(client->multi, exchange->easy);
	leave_curl();
	end_lookup(exchange);
	exchange->running = false;
	return true;
}

void
client_wait(Client *client, SinkWait *wait)
{
	wait->until = client->due;
	for (int i = 0; i < client->nwatched; i++)
	{
		int			what = client->watched[i].what;

		if (what & (CURL_POLL_IN | CURL_POLL_OUT))
			sink_wait_for(wait, client->watched[i].socket,
						  (what & CURL_POLL_IN ? WL_SOCKET_READABLE : 0) |
						  (what & CURL_POLL_OUT ? WL_SOCKET_WRITEABLE : 0));
	}
}

/* Whether a part of two URLs is the same. */
static bool
same_part(CURLU * url, CURLU * other, CURLUPart part)
{
	char	   *a = NULL;
	char	   *b = NULL;
	bool		same;

	same = curl_url_get(url, part, &a, CURLU_DEFAULT_PORT) == CURLUE_OK &&
		curl_url_get(other, part, &b, CURLU_DEFAULT_PORT) == CURLUE_OK &&
		pg_strcasecmp(a, b) == 0;
	curl_free(a);
	curl_free(b);
	return same;
}

bool
client_same_origin(const char *url, const char *other)
{
	CURLU	   *a = curl_url();
	CURLU	   *b = curl_url();
	bool		same;

	same = a && b &&
		curl_url_set(a, CURLUPART_URL, url, 0) == CURLUE_OK &&
		curl_url_set(b, CURLUPART_URL, other, 0) == CURLUE_OK &&
		same_part(a, b, CURLUPART_SCHEME) && same_part(a, b, CURLUPART_HOST) &&
		same_part(a, b, CURLUPART_PORT);
	curl_url_cleanup(a);
	curl_url_cleanup(b);
	return same;
}

/* Whether a URL has such a part. */
static bool
has_part(CURLU * url, CURLUPart part)
{
	char	   *text = NULL;
	bool		has = curl_url_get(url, part, &text, 0) == CURLUE_OK;

	curl_free(text);
	return has;
}

bool
client_may_follow(const char *from, const char *to)
{
	bool		secure = pg_strncasecmp(to, "https://", 8) == 0;
	bool		was_secure = pg_strncasecmp(from, "https://", 8) == 0;
	CURLU	   *url = curl_url();
	bool		may;

	/* With a name or password in it libcurl would log in by that. */
	may = strlen(to) <= HTTP_URL_LENGTH && (secure || !was_secure) &&
		(secure || pg_strncasecmp(to, "http://", 7) == 0) &&
		url && curl_url_set(url, CURLUPART_URL, to, 0) == CURLUE_OK &&
		!has_part(url, CURLUPART_USER) && !has_part(url, CURLUPART_PASSWORD);
	curl_url_cleanup(url);
	return may;
}

void
client_close(Client *client)
{
	block_signals();
	for (int i = 0; i < client->nplaces; i++)
	{
		Exchange   *exchange = &client->exchanges[i];

		if (exchange->running)
			(void) curl_multi_remove_handle(client->multi, exchange->easy);
		curl_easy_cleanup(exchange->easy);
		free(exchange->lines);
	}
	if (client->multi)
		(void) curl_multi_cleanup(client->multi);
	leave_curl();
	free(client->watched);
	for (int i = 0; i < client->nacquired; i++)
		ReleaseExternalFD();
}
