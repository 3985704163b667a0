/*
 * amqp_publish.c
 *		A bare RabbitMQ publisher: what the relay is compared with.
 *
 * Persistent, mandatory messages to one queue through the default exchange,
 * with publisher confirms and no more than a window of them outstanding.
 * The queue is declared and emptied first; prints how many messages were in
 * it and, if there were any to publish, messages per second.
 */
#include <amqp.h>
#include <amqp_framing.h>
#include <amqp_tcp_socket.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

static amqp_connection_state_t conn;

static void
die(const char *what)
{
	fprintf(stderr, "amqp_publish: %s\n", what);
	exit(1);
}

static void
check(amqp_rpc_reply_t reply, const char *what)
{
	if (reply.reply_type != AMQP_RESPONSE_NORMAL)
		die(what);
}

static double
now_seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

/*
 * Read what the broker has sent, waiting for a first frame if told to, and
 * return the number of messages confirmed so far.
 */
static long
read_confirms(long confirmed, bool wait)
{
	for (;;)
	{
		amqp_frame_t frame;
		struct timeval none = {0, 0};
		int			status = amqp_simple_wait_frame_noblock(conn, &frame, wait ? NULL : &none);

		if (status == AMQP_STATUS_TIMEOUT)
			return confirmed;
		if (status != AMQP_STATUS_OK)
			die(amqp_error_string2(status));
		if (frame.frame_type != AMQP_FRAME_METHOD || frame.payload.method.id != AMQP_BASIC_ACK_METHOD)
			die("the broker sent something else than a confirmation");
		else
		{
			amqp_basic_ack_t *ack = frame.payload.method.decoded;

			if (ack->multiple)
				confirmed = ack->delivery_tag;
			else
				confirmed++;
		}
		amqp_maybe_release_buffers(conn);
		wait = false;
	}
}

int
main(int argc, char **argv)
{
	amqp_socket_t *socket;
	amqp_basic_properties_t properties;
	amqp_queue_purge_ok_t *purged;
	uint32_t	found;
	amqp_bytes_t queue;
	amqp_bytes_t body;
	long		count;
	long		window;
	long		confirmed = 0;
	double		start;

	if (argc != 6)
	{
		fprintf(stderr, "usage: amqp_publish PORT QUEUE MESSAGES WINDOW BODY\n");
		return 2;
	}
	queue = amqp_cstring_bytes(argv[2]);
	count = atol(argv[3]);
	window = atol(argv[4]);
	body = amqp_cstring_bytes(argv[5]);

	conn = amqp_new_connection();
	socket = amqp_tcp_socket_new(conn);
	if (socket == NULL || amqp_socket_open(socket, "127.0.0.1", atoi(argv[1])) != AMQP_STATUS_OK)
		die("cannot connect");
	check(amqp_login(conn, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest"), "login");
	amqp_channel_open(conn, 1);
	check(amqp_get_rpc_reply(conn), "channel");
	amqp_queue_declare(conn, 1, queue, 0, 1, 0, 0, amqp_empty_table);
	check(amqp_get_rpc_reply(conn), "queue.declare");
	purged = amqp_queue_purge(conn, 1, queue);
	check(amqp_get_rpc_reply(conn), "queue.purge");
	found = purged->message_count;
	amqp_confirm_select(conn, 1);
	check(amqp_get_rpc_reply(conn), "confirm.select");

	memset(&properties, 0, sizeof(properties));
	properties._flags = AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_CONTENT_TYPE_FLAG |
		AMQP_BASIC_MESSAGE_ID_FLAG;
	properties.delivery_mode = 2;
	properties.content_type = amqp_cstring_bytes("application/json");

	start = now_seconds();
	for (long sent = 0; sent < count; sent++)
	{
		char		id[32];

		if (sent % 16 == 0 || sent - confirmed >= window)
			confirmed = read_confirms(confirmed, sent - confirmed >= window);
		snprintf(id, sizeof(id), "bench/%ld", sent);
		properties.message_id = amqp_cstring_bytes(id);
		if (amqp_basic_publish(conn, 1, amqp_empty_bytes, queue, 1, 0, &properties, body) != AMQP_STATUS_OK)
			die("publish");
	}
	while (confirmed < count)
		confirmed = read_confirms(confirmed, true);
	printf("%u", found);
	if (count > 0)
		printf(" %.1f", count / (now_seconds() - start));
	printf("\n");

	amqp_connection_close(conn, AMQP_REPLY_SUCCESS);
	amqp_destroy_connection(conn);
	return 0;
}
