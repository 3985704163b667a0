# dedup.sh - send with a dedup key against INSERT … ON CONFLICT DO NOTHING, and without one.
# shellcheck shell=bash

# Keys that are remembered before the first round.
dedup_keys=5000000

# Enter so many keys on both sides, here in three buckets.  Senders go on to the
# next bucket while the window is short, and an open transaction that has
# written to each keeps it from being forgotten.
dedup_fill()
{
	local n part holder

	sql -c "SELECT queue.create('bench_dedup')" >/dev/null || exit 1
	sql -c "CREATE TABLE bench.unique_key (
		id bigserial PRIMARY KEY, payload jsonb NOT NULL, dedup_key text NOT NULL UNIQUE,
		created_at timestamptz NOT NULL DEFAULT now()) WITH (autovacuum_enabled = off)" || exit 1
	exec {holder}> >(sql >/dev/null)
	printf 'BEGIN;\n' >&"$holder"
	for part in 0 1 2; do
		sql -c "SELECT queue.alter('bench_dedup', dedup_window => '1 s')" >/dev/null || exit 1
		n=0
		until [[ $(dedup_buckets) -gt $part ]]; do
			sql -c "SELECT queue.send('bench_dedup', '0', dedup_key => gen_random_uuid()::text)" >/dev/null || exit 1
			n=$((n + 1))
			[[ $n -lt 600 ]] || die 'no bucket is made'
			sleep 0.1
		done
		printf "SELECT queue.send('bench_dedup', '0', dedup_key => 'hold %s');\n" "$part" >&"$holder"
		until [[ $(sql -c "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%''hold $part''%' AND state = 'idle in transaction'") == 1 ]]; do
			sleep 0.1
		done
		sql -c "SELECT queue.alter('bench_dedup', dedup_window => '10 hours')" >/dev/null || exit 1
		sql -c "SELECT count(*) FROM (SELECT queue.send_batch('bench_dedup', array_fill('0'::jsonb, ARRAY[1000]),
			dedup_keys => ARRAY(SELECT 'order-' || $part || '-' || g * 1000 + n FROM generate_series(1, 1000) n))
			FROM generate_series(1, $((dedup_keys / 3000))) g) sent" >/dev/null || exit 1
	done
	printf 'COMMIT;\n' >&"$holder"
	exec {holder}>&-
	sql -c "INSERT INTO bench.unique_key (payload, dedup_key)
		SELECT '0', 'order-' || n % 3 || '-' || n FROM generate_series(1, $dedup_keys) n" || exit 1
	say "  buckets with keys: $(dedup_buckets)"
}

# How many buckets have keys.
dedup_buckets()
{
	sql -c "SELECT count(*) FROM queue.dedup_bucket
		WHERE queue = 'queues.bench_dedup'::regclass AND pg_relation_size(relid) > 0"
}

# Prints messages per second and microseconds of CPU per message.
dedup_one()
{
	local tps n micros

	sql -c "SELECT queue.purge('bench_dedup')" -c CHECKPOINT >/dev/null || exit 1
	read -r tps n micros <<<"$(run_pgbench "$1" -T "$seconds")"
	[[ -n $n ]] || exit 1
	printf '%s %s\n' "$tps" "$micros"
}

row_dedup()
{
	local commit=off clients=8 held snapshot held_backend=

	dedup_fill
	for held in free pinned; do
		if [[ $held == pinned ]]; then
			exec {snapshot}> >(sql >/dev/null)
			printf 'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM bench.timeout;\n' >&"$snapshot"
			until [[ -n $held_backend ]]; do
				sleep 0.1
				held_backend=$(sql -c "SELECT pid FROM pg_stat_activity WHERE state = 'idle in transaction'")
			done
		fi
		rounds "dedup_$held" queue='dedup_one dedup_queue.sql' insert='dedup_one dedup_insert.sql' \
			plain='dedup_one dedup_plain.sql'
		if [[ $held == pinned ]]; then
			exec {snapshot}>&-
		fi
		ratio "send with a dedup key / ON CONFLICT, $dedup_keys keys, snapshot $held" "dedup_$held" queue insert 1 '>=' 1.0
		cpu "send with a dedup key / ON CONFLICT, snapshot $held" "dedup_$held" queue insert 2
		ratio "send with a dedup key / without, $dedup_keys keys, snapshot $held" "dedup_$held" queue plain 1 '>=' 0.5
		cpu "send with a dedup key / without, snapshot $held" "dedup_$held" queue plain 2
	done
	sql -c "SELECT queue.drop('bench_dedup')" -c 'DROP TABLE bench.unique_key' >/dev/null
}
