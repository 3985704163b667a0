-- PgQ as one would set it for low latency: its ticker runs every 50 ms.
SET client_min_messages = warning;
CREATE EXTENSION pgq;
SELECT pgq.create_queue('bench') > 0,
	pgq.set_queue_config('bench', 'ticker_max_count', '1') > 0,
	pgq.set_queue_config('bench', 'ticker_max_lag', '20 milliseconds') > 0,
	pgq.set_queue_config('bench', 'rotation_period', '1 minute') > 0,
	pgq.register_consumer('bench', 'bench') > 0;
