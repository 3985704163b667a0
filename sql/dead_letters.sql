--
-- Dead letters: who may read them, redrive, purge
--
CREATE ROLE regress_owner;
CREATE ROLE regress_reader;
CREATE ROLE regress_stranger;
GRANT CREATE ON SCHEMA queues TO regress_owner;
SET ROLE regress_owner;
SELECT queue.create('d', max_attempts => 1);
GRANT SELECT ON queues.d TO regress_reader;
SELECT queue.create('e');
SELECT count(*) FROM queue.send_batch('d', '{1,2,3,4}', keys => '{a,b,c,d}', headers => ARRAY['{"n": 1}', NULL, NULL, NULL]::jsonb[]);
SELECT queue.send_bytes('d', '\x05') IS NOT NULL AS sent;
SELECT queue.send('e', '"other"') IS NOT NULL AS sent;
SELECT queue.nack_batch(array_agg(receipt), error => 'out of stock') FROM queue.receive('d', 3);
SELECT queue.reject(receipt, 'not understood') FROM queue.receive('d', 3);
SELECT queue.reject(receipt) FROM queue.receive('e');

-- Those who may read a queue may read its dead letters.
SELECT queue, id, key, headers, payload, body, attempts, reason, error FROM queue.dead_letters ORDER BY queue, id;
SET ROLE regress_reader;
SELECT queue, id FROM queue.dead_letters ORDER BY queue, id;
SET ROLE regress_stranger;
SELECT queue, id FROM queue.dead_letters ORDER BY queue, id;
DELETE FROM queue.dead_letters;
SET ROLE regress_reader;
DELETE FROM queue.dead_letters;
INSERT INTO queue.dead_letters SELECT * FROM queue.dead_letters;
SELECT queue.redrive('d');
SELECT queue.purge_dead_letters('d');

-- redrive sends them back, oldest first, with their ids, as if never tried.
SET ROLE regress_owner;
SELECT queue.redrive('d', max_messages => 2);
SELECT id, key, headers, payload, body, attempts FROM queue.receive('d', 10);
SELECT id FROM queue.dead_letters WHERE queue = 'd' ORDER BY id;
SELECT queue.redrive('d');
SELECT queue.redrive('d');
SELECT queue.ack(receipt), id, key, payload, body, attempts FROM queue.receive('d', 10);
SELECT count(*) FROM queue.dead_letters WHERE queue = 'd';

-- In the caller's transaction
BEGIN;
SELECT queue.redrive('e');
SELECT count(*) FROM queue.dead_letters;
ROLLBACK;
SELECT count(*) FROM queue.dead_letters;
SELECT count(*) FROM queue.receive('e');

-- A large message goes there and back.
SELECT queue.send('d', (SELECT jsonb_agg(md5(i::text)) FROM generate_series(1, 10000) i)) IS NOT NULL AS sent;
SELECT queue.reject(receipt) FROM queue.receive('d');
SELECT queue.redrive('d');
SELECT queue.ack(receipt), md5(payload::text) =
	(SELECT md5(jsonb_agg(md5(i::text))::text) FROM generate_series(1, 10000) i) AS same FROM queue.receive('d');

-- Many of them take no more memory than one.
RESET ROLE;
SELECT count(queue.send('d', to_jsonb(repeat('x', 2000000)))) FROM generate_series(1, 20);
SELECT bool_and(queue.reject(receipt)) AS rejected FROM queue.receive('d', 20);
SELECT queue.redrive('d'),
	(SELECT sum(total_bytes) < 30000000 FROM pg_backend_memory_contexts) AS little_memory;
SELECT count(*), bool_and(length(payload::text) = 2000002) AS same FROM queue.pop('d', 20);
SET ROLE regress_owner;

SELECT queue.redrive('d', max_messages => 0);
SELECT queue.redrive('d', -1);
SELECT queue.redrive(NULL);
SELECT queue.redrive('nowhere');

-- purge_dead_letters
SELECT queue.purge_dead_letters('e');
SELECT queue.purge_dead_letters('e');
SELECT queue.purge_dead_letters('nowhere');
SELECT queue.purge_dead_letters(NULL);
SELECT count(*) FROM queue.dead_letters;

SELECT queue.drop('d');
SELECT queue.drop('e');
RESET ROLE;
REVOKE CREATE ON SCHEMA queues FROM regress_owner;
DROP ROLE regress_owner, regress_reader, regress_stranger;
