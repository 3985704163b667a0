--
-- Dedup keys: a message that is sent again is not sent twice
--
SELECT queue.create('orders');

-- The second send with a key sends nothing, and returns the first one's id.
SELECT queue.send('orders', '{"order": 1}', dedup_key => 'order 1') AS first \gset
SELECT queue.send('orders', '{"order": 1}', dedup_key => 'order 1') = :first AS same;
SELECT payload FROM queues.orders;

-- send_once tells whether the message is sent now.
SELECT id = :first AS same, duplicate FROM queue.send_once('orders', 'order 1', '{"order": 1}');
SELECT id > :first AS later, duplicate FROM queue.send_once('orders', 'order 2', '{"order": 2}');

-- It does not matter whether the first was received meanwhile.
SELECT payload, queue.ack(receipt) FROM queue.receive('orders', 10);
SELECT id = :first AS same, duplicate FROM queue.send_once('orders', 'order 1', '{"order": 1}');
SELECT count(*) FROM queues.orders;

-- A rollback leaves no key behind; nor does one to a savepoint.
BEGIN;
SELECT duplicate FROM queue.send_once('orders', 'order 3', '{"order": 3}');
SELECT duplicate FROM queue.send_once('orders', 'order 3', '{"order": 3}');
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT duplicate FROM queue.send_once('orders', 'order 3', '{"order": 3}');
ROLLBACK TO s;
SELECT duplicate FROM queue.send_once('orders', 'order 3', '{"order": 3}');
COMMIT;
SELECT duplicate FROM queue.send_once('orders', 'order 3', '{"order": 3}');
SELECT payload FROM queue.pop('orders', 10);

-- The same key with another message is an error: another payload, or key.
-- Headers and delay may differ, as who sends again sends a new trace.
\set VERBOSITY verbose
\set SHOW_CONTEXT never
SELECT queue.create('strict');
SELECT queue.send('strict', '{"paid": 1}', key => 'alice', headers => '{"trace": 1}', dedup_key => 'k');
\set VERBOSITY default
SELECT queue.send('strict', '{"paid": 2}', key => 'alice', dedup_key => 'k');
\echo :LAST_ERROR_SQLSTATE
SELECT queue.send('strict', '{"paid": 1}', key => 'bob', dedup_key => 'k');
SELECT queue.send('strict', '{"paid": 1}', dedup_key => 'k');
SELECT queue.send_bytes('strict', '{"paid": 1}', key => 'alice', dedup_key => 'k');
SELECT queue.send('strict', '{"paid": 1}', key => 'alice', headers => '{"trace": 2}', delay => '1 hour', dedup_key => 'k');
SELECT queue.send_bytes('strict', '\x00', dedup_key => 'b') AS first \gset
SELECT queue.send_bytes('strict', '\x00', dedup_key => 'b') = :first AS same;

-- Keys of different queues have nothing to do with each other.
SELECT duplicate FROM queue.send_once('orders', 'k', '1');

-- With a delay
SELECT queue.send('orders', '"later"', delay => '1 day', dedup_key => 'later') AS first \gset
SELECT queue.send('orders', '"later"', dedup_key => 'later') = :first AS same;
SELECT count(*) FROM queue.deferred WHERE relid = 'queues.orders'::regclass;

-- A batch has an array of keys.  Duplicates within it are duplicates, too.
SELECT array_agg(id) AS ids FROM queue.send_batch('orders', '{1,2,1,3,4}',
	dedup_keys => ARRAY['a', 'b', 'a', NULL, NULL]) id \gset
SELECT (:'ids'::bigint[])[1] = (:'ids'::bigint[])[3] AS same;
SELECT array_agg(id) AS again FROM queue.send_batch('orders', '{5,2,3}', dedup_keys => '{c,b,NULL}') id \gset
SELECT (:'again'::bigint[])[2] = (:'ids'::bigint[])[2] AS same;
SELECT payload FROM queue.pop('orders', 20);
SELECT queue.send_batch('orders', '{1,2}', dedup_keys => '{d,d}');
SELECT count(*) FROM queue.send_batch('orders', '{1,1}', dedup_keys => '{d,d}', delay => '1 day');
SELECT count(*) FROM queue.send_batch('orders', '{1,1}', dedup_keys => '{d,d}');
SELECT payload FROM queue.pop('orders', 20);
SELECT count(*), count(DISTINCT id) FROM queue.send_batch('orders',
	array_fill('"x"'::jsonb, ARRAY[5000]), dedup_keys => ARRAY(SELECT 'many ' || n % 1000 FROM generate_series(1, 5000) n)) id;
