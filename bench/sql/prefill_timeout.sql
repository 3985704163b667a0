TRUNCATE bench.timeout RESTART IDENTITY;
INSERT INTO bench.timeout (payload) SELECT bench.payload() FROM generate_series(1, :n);
VACUUM (ANALYZE) bench.timeout;
