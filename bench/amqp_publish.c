/*
 * amqp_publish.c
 *		A bare RabbitMQ publisher: client.h says what it does.
 *
 * Persistent, mandatory messages to one queue through the default exchange,
 * with publisher confirms.
 */
#include "client.h"

#include <amqp.h>
#include <amqp_framing.h>
#include <amqp_tcp_socket.h>
#include <stdbool.h>
#include <sys/time.h>

static amqp_connection_state_t conn;
static amqp_basic_properties_t properties;
static amqp_bytes_t queue;
static amqp_bytes_t body;

static void
check(amqp_rpc_reply_t reply, const char *what)
{
	if (reply.reply_type != AMQP_RESPONSE_NORMAL)
		die(what);
}

static void
send_message(long number)
{
	char		id[32];

	snprintf(id, sizeof(id), "bench/%ld", number);
	properties.message_id = amqp_cstring_bytes(id);
	if (amqp_basic_publish(conn, 1, amqp_empty_bytes, queue, 1, 0, &properties, body) != AMQP_STATUS_OK)
		die("publish");
}

/* Read all that the broker has sent, waiting for the first frame. */
static void
take_confirmations(void)
{
	for (bool wait = true;; wait = false)
	{
		amqp_frame_t frame;
		amqp_basic_ack_t *ack;
		struct timeval none = {0, 0};
		int			status = amqp_simple_wait_frame_noblock(conn, &frame, wait ? NULL : &none);

		if (status == AMQP_STATUS_TIMEOUT)
			return;
		if (status != AMQP_STATUS_OK)
			die(amqp_error_string2(status));
		if (frame.frame_type != AMQP_FRAME_METHOD || frame.payload.method.id != AMQP_BASIC_ACK_METHOD)
			die("the broker sent something else than a confirmation");
		ack = frame.payload.method.decoded;
		if (ack->multiple)
			confirmed = ack->delivery_tag;
		else
			confirmed++;
		amqp_maybe_release_buffers(conn);
	}
}

int
main(int argc, char **argv)
{
	amqp_socket_t *socket;
	amqp_queue_declare_ok_t *declared;

	if (argc != 6)
		die("usage: PORT QUEUE MESSAGES WINDOW BODY");
	queue = amqp_cstring_bytes(argv[2]);
	body = amqp_cstring_bytes(argv[5]);

	conn = amqp_new_connection();
	socket = amqp_tcp_socket_new(conn);
	if (socket == NULL || amqp_socket_open(socket, "127.0.0.1", atoi(argv[1])) != AMQP_STATUS_OK)
		die("cannot connect");
	check(amqp_login(conn, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest"), "login");
	amqp_channel_open(conn, 1);
	check(amqp_get_rpc_reply(conn), "channel");
	declared = amqp_queue_declare(conn, 1, queue, 0, 1, 0, 0, amqp_empty_table);
	check(amqp_get_rpc_reply(conn), "queue.declare");
	if (atol(argv[3]) == 0)
		printf("%u\n", declared->message_count);
	else
	{
		amqp_queue_purge(conn, 1, queue);
		check(amqp_get_rpc_reply(conn), "queue.purge");
		amqp_confirm_select(conn, 1);
		check(amqp_get_rpc_reply(conn), "confirm.select");
		properties._flags = AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_CONTENT_TYPE_FLAG |
			AMQP_BASIC_MESSAGE_ID_FLAG;
		properties.delivery_mode = 2;
		properties.content_type = amqp_cstring_bytes("application/json");
		publish_all(atol(argv[3]), atol(argv[4]));
	}
	amqp_connection_close(conn, AMQP_REPLY_SUCCESS);
	amqp_destroy_connection(conn);
	return 0;
}
