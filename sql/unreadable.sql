--
-- A message that cannot be read is set aside, and holds nobody up
--
CREATE EXTENSION pg_surgery;
SELECT queue.create('u', lease => '1 hour');
SELECT queue.send('u', '1') > 0 AS sent;

-- Stored out of line, uncompressed, and then damaged.
ALTER TABLE queues.u ALTER payload SET STORAGE EXTERNAL;
ALTER TABLE queues."u$1" ALTER payload SET STORAGE EXTERNAL;
SELECT queue.send('u', to_jsonb(repeat('x', 100000)), 'broken', '{"a": 1}') > 0 AS sent;
SELECT reltoastrelid::regclass AS toast FROM pg_class WHERE oid = 'queues."u$1"'::regclass \gset
SELECT array_agg(ctid) AS chunks FROM :toast WHERE chunk_seq = 7 \gset
SELECT heap_force_kill(:'toast', :'chunks'::tid[]);
SELECT queue.send('u', '3') > 0 AS sent;

-- Looking shows what there is.
SELECT left(payload::text, 10) AS payload, key FROM queue.peek('u') ORDER BY id;

-- A transaction that may not write leaves it alone.
BEGIN READ ONLY;
SELECT left(payload::text, 10) AS payload FROM queue.receive('u', 10) ORDER BY id;
ROLLBACK;

-- The others are received, and it is a dead letter with what could be read.
BEGIN;
SELECT left(payload::text, 10) AS payload FROM queue.receive('u', 10) ORDER BY id;
SELECT key, headers, left(payload::text, 10) AS payload, reason, error LIKE '% for toast value %' AS error FROM queue.dead_letters WHERE queue = 'u';
ROLLBACK;
SELECT left(payload::text, 10) AS payload, attempts FROM queue.pop('u', 10) ORDER BY id;
SELECT key, headers, left(payload::text, 10) AS payload, reason, error LIKE '% for toast value %' AS error FROM queue.dead_letters WHERE queue = 'u';
SELECT count(*) FROM queues.u;
SELECT ready, leased, dead FROM queue.stats WHERE queue = 'u';
SELECT queue.drop('u');
DROP EXTENSION pg_surgery;
