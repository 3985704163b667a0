# batch.sh - send_batch of 1,000 against INSERT … SELECT unnest.
# shellcheck shell=bash

# Prints messages per second.
send_thousand()
{
	local tps n

	sql -c "SELECT queue.purge('bench')" -c 'TRUNCATE bench.handwritten' -c CHECKPOINT >/dev/null || exit 1
	read -r tps n <<<"$(run_pgbench "$1" -T "$seconds")"
	[[ -n $n ]] || exit 1
	awk -v tps="$tps" 'BEGIN { print tps * 1000 }'
}

row_batch()
{
	local commit=off clients=1

	sql -c 'ALTER TABLE bench.handwritten SET (autovacuum_enabled = off)'
	rounds batch queue='send_thousand batch_queue.sql' insert='send_thousand batch_insert.sql'
	sql -c 'ALTER TABLE bench.handwritten RESET (autovacuum_enabled)'
	ratio 'send_batch of 1,000 / INSERT of 1,000, async, 1 client' batch queue insert 1 '>=' 1.8
}
