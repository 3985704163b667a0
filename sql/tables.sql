--
-- A queue is a table: what DDL on it does, and what nobody can do with it
--
ALTER SYSTEM SET queue.sweep_interval = 1;
SELECT pg_reload_conf();
CREATE ROLE regress_alice;
CREATE ROLE regress_mallory;
GRANT CREATE ON SCHEMA queues TO regress_alice, regress_mallory;
CREATE SCHEMA regress_place;
GRANT ALL ON SCHEMA regress_place TO regress_alice, regress_mallory;

-- No row is read or formed unless the columns are what they were.
SET ROLE regress_alice;
\set VERBOSITY sqlstate
SELECT queue.create('t');
ALTER TABLE queues.t ALTER id TYPE text;
INSERT INTO queues.t (payload) VALUES ('1');
SELECT queue.send('t', '1');
SELECT queue.send_batch('t', '{1}');
SELECT queue.receive('t');
SELECT queue.peek('t');
SELECT queue.purge('t');
SELECT queue.drop('t');

SELECT queue.create('t');
ALTER TABLE queues.t ALTER headers TYPE bytea USING '\x00';
INSERT INTO queues.t (headers) VALUES ('\x7fffffffffffffff');
INSERT INTO queues.t (payload) VALUES ('1');
SELECT queue.drop('t');

SELECT queue.create('t');
CREATE DOMAIN regress_place.number AS bigint;
ALTER TABLE queues.t ALTER id TYPE regress_place.number;
INSERT INTO queues.t (payload) VALUES ('1');
SELECT queue.drop('t');
DROP DOMAIN regress_place.number;
\set VERBOSITY default

SELECT queue.create('t');
SELECT queue.send('t', '1');
ALTER TABLE queues.t ALTER id DROP NOT NULL;
INSERT INTO queues.t (payload) VALUES ('2');
SELECT queue.send('t', '2');
SELECT queue.peek('t');
ALTER TABLE queues.t ALTER id SET NOT NULL, ALTER enqueued_at DROP NOT NULL;
INSERT INTO queues.t (payload) VALUES ('2');
ALTER TABLE queues.t ALTER enqueued_at SET NOT NULL;
SELECT id, payload FROM queue.pop('t');

-- A segment of its own is judged, too; and dead rows can be from such times.
-- (Since 18 a segment cannot have other NOT NULL constraints than its queue.)
DO $$
BEGIN
	IF current_setting('server_version_num')::int < 180000 THEN
		ALTER TABLE queues."t$1" ALTER id DROP NOT NULL;
		INSERT INTO queues."t$1" (enqueued_at) VALUES (now());
	END IF;
	BEGIN
		PERFORM queue.send('t', '3');
		IF current_setting('server_version_num')::int < 180000 THEN
			RAISE 'a message was sent to it';
		END IF;
		RAISE object_not_in_prerequisite_state;
	EXCEPTION WHEN object_not_in_prerequisite_state THEN
		NULL;
	END;
END $$;
DELETE FROM queues."t$1";
ALTER TABLE queues."t$1" ALTER id SET NOT NULL;
SELECT queue.send('t', '4');
SELECT id, payload FROM queue.pop('t', 10);

-- Constraints that cannot hold across segments are refused, others are not.
ALTER TABLE queues.t ADD PRIMARY KEY (id);
CREATE UNIQUE INDEX ON queues.t (key);
CREATE UNIQUE INDEX ON queues."t$1" (key);
ALTER TABLE queues.t ADD EXCLUDE USING btree (key WITH =);
CREATE TABLE regress_place.orders (number integer PRIMARY KEY);
ALTER TABLE queues.t ADD COLUMN number integer REFERENCES regress_place.orders;
CREATE INDEX t_key ON queues.t (key);
DROP INDEX queues.t_key;
DROP TABLE regress_place.orders;

-- In another schema it is no queue, and its name is free.
SELECT queue.create('u', max_attempts => 1);
SELECT queue.send('u', '"mine"');
SELECT queue.reject(receipt) FROM queue.receive('u');
SELECT queue.send('u', '"mine, too"');
ALTER TABLE queues.u SET SCHEMA regress_place;
SELECT queue.send('u', '1');
SELECT queue.receive('u');
SELECT queue.drop('u');
SET ROLE regress_mallory;
SELECT queue.create('u', max_attempts => 1);
SELECT queue.send('u', '"other"');
SELECT count(queue.reject(receipt)) FROM queue.receive('u', 10);
SELECT queue, payload FROM queue.dead_letters;
SELECT queue.redrive('u');
SELECT payload FROM queue.pop('u', 10);
SELECT queue.drop('u');
SET ROLE regress_alice;
ALTER TABLE regress_place.u SET SCHEMA queues;
SELECT queue, payload FROM queue.dead_letters;
SELECT payload FROM queue.pop('u', 10);

