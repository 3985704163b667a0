# amqp.sh - the relay to RabbitMQ against a bare publisher.
# shellcheck shell=bash

# A node of its own, with its own port mapper, on loopback only.
rabbit_start()
{
	local environment

	[[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ]] || die 'RabbitMQ is not installed (rabbitmq-server)'
	: >"$run/broker/rabbitmq.conf"
	printf '[].\n' >"$run/broker/plugins"
	environment=(
		HOME="$run/broker" ERL_EPMD_ADDRESS=127.0.0.1 "ERL_EPMD_PORT=$port1"
		"RABBITMQ_NODENAME=queue_bench_$sink_port@localhost" RABBITMQ_NODE_IP_ADDRESS=127.0.0.1
		"RABBITMQ_NODE_PORT=$sink_port" "RABBITMQ_DIST_PORT=$port2"
		RABBITMQ_MNESIA_BASE="$run/broker/mnesia" RABBITMQ_LOG_BASE="$run/broker/log.d"
		RABBITMQ_ENABLED_PLUGINS_FILE="$run/broker/plugins" RABBITMQ_CONF_ENV_FILE=/dev/null
		RABBITMQ_CONFIG_FILE="$run/broker/rabbitmq.conf" RABBITMQ_PID_FILE="$run/broker/pid"
		ERL_FLAGS='-start_epmd false'
		RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1}'
	)
	serve epmd -port "$port1" -address 127.0.0.1
	serve env "${environment[@]}" /usr/lib/rabbitmq/bin/rabbitmq-server
	await_broker

	# The server itself: what started it ends with it.
	brokers+=("$(<"$run/broker/pid")")
	background+=("$(<"$run/broker/pid")")
}

row_amqp()
{
	local sink_program=amqp_publish sink_window=500

	begin_sink -lrabbitmq
	rabbit_start
	setup_sink setup_amqp.sql
	compare_throughput RabbitMQ 20000
	compare_latency RabbitMQ
	end_sink
}
