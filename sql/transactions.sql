--
-- Transactions: rollback, savepoints, isolation levels, two-phase commit
--
SELECT queue.create('t', lease => '1 hour');

-- A rollback gives leases back, without counting an attempt.
SELECT count(*) FROM queue.send_batch('t', '{1,2,3}');
BEGIN;
SELECT receipt AS old FROM queue.receive('t') \gset
SELECT payload FROM queue.receive('t');
ROLLBACK;
SELECT queue.ack(:old);
SELECT queue.ack(receipt), payload, attempts FROM queue.receive('t', 10);

-- ... to a savepoint, only those taken since
SELECT count(*) FROM queue.send_batch('t', '{1,2,3}');
BEGIN;
SELECT receipt AS first FROM queue.receive('t') \gset
SAVEPOINT a;
SELECT receipt AS second FROM queue.receive('t') \gset
SAVEPOINT b;
SELECT receipt AS third FROM queue.receive('t') \gset
RELEASE b;
ROLLBACK TO a;
SELECT queue.ack(:second), queue.ack(:third);
SELECT queue.ack(receipt), payload FROM queue.receive('t', 10);
COMMIT;
SELECT queue.ack(:first);

-- ... and by an exception that is caught
SELECT queue.send('t', '1') IS NOT NULL AS sent;
DO $$
BEGIN
	PERFORM queue.receive('t');
	RAISE division_by_zero;
EXCEPTION WHEN division_by_zero THEN
	RAISE NOTICE 'caught';
END $$;
SELECT payload, receipt FROM queue.receive('t') \gset
SELECT :payload AS payload;

-- An acknowledgement rolled back leaves the lease as it was.
BEGIN;
SELECT queue.ack(:receipt);
SELECT state FROM queue.leases;
SELECT queue.ack(:receipt);
ROLLBACK;
SELECT state FROM queue.leases;
BEGIN;
SAVEPOINT a;
SELECT queue.ack(:receipt);
ROLLBACK TO a;
SELECT queue.nack(:receipt, delay => '1 hour');
ROLLBACK TO a;
SELECT queue.reject(:receipt);
ROLLBACK TO a;
SELECT count(*) FROM queue.deferred;
SELECT count(*) FROM queue.dead_letters;
SELECT queue.ack(:receipt);
COMMIT;
SELECT queue.ack(:receipt);
SELECT count(*) FROM queues.t;
SELECT count(*) FROM queue.leases;

-- Receive and acknowledge in one transaction, and roll it back.
SELECT queue.send('t', '"again"') IS NOT NULL AS sent;
BEGIN;
SELECT queue.ack(receipt), payload, attempts FROM queue.receive('t');
ROLLBACK;
BEGIN;
SELECT queue.nack(receipt), payload, attempts FROM queue.receive('t');
ROLLBACK;
SELECT queue.ack(receipt), payload, attempts FROM queue.receive('t');

-- A transaction with an old snapshot receives what was sent after it, and
-- acknowledges what it cannot see.
CREATE EXTENSION dblink;
SELECT dblink_connect('other', 'dbname=' || quote_literal(current_database())
	|| ' host=' || quote_literal(split_part(current_setting('unix_socket_directories'), ',', 1))
	|| ' port=' || current_setting('port'));
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM queues.t;
SELECT dblink_exec('other', $$DO 'BEGIN PERFORM queue.send(''t'', ''"repeatable read"''); END'$$);
SELECT count(*) FROM queues.t;
SELECT queue.ack(receipt), payload FROM queue.receive('t');
COMMIT;
SELECT count(*) FROM queues.t;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT count(*) FROM queues.t;
SELECT dblink_exec('other', $$DO 'BEGIN PERFORM queue.send(''t'', ''"serializable"''); END'$$);
SELECT payload FROM queue.pop('t');
COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM queues.t;
SELECT dblink_exec('other', $$DO 'BEGIN PERFORM queue.send(''t'', ''"fails"''); END'$$);
SELECT queue.nack(receipt, delay => '0') FROM queue.receive('t');
SELECT payload FROM queue.peek('t');
COMMIT;
SELECT payload, attempts FROM queue.pop('t');

-- Toasted values are no exception.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM queues.t;
SELECT dblink_exec('other', $$DO 'BEGIN PERFORM queue.send(''t'', (SELECT jsonb_agg(md5(i::text)) FROM generate_series(1, 10000) i)); END'$$);
SELECT jsonb_array_length(payload) FROM queue.pop('t');
COMMIT;
SELECT dblink_disconnect('other');
DROP EXTENSION dblink;

