TRUNCATE bench.handwritten RESTART IDENTITY;
INSERT INTO bench.handwritten (payload) SELECT bench.payload() FROM generate_series(1, :n);
VACUUM (ANALYZE) bench.handwritten;
