# redis.sh - the relay to a stream of Redis against hiredis.
# shellcheck shell=bash

# What it confirms is on disk.
redis_start()
{
	command -v redis-server >/dev/null || die 'Redis is not installed (redis-server)'
	serve redis-server --bind 127.0.0.1 --port "$sink_port" --dir "$run/broker" --save '' \
		--appendonly yes --appendfsync always --auto-aof-rewrite-percentage 0
	await_broker
}

row_redis()
{
	local sink_program=redis_add sink_port=7685 sink_window=500

	begin_sink -lhiredis
	redis_start
	setup_sink setup_redis.sql
	measure_sink Redis 40000
	end_sink
}