-- PREPARE TRANSACTION: sent
BEGIN;
SELECT queue.send('t', '"prepared"') IS NOT NULL AS sent;
SELECT queue.send('t', '"prepared, deferred"', delay => '1 microsecond') IS NOT NULL AS sent;
PREPARE TRANSACTION 'send';
SELECT count(*) FROM queue.receive('t');
COMMIT PREPARED 'send';
SELECT payload FROM queue.pop('t', 10) ORDER BY payload;
BEGIN;
SELECT queue.send('t', '"never"') IS NOT NULL AS sent;
PREPARE TRANSACTION 'send';
SELECT count(*) FROM queue.receive('t');
ROLLBACK PREPARED 'send';
SELECT count(*) FROM queue.receive('t');

-- ... acknowledged
SELECT queue.send('t', '"ack"') IS NOT NULL AS sent;
SELECT receipt FROM queue.receive('t') \gset
BEGIN;
SELECT queue.ack(:receipt);
PREPARE TRANSACTION 'ack';
SELECT queue.ack(:receipt);
SELECT count(*) FROM queue.receive('t');
COMMIT PREPARED 'ack';
SELECT count(*) FROM queue.receive('t');
SELECT queue.ack(:receipt);
SELECT count(*) FROM queue.leases;

-- ... acknowledged in vain: the message comes back.
SELECT queue.send('t', '"ack, rolled back"') IS NOT NULL AS sent;
SELECT receipt FROM queue.receive('t') \gset
BEGIN;
SELECT queue.ack(:receipt);
PREPARE TRANSACTION 'ack';
SELECT count(*) FROM queue.receive('t');
ROLLBACK PREPARED 'ack';
SELECT queue.ack(receipt), payload FROM queue.receive('t', wait => '1 hour');

-- ... popped
SELECT count(*) FROM queue.send_batch('t', '{1,2}');
BEGIN;
SELECT payload FROM queue.pop('t');
PREPARE TRANSACTION 'pop';
SELECT payload FROM queue.pop('t');
SELECT payload FROM queue.pop('t');
ROLLBACK PREPARED 'pop';
SELECT payload FROM queue.pop('t', wait => '1 hour');
SELECT queue.send('t', '3') IS NOT NULL AS sent;
BEGIN;
SELECT payload FROM queue.pop('t');
PREPARE TRANSACTION 'pop';
COMMIT PREPARED 'pop';
SELECT payload FROM queue.pop('t');

-- ... failed
SELECT queue.send('t', '"nack"') IS NOT NULL AS sent;
BEGIN;
SELECT queue.nack(receipt, delay => '0') FROM queue.receive('t');
PREPARE TRANSACTION 'nack';
SELECT count(*) FROM queue.receive('t');
COMMIT PREPARED 'nack';
SELECT queue.ack(receipt), payload, attempts FROM queue.receive('t', 10, wait => '1 hour');
SELECT count(*) FROM queue.leases;

-- ... received: the lease is its receiver's, as after a commit.
SELECT queue.send('t', '"received"') IS NOT NULL AS sent;
BEGIN;
SELECT receipt FROM queue.receive('t') \gset
PREPARE TRANSACTION 'receive';
SELECT queue.ack(:receipt);
ROLLBACK PREPARED 'receive';
SELECT count(*) FROM queue.receive('t');

-- ... created, and dropped
BEGIN;
SELECT queue.create('t2');
SELECT queue.send('t2', '1') IS NOT NULL AS sent;
PREPARE TRANSACTION 'create';
COMMIT PREPARED 'create';
SELECT payload FROM queue.pop('t2');
BEGIN;
SELECT queue.drop('t2');
PREPARE TRANSACTION 'drop';
COMMIT PREPARED 'drop';
SELECT queue.send('t2', '1');
SELECT queue.drop('t');

-- A receive that was prepared and rolled back gives its leases back; one that is committed keeps them.
SELECT queue.create('p', lease => '1 hour');
SELECT queue.send_batch('p', '{1,2}');
BEGIN;
SELECT payload FROM queue.receive('p');
PREPARE TRANSACTION 'undone';
SELECT count(*) FROM queue.leases WHERE queue = 'p' AND state = 'held';
ROLLBACK PREPARED 'undone';
BEGIN;
SELECT payload, attempts FROM queue.receive('p');
PREPARE TRANSACTION 'done';
COMMIT PREPARED 'done';
SELECT payload, attempts FROM queue.receive('p', 2);
SELECT queue.drop('p');
