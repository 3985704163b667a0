# sinks.sh - what the rows of sinks share: a relay to a broker against a bare
# client of the same library.
# shellcheck shell=bash
#
# A row sets sink_program, the bare client (client.h), and sink_window, the messages
# in flight.  It calls begin_sink with the client's libraries, starts the broker at
# sink_port, and calls setup_sink, compare_throughput, compare_latency and end_sink.

# Run a server for this row.
serve()
{
	"$@" >>"$run/broker/log" 2>&1 &
	brokers+=("$!")
	background+=("$!")
}

# So many ports of loopback that are free now.
free_ports()
{
	perl -MIO::Socket::INET -e 'my @s = map { IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1") or die $! }
		1 .. shift; print join(" ", map { $_->sockport } @s), "\n"' "$1"
}

# Begin with an empty directory for the broker, and ports for it, for the proxy of
# latency.c, and to spare.
begin_sink()
{
	brokers=()
	proxied_port=
	read -r sink_port proxy_port port1 port2 < <(free_ports 4)
	rm -rf "$run/broker" && mkdir -p "$run/broker"
	build "$sink_program" "$@"
	build latency -lpq -lpthread
}

# Wait until the bare client can publish.
await_broker()
{
	local i

	for ((i = 0; i < 100; i++)); do
		if bare "$sink_port" 1 1 >/dev/null 2>&1; then
			return
		fi
		sleep 0.5
	done
	die "the broker does not start, see $run/broker"
}

# The bare client: bare PORT MESSAGES WINDOW
bare()
{
	"$run/bin/$sink_program" "$1" bench "$2" "$3" "$payload"
}

# Create the relay "bench" of the queue "bench" to the broker, and "latency" to the
# proxy; both are paused.  The file makes a relay of a :name to a :port.
setup_sink()
{
	local file=$1

	sql_file measure_relay.sql >/dev/null
	sql -c "SELECT queue.create('latency')" >/dev/null || exit 1
	sql_file "$file" -v name=bench -v port="$sink_port" -v window="$sink_window" >/dev/null
	sql_file "$file" -v name=latency -v port="$proxy_port" -v window="$sink_window" >/dev/null
	sql -c "SELECT queue.pause_relay(name) FROM queue.relays" >/dev/null || exit 1
}

# End the broker and what was created.
end_sink()
{
	local i pid

	sql -c 'DROP SERVER bench, latency CASCADE' -c "SELECT queue.drop('latency')" >/dev/null 2>&1
	for ((i = ${#brokers[@]} - 1; i >= 0; i--)); do
		pid=${brokers[i]}
		kill "$pid" 2>/dev/null
		while kill -0 "$pid" 2>/dev/null; do
			sleep 0.1
		done
	done
	rm -rf "$run/broker"
}

# Of the bare client: messages a second, and its CPU time for each in microseconds.
throughput_bare()
{
	bare "$sink_port" "$sink_messages" "$sink_window"
}

# The same of the relay, from the first message that is seen published; the CPU
# time is that of its worker, which began with the round.
throughput_relay()
{
	local before after arrived rate pid

	# Publishing one empties the target first.
	bare "$sink_port" 1 1 >/dev/null || exit 1
	before=$(bare "$sink_port" 0 1) || exit 1

	# A server that has run for long uses its files of WAL again.
	sql -c CHECKPOINT || exit 1
	sql_file prefill_queue.sql -v n="$sink_messages" >/dev/null
	rate=$(sql_file relay.sql -v n="$sink_messages") || exit 1
	pid=$(sql -c "SELECT pid FROM pg_stat_activity WHERE application_name = 'queue relay bench'")
	awk -v rate="$rate" -v n="$sink_messages" '
		{ sub(/.*\) /, ""); printf "%.1f %.2f\n", rate, ($12 + $13) * 10000 / n }' "/proc/$pid/stat"
	sql -c "SELECT queue.pause_relay('bench')" >/dev/null || exit 1
	after=$(bare "$sink_port" 0 1) || exit 1
	arrived=$((after - before - ${sink_counts_itself:-0}))
	[[ $arrived -eq $sink_messages ]] || die "$arrived of $sink_messages messages are at the broker"
}

# Microseconds: median and 99th percentile, one message at a time.
latency_bare()
{
	"$run/bin/latency" "$proxy_port" "${proxied_port:-$sink_port}" 0 \
		"$run/bin/$sink_program" "$proxy_port" bench "$latency_messages" 0 "$payload"
}

# And the median until it is published.
latency_relay()
{
	"$run/bin/latency" "$proxy_port" "${proxied_port:-$sink_port}" "$latency_messages"
}

in_milliseconds()
{
	awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f / %.2f\n", a / 1000, b / 1000 }'
}

# compare_throughput NAME MESSAGES_A_SECOND
compare_throughput()
{
	local name=$1 row=${1// /_} sink_messages=$((seconds * $2))

	rounds "$row" relay=throughput_relay bare=throughput_bare
	ratio "relay to $name / bare client, $sink_window in flight" "$row" relay bare 1 '>=' 0.7
	note "relay to $name / bare client: CPU of worker and client" \
		"$(divide "$(median "$row" relay 2)" "$(median "$row" bare 2)")"
}

compare_latency()
{
	local name=$1 row=${1// /_}_latency latency_messages=$((seconds * 50))

	rounds "$row" relay=latency_relay bare=latency_bare
	note "$name: COMMIT to confirmation, ms: median / 99th percentile" \
		"$(in_milliseconds "$(median "$row" relay 1)" "$(median "$row" relay 2)")"
	note "$name: COMMIT to publishing, ms: median" "$(divide "$(median "$row" relay 3)" 1000)"
	note "$name: bare client, publishing to confirmation, ms" \
		"$(in_milliseconds "$(median "$row" bare 1)" "$(median "$row" bare 2)")"
}
