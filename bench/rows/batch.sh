# batch.sh - send_batch of 1,000 against INSERT … SELECT unnest.
# shellcheck shell=bash

# Prints messages per second and microseconds of CPU per message.
send_thousand()
{
	local tps n micros

	sql -c "SELECT queue.purge('bench')" -c 'TRUNCATE bench.handwritten' -c CHECKPOINT >/dev/null || exit 1
	read -r tps n micros <<<"$(run_pgbench "$1" -T "$seconds")"
	[[ -n $n ]] || exit 1
	awk -v tps="$tps" -v micros="$micros" 'BEGIN { print tps * 1000, micros / 1000 }'
}

row_batch()
{
	local commit=off clients=1

	sql -c 'ALTER TABLE bench.handwritten SET (autovacuum_enabled = off)'
	rounds batch queue='send_thousand batch_queue.sql' insert='send_thousand batch_insert.sql'
	sql -c 'ALTER TABLE bench.handwritten RESET (autovacuum_enabled)'
	ratio 'send_batch of 1,000 / INSERT of 1,000, async, 1 client' batch queue insert 1 '>=' 1.8
	cpu 'send_batch of 1,000 / INSERT of 1,000' batch queue insert 2
}