-- DROP TABLE takes along what we keep of a queue.
SELECT queue.send('u', '1', delay => '1 day') IS NOT NULL AS sent;
BEGIN;
DROP TABLE queues.u CASCADE;
SELECT count(*) FROM queue.dead_letters;
ROLLBACK;
SELECT count(*) FROM queue.dead_letters;
SELECT queue.send('u', '1') IS NOT NULL AS sent;
DROP TABLE queues.u CASCADE;
SELECT count(*) FROM queue.queues WHERE name = 'u';
RESET ROLE;
SELECT (SELECT count(*) FROM queue.deferred) AS deferred, (SELECT count(*) FROM queue.dead) AS dead,
	(SELECT count(*) FROM queue.queue_definition WHERE relid NOT IN (SELECT oid FROM pg_class)) AS settings;
SET ROLE regress_mallory;
SELECT queue.create('u');
SELECT payload FROM queue.pop('u', 10);
SELECT count(*) FROM queue.dead_letters;
SELECT queue.drop('u');

-- The segments belong to whom the queue belongs to.
SET ROLE regress_alice;
SELECT queue.send('t', '"secret"') IS NOT NULL AS sent;
RESET ROLE;
ALTER TABLE queues.t OWNER TO regress_mallory;
SELECT relname, relowner::regrole FROM pg_class WHERE relname LIKE 't$_' OR relname IN ('t', 't$id') ORDER BY 1;
SET ROLE regress_alice;
SELECT * FROM queues."t$1";
SELECT * FROM queues."t$2";
SET ROLE regress_mallory;
SELECT payload FROM queue.pop('t');
RESET ROLE;
REASSIGN OWNED BY regress_mallory TO regress_alice;
SELECT relname, relowner::regrole FROM pg_class WHERE relname LIKE 't$_' OR relname IN ('t', 't$id') ORDER BY 1;

-- A child that is somebody else's is no segment: nobody reads what he puts there.
SET ROLE regress_alice;
CREATE TABLE queues."t$77" () INHERITS (queues.t);
CREATE TABLE regress_place."t$78" () INHERITS (queues.t);
CREATE UNLOGGED TABLE queues."t$79" () INHERITS (queues.t);
CREATE TEMP TABLE t80 () INHERITS (queues.t);
CREATE TABLE queues."t$81" () INHERITS (queues.t);
RESET ROLE;
ALTER TABLE queues."t$77" OWNER TO regress_mallory;
SET ROLE regress_mallory;
INSERT INTO queues."t$77" (id, enqueued_at, payload) VALUES (1001, now(), '"injected"');
SET ROLE regress_alice;
INSERT INTO regress_place."t$78" (id, enqueued_at, payload) VALUES (1002, now(), '"elsewhere"');
INSERT INTO queues."t$79" (id, enqueued_at, payload) VALUES (1003, now(), '"unlogged"');
INSERT INTO t80 (id, enqueued_at, payload) VALUES (1004, now(), '"temporary"');
INSERT INTO queues."t$81" (id, enqueued_at, payload) VALUES (1005, now(), '"restored"');
SELECT payload FROM queue.pop('t', 10, wait => '1 minute');
SELECT count(*) FROM queue.pop('t', 10);
DROP TABLE queues."t$79", queues."t$81", regress_place."t$78", t80;

-- A segment that becomes somebody else's while it is in use
SELECT queue.send('t', '"before"') IS NOT NULL AS sent;
RESET ROLE;
SELECT tableoid::regclass AS tail FROM queues.t WHERE payload = '"before"' \gset
ALTER TABLE :tail OWNER TO regress_mallory;
SET ROLE regress_alice;
SELECT payload FROM queue.pop('t', 10);
RESET ROLE;
ALTER TABLE :tail OWNER TO regress_alice;
SET ROLE regress_alice;
SELECT payload FROM queue.pop('t', 10, wait => '1 minute');
RESET ROLE;
ALTER SYSTEM RESET queue.sweep_interval;
SELECT pg_reload_conf();
DROP TABLE queues."t$77";

