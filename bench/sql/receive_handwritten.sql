DELETE FROM bench.handwritten
WHERE id IN (SELECT id FROM bench.handwritten ORDER BY id FOR UPDATE SKIP LOCKED LIMIT 1)
RETURNING id, payload \gset
