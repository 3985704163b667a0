-- Ordered queues: messages of one key go out one after the other, in the order of their ids.
SELECT queue.create('o', ordered => true, backoff => '0', max_attempts => 2);

SELECT count(*) FROM queue.send_batch('o', '{1, 2, 3, 4, 5, 6}', ARRAY['a', 'b', 'a', NULL, 'a', 'b']);

-- One receive can take a run of a key, here 1 and 3 of a.
SELECT array_agg(receipt ORDER BY id) AS run, array_agg(payload ORDER BY id) AS payloads
	FROM queue.receive('o', 3) \gset
SELECT :'payloads' AS payloads;

-- What is left of its keys waits until it is done with them; 4 has no key.
SELECT payload, key FROM queue.receive('o', 10);

-- a goes on when both of a are done.
SELECT queue.ack((:'run'::bigint[])[1]);
SELECT payload, key FROM queue.receive('o', 10);
SELECT queue.ack((:'run'::bigint[])[3]);
SELECT payload, key FROM queue.receive('o', 10);
SELECT queue.ack((:'run'::bigint[])[2]);
SELECT payload, key FROM queue.receive('o', 10);
SELECT queue.purge('o');

-- When one of a run fails, the later ones come back with it and their receipts end.
SELECT count(*) FROM queue.send_batch('o', '{1, 2, 3, 4}', '{a, a, a, a}');
SELECT array_agg(receipt ORDER BY id) AS run FROM queue.receive('o', 3) \gset
SELECT queue.ack((:'run'::bigint[])[1]);
SELECT queue.nack((:'run'::bigint[])[2], delay => '1 hour');
SELECT queue.ack((:'run'::bigint[])[3]);
SELECT payload, attempts FROM queue.receive('o', 10);
-- Others do not wait for it.
SELECT queue.send('o', '"other"', 'b') IS NOT NULL AS sent;
SELECT payload, attempts FROM queue.receive('o', 10);
SELECT queue.purge('o');

-- After the last attempt the key goes on without the dead letter.
SELECT count(*) FROM queue.send_batch('o', '{1, 2}', '{a, a}');
SELECT receipt FROM queue.receive('o') \gset
SELECT queue.reject(:receipt);
SELECT payload FROM queue.receive('o');
SELECT queue.purge('o');
-- Sent again it goes first.
SELECT count(*) FROM queue.send_batch('o', '{3, 4}', '{a, a}');
SELECT queue.redrive('o');
SELECT payload FROM queue.receive('o');
SELECT queue.purge('o');

-- Or the key is blocked until somebody sends it again, or purges it.
SELECT queue.alter('o', on_dead => 'block');
SELECT count(*) FROM queue.send_batch('o', '{1, 2, 3}', '{a, a, b}');
SELECT array_agg(receipt ORDER BY id) AS run FROM queue.receive('o', 2) \gset
SELECT queue.reject((:'run'::bigint[])[1], 'no good');
SELECT payload FROM queue.receive('o', 10);
SELECT queue.redrive('o', key => 'x');
SELECT queue.redrive('o', key => 'a');
SELECT payload, attempts FROM queue.receive('o', 10);
SELECT queue.purge('o');
SELECT count(*) FROM queue.send_batch('o', '{1, 2, 3}', '{a, a, a}');
SELECT receipt FROM queue.receive('o') \gset
SELECT queue.reject(:receipt, 'no good');
SELECT payload FROM queue.receive('o');
SELECT queue.purge_dead_letters('o', 'a');
SELECT payload FROM queue.receive('o');
SELECT queue.purge('o');

-- A delayed message holds up those sent after it.
SELECT queue.send('o', '1', 'a', delay => '1 hour') IS NOT NULL AS sent;
SELECT queue.send('o', '2', 'a') IS NOT NULL AS sent;
SELECT queue.send('o', '3', 'b') IS NOT NULL AS sent;
SELECT payload FROM queue.receive('o', 10);
SELECT queue.purge('o');

-- One that is due does not go before those sent earlier, which no receiver has come to yet.
SELECT queue.send('o', '1', 'a') IS NOT NULL AS sent;
SELECT queue.send('o', '2', 'a', delay => '1 us') IS NOT NULL AS sent;
SELECT payload, queue.ack(receipt) FROM queue.receive('o', wait => '1 min');
SELECT payload, queue.ack(receipt) FROM queue.receive('o', wait => '1 min');

-- A rollback gives a run back; savepoints too.
SELECT count(*) FROM queue.send_batch('o', '{1, 2, 3}', '{a, a, a}');
BEGIN;
SELECT payload FROM queue.receive('o', 2);
SAVEPOINT s;
SELECT payload FROM queue.receive('o', 2);
ROLLBACK;
SELECT payload FROM queue.pop('o', 2);
SELECT payload FROM queue.receive('o');

SELECT queue.purge('o');

-- A batch with dedup keys that fails leaves nothing, and the session as it was.
SELECT queue.send_batch('o', '{1, 2}', '{a, a}', dedup_keys => '{k, k}');
BEGIN;
SAVEPOINT s;
SELECT queue.send_batch('o', '{1, 2}', '{a, a}', dedup_keys => '{k, k}');
ROLLBACK TO s;
SELECT count(*) FROM queue.send_batch('o', '{3, 4, 3}', '{a, a, a}', dedup_keys => '{k, l, k}');
COMMIT;
SELECT payload FROM queue.pop('o', 10);

-- Which keys wait, for what, since when, and how many messages wait behind.
CREATE VIEW blocked AS SELECT key, waiting_for, since <= now() + '1 s' AS since, until > now() AS until, messages
	FROM queue.blocked_keys WHERE queue = 'o' ORDER BY key;
SELECT count(*) FROM queue.send_batch('o', '{1, 2, 3, 4, 5, 6, 7, 8}', '{dead, dead, failed, failed, failed, leased, leased, free}');
SELECT queue.send('o', '9', 'late', delay => '1 hour') IS NOT NULL AS sent;
SELECT receipt FROM queue.receive('o') \gset
SELECT queue.reject(:receipt, 'no good');
SELECT receipt FROM queue.receive('o') \gset
SELECT queue.nack(:receipt, delay => '1 hour');
SELECT payload FROM queue.receive('o');
SELECT payload FROM queue.receive('o', 10);
SELECT * FROM blocked;
-- A dead letter is waited for only where it blocks.
SELECT queue.alter('o', on_dead => 'continue');
SELECT key, waiting_for FROM blocked;
-- For the first of what it waits for.
SELECT queue.purge('o');
SELECT queue.alter('o', on_dead => 'block');
SELECT count(*) FROM queue.send_batch('o', '{10, 11, 12}', '{both, both, both}');
SELECT array_agg(receipt ORDER BY id) AS run FROM queue.receive('o', 2) \gset
SELECT queue.reject((:'run'::bigint[])[2], 'no good'), queue.nack((:'run'::bigint[])[1], delay => '1 hour');
SELECT key, waiting_for FROM blocked WHERE key = 'both';
DROP VIEW blocked;

SELECT queue.drop('o');
