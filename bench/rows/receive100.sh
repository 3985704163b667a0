# receive100.sh - receive(100) + ack_batch against the hand-written form.
# shellcheck shell=bash

# Prints messages per second and microseconds of CPU per message.  Rounds are
# short: each needs a backlog of more than a million messages for every second.
receive_hundred()
{
	local contestant=$1 length=$(((seconds + 2) / 3)) tps n micros

	sql -c CHECKPOINT || exit 1
	sql_file "prefill_$contestant.sql" -v n=$((length * 2000000)) >/dev/null
	read -r tps n micros <<<"$(run_pgbench "receive100_$contestant.sql" -T "$length")"
	[[ -n $n ]] || exit 1
	sql -c "SELECT queue.purge('bench')" -c 'TRUNCATE bench.handwritten' >/dev/null
	awk -v tps="$tps" -v micros="$micros" 'BEGIN { print tps * 100, micros / 100 }'
}

row_receive100()
{
	local commit clients=2

	for commit in off on; do
		rounds "receive100_$commit" queue='receive_hundred queue' handwritten='receive_hundred handwritten'
	done
	ratio 'receive(100) + ack_batch / hand-written, async, 2 clients' receive100_off queue handwritten 1 '>=' 3
	cpu 'receive(100) + ack_batch / hand-written, async' receive100_off queue handwritten 2
	ratio 'receive(100) + ack_batch / hand-written, sync, 2 clients' receive100_on queue handwritten 1 '>=' 1.6
}
