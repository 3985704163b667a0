# blocked.sh - claims of other keys with a blocked key's messages ahead of them, and without.
# shellcheck shell=bash

blocked_round=8000
blocked_keys=1000

# blocked_fill QUEUE MESSAGES: messages of keys that nothing blocks.
blocked_fill()
{
	sql -c "SELECT count(*) FROM (SELECT queue.send_batch('$1', array_fill(bench.payload(), ARRAY[$blocked_keys]),
			keys => ARRAY(SELECT 'customer-' || k FROM generate_series(1, $blocked_keys) AS k))
		FROM generate_series(1, $2 / $blocked_keys)) sent" >/dev/null || exit 1
}

# A queue whose first message has died, and with it the key of many more.
blocked_setup()
{
	local n

	sql -c "SELECT queue.create('$1', ordered => true, on_dead => 'block')" >/dev/null || exit 1
	if [[ $2 -gt 0 ]]; then
		sql -c "SELECT queue.send('$1', bench.payload(), key => 'stuck')" \
			-c "SELECT queue.reject(receipt) FROM queue.receive('$1')" >/dev/null || exit 1
	fi
	for ((n = $2; n > 0; n -= 100000)); do
		sql -c "SELECT count(*) FROM (SELECT queue.send_batch('$1', array_fill(bench.payload(), ARRAY[1000]),
				keys => array_fill('stuck'::text, ARRAY[1000]))
			FROM generate_series(1, $((n < 100000 ? n : 100000)) / 1000)) sent" >/dev/null || exit 1
	done
	blocked_fill "$1" $((2 * blocked_round))
}

# Take a fixed number of messages and put as many back; prints claims per second and CPU each.
blocked_one()
{
	local tps n micros

	read -r tps n micros <<<"$(run_pgbench blocked.sql -D "queue=$1" -t $((blocked_round / clients)))"
	[[ -n $n ]] || exit 1
	blocked_fill "$1" "$blocked_round"
	printf '%s %s\n' "$tps" "$micros"
}

# Seconds until a queue's first message is received: after the server accepts
# connections again, and in all.
blocked_restart()
{
	local began=$EPOCHREALTIME up id

	"$bindir/pg_ctl" -D "$run/data" -l "$run/server.log" -m fast -w restart >/dev/null || die 'no restart'
	up=$EPOCHREALTIME
	id=$(sql -c "SELECT id FROM queue.receive('$1', wait => '5 minutes') WHERE key <> 'stuck'") || exit 1
	[[ -n $id ]] || die "nothing was received from $1"
	awk -v a="$began" -v b="$up" -v c="$EPOCHREALTIME" 'BEGIN { printf "%.3f %.3f\n", c - b, c - a }'
}

row_blocked()
{
	local commit=off clients=8 repeat=$((rounds * 4)) first

	blocked_setup keys_free 0
	blocked_setup keys_blocked "$blocked"

	# No checkpoint from here on: full-page images would be the blocked queue's alone.
	sql -c CHECKPOINT || exit 1
	rounds blocked free='blocked_one keys_free' blocked='blocked_one keys_blocked'
	ratio "claims of other keys, $blocked of a blocked one ahead / none" blocked blocked free 1 '>=' 0.8
	cpu 'claims of other keys, with a blocked one / without' blocked blocked free 2

	say "  a restart: seconds from the server's start to the first claim, and from its stop"
	for contestant in keys_free keys_blocked; do
		first=$(blocked_restart "$contestant") || exit 1
		say "  blocked, restart, $contestant: $first"
	done
	verdict 'seconds from the start to the first claim behind it' "${first%% *}" '<' 10
	sql -c "SELECT queue.drop('keys_free')" -c "SELECT queue.drop('keys_blocked')" >/dev/null
}
