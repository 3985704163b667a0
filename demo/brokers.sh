# shellcheck shell=bash disable=SC2034,SC2154 # variables of demo/run and setup.sh
#
# brokers.sh
#	The brokers of demo/run --to, each a private one on loopback that keeps
#	everything in the demo's directory.  Sourced after setup.sh; "to" is the
#	name of the broker that is wanted.
#
# Of each there are: packages_NAME, to build the sink, run the broker and read from
# it; start_NAME; read_NAME, which prints the bodies that are there, a line each,
# and leaves them there; look_NAME, a command that shows some of them.

brokers=(rabbitmq redis kafka http)
declare -A from=(
	[rabbitmq]='from RabbitMQ, by pika'
	[redis]='from Redis, by redis-cli'
	[kafka]='from Kafka, by kcat'
	[http]="from the HTTP receiver's file"
)

# Ports of loopback that are free now.
free_ports()
{
	perl -MIO::Socket::INET -e 'my @s = map { IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1") or die $! }
		1 .. shift; print join(" ", map { $_->sockport } @s), "\n"' "$1"
}

# Write a file of the broker's.
configure()
{
	as_user tee "$dir/broker/$1" >/dev/null
}

# Run a program of the broker's beside us, and note its process.  It may outlive
# us, so it keeps nothing of ours open.
run_broker()
{
	# shellcheck disable=SC2016 # they are the inner shell's
	as_user setsid bash -c 'name=broker/$1; shift; echo $$ >$name.pid; exec "$@" </dev/null >$name.log 2>&1' - "$@" \
		>/dev/null 2>&1 3>&- 9>&- &
}

# Does something listen there?
listening()
{
	perl -MIO::Socket::INET -e 'IO::Socket::INET->new("127.0.0.1:" . shift) or die "$!\n"' "$1"
}

# Wait until a command succeeds, for no longer than a minute.
until_broker()
{
	local deadline=$((SECONDS + 60))

	until "$@" >"$dir/broker.log" 2>&1; do
		if [ $SECONDS -ge $deadline ]; then
			cat "$dir/broker.log"
			fail "$to did not start, its logs are in $dir/broker"
		fi
		sleep 0.2
	done
}

# Get what is not in a package; status 77 if that cannot be had.
install_broker()
{
	if [ "$to" = kafka ]; then
		# shellcheck source=scripts/kafka.sh disable=SC1091 # only with that sink
		. "$root/scripts/kafka.sh"
		get_kafka
		if [ -z "$kafka" ]; then
			say 'Apache Kafka cannot be had'
			exit 77
		fi
	fi
}

start_broker()
{
	step "Starting $to on loopback, in $dir/broker"
	own_directory broker
	od -An -N16 -tx1 /dev/urandom | tr -d ' \n' | configure password
	"start_$to"
	say "        port $port"
}

