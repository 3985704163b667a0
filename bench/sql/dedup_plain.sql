\set k random(1, 9000000000000000)
SELECT queue.send('bench_dedup', :payload, key => 'order-' || :k);
