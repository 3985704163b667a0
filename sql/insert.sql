--
-- Plain SQL on a queue's table: INSERT sends, DELETE ... SKIP LOCKED consumes
--
ALTER SYSTEM SET queue.sweep_interval = 1;
SELECT pg_reload_conf();
SELECT queue.create('i', lease => '1 hour');
INSERT INTO queues.i (payload) VALUES ('"first"') RETURNING id, payload, enqueued_at = now() AS now, enqueued_at <= clock_timestamp() AS past;
INSERT INTO queues.i (key, headers, payload) VALUES ('k', '{"a": 1}', '2'), ('l', NULL, '3') RETURNING id;
INSERT INTO queues.i (body) VALUES ('\x0102') RETURNING id;
SELECT queue.send('i', '5');
COPY queues.i (key, payload) FROM stdin;
m	6
n	7
\.
SELECT id, key, headers, payload, body, attempts FROM queue.receive('i', 100);
SELECT count(*) FROM queue.receive('i');

-- Many at once
INSERT INTO queues.i (payload) SELECT to_jsonb(n) FROM generate_series(1, 3000) n;
SELECT count(*), sum(payload::int), min(id) > 7 AS new_ids, count(DISTINCT id) FROM queue.pop('i', 10000);

-- The id is the queue's to give, and headers are an object.
INSERT INTO queues.i (id, payload) VALUES (1, '1');
INSERT INTO queues.i (payload, headers) VALUES ('1', '[]');
INSERT INTO queues.i (payload, headers) VALUES ('1', 'null');
INSERT INTO queues.i (payload, enqueued_at) VALUES ('"old"', '2000-01-01') RETURNING enqueued_at;
SELECT payload, enqueued_at FROM queue.pop('i', 10);

-- In a transaction, and rolled back
BEGIN;
INSERT INTO queues.i (payload) VALUES ('"no"');
SELECT count(*) FROM queue.receive('i');
SAVEPOINT a;
INSERT INTO queues.i (payload) VALUES ('"no"');
ROLLBACK;
BEGIN;
INSERT INTO queues.i (payload) VALUES ('"yes"');
SAVEPOINT a;
INSERT INTO queues.i (payload) VALUES ('"no"');
ROLLBACK TO a;
INSERT INTO queues.i (payload) VALUES ('"yes, too"');
COMMIT;
SELECT payload FROM queue.pop('i', 10);
SELECT count(*) FROM queues.i;

-- In space that VACUUM has freed before the cursor
SELECT queue.purge('i');
INSERT INTO queues.i (payload) SELECT to_jsonb(n) FROM generate_series(1, 1000) n;
SELECT count(*) FROM queue.pop('i', 1000);
VACUUM queues.i;
INSERT INTO queues.i (payload) VALUES ('"reused"') RETURNING ctid < '(3,0)' AS early;
SELECT payload FROM queue.pop('i');

-- A consumer that knows nothing of the engine
SELECT count(*) FROM queue.send_batch('i', '{1,2,3,4}');
INSERT INTO queues.i (payload) VALUES ('5');
DELETE FROM queues.i WHERE id IN
	(SELECT id FROM queues.i ORDER BY id FOR UPDATE SKIP LOCKED LIMIT 2) RETURNING payload;
SELECT receipt, payload FROM queue.receive('i') \gset
SELECT :payload AS payload;

-- To that one a lease is nothing; the engine finds out that the message is gone.
DELETE FROM queues.i WHERE payload = :'payload' RETURNING payload;
SELECT queue.ack(:receipt);
SELECT payload FROM queue.pop('i', 10) ORDER BY payload;
SELECT count(*) FROM queues.i;

-- Nor can it be acknowledged after it has been changed.
SELECT queue.send('i', '"before"') IS NOT NULL AS sent;
SELECT receipt FROM queue.receive('i') \gset
UPDATE queues.i SET payload = '"after"';
SELECT queue.ack(:receipt);

-- What comes past the triggers is found by a sweep.
SELECT payload FROM queue.pop('i', wait => '1 hour');
INSERT INTO queues."i$1" (id, enqueued_at, payload) VALUES (1000000, now(), '"restored"');
SELECT id, payload FROM queue.pop('i', wait => '1 hour');
ALTER SYSTEM RESET queue.sweep_interval;
SELECT pg_reload_conf();

-- The triggers' functions are for triggers.
SELECT queue.before_insert();
CREATE TABLE impostor (id bigint);
CREATE TRIGGER t AFTER INSERT ON impostor FOR EACH ROW EXECUTE FUNCTION queue.after_insert();
INSERT INTO impostor VALUES (1);
CREATE TRIGGER s BEFORE INSERT ON impostor FOR EACH STATEMENT EXECUTE FUNCTION queue.before_insert();
INSERT INTO impostor VALUES (1);
DROP TABLE impostor;
SELECT queue.drop('i');
