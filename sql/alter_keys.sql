-- Order and limits of keys can be turned on and off while there are messages, wherever they are.
SELECT queue.create('ak', backoff => '0', max_attempts => 2);

-- One of each: dead, failed, delayed, on lease, ready.
SELECT count(*) FROM queue.send_batch('ak', '{1, 2, 3, 4, 5, 6, 7}', '{dead, failed, late, leased, leased, leased, ready}');
SELECT receipt FROM queue.receive('ak') \gset
SELECT queue.reject(:receipt, 'no good');
SELECT receipt FROM queue.receive('ak') \gset
SELECT queue.nack(:receipt, delay => '1 hour');
SELECT receipt FROM queue.receive('ak') \gset
SELECT queue.ack(:receipt);
SELECT queue.send('ak', '8', 'late', delay => '1 hour') IS NOT NULL AS sent;
SELECT receipt FROM queue.receive('ak') \gset
SELECT count(*) FROM queue.send_batch('ak', '{9, 10, 11}', '{dead, failed, late}');

-- Ordered from now on: the lease from before is not counted, what failed or is delayed is.
SELECT queue.alter('ak', ordered => true);
SELECT payload, key FROM queue.receive('ak', 2);
SELECT payload, key FROM queue.receive('ak', 10);
SELECT key, waiting_for, messages FROM queue.blocked_keys WHERE queue = 'ak' ORDER BY key;
-- Its receipt is good.
SELECT queue.ack(:receipt);

-- on_dead concerns what dies from now on.
SELECT queue.alter('ak', on_dead => 'block');
SELECT queue.send('ak', '12', 'dead') IS NOT NULL AS sent;
SELECT payload, queue.ack(receipt) FROM queue.receive('ak', 10);

-- Off again: what waits comes at once.
SELECT queue.alter('ak', on_dead => 'continue', ordered => false);
SELECT payload, key FROM queue.receive('ak', 10);
SELECT key, waiting_for, messages FROM queue.blocked_keys WHERE queue = 'ak' ORDER BY key;
SELECT queue.redrive('ak');
SELECT payload, key FROM queue.receive('ak', 10);
SELECT queue.purge('ak');

-- What waits behind a lease comes when order is turned off, and what waits behind a dead letter.
SELECT queue.alter('ak', ordered => true, on_dead => 'block');
SELECT count(*) FROM queue.send_batch('ak', '{1, 2, 3, 4, 5}', '{a, a, a, b, b}');
SELECT payload FROM queue.receive('ak');
SELECT receipt FROM queue.receive('ak') \gset
SELECT queue.reject(:receipt, 'no good');
SELECT payload FROM queue.receive('ak', 10);
SELECT queue.alter('ak', ordered => false, on_dead => 'continue');
SELECT payload FROM queue.receive('ak', 10);
SELECT queue.purge('ak');

-- A limit that is raised holds at once, as does its end.
SELECT queue.alter('ak', key_concurrency => 1);
SELECT count(*) FROM queue.send_batch('ak', '{1, 2, 3, 4, 5}', '{a, a, a, a, a}');
SELECT payload FROM queue.receive('ak', 10);
SELECT payload FROM queue.receive('ak', 10);
SELECT queue.alter('ak', key_concurrency => 3);
SELECT payload FROM queue.receive('ak', 10);
SELECT payload FROM queue.receive('ak', 10);
SELECT queue.alter('ak', key_concurrency => 0);
SELECT payload FROM queue.receive('ak', 10);
SELECT payload FROM queue.receive('ak', 10);

-- One that is lowered holds from now on.
SELECT queue.purge('ak');
SELECT queue.alter('ak', key_concurrency => 2);
SELECT count(*) FROM queue.send_batch('ak', '{1, 2, 3, 4}', '{a, a, a, a}');
SELECT array_agg(receipt ORDER BY id) AS run FROM queue.receive('ak', 10) \gset
SELECT queue.alter('ak', key_concurrency => 1);
SELECT queue.ack((:'run'::bigint[])[1]);
SELECT payload FROM queue.receive('ak', 10);
SELECT queue.ack((:'run'::bigint[])[2]);
SELECT payload FROM queue.receive('ak', 10);

-- From a limit to order.
SELECT queue.alter('ak', key_concurrency => 0, ordered => true);
SELECT payload FROM queue.receive('ak', 10);
SELECT queue.ack_batch(array_agg(r)) FROM (SELECT receipt FROM queue.receive('ak', 10)) r (r);
SELECT queue.release('ak', id) FROM queue.leases WHERE queue = 'ak';
SELECT payload FROM queue.receive('ak', 10);

-- Given back by a rollback before, in the list of those to be received first.
SELECT queue.purge('ak');
SELECT queue.alter('ak', ordered => false);
SELECT count(*) FROM queue.send_batch('ak', '{1, 2, 3}', '{a, a, a}');
BEGIN;
SELECT payload FROM queue.receive('ak', 2);
ROLLBACK;
SELECT queue.alter('ak', ordered => true);
SELECT payload FROM queue.receive('ak');
SELECT payload FROM queue.receive('ak', 10);

-- What is altered and rolled back was never so.
BEGIN;
SELECT queue.alter('ak', ordered => false, key_concurrency => 5);
ROLLBACK;
SELECT queue.purge('ak');
SELECT count(*) FROM queue.send_batch('ak', '{1, 2}', '{a, a}');
SELECT payload FROM queue.receive('ak');
SELECT payload FROM queue.receive('ak', 10);

SELECT queue.drop('ak');
