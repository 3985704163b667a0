# receive.sh - receive(1) + ack against one-call and visibility-timeout forms.
# shellcheck shell=bash

# Prints messages per second and microseconds of CPU per message; the backlog lasts longer than the round.
receive_one()
{
	local contestant=$1 tps n micros

	sql -c CHECKPOINT || exit 1
	sql_file "prefill_$contestant.sql" -v n=$((seconds * 80000)) >/dev/null
	read -r tps n micros <<<"$(run_pgbench "receive_$contestant.sql" -T "$seconds")"
	[[ -n $n ]] || exit 1
	sql -c "SELECT queue.purge('bench')" -c 'TRUNCATE bench.handwritten, bench.timeout' >/dev/null
	printf '%s %s\n' "$tps" "$micros"
}

row_receive()
{
	local commit clients=8

	for commit in off on; do
		rounds "receive_$commit" queue='receive_one queue' \
			handwritten='receive_one handwritten' timeout='receive_one timeout'
	done
	ratio 'receive(1) + ack / hand-written, async, 8 clients' receive_off queue handwritten 1 '>=' 2.5
	cpu 'receive(1) + ack / hand-written, async' receive_off queue handwritten 2
	ratio 'receive(1) + ack / hand-written, sync, 8 clients' receive_on queue handwritten 1 '>=' 1.0
	ratio 'receive(1) + ack / visibility timeout, async, 8 clients' receive_off queue timeout 1 '>=' 4
	cpu 'receive(1) + ack / visibility timeout, async' receive_off queue timeout 2
	ratio 'receive(1) + ack / visibility timeout, sync, 8 clients' receive_on queue timeout 1 '>=' 2
}
