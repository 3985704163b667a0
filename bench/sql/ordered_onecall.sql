DELETE FROM bench.ordered WHERE id = (
	SELECT m.id FROM bench.ordered m
	WHERE NOT EXISTS (SELECT FROM bench.ordered older WHERE older.key = m.key AND older.id < m.id)
	ORDER BY m.id FOR UPDATE OF m SKIP LOCKED LIMIT 1)
RETURNING id, payload \gset