SELECT count(*) FROM queue.pop('orders', 5000);

-- A queue that recognises messages by their content: payload or body, key and
-- headers.  One with a key of its own is recognised by that.
SELECT queue.create('readings', dedup => 'content');
SELECT queue.send('readings', '{"t": 20}', key => 'a', headers => '{"unit": "C"}') AS first \gset
SELECT queue.send('readings', '{"t": 20}', key => 'a', headers => '{"unit": "C"}') = :first AS same;
SELECT queue.send('readings', '{"t": 20}', key => 'a') > :first AS later;
SELECT queue.send('readings', '{"t": 20}', headers => '{"unit": "C"}') > :first AS later;
SELECT queue.send('readings', '{"t": 20}', key => 'a', headers => '{"unit": "C"}', dedup_key => 'k') > :first AS later;
SELECT queue.send_bytes('readings', '\x01') < queue.send_bytes('readings', '\x02') AS later;
SELECT count(DISTINCT id) FROM queue.send_batch('readings', '{1,2,1}') id;
SELECT count(*) FROM queues.readings;
INSERT INTO queues.readings (payload) VALUES ('1');
\echo :LAST_ERROR_SQLSTATE

-- A dead letter that is sent again is no duplicate.
SELECT count(queue.reject(receipt)) FROM queue.receive('readings', 1);
SELECT queue.redrive('readings');
SELECT count(*) FROM queues.readings;

-- Another mode, or none, for what is sent from now on.
SELECT queue.alter('readings', dedup => 'off');
SELECT queue.send('readings', '{"t": 20}') < queue.send('readings', '{"t": 20}') AS later;
SELECT queue.send('readings', '{"t": 20}', dedup_key => 'k');
\echo :LAST_ERROR_SQLSTATE
SELECT queue.alter('readings', dedup => 'key');
SELECT duplicate FROM queue.send_once('readings', 'k', '{"t": 20}', key => 'a');

-- Nothing is kept for a queue without dedup keys; they begin with its first.
SELECT queue.create('plain', dedup => 'off');
SELECT count(*) FROM queue.dedup_bucket WHERE queue = 'queues.plain'::regclass;
SELECT queue.alter('plain', dedup => 'key');
SELECT count(*) FROM queue.dedup_bucket WHERE queue = 'queues.plain'::regclass;
SELECT queue.drop('plain');

-- After the window the key is free.  A window applies to keys that are there.
CREATE PROCEDURE until(condition text) LANGUAGE plpgsql AS $$
DECLARE
	done boolean;
BEGIN
	LOOP
		EXECUTE 'SELECT ' || condition INTO done;
		EXIT WHEN done;
		ASSERT clock_timestamp() < now() + interval '3 min', condition;
		PERFORM pg_sleep(0.01);
		COMMIT;
	END LOOP;
END $$;
SELECT queue.send('orders', '"window"', dedup_key => 'window') AS first \gset
SELECT queue.alter('orders', dedup_window => '100 ms');
CALL until($$ NOT duplicate FROM queue.send_once('orders', 'window', '"window"') $$);
SELECT id > :first AS later, duplicate FROM queue.send_once('orders', 'window', '"window"');
SELECT queue.alter('orders', dedup_window => '1 hour');

-- purge leaves the keys.
SELECT duplicate FROM queue.send_once('orders', 'purged', '1');
SELECT queue.purge('orders');
SELECT duplicate FROM queue.send_once('orders', 'purged', '1');
SELECT count(*) FROM queues.orders;

