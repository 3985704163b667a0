--
-- Limits per queue: messages in flight, and the rate at which they are handed out
--
-- At most so many messages are on lease at a time, however many are asked for.
SELECT queue.create('l', lease => '1 hour', backoff => '0', max_in_flight => 3);
SELECT name, max_in_flight, rate, rate_interval FROM queue.queues;
SELECT count(*) FROM queue.send_batch('l', ARRAY(SELECT to_jsonb(n) FROM generate_series(1, 20) n));
CREATE TEMP TABLE held (n integer, receipt bigint);
CREATE FUNCTION take(max integer) RETURNS integer[] LANGUAGE sql AS $$
	WITH got AS MATERIALIZED (SELECT * FROM queue.receive('l', max)),
	kept AS (INSERT INTO held SELECT payload::integer, receipt FROM got)
	SELECT array_agg(payload::integer) FROM got $$;
CREATE FUNCTION receipt_of(integer) RETURNS bigint LANGUAGE sql AS 'SELECT receipt FROM held WHERE n = $1';
SELECT take(2);
SELECT take(2);
SELECT take(2);
SELECT payload FROM queue.receive('l', wait => '10 ms');
SELECT payload FROM queue.pop('l');
SELECT ready, leased FROM queue.stats WHERE queue = 'l';

-- Whatever ends a lease makes room; but extend does not.
SELECT queue.extend(receipt_of(1), '2 hours');
SELECT take(2);
SELECT queue.ack(receipt_of(1));
SELECT take(2);
SELECT queue.nack(receipt_of(2), delay => '1 hour');
SELECT take(2);
SELECT queue.reject(receipt_of(3));
SELECT take(2);
SELECT queue.release('l', n) FROM held WHERE n = 4;
SELECT take(2);
SELECT take(2);

-- It is the commit that makes room.
BEGIN;
SELECT queue.ack(receipt_of(5));
SELECT take(1);
ROLLBACK;
SELECT take(1);
BEGIN;
SELECT queue.ack(receipt_of(5));
COMMIT;
SELECT take(1);

-- What a transaction received and rolled back has room for the next.
SELECT queue.ack(receipt_of(6));
BEGIN;
SELECT take(3);
SAVEPOINT s;
SELECT take(1);
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT take(3);
ROLLBACK TO s;
SELECT take(3);
COMMIT;

-- A pop is in flight until its transaction has ended, or is prepared.
DELETE FROM held;
SELECT count(queue.release('l', id)) FROM queue.leases;
BEGIN;
SELECT payload FROM queue.pop('l', 10);
SELECT payload FROM queue.pop('l');
PREPARE TRANSACTION 'popped';
SELECT leased FROM queue.stats WHERE queue = 'l';
SELECT take(1);
ROLLBACK PREPARED 'popped';
SELECT take(9);
SELECT take(9);

-- Deferred messages have no other room.
SELECT queue.nack_batch(array_agg(receipt), delay => '0') FROM held;
TRUNCATE held;
SELECT take(9);
SELECT payload FROM queue.receive('l');

-- Set lower than what is in flight, nothing is handed out until that has sunk;
SELECT queue.alter('l', max_in_flight => 1);
SELECT queue.ack(receipt) FROM held ORDER BY n LIMIT 2;
SELECT payload FROM queue.receive('l');
DELETE FROM held WHERE n IN (SELECT n FROM held ORDER BY n LIMIT 2);
SELECT queue.ack(receipt) FROM held;
TRUNCATE held;
SELECT take(9);
-- set higher, or off, it is at once; and leases taken without a limit count when there is one.
SELECT queue.alter('l', max_in_flight => 2);
SELECT take(9);
SELECT queue.alter('l', max_in_flight => 0);
SELECT take(2);
SELECT queue.alter('l', max_in_flight => 5);
SELECT take(9);
SELECT take(9);
SELECT leased FROM queue.stats WHERE queue = 'l';
SELECT queue.purge('l');
SELECT leased FROM queue.stats WHERE queue = 'l';
TRUNCATE held;

-- A rate: so many in each interval, evenly.  Two an hour are one each half-hour.
SELECT queue.alter('l', max_in_flight => 0, rate => 2, rate_interval => '1 hour');
SELECT max_in_flight, rate, rate_interval FROM queue.queues;
SELECT count(*) FROM queue.send_batch('l', ARRAY(SELECT to_jsonb(n) FROM generate_series(1, 200) n));
SELECT take(10);
SELECT take(10);
SELECT payload FROM queue.pop('l');
SELECT payload FROM queue.receive('l', wait => '10 ms');

-- Every delivery counts, of what failed too, or was given back.
SELECT queue.nack(receipt_of(1), delay => '0');
TRUNCATE held;
SELECT take(10);
-- A rate that is set is set anew.
SELECT queue.alter('l', rate => 2);
BEGIN;
SELECT take(10);
ROLLBACK;
SELECT take(10);
SELECT queue.alter('l', lease => '2 hours');
SELECT take(10);
SELECT queue.alter('l', rate_interval => '1 hour');
SELECT take(10);
SELECT queue.ack(receipt) FROM held;
TRUNCATE held;

-- At once at most what goes in a tenth of the interval.
SELECT queue.alter('l', rate => 100, rate_interval => '10 years');
SELECT take(6);
SELECT take(6);
SELECT take(6);
SELECT queue.alter('l', rate => 1999999999);
SELECT array_length(take(150), 1);

-- Those who wait get each as soon as it may go: 25 of 100 a second, 10 of them at once.
SELECT queue.purge('l');
SELECT queue.alter('l', rate => 100, rate_interval => '1 second');
SELECT count(*) FROM queue.send_batch('l', ARRAY(SELECT to_jsonb(n) FROM generate_series(1, 25) n));
DO $$
DECLARE
	began timestamptz := clock_timestamp();
	n integer;
	total integer := 0;
BEGIN
	WHILE total < 25 LOOP
		SELECT count(*) INTO n FROM queue.pop('l', 100, wait => '5 min');
		ASSERT n BETWEEN 1 AND 10, n;
		total := total + n;
	END LOOP;
	ASSERT clock_timestamp() - began >= '150 ms', clock_timestamp() - began;
END $$;

-- The fastest and the slowest
SELECT queue.alter('l', rate => 2147483647, rate_interval => '1 microsecond');
SELECT count(*) FROM queue.send_batch('l', ARRAY(SELECT to_jsonb(n) FROM generate_series(1, 1000) n));
SELECT count(*) FROM queue.pop('l', 900);
SELECT queue.alter('l', rate => 1, rate_interval => '10 years');
SELECT count(*) FROM queue.pop('l', 100);
SELECT count(*) FROM queue.pop('l', 100);

-- Both
SELECT queue.alter('l', max_in_flight => 2, rate => 30, rate_interval => '1 year');
SELECT count(*) FROM queue.receive('l', 100);
SELECT queue.release('l', id) FROM queue.leases WHERE queue = 'l' LIMIT 1;
SELECT count(*) FROM queue.receive('l', 100);
SELECT count(queue.release('l', id)) FROM queue.leases WHERE queue = 'l';
SELECT count(*) FROM queue.receive('l', 100);
SELECT queue.alter('l', max_in_flight => 0, rate => 0);
SELECT count(*) FROM queue.receive('l', 100);

DROP FUNCTION take, receipt_of;
DROP TABLE held;
SELECT queue.drop('l');