# Stop the processes that were noted, if they are ours.
stop_broker()
{
	local file pid i

	for file in "$dir"/broker/*.pid; do
		[ -f "$file" ] || continue
		pid=$(<"$file")
		if our_processes | grep -qx "$pid"; then
			kill "$pid" 2>/dev/null || true
			for ((i = 0; i < 300; i++)); do
				our_processes | grep -qx "$pid" || break
				sleep 0.1
			done
		fi
		rm -f "$file"
	done
}

packages_rabbitmq()
{
	say librabbitmq-dev libssl-dev pkg-config rabbitmq-server python3-pika
}

rabbitmq()
{
	as_user /usr/bin/python3 "$dir/build/demo/rabbitmq.py" "$port" "$@"
}

# It has its own Erlang port mapper, so that it meets no other broker, and notes
# its process itself, in place of the script that starts it.
start_rabbitmq()
{
	local mapper distribution environment

	read -r port mapper distribution < <(free_ports 3)
	configure rabbitmq.conf <<-END
		listeners.tcp.1 = 127.0.0.1:$port
		default_user = shop
		default_pass = $(as_user cat broker/password)
		log.console = false
	END
	configure enabled_plugins <<<'[].'
	environment=(
		"HOME=$dir/broker"
		ERL_EPMD_ADDRESS=127.0.0.1
		"ERL_EPMD_PORT=$mapper"
		"RABBITMQ_NODENAME=queue_demo_$port@localhost"
		"RABBITMQ_DIST_PORT=$distribution"
		"RABBITMQ_CONF_ENV_FILE=$dir/broker/no-environment"
		"RABBITMQ_CONFIG_FILE=$dir/broker/rabbitmq.conf"
		"RABBITMQ_ENABLED_PLUGINS_FILE=$dir/broker/enabled_plugins"
		"RABBITMQ_MNESIA_BASE=$dir/broker/data"
		"RABBITMQ_LOG_BASE=$dir/broker/log"
		"RABBITMQ_PID_FILE=$dir/broker/server.pid"
		'ERL_FLAGS=-start_epmd false'
		'RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=+S 2:2 +sbwt none -kernel inet_dist_use_interface {127,0,0,1}'
	)
	run_broker epmd epmd -port "$mapper" -address 127.0.0.1
	until_broker listening "$mapper"
	run_broker server env "${environment[@]}" /usr/lib/rabbitmq/bin/rabbitmq-server
	until_broker rabbitmq declare
}

read_rabbitmq()
{
	rabbitmq read
}

look_rabbitmq()
{
	say "cd $dir && ${sudo}/usr/bin/python3 build/demo/rabbitmq.py $port read 3"
}

packages_redis()
{
	say libhiredis-dev libssl-dev pkg-config redis-server redis-tools
}

redis()
{
	as_user REDISCLI_AUTH="$(as_user cat broker/password)" redis-cli --raw -p "$port" --user shop "$@"
}

# What it confirms is on disk.  It would write its title over its environment, by
# which it is known as ours.
start_redis()
{
	port=$(free_ports 1)
	configure redis.conf <<-END
		bind 127.0.0.1
		port $port
		dir $dir/broker
		save ""
		appendonly yes
		appendfsync always
		set-proc-title no
		user default off
		user shop on >$(as_user cat broker/password) ~* +@all
	END
	run_broker redis redis-server "$dir/broker/redis.conf"
	until_broker redis PING
}

# The entries of a stream come as lines: an id, then fields and values by turns.
read_redis()
{
	redis XRANGE announcements - + |
		awk '/^[0-9]+-[0-9]+$/ { next } { field = $0; getline } field == "payload"'
}

look_redis()
{
	say "env REDISCLI_AUTH=\$(${sudo}cat $dir/broker/password) redis-cli -p $port --user shop XRANGE announcements - + COUNT 3"
}

packages_kafka()
{
	say default-jre-headless kcat librdkafka-dev pkg-config
}

kafka_program()
{
	as_user java -Xmx256m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp "$kafka/*" "$@"
}

# One node, which asks for no login; a topic of four partitions.
start_kafka()
{
	local controller

	read -r port controller < <(free_ports 2)
	configure kafka.properties <<-END
		process.roles=broker,controller
		node.id=1
		controller.quorum.voters=1@127.0.0.1:$controller
		listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
		controller.listener.names=CONTROLLER
		listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
		log.dirs=$dir/broker/data
		auto.create.topics.enable=false
		num.partitions=4
		offsets.topic.replication.factor=1
		transaction.state.log.replication.factor=1
		transaction.state.log.min.isr=1
	END
	kafka_program kafka.tools.StorageTool format -t cXVldWUtZGVtby1jbHVzdA -c "$dir/broker/kafka.properties" \
		>"$dir/broker.log" 2>&1 || { cat "$dir/broker.log"; fail 'Kafka could not make its directory'; }
	run_broker kafka java -Xmx512m -XX:+UseSerialGC -cp "$kafka/*" kafka.Kafka "$dir/broker/kafka.properties"
	until_broker as_user kcat -b "127.0.0.1:$port" -L -m 2
	until_broker kafka_program org.apache.kafka.tools.TopicCommand --bootstrap-server "127.0.0.1:$port" \
		--create --if-not-exists --topic announcements
}

read_kafka()
{
	as_user kcat -b "127.0.0.1:$port" -C -t announcements -o beginning -e -q -f '%s\n'
}

look_kafka()
{
	say "kcat -b 127.0.0.1:$port -C -t announcements -o beginning -c 3 -f '%p %k %s\\n'"
}

packages_http()
{
	say libcurl4-openssl-dev libssl-dev pkg-config python3
}

start_http()
{
	port=$(free_ports 1)
	run_broker receiver /usr/bin/python3 "$dir/build/demo/receiver.py" "$port"
	until_broker listening "$port"
}

read_http()
{
	as_user cat broker/bodies
}

look_http()
{
	say "${sudo}head -n 3 $dir/broker/bodies"
}
