# sinks.sh - relays to brokers, each against a bare client of the same library.
# shellcheck shell=bash

kafka_port=9684
kafka_window=1000

# A node of its own, with everything in the run directory, on loopback only.
kafka_start()
{
	local jars=${QUEUE_KAFKA:-} i java

	if [[ -z $jars ]]; then
		jars=$(find /var/cache/queue-test -maxdepth 1 -name 'kafka-*' -type d 2>/dev/null | head -n 1)
	fi
	[[ -d $jars ]] || die 'Kafka is not there: test/run test/t/032_relay_kafka.pl gets it (or QUEUE_KAFKA names its directory)'
	rm -rf "$run/kafka" && mkdir -p "$run/kafka"
	cat >"$run/kafka/properties" <<-CONF
		process.roles=broker,controller
		node.id=1
		controller.quorum.voters=1@127.0.0.1:$((kafka_port + 1))
		listeners=PLAINTEXT://127.0.0.1:$kafka_port,CONTROLLER://127.0.0.1:$((kafka_port + 1))
		controller.listener.names=CONTROLLER
		log.dirs=$run/kafka/data
		num.partitions=1
		offsets.topic.num.partitions=1
		offsets.topic.replication.factor=1
	CONF
	java=(java -Xmx512m -XX:+UseSerialGC -cp "$jars/*")
	"${java[@]}" kafka.tools.StorageTool format -t cXVldWUtYmVuY2gtY2x1c3Rlcg -c "$run/kafka/properties" \
		>"$run/kafka/log" 2>&1 || die "Kafka does not start, see $run/kafka/log"
	"${java[@]}" kafka.Kafka "$run/kafka/properties" >>"$run/kafka/log" 2>&1 &
	kafka_pid=$!
	background+=("$kafka_pid")
	for ((i = 0; i < 60; i++)); do
		if "$run/bin/kafka_produce" "127.0.0.1:$kafka_port" bench 1 1 x >/dev/null 2>&1; then
			return
		fi
		sleep 1
	done
	die "Kafka does not start, see $run/kafka/log"
}

# Messages per second of the bare producer.
kafka_bare()
{
	"$run/bin/kafka_produce" "127.0.0.1:$kafka_port" bench "$relay_messages" "$kafka_window" "$payload" |
		awk '{ print $2 }'
}

# Messages per second of the relay, from the first that is seen published.
kafka_relay()
{
	local before after rate

	before=$("$run/bin/kafka_produce" "127.0.0.1:$kafka_port" bench 0 1 '') || exit 1
	sql -c "SELECT queue.pause_relay('bench')" >/dev/null || exit 1
	sql_file prefill_queue.sql -v n="$relay_messages" >/dev/null
	rate=$(sql_file relay.sql -v n="$relay_messages") || exit 1
	after=$("$run/bin/kafka_produce" "127.0.0.1:$kafka_port" bench 0 1 '') || exit 1
	[[ $((after - before)) -eq $relay_messages ]] ||
		die "$((after - before)) of $relay_messages messages are in Kafka"
	printf '%s\n' "$rate"
}

row_sinks()
{
	local relay_messages=$((seconds * 20000))

	build kafka_produce -lrdkafka
	kafka_start
	sql_file setup_kafka.sql -v brokers="127.0.0.1:$kafka_port" -v batch="$kafka_window" >/dev/null
	sql_file measure_relay.sql >/dev/null
	rounds sinks kafka=kafka_relay kafka_bare=kafka_bare
	sql -c "SELECT queue.drop_relay('bench')" >/dev/null
	kill "$kafka_pid" 2>/dev/null
	wait "$kafka_pid"
	rm -rf "$run/kafka/data"
	ratio "relay to Kafka / bare producer, window $kafka_window" sinks kafka kafka_bare 1 '>=' 0.7
}
