-- :n messages, a multiple of 10,000, and nothing else in the queue.
SELECT queue.purge('bench');
SELECT count(*) AS n FROM (
	SELECT queue.send_batch('bench', array_fill(bench.payload(), ARRAY[10000]))
	FROM generate_series(1, :n / 10000)) sent \gset
