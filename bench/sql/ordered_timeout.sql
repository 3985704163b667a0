UPDATE bench.ordered_timeout SET vt = clock_timestamp() + interval '30 seconds', read_count = read_count + 1
WHERE id = (
	SELECT m.id FROM bench.ordered_timeout m
	WHERE m.vt <= clock_timestamp()
		AND NOT EXISTS (SELECT FROM bench.ordered_timeout older WHERE older.key = m.key AND older.id < m.id)
	ORDER BY m.id FOR UPDATE OF m SKIP LOCKED LIMIT 1)
RETURNING id, payload \gset
DELETE FROM bench.ordered_timeout WHERE id = :id;
