# redis.sh - the relay to a stream of Redis against hiredis.
# shellcheck shell=bash

# What it confirms is on disk, but for the last measurement.
redis_start()
{
	command -v redis-server redis-cli >/dev/null || die 'Redis is not installed (redis-server, redis-tools)'
	serve redis-server --bind 127.0.0.1 --port "$sink_port" --dir "$run/broker" --save '' \
		--appendonly yes --appendfsync always --auto-aof-rewrite-percentage 0
	await_broker
}

row_redis()
{
	local sink_program=redis_add sink_window=500

	begin_sink -lhiredis
	redis_start
	setup_sink setup_redis.sql
	compare_throughput Redis 100000
	compare_latency Redis
	redis-cli -p "$sink_port" CONFIG SET appendfsync everysec >/dev/null || exit 1
	compare_throughput 'Redis everysec' 100000
	end_sink
}
