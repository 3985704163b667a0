TRUNCATE bench.ordered_timeout RESTART IDENTITY;
INSERT INTO bench.ordered_timeout (key, payload)
SELECT 'customer-' || i % :keys + 1, bench.payload() FROM generate_series(0, :n - 1) AS i;
VACUUM (ANALYZE) bench.ordered_timeout;