-- The keys are in tables of the owner of the extension, which nobody else may
-- touch, and which go with the queue whatever becomes of it before.
CREATE ROLE regress_dedup_owner;
CREATE ROLE regress_dedup_sender;
CREATE ROLE regress_dedup_nobody;
GRANT CREATE ON SCHEMA queues TO regress_dedup_owner;
SET ROLE regress_dedup_owner;
SELECT queue.create('theirs');
GRANT INSERT ON queues.theirs TO regress_dedup_sender;
SELECT duplicate FROM queue.send_once('theirs', 'k', '1');
SELECT * FROM queue."theirs#1";
DELETE FROM queue."theirs#1";
DROP TABLE queue."theirs#1";
ALTER TABLE queue."theirs#1" DISABLE TRIGGER ALL;
SELECT * FROM queue.dedup_bucket;
ALTER TABLE queues.theirs RENAME TO renamed;
SELECT duplicate FROM queue.send_once('renamed', 'k', '1');
SET ROLE regress_dedup_sender;
SELECT duplicate FROM queue.send_once('renamed', 'k', '1');
SET ROLE regress_dedup_nobody;
SELECT duplicate FROM queue.send_once('renamed', 'k', '1');
SELECT queue.send('renamed', '2', dedup_key => 'k');
RESET ROLE;
SELECT relowner = (SELECT extowner FROM pg_extension WHERE extname = 'queue') AS "the extension's owner's", relacl
FROM pg_class WHERE oid = 'queue."theirs#1"'::regclass;
DROP OWNED BY regress_dedup_owner;
SELECT to_regclass('queue."theirs#1"');
DROP ROLE regress_dedup_owner, regress_dedup_sender, regress_dedup_nobody;

-- By whichever way a queue is dropped, nothing is left.
DROP TABLE queues.strict CASCADE;
SELECT queue.drop('orders');
SELECT queue.drop('readings');
SELECT relid FROM queue.dedup_bucket;
SELECT relname FROM pg_class WHERE relnamespace = 'queue'::regnamespace AND relname LIKE '%#%';

-- If creation or the first key is rolled back there is nothing, and it works again.
BEGIN;
SELECT queue.create('q', dedup => 'off');
SAVEPOINT s;
SELECT queue.alter('q', dedup => 'key');
SELECT duplicate FROM queue.send_once('q', 'k', '1');
ROLLBACK TO s;
SELECT queue.alter('q', dedup => 'key');
SELECT duplicate FROM queue.send_once('q', 'k', '1');
COMMIT;
SELECT duplicate FROM queue.send_once('q', 'k', '1');

-- Tables that are gone are made again by the next who needs one.
CREATE PROCEDURE each_bucket(command text) LANGUAGE plpgsql AS $$
DECLARE
	bucket regclass;
BEGIN
	FOR bucket IN SELECT relid FROM queue.dedup_bucket WHERE queue = 'queues.q'::regclass LOOP
		EXECUTE format(command, bucket);
	END LOOP;
END $$;
CALL each_bucket('DROP TABLE %s');
SELECT duplicate FROM queue.send_once('q', 'k', '1');
SELECT duplicate FROM queue.send_once('q', 'k', '1');
CALL each_bucket('REINDEX TABLE %s');
SELECT duplicate FROM queue.send_once('q', 'k', '1');
SELECT relid AS bucket FROM queue.dedup_bucket WHERE queue = 'queues.q'::regclass AND pg_relation_size(relid) > 0 \gset
REINDEX TABLE CONCURRENTLY :bucket;
VACUUM FULL :bucket;
SELECT duplicate FROM queue.send_once('q', 'k', '1');
SELECT duplicate FROM queue.send_once('q', 'k2', '1');
SELECT duplicate FROM queue.send_once('q', 'k2', '1');

-- Such a table that was altered is refused.
\set VERBOSITY terse
ALTER TABLE :bucket RENAME TO altered;
ALTER TABLE queue.altered ADD x integer;
SELECT duplicate FROM queue.send_once('q', 'k', '1');
\set VERBOSITY default
CALL each_bucket('DROP TABLE %s');
SELECT duplicate FROM queue.send_once('q', 'k', '1');
SELECT queue.drop('q');

-- The tables of an unlogged queue are unlogged, too.
SELECT queue.create('fast', durable => false);
SELECT duplicate FROM queue.send_once('fast', 'k', '1');
SELECT duplicate FROM queue.send_once('fast', 'k', '1');
SELECT relpersistence FROM pg_class WHERE oid = 'queue."fast#1"'::regclass;
SELECT queue.drop('fast');
DROP PROCEDURE until, each_bucket;
