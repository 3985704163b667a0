-- :n messages of :keys keys in turn, in batches of :keys, and nothing else in the queue.
SELECT queue.purge('ordered');
SELECT count(*) AS n FROM (
	SELECT queue.send_batch('ordered', array_fill(bench.payload(), ARRAY[:keys]),
		keys => ARRAY(SELECT 'customer-' || k FROM generate_series(1, :keys) AS k))
	FROM generate_series(1, :n / :keys)) sent \gset
