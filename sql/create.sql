--
-- Queues: create, alter, drop, purge
--
SELECT queue.create('orders');
SELECT * FROM queue.queues;

-- A queue is a table, the inheritance parent of its segments.
SELECT c.relname, c.relpersistence, i.inhparent::regclass AS parent
	FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
	WHERE c.relnamespace = 'queues'::regnamespace AND c.relkind = 'r' ORDER BY 1;
SELECT attname, atttypid::regtype, attnotnull FROM pg_attribute
	WHERE attrelid = 'queues.orders'::regclass AND attnum > 0 ORDER BY attnum;

-- Its segments have no indexes, and autovacuum leaves them alone.
SELECT relname, reloptions FROM pg_class
	WHERE relnamespace = 'queues'::regnamespace AND relname LIKE 'orders$_' ORDER BY 1;
SELECT count(*) FROM pg_index WHERE indrelid::regclass::text LIKE 'queues.%';

-- All settings by name.
SELECT queue.create(name => 'mail', lease => '5 minutes', max_attempts => 3,
	backoff => '10 seconds', backoff_max => '1 day', durable => true);
SELECT queue.alter('mail', lease => '1 minute');
SELECT queue.alter('mail', max_attempts => 9, backoff => '0', backoff_max => '0');
SELECT queue.alter('mail');
SELECT * FROM queue.queues ORDER BY name;

-- A name is any that a table can have, within limits.
SELECT queue.create('Two Words, "quoted"');
SELECT queue.send('Two Words, "quoted"', '1');
SELECT id, payload FROM queue.pop('Two Words, "quoted"');
SELECT queue.purge('Two Words, "quoted"');
SELECT queue.drop('Two Words, "quoted"');
SELECT queue.create('größe');
SELECT queue.send('größe', '1');
SELECT queue.drop('größe');
SELECT queue.create(repeat('x', 55));
SELECT queue.send(repeat('x', 55), '1');
SELECT queue.drop(repeat('x', 55));
SELECT queue.create(repeat('x', 56));
SELECT queue.create('');
SELECT queue.create('a$1');
SELECT queue.create(NULL);

-- Once only.
SELECT queue.create('orders');
CREATE TABLE queues.not_a_queue (id bigint);
SELECT queue.create('not_a_queue');
SELECT queue.send('not_a_queue', '1');
SELECT queue.drop('not_a_queue');
DROP TABLE queues.not_a_queue;

-- Settings out of range
SELECT queue.create('bad', lease => '0');
SELECT queue.create('bad', lease => '-1 second');
SELECT queue.create('bad', lease => '11 years');
SELECT queue.create('bad', lease => '-178000000 years');
SELECT queue.create('bad', max_attempts => 0);
SELECT queue.create('bad', backoff => '-1 second');
SELECT queue.create('bad', backoff_max => '-1 second');
SELECT queue.create('bad', lease => NULL);
SELECT queue.create('bad', durable => NULL);
SELECT queue.alter('orders', lease => '0');
SELECT queue.alter('orders', max_attempts => -1);
SELECT queue.alter('nowhere', lease => '1 s');
SELECT queue.alter(NULL);
SELECT name FROM queue.queues ORDER BY name;

-- All of it belongs to the transaction.
BEGIN;
SELECT queue.create('short');
SELECT queue.send('short', '1');
SELECT id FROM queue.receive('short');
ROLLBACK;
SELECT queue.send('short', '1');
BEGIN;
SELECT queue.alter('mail', lease => '7 seconds');
SELECT lease FROM queue.queues WHERE name = 'mail';
ROLLBACK;
SELECT lease FROM queue.queues WHERE name = 'mail';
SELECT queue.send('mail', '"kept"');
BEGIN;
SELECT queue.drop('mail');
SELECT queue.send('mail', '2');
ROLLBACK;
BEGIN;
SELECT queue.purge('mail');
SELECT queue.send('mail', '"in vain"');
ROLLBACK;
SELECT payload, attempts FROM queue.pop('mail');

-- Create and use it in one transaction.
BEGIN;
SELECT queue.create('quick');
SELECT queue.send('quick', '1');
COMMIT;
SELECT id, payload FROM queue.pop('quick');

-- Purge takes the messages in the segments, those on lease and the deferred
-- ones, not the dead letters.
SELECT queue.send_batch('quick', '{1,2,3,4}');
SELECT queue.send('quick', '5', delay => '1 hour');
SELECT queue.reject(receipt, 'bad') FROM queue.receive('quick');
SELECT receipt AS old FROM queue.receive('quick') \gset
SELECT queue.purge('quick');
SELECT queue.ack(:old);
SELECT count(*) FROM queue.receive('quick', max_messages => 10);
SELECT count(*) FROM queue.deferred;
SELECT queue, payload, reason FROM queue.dead_letters;
SELECT queue.purge('nowhere');
SELECT queue.purge(NULL);

-- What is sent after a purge takes the places of what was on lease before it.
SELECT queue.send_batch('quick', '{1,2,3}');
SELECT array_agg(receipt) AS old FROM queue.receive('quick', max_messages => 3, lease => '1 hour') \gset
SELECT queue.purge('quick');
SELECT queue.send_batch('quick', '{7,8,9}');
SELECT payload FROM queue.receive('quick', max_messages => 10);
SELECT queue.ack_batch(:'old');
SELECT queue.purge('quick');

-- Ids are not used again after a purge.
SELECT queue.send('quick', '6') > 9 AS new_id;

-- Drop takes everything, dead letters too.
SELECT queue.send('quick', '5', delay => '1 hour');
SELECT queue.drop('quick');
SELECT count(*) FROM queue.deferred;
SELECT count(*) FROM queue.dead_letters;
SELECT queue.receive('quick');
SELECT queue.drop('quick');
SELECT queue.drop(NULL);
SELECT count(*) FROM pg_class WHERE relname LIKE 'quick%';

-- The next queue of that name starts afresh.
SELECT queue.create('quick');
SELECT queue.send('quick', '1');
SELECT queue.drop('quick');

-- Drop stops at what depends on the queue.
CREATE VIEW pending AS SELECT id, payload FROM queues.mail;
SELECT queue.drop('mail');
DROP VIEW pending;
SELECT queue.drop('mail');

-- A column that is added stays out of the way; the engine's must stay.
ALTER TABLE queues.orders ADD COLUMN note text;
SELECT queue.send('orders', '1') AS id;
SELECT queue.send_batch('orders', '{2,3}');
INSERT INTO queues.orders (payload, note) VALUES ('4', 'remember') RETURNING id, note;
SELECT id, payload FROM queue.pop('orders', 10) ORDER BY id;
SELECT queue.drop('orders');

-- DROP TABLE ... CASCADE is no way to treat a queue, but it does no harm.
SELECT queue.create('gone');
SELECT queue.send('gone', '1');
DROP TABLE queues.gone CASCADE;
SELECT queue.send('gone', '1');
SELECT name FROM queue.queues;

-- More queues than there is room for at the same time, one after the other
CREATE PROCEDURE come_and_go(n integer) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. n LOOP
		PERFORM queue.create('passing');
		PERFORM queue.send('passing', '1');
		COMMIT;
		PERFORM queue.receive('passing');
		COMMIT;
		PERFORM queue.drop('passing');
		COMMIT;
	END LOOP;
END $$;
CALL come_and_go(current_setting('queue.max_queues')::int + 1);
DROP PROCEDURE come_and_go;
