UPDATE bench.timeout SET vt = clock_timestamp() + interval '30 seconds', read_count = read_count + 1
WHERE id IN (
	SELECT id FROM bench.timeout WHERE vt <= clock_timestamp()
	ORDER BY id FOR UPDATE SKIP LOCKED LIMIT 1)
RETURNING id, payload \gset
DELETE FROM bench.timeout WHERE id = :id;
