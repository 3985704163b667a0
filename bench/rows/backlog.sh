# backlog.sh - claims from a short queue and from a very long one.
# shellcheck shell=bash

backlog_round=8000

# backlog_fill QUEUE MESSAGES
backlog_fill()
{
	local n

	for ((n = $2; n > 0; n -= 1000000)); do
		sql -c "SELECT count(*) FROM (SELECT queue.send_batch('$1', array_fill(bench.payload(), ARRAY[1000]))
			FROM generate_series(1, $((n < 1000000 ? n : 1000000)) / 1000)) sent" >/dev/null || exit 1
	done
}

# Take a fixed number of messages and put as many back; prints claims per second and CPU each.
backlog_one()
{
	local tps n micros

	read -r tps n micros <<<"$(run_pgbench backlog.sql -D "queue=$1" -t $((backlog_round / clients)))"
	[[ -n $n ]] || exit 1
	backlog_fill "$1" "$backlog_round"
	printf '%s %s\n' "$tps" "$micros"
}

row_backlog()
{
	local commit=off clients=8 repeat=$((rounds * 4))

	# No checkpoint from here on: full-page images would be the long queue's alone.
	sql -c CHECKPOINT -c "SELECT queue.create('backlog_short')" -c "SELECT queue.create('backlog_long')" >/dev/null || exit 1
	backlog_fill backlog_short 10000
	backlog_fill backlog_long "$backlog"
	rounds backlog short='backlog_one backlog_short' long='backlog_one backlog_long'
	sql -c "SELECT queue.drop('backlog_short')" -c "SELECT queue.drop('backlog_long')" >/dev/null
	ratio "claims from a backlog of $backlog / of 10000" backlog long short 1 '>=' 0.9
	cpu 'claims from the long backlog / from the short' backlog long short 2
}
