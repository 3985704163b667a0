WITH taken AS (
	DELETE FROM bench.handwritten
	WHERE id IN (SELECT id FROM bench.handwritten ORDER BY id FOR UPDATE SKIP LOCKED LIMIT 100)
	RETURNING id, payload
)
SELECT 1 / (count(payload) / 100) AS n FROM taken \gset
