# kafka.sh - the relay to Kafka against a bare producer.
# shellcheck shell=bash

# A node of its own, on loopback only.  Clients connect to where it says that it
# is, so those of the proxy have a listener of their own.
kafka_start()
{
	local jars=${QUEUE_KAFKA:-} direct=PLAINTEXT://127.0.0.1:$sink_port java

	if [[ -z $jars ]]; then
		jars=$(find /var/cache/queue-test -maxdepth 1 -name 'kafka-*' -type d 2>/dev/null | head -n 1)
	fi
	[[ -d $jars ]] || die 'Kafka is not there: test/run test/t/032_relay_kafka.pl gets it (or QUEUE_KAFKA names its directory)'
	cat >"$run/broker/properties" <<-CONF
		process.roles=broker,controller
		node.id=1
		controller.quorum.voters=1@127.0.0.1:$port1
		listeners=$direct,PROXIED://127.0.0.1:$proxied_port,CONTROLLER://127.0.0.1:$port1
		advertised.listeners=$direct,PROXIED://127.0.0.1:$proxy_port
		listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT
		controller.listener.names=CONTROLLER
		log.dirs=$run/broker/data
		num.partitions=1
		offsets.topic.num.partitions=1
		offsets.topic.replication.factor=1
	CONF
	java=(java -Xmx512m -XX:+UseSerialGC -cp "$jars/*")
	"${java[@]}" kafka.tools.StorageTool format -t cXVldWUtYmVuY2gtY2x1c3Rlcg -c "$run/broker/properties" \
		>"$run/broker/log" 2>&1 || die "Kafka does not start, see $run/broker/log"
	serve "${java[@]}" kafka.Kafka "$run/broker/properties"
	await_broker
}

row_kafka()
{
	local sink_program=kafka_produce sink_window=1000

	begin_sink -lrdkafka
	proxied_port=$port2
	kafka_start
	setup_sink setup_kafka.sql

	# Kafka is compiled while it runs, which takes both processors for some time.
	bare "$sink_port" 3000000 "$sink_window" >/dev/null || exit 1
	compare_throughput Kafka 80000
	compare_latency Kafka
	end_sink
}