-- A TRUNCATE trigger runs as its owner, whoever purges, and its settings end.
SET ROLE regress_alice;
CREATE TABLE regress_place.seen (who name);
CREATE FUNCTION regress_place.spy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO regress_place.seen VALUES (current_user);
	PERFORM set_config('search_path', 'regress_place', false);
	RETURN NULL;
END $$;
CREATE TRIGGER spy AFTER TRUNCATE ON queues.t EXECUTE FUNCTION regress_place.spy();
RESET ROLE;
SELECT queue.purge('t');
SELECT DISTINCT who FROM regress_place.seen;
SHOW search_path;

-- A name that somebody has taken is no segment's.
SET ROLE regress_mallory;
CREATE TABLE queues."h$1" (id bigint);
SET ROLE regress_alice;
SELECT queue.create('h');
SELECT relname, relowner::regrole FROM pg_class WHERE relname LIKE 'h$_' ORDER BY 1;
SELECT queue.drop('h');

-- What the caller's search_path finds is not what the table is made of.
SET ROLE regress_alice;
CREATE DOMAIN regress_place.bigint AS text;
CREATE DOMAIN regress_place.jsonb AS text;
SET search_path = regress_place, pg_catalog;
SELECT queue.create('v');
RESET search_path;
SELECT DISTINCT typnamespace::regnamespace FROM pg_attribute a JOIN pg_type t ON t.oid = atttypid
	WHERE attrelid = 'queues.v'::regclass AND attnum > 0;
SELECT queue.drop('v');

-- A role must not use up what there is for all.
RESET ROLE;
SET queue.max_queues_per_role = 2;
SET ROLE regress_alice;
SELECT queue.create('v');
SELECT queue.create('w');
SELECT queue.drop('v');
SELECT queue.create('w');
SELECT queue.drop('w');
RESET ROLE;
SELECT queue.create('v'), queue.create('w'), queue.create('x');
SELECT queue.drop('v'), queue.drop('w'), queue.drop('x');
RESET queue.max_queues_per_role;

-- A table that looks like a queue's becomes one, with what is in it.
SET ROLE regress_alice;
CREATE TABLE queues.restored (id bigint NOT NULL, enqueued_at timestamptz NOT NULL, key_hash bigint,
	expires_at timestamptz,
	priority smallint, key text, headers jsonb, payload jsonb, body bytea, note text);
CREATE TABLE queues."restored$1" () INHERITS (queues.restored);
INSERT INTO queues.restored (id, enqueued_at, payload) VALUES (4711, now(), '"old"');
INSERT INTO queues."restored$1" (id, enqueued_at, payload) VALUES (4712, now(), '"newer"');
SELECT queue.send('restored', '1');
SET ROLE regress_mallory;
SELECT queue.create('restored');
SELECT queue.drop('restored');
RESET ROLE;
SELECT queue.create('restored');
SET ROLE regress_alice;
CREATE UNIQUE INDEX i ON queues.restored (id);
SELECT queue.create('restored');
DROP INDEX queues.i;
SELECT queue.create('restored', max_attempts => 3);
SELECT queue.create('restored');
SELECT queue.send('restored', '"new"') > 4712 AS higher;
INSERT INTO queues.restored (payload) VALUES ('"newest"') RETURNING id > 4713 AS higher;
SELECT payload FROM queue.pop('restored', 10) ORDER BY id;
SELECT queue.drop('restored');
CREATE TABLE queues.restored (id bigint NOT NULL, enqueued_at timestamptz NOT NULL, key_hash bigint,
	expires_at timestamptz,
	priority smallint, key text, headers jsonb, payload jsonb, body bytea);
SELECT queue.drop('restored');
SELECT count(*) FROM pg_class WHERE relname LIKE 'restored%';

-- DROP OWNED drops queues like anything else.
RESET ROLE;
DROP OWNED BY regress_alice, regress_mallory CASCADE;
SELECT (SELECT count(*) FROM queue.queue_definition) AS queues, (SELECT count(*) FROM queue.deferred) AS deferred;
DROP SCHEMA regress_place CASCADE;
DROP ROLE regress_alice, regress_mallory;
