# relay.sh - the relay to RabbitMQ against a bare publisher.
# shellcheck shell=bash

rabbit_port=5684
relay_window=500

# A node of its own, with everything in the run directory, on loopback only.
rabbit()
{
	env HOME="$run/rabbit" RABBITMQ_NODENAME=queue_bench@localhost \
		RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 RABBITMQ_NODE_PORT=$rabbit_port \
		RABBITMQ_DIST_PORT=$((rabbit_port + 20000)) ERL_EPMD_PORT=$((rabbit_port + 1)) \
		ERL_EPMD_ADDRESS=127.0.0.1 \
		RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1}' \
		RABBITMQ_MNESIA_BASE="$run/rabbit/mnesia" RABBITMQ_LOG_BASE="$run/rabbit/log" \
		RABBITMQ_ENABLED_PLUGINS_FILE="$run/rabbit/plugins" RABBITMQ_CONF_ENV_FILE=/dev/null \
		RABBITMQ_CONFIG_FILE="$run/rabbit/rabbitmq" RABBITMQ_PID_FILE="$run/rabbit/pid" \
		"$rabbit_bin/$1" "${@:2}"
}

rabbit_start()
{
	rabbit_bin=$(dirname "$(readlink -f "$(command -v /usr/lib/rabbitmq/bin/rabbitmq-server)")")
	[[ -x $rabbit_bin/rabbitmq-server ]] || die 'RabbitMQ is not installed (rabbitmq-server)'
	rm -rf "$run/rabbit" && mkdir -p "$run/rabbit/log"
	printf '[].\n' >"$run/rabbit/plugins"
	: >"$run/rabbit/rabbitmq.conf"
	rabbit rabbitmq-server >"$run/rabbit/start.log" 2>&1 &
	rabbit_started=yes
	rabbit rabbitmqctl --quiet wait --timeout 90 "$run/rabbit/pid" >/dev/null ||
		die "RabbitMQ does not start, see $run/rabbit"
}

rabbit_stop()
{
	if [[ ${rabbit_started:-no} == yes ]]; then
		rabbit rabbitmqctl --quiet shutdown >/dev/null 2>&1
		env ERL_EPMD_PORT=$((rabbit_port + 1)) epmd -kill >/dev/null 2>&1
		rm -rf "$run/rabbit/mnesia"
		rabbit_started=no
	fi
}

# Messages per second of the bare publisher.
publish_bare()
{
	"$run/bin/amqp_publish" "$rabbit_port" bench "$relay_messages" "$relay_window" "$payload" |
		awk '{ print $2 }'
}

# Messages per second of the relay, from the first that is seen published.
publish_relay()
{
	local found rate

	"$run/bin/amqp_publish" "$rabbit_port" bench 0 1 '' >/dev/null || exit 1
	sql -c "SELECT queue.pause_relay('bench')" >/dev/null || exit 1
	sql_file prefill_queue.sql -v n="$relay_messages" >/dev/null
	rate=$(sql_file relay.sql -v n="$relay_messages") || exit 1
	found=$("$run/bin/amqp_publish" "$rabbit_port" bench 0 1 '')
	[[ $found == "$relay_messages" ]] || die "$found of $relay_messages messages are in RabbitMQ"
	printf '%s\n' "$rate"
}

row_relay()
{
	local relay_messages=$((seconds * 20000))

	build amqp_publish -lrabbitmq
	rabbit_start
	"$run/bin/amqp_publish" "$rabbit_port" bench 0 1 '' >/dev/null || die 'RabbitMQ refuses'
	sql_file setup_relay.sql -v port="$rabbit_port" -v batch="$relay_window" >/dev/null
	sql_file measure_relay.sql >/dev/null
	rounds relay queue=publish_relay bare=publish_bare
	sql -c "SELECT queue.drop_relay('bench')" >/dev/null
	rabbit_stop
	ratio "relay to RabbitMQ / bare publisher, window $relay_window" relay queue bare 1 '>=' 0.5
}
