--
-- Ids: they rise, and an altered sequence is an error, not a loop
--
SET statement_timeout = '30 s';
SELECT queue.create('n');
CREATE TABLE ids (n serial, id bigint);

-- Small and large batches, and single messages between them
INSERT INTO ids (id) SELECT queue.send('n', '1');
INSERT INTO ids (id) SELECT queue.send_batch('n', (SELECT array_agg('1'::jsonb) FROM generate_series(1, 999)));
INSERT INTO ids (id) SELECT queue.send('n', '1');
INSERT INTO ids (id) SELECT queue.send_batch('n', (SELECT array_agg('1'::jsonb) FROM generate_series(1, 1000)));
INSERT INTO ids (id) SELECT queue.send('n', '1');
INSERT INTO ids (id) SELECT queue.send_batch('n', (SELECT array_agg('1'::jsonb) FROM generate_series(1, 3500)));
INSERT INTO queues.n (payload) VALUES ('1');
INSERT INTO ids (id) SELECT queue.send('n', '1');
INSERT INTO ids (id) SELECT queue.send_batch('n', (SELECT array_agg('1'::jsonb) FROM generate_series(1, 10)), delay => '1 hour');
SELECT count(*), count(DISTINCT id), max(id) < 10000 AS dense FROM ids;
SELECT count(*) FROM (SELECT id, lag(id) OVER (ORDER BY n) AS before FROM ids) i WHERE before >= id;
SELECT count(*) FROM (SELECT id FROM ids EXCEPT (SELECT id FROM queues.n UNION SELECT id FROM queue.deferred)) missing;

-- A sequence that counts otherwise
ALTER SEQUENCE queues."n$id" INCREMENT BY 1;
SELECT count(*) FROM queue.send_batch('n', (SELECT array_agg('1'::jsonb) FROM generate_series(1, 1200)));
SELECT count(queue.send('n', '1')) FROM generate_series(1, 1200);
ALTER SEQUENCE queues."n$id" INCREMENT BY -1000;
SELECT count(*) FROM queue.send_batch('n', (SELECT array_agg('1'::jsonb) FROM generate_series(1, 1200)));
ALTER SEQUENCE queues."n$id" INCREMENT BY 1000 CYCLE;
SELECT count(*) FROM queue.send_batch('n', (SELECT array_agg('1'::jsonb) FROM generate_series(1, 1200)));
ALTER SEQUENCE queues."n$id" NO CYCLE CACHE 10;
SELECT count(*) FROM queue.send_batch('n', (SELECT array_agg('1'::jsonb) FROM generate_series(1, 1200)));
ALTER SEQUENCE queues."n$id" CACHE 1 RESTART;
SELECT count(*) FROM queue.send_batch('n', (SELECT array_agg('1'::jsonb) FROM generate_series(1, 1200)));
\set VERBOSITY sqlstate
SELECT count(queue.send('n', '1')) FROM generate_series(1, 1200);
\set VERBOSITY default
SELECT setval('queues."n$id"', 1000001);
SELECT count(*) FROM queue.send_batch('n', (SELECT array_agg('1'::jsonb) FROM generate_series(1, 1200)));
SELECT queue.send('n', '1') > 1000001 AS beyond;
DROP SEQUENCE queues."n$id";
SELECT count(*) FROM queue.send_batch('n', (SELECT array_agg('1'::jsonb) FROM generate_series(1, 1200)));
SELECT queue.drop('n');
DROP TABLE ids;
