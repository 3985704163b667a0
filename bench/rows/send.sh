# send.sh - send, one message a transaction, against INSERT.
# shellcheck shell=bash

# Prints messages per second, bytes of WAL and microseconds of CPU per message.
send_one()
{
	local script=$1 start bytes tps n micros

	sql -c "SELECT queue.purge('bench')" -c 'TRUNCATE bench.handwritten' -c CHECKPOINT >/dev/null || exit 1
	start=$(sql -c 'SELECT pg_current_wal_insert_lsn()')
	read -r tps n micros <<<"$(run_pgbench "$script" -T "$seconds")"
	bytes=$(sql -c "SELECT pg_current_wal_insert_lsn() - '$start'::pg_lsn")
	[[ -n $n ]] || exit 1
	printf '%s %s %s\n' "$tps" "$(divide "$bytes" "$n")" "$micros"
}

row_send()
{
	local commit clients=8

	# A vacuum of the peer's table would only add to its WAL.
	sql -c 'ALTER TABLE bench.handwritten SET (autovacuum_enabled = off)'
	for commit in off on; do
		rounds "send_$commit" queue='send_one send_queue.sql' insert='send_one send_insert.sql'
	done
	sql -c 'ALTER TABLE bench.handwritten RESET (autovacuum_enabled)'
	ratio 'send / INSERT, async, 8 clients: throughput' send_off queue insert 1 '>=' 1.2
	cpu 'send / INSERT, async' send_off queue insert 3
	ratio 'send / INSERT, sync, 8 clients: throughput' send_on queue insert 1 '>=' 1.0
	ratio 'send / INSERT: bytes of WAL' send_off queue insert 2 '<=' 0.85
}
