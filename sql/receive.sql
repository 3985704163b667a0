--
-- Receive: who gets which message, and for how long
--
SELECT queue.create('r', lease => '1 hour');
SELECT count(*) FROM queue.send_batch('r', '{1,2,3,4,5,6,7,8,9,10}');

-- One by default, oldest first, with a receipt for its lease.
SELECT receipt > 0 AS receipt, id, key, payload, body, headers, priority, attempts,
	enqueued_at <= now() AS past FROM queue.receive('r');
SELECT id, payload FROM queue.receive('r', max_messages => 3);
SELECT queue, id, attempts, kind, state, expires_at - leased_at AS lease, pid = pg_backend_pid() AS mine
	FROM queue.leases ORDER BY id;

-- A lease of one's own choice
SELECT id FROM queue.receive('r', lease => '7 seconds');
SELECT expires_at - leased_at AS lease FROM queue.leases WHERE id = 5;

-- More than there are
SELECT id FROM queue.receive('r', 1000000);
SELECT id FROM queue.receive('r', 2147483647);

-- Where there is nothing, wait or do not.
SELECT id FROM queue.receive('r', wait => '0');
SELECT id FROM queue.receive('r', wait => NULL, lease => NULL);
SELECT id FROM queue.receive('r', wait => '10 milliseconds');
SELECT id FROM queue.send('r', '11') AS id;
SELECT id FROM queue.receive('r', wait => '1 hour');

-- What is due while one waits
SELECT queue.send('r', '12', delay => '50 milliseconds');
SELECT id FROM queue.receive('r', wait => '1 hour');

-- Every queue on its own
SELECT queue.create('r2');
SELECT queue.send('r2', '"other"');
SELECT id FROM queue.receive('r');
SELECT id, payload FROM queue.receive('r2');
SELECT queue, count(*) FROM queue.leases GROUP BY 1 ORDER BY 1;

-- As a set in a query: acknowledge what was received, in one statement
SELECT count(*) FROM queue.send_batch('r2', '{1,2,3}');
SELECT queue.ack(receipt), payload FROM queue.receive('r2', 10);
SELECT id FROM queue.receive('r2');
SELECT queue.drop('r2');

-- No more than LIMIT is returned, but all of it is leased.
SELECT queue.purge('r');
SELECT count(*) FROM queue.send_batch('r', '{1,2,3}');
SELECT payload FROM queue.receive('r', 3) LIMIT 1;
SELECT payload FROM queue.receive('r', 3);

-- Arguments out of range
SELECT queue.receive(NULL);
SELECT queue.receive('r', NULL);
SELECT queue.receive('r', 0);
SELECT queue.receive('r', -1);
SELECT queue.receive('r', lease => '0');
SELECT queue.receive('r', lease => '-1 second');
SELECT queue.receive('r', lease => '11 years');
SELECT queue.receive('r', wait => '-1 second');
SELECT queue.receive('r', wait => '11 years');
SELECT queue.receive('nowhere');
SELECT queue.pop(NULL);
SELECT queue.pop('r', NULL);
SELECT queue.pop('r', 0);
SELECT queue.pop('r', wait => '-1 second');
SELECT queue.pop('nowhere');

-- Receiving writes nothing to the database; acknowledging does.
SELECT queue.send('r', '"read only"') IS NOT NULL AS sent;
BEGIN READ ONLY;
SELECT receipt, payload FROM queue.receive('r') \gset
SELECT :'payload' AS payload;
SELECT queue.ack(:receipt);
ROLLBACK;
BEGIN READ ONLY;
SELECT queue.pop('r');
ROLLBACK;
SELECT payload FROM queue.receive('r');

-- A statement timeout ends a wait.
SET statement_timeout = '50ms';
SELECT queue.receive('r', wait => '1 hour');
RESET statement_timeout;

-- Ended by an error that is caught, a wait is over: nobody is woken in vain.
BEGIN;
SET LOCAL statement_timeout = '50ms';
DO $$
BEGIN
	PERFORM queue.receive('r', wait => '1 hour');
EXCEPTION WHEN query_canceled THEN
	RAISE NOTICE 'canceled';
END $$;
SET LOCAL statement_timeout = 0;
SELECT waiting FROM queue.stats WHERE queue = 'r';
COMMIT;

-- peek shows what receive would give, and takes nothing.
SELECT queue.purge('r');
SELECT count(*) FROM queue.send_batch('r', '{1,2,3,4,5}', keys => '{a,b,c,d,e}');
SELECT queue.send('r', '"later"', delay => '1 hour') IS NOT NULL AS sent;
SELECT payload FROM queue.receive('r');
SELECT receipt, key, payload, attempts FROM queue.peek('r');
SELECT payload FROM queue.peek('r', 2);
SELECT payload FROM queue.peek('r', max_messages => 1000000);
BEGIN;
SELECT payload FROM queue.receive('r', 2);
SELECT payload FROM queue.peek('r', 1);
ROLLBACK;
SELECT payload FROM queue.peek('r', 2);
SELECT queue.peek(NULL);
SELECT queue.peek('r', NULL);
SELECT queue.peek('r', 0);
SELECT queue.peek('nowhere');
SELECT payload FROM queue.receive('r', 10);
SELECT count(*) FROM queue.peek('r');
SELECT queue.drop('r');
