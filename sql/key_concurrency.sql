-- Queues with a limit per key: at most so many messages of a key are on lease at a time, in no
-- particular order, so that a key with many messages does not take all consumers.
SELECT queue.create('kc', key_concurrency => 2, backoff => '0', max_attempts => 3);

SELECT count(*) FROM queue.send_batch('kc', '{1, 2, 3, 4, 5, 6, 7}', ARRAY['a', 'a', 'a', 'a', 'b', NULL, NULL]);

-- Two of a, the one of b, and those that have no key.
SELECT array_agg(receipt ORDER BY id) AS run, array_agg(payload ORDER BY id) AS payloads
	FROM queue.receive('kc', 10) \gset
SELECT :'payloads' AS payloads;
SELECT payload FROM queue.receive('kc', 10);

-- When one of a is done another one may go, in whatever order they end.
SELECT queue.ack((:'run'::bigint[])[2]);
SELECT payload, attempts FROM queue.receive('kc', 10);
SELECT payload FROM queue.receive('kc', 10);

-- A message that fails is in nobody's way while it waits, and is one of the two when it is due.
SELECT queue.nack((:'run'::bigint[])[1], delay => '1 hour');
SELECT payload FROM queue.receive('kc', 10);
SELECT payload FROM queue.receive('kc', 10);
SELECT queue.purge('kc');
SELECT count(*) FROM queue.send_batch('kc', '{1, 2, 3}', '{a, a, a}');
SELECT receipt FROM queue.receive('kc') \gset
SELECT payload FROM queue.receive('kc');
SELECT queue.nack(:receipt, delay => '0');
SELECT payload, attempts FROM queue.receive('kc', 10);
SELECT payload, attempts FROM queue.receive('kc', 10);
SELECT queue.purge('kc');

-- A delayed one holds nobody up either.
SELECT queue.send('kc', '1', 'a', delay => '1 hour') IS NOT NULL AS sent;
SELECT queue.send('kc', '2', 'a') IS NOT NULL AS sent;
SELECT payload FROM queue.pop('kc', 10);
SELECT queue.purge('kc');

-- What the others of a receive do does not matter: a run is no run here.
SELECT count(*) FROM queue.send_batch('kc', '{1, 2}', '{a, a}');
SELECT array_agg(receipt ORDER BY id) AS run FROM queue.receive('kc', 2) \gset
SELECT queue.nack((:'run'::bigint[])[1], delay => '1 hour');
SELECT queue.ack((:'run'::bigint[])[2]);
SELECT queue.purge('kc');

-- A dead letter does not count.
SELECT count(*) FROM queue.send_batch('kc', '{1, 2, 3}', '{a, a, a}');
SELECT array_agg(receipt ORDER BY id) AS run FROM queue.receive('kc', 10) \gset
SELECT queue.reject((:'run'::bigint[])[1], 'no good');
SELECT payload FROM queue.receive('kc', 10);
SELECT queue.redrive('kc', key => 'a');
SELECT payload FROM queue.receive('kc', 10);
SELECT queue.ack((:'run'::bigint[])[2]);
SELECT payload FROM queue.receive('kc', 10);
SELECT queue.purge('kc');

-- pop, a rollback and a savepoint count while the transaction is open, and no longer.
SELECT count(*) FROM queue.send_batch('kc', '{1, 2, 3}', '{a, a, a}');
BEGIN;
SELECT payload FROM queue.pop('kc');
SAVEPOINT s;
SELECT payload FROM queue.receive('kc', 10);
SELECT payload FROM queue.receive('kc', 10);
ROLLBACK TO s;
SELECT payload FROM queue.receive('kc', 10);
ROLLBACK;
SELECT payload FROM queue.pop('kc', 10);
SELECT payload FROM queue.pop('kc', 10);
SELECT payload FROM queue.pop('kc', 10);

-- Which keys wait.
SELECT count(*) FROM queue.send_batch('kc', '{1, 2, 3, 4, 5}', '{a, a, a, a, b}');
SELECT payload FROM queue.receive('kc', 10);
SELECT key, waiting_for, messages FROM queue.blocked_keys WHERE queue = 'kc' ORDER BY key;
SELECT queue.release('kc', id) FROM queue.leases WHERE queue = 'kc' ORDER BY id LIMIT 1;
SELECT payload FROM queue.receive('kc', 10);

-- Plain SQL may insert.
SELECT queue.purge('kc');
INSERT INTO queues.kc (payload, key) VALUES ('1', 'a'), ('2', 'a'), ('3', 'a');
SELECT payload FROM queue.receive('kc', 10);

SELECT queue.drop('kc');
