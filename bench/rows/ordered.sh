# ordered.sh - receive in the order of each key, and ack, against what is written by hand.
# shellcheck shell=bash

ordered_keys=10000

# ordered_one CONTESTANT no|pinned: prints messages per second and microseconds of CPU per message.
ordered_one()
{
	local contestant=$1 n tps micros each=20000 snapshot

	[[ $contestant != queue ]] || each=50000
	sql_file "prefill_ordered_$contestant.sql" -v keys="$ordered_keys" \
		-v n=$((seconds * each / ordered_keys * ordered_keys)) >/dev/null
	sql -c CHECKPOINT || exit 1
	[[ $2 == no ]] || hold_snapshot
	read -r tps n micros <<<"$(run_pgbench "ordered_$contestant.sql" -T "$seconds")"
	[[ $2 == no ]] || release_snapshot
	[[ -n $n ]] || exit 1
	sql -c "SELECT queue.purge('ordered')" -c 'TRUNCATE bench.ordered, bench.ordered_timeout' >/dev/null
	printf '%s %s\n' "$tps" "$micros"
}

row_ordered()
{
	local commit=off clients=8 pinned what

	sql_file setup_ordered.sql
	for pinned in no pinned; do
		rounds "ordered_$pinned" queue="ordered_one queue $pinned" \
			handwritten="ordered_one handwritten $pinned" timeout="ordered_one timeout $pinned"
	done
	for pinned in no pinned; do
		what=$([[ $pinned == no ]] || printf ', pinned snapshot')
		ratio "ordered receive + ack / hand-written$what" "ordered_$pinned" queue handwritten 1 '>=' 3
		cpu "ordered receive + ack / hand-written$what" "ordered_$pinned" queue handwritten 2
		ratio "ordered receive + ack / visibility timeout$what" "ordered_$pinned" queue timeout 1 '>=' 3
		cpu "ordered receive + ack / visibility timeout$what" "ordered_$pinned" queue timeout 2
	done
	sql -c "SELECT queue.drop('ordered')" -c 'DROP TABLE bench.ordered, bench.ordered_timeout' >/dev/null
}
