# steady.sh - a steady rate while a snapshot is held open for the whole run.
# shellcheck shell=bash
# shellcheck disable=SC2016 # $1 is a statement's parameter

steady_rate=2000

# Bytes on disk, every ten seconds: seconds and the contestant's bytes.
sample_disk()
{
	local contestant=$1 began=$SECONDS

	while sleep 10; do
		printf '%d %s\n' $((SECONDS - began)) "$(sql -c "SELECT bench.disk('$contestant')")"
	done >"$run/raw/steady.$contestant.disk"
}

maintain_pgq()
{
	while sleep 20; do
		sql -f "$here/sql/maintain_pgq.sql" >/dev/null
	done
}

# Run one contestant; its windows go to raw/steady.CONTESTANT.
steady_one()
{
	local contestant=$1 producer sampler maintainer

	shift
	PGOPTIONS="-c synchronous_commit=$commit" "$run/bin/consume" -d "$steady_seconds" \
		-w 10 -x 60 "$@" >"$run/raw/steady.$contestant" &
	local consumer=$!
	PGOPTIONS="-c synchronous_commit=$commit" "$bindir/pgbench" -n -M prepared -c 8 -j 1 \
		-R "$steady_rate" -T $((steady_seconds + 3)) -f "$here/sql/steady_$contestant.sql" \
		>"$run/raw/steady.$contestant.producer" 2>&1 &
	producer=$!
	sample_disk "$contestant" &
	sampler=$!
	maintainer=
	if [[ $contestant == pgq ]]; then
		maintain_pgq &
		maintainer=$!
	fi
	background=("$consumer" "$producer" "$sampler" ${maintainer:+"$maintainer"})
	wait "$producer" || die "the producer of $contestant failed: $(<"$run/raw/steady.$contestant.producer")"
	wait "$consumer" || die "the consumer of $contestant failed"
	kill "$sampler" ${maintainer:+"$maintainer"}
	wait "$sampler" ${maintainer:+"$maintainer"} 2>/dev/null
	background=()
	sed "s/^/  steady, $contestant: /" "$run/raw/steady.$contestant" | tee -a "$results" >&2
	sed "s/^/  steady, $contestant, bytes on disk after s: /" "$run/raw/steady.$contestant.disk" >>"$results"
}

# Column of the line with a label: steady_figure CONTESTANT LABEL COLUMN
steady_figure()
{
	awk -v l="$2" -v c="$3" '$1 == l { print $c }' "$run/raw/steady.$1"
}

# How far the worst window is from the offered rate.
worst_window()
{
	awk -v want=$((steady_rate * 10)) '
		$1 == "window" { d = $3 / want - 1; if (d < 0) d = -d; if (d > worst) worst = d }
		END { printf "%.3f\n", worst }' "$run/raw/steady.$1"
}

largest_mb()
{
	awk '$2 > m { m = $2 } END { printf "%.1f\n", m / 1048576 }' "$run/raw/steady.$1.disk"
}

# The largest size in the second half against that in the first.
growth()
{
	awk -v half=$((steady_seconds / 2)) '
		$1 <= half && $2 > a { a = $2 }
		$1 > half && $2 > b { b = $2 }
		END { printf "%.3f\n", a ? b / a : 0 }' "$run/raw/steady.$1.disk"
}

row_steady()
{
	local commit=on contestant peers=(handwritten) left tries

	build consume -lpq -lpthread
	sql -c "ALTER SYSTEM SET checkpoint_timeout = '5min'" -c 'SELECT pg_reload_conf()' \
		-c "SELECT queue.purge('bench')" -c 'TRUNCATE bench.handwritten' -c CHECKPOINT >/dev/null
	if [[ -f $("$pg_config" --sharedir)/extension/pgq.control ]]; then
		peers+=(pgq)
		sql_file setup_pgq.sql >/dev/null
	else
		note 'steady: PgQ is not installed, left out' -
	fi

	hold_snapshot
	steady_one queue -n 4 -i 0 -f 'SELECT queue.ack_batch($1)' \
		-r "SELECT receipt, payload->>'sent' FROM queue.receive('bench', 10, wait => '1 second')"
	for ((tries = 0; tries < 60; tries++)); do
		left=$(sql -c "SELECT sum(pg_relation_size(oid)) FROM pg_class
			WHERE relnamespace = 'queues'::regnamespace AND relkind = 'r'")
		[[ $left != 0 ]] || break
		sleep 1
	done
	release_snapshot

	hold_snapshot
	steady_one handwritten -n 4 -i 1000 \
		-r "DELETE FROM bench.handwritten WHERE id IN (SELECT id FROM bench.handwritten
			ORDER BY id FOR UPDATE SKIP LOCKED LIMIT 10) RETURNING id, payload->>'sent'"
	release_snapshot

	if [[ ${#peers[@]} -gt 1 ]]; then
		hold_snapshot
		steady_one pgq -n 1 -i 1000 -b "SELECT pgq.next_batch('bench', 'bench')" \
			-r "SELECT ev_id, ev_data::jsonb->>'sent' FROM pgq.get_batch_events(\$1)" \
			-f 'SELECT pgq.finish_batch($1)' -t 'SELECT pgq.ticker()' -T 50
		release_snapshot
	fi
	sql -c 'ALTER SYSTEM RESET checkpoint_timeout' -c 'SELECT pg_reload_conf()' \
		-c 'TRUNCATE bench.handwritten' >/dev/null

	verdict 'steady: the worst 10 s window, off the offered rate by' "$(worst_window queue)" '<=' 0.05
	verdict 'steady: 99th percentile in the last minute, ms' "$(steady_figure queue last 5)" '<' 10
	verdict 'steady: 99th percentile, last minute / first' \
		"$(divide "$(steady_figure queue last 5)" "$(steady_figure queue first 5)")" '<=' 1.5
	verdict 'steady: largest size on disk, second half / first' "$(growth queue)" '<=' 1.2
	verdict 'steady: bytes in segments after the end' "$left" '==' 0
	for contestant in queue "${peers[@]}"; do
		note "steady, $contestant: 50th percentile in the last minute, ms" "$(steady_figure "$contestant" last 4)"
		note "steady, $contestant: 99th percentile, first minute, ms" "$(steady_figure "$contestant" first 5)"
		note "steady, $contestant: 99th percentile, last minute, ms" "$(steady_figure "$contestant" last 5)"
		note "steady, $contestant: consumed per second, last minute" \
			"$(awk -v m=$((steady_seconds < 60 ? steady_seconds : 60)) '$1 == "last" { print $3 / m }' \
				"$run/raw/steady.$contestant")"
		note "steady, $contestant: largest size on disk, MB" "$(largest_mb "$contestant")"
	done
}
