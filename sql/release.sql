--
-- release: a queue's owner ends a lease; and what receipts are
--
CREATE ROLE regress_owner;
CREATE ROLE regress_consumer;
GRANT CREATE ON SCHEMA queues TO regress_owner;
SET ROLE regress_owner;
SELECT queue.create('r', lease => '1 year');
GRANT SELECT, DELETE ON queues.r TO regress_consumer;
SELECT queue.send_batch('r', '{1,2,3}');

SET ROLE regress_consumer;
SELECT receipt, id FROM queue.receive('r') \gset
SELECT queue.release('r', :id);

-- The message goes to the next receiver, as if nothing had been; the receipt is void.
SET ROLE regress_owner;
SELECT queue.release('r', :id);
SELECT queue.release('r', :id);
SELECT queue.release('r', 4711);
SELECT queue.ack(:receipt);
SELECT queue.extend(:receipt);
SELECT id, attempts FROM queue.receive('r', 3) ORDER BY id;
SELECT queue.release('r', id) FROM queue.leases WHERE queue = 'r' ORDER BY id;

-- Effective at once, as the lease itself is; a message being settled is the consumer's.
BEGIN;
SELECT receipt, id FROM queue.receive('r') \gset
SELECT queue.ack(:receipt);
SELECT queue.release('r', :id);
ROLLBACK;

SELECT queue.release('no', 1);
SELECT queue.release(NULL, 1);
SELECT queue.release('r', NULL);
RESET ROLE;

-- A receipt is a number that JSON and JavaScript can carry, and says nothing of the next.
SELECT count(queue.send('r', '{}')) FROM generate_series(1, 1000);

CREATE TEMP TABLE got AS SELECT receipt, id FROM queue.receive('r', 1000);
SELECT count(*), count(DISTINCT receipt), bool_and(receipt > 0 AND receipt < 2::numeric ^ 53) AS small,
	bool_and(receipt::float8::bigint = receipt) AS exact,
	count(*) FILTER (WHERE abs(receipt - before) < 1000000) AS near
FROM (SELECT *, lag(receipt) OVER (ORDER BY id) AS before FROM got) x;

-- Damaged ones are nobody's: digits lost, a neighbour's, or a greater number.
SELECT queue.ack_batch(array_agg(receipt / 512 * 512)) FROM got WHERE receipt % 512 <> 0;
SELECT queue.ack_batch(array_agg(receipt + 1)) FROM got;
SELECT queue.ack_batch(array_agg(receipt # (1::bigint << (id % 20)::integer))) FROM got;
SELECT queue.ack_batch(array_agg(receipt + (1::bigint << 53))) FROM got;
SELECT queue.ack_batch(ARRAY[0, -1, 9223372036854775807, -9223372036854775808]);
SELECT queue.ack_batch(array_agg(receipt)) FROM got;
SELECT queue.ack_batch(array_agg(receipt)) FROM got;

-- The lease is on the message, wherever the row goes.
SELECT queue.purge('r');
SELECT queue.send_batch('r', '{1,2,3}', delay => '1 microsecond');
CREATE TEMP TABLE held AS SELECT row_number() OVER (ORDER BY id) AS n, receipt FROM queue.receive('r', 3, wait => '10 s');
DELETE FROM queue.deferred WHERE id < 0;
VACUUM FULL queue.deferred;
SELECT count(*) FROM queue.receive('r', 3);
SELECT queue.ack(receipt) FROM held WHERE n = 1;
CLUSTER queue.deferred USING deferred_due;
SELECT queue.nack(receipt, delay => '0') FROM held WHERE n = 2;
VACUUM FULL queue.deferred;
SELECT queue.reject(receipt) FROM held WHERE n = 3;
SELECT payload, attempts FROM queue.receive('r', 3, wait => '10 s');
SELECT payload, attempts FROM queue.dead_letters WHERE queue = 'r';
SELECT leased, deferred FROM queue.stats WHERE queue = 'r';


-- The queues of a role cannot have all leases, in however many they are; a superuser's can.
SET queue.max_leases_per_role = 5;
SELECT queue.purge('r');
SET ROLE regress_owner;
SELECT queue.create('r2', lease => '1 year');
SELECT count(queue.send('r', '1')), count(queue.send('r2', '2')) FROM generate_series(1, 10);
SELECT count(*) FROM queue.receive('r', 3);
SELECT count(*) FROM queue.receive('r2', 10);
SELECT count(*) FROM queue.receive('r');
SELECT count(*) FROM queue.pop('r2', 10);
SELECT queue.release('r', id) FROM queue.leases WHERE queue = 'r' ORDER BY id LIMIT 1;
SELECT count(*) FROM queue.pop('r', 10);
RESET ROLE;
SELECT queue.create('r3');
SELECT count(queue.send('r3', '3')) FROM generate_series(1, 10);
SELECT count(*) FROM queue.receive('r3', 10);
RESET queue.max_leases_per_role;
SELECT queue.drop('r'), queue.drop('r2'), queue.drop('r3');
REVOKE CREATE ON SCHEMA queues FROM regress_owner;
DROP ROLE regress_owner, regress_consumer;
