# ordered.sh - receive in the order of each key, and ack, against what is written by hand.
# shellcheck shell=bash

ordered_keys=10000

# ordered_one CONTESTANT TABLE MESSAGES no|pinned: fills the table with as many messages
# for each second; prints messages per second and microseconds of CPU per message.
ordered_one()
{
	local n tps micros snapshot

	sql_file "prefill_ordered_$2.sql" -v keys="$ordered_keys" \
		-v n=$((seconds * $3 / ordered_keys * ordered_keys)) >/dev/null
	sql -c CHECKPOINT || exit 1
	[[ $4 == no ]] || hold_snapshot
	read -r tps n micros <<<"$(run_pgbench "ordered_$1.sql" -T "$seconds")"
	[[ $4 == no ]] || release_snapshot
	[[ -n $n ]] || exit 1
	sql -c "SELECT queue.purge('ordered')" -c 'TRUNCATE bench.ordered, bench.ordered_timeout' >/dev/null
	printf '%s %s\n' "$tps" "$micros"
}

row_ordered()
{
	local commit=off clients=8 pinned what

	sql_file setup_ordered.sql
	for pinned in no pinned; do
		rounds "ordered_$pinned" queue="ordered_one queue queue 60000 $pinned" \
			handwritten="ordered_one handwritten handwritten 20000 $pinned" \
			timeout="ordered_one timeout timeout 20000 $pinned" \
			pop="ordered_one pop queue 100000 $pinned" \
			onecall="ordered_one onecall handwritten 30000 $pinned"
	done
	for pinned in no pinned; do
		what=$([[ $pinned == no ]] || printf ', pinned')
		ratio "ordered receive + ack / hand-written$what" "ordered_$pinned" queue handwritten 1 '>=' 3
		cpu "ordered receive + ack / hand-written$what" "ordered_$pinned" queue handwritten 2
		compare "ordered receive + ack / visibility timeout$what" "ordered_$pinned" queue timeout
		compare "ordered pop / hand-written in one call$what" "ordered_$pinned" pop onecall
		compare "ordered receive + ack / hand-written in one call$what" "ordered_$pinned" queue onecall
	done
	sql -c "SELECT queue.drop('ordered')" -c 'DROP TABLE bench.ordered, bench.ordered_timeout' >/dev/null
}

# A ratio that has no target, and that of CPU time: compare WHAT ROW OURS PEER
compare()
{
	note "$1" "$(divide "$(median "$2" "$3")" "$(median "$2" "$4")")"
	cpu "$1" "$2" "$3" "$4" 2
}
