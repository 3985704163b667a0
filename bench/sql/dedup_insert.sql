\set k random(1, 9000000000000000)
INSERT INTO bench.unique_key (payload, dedup_key) VALUES (:payload, 'order-' || :k) ON CONFLICT (dedup_key) DO NOTHING;
