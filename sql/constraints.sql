--
-- What an owner adds to his queue holds for everything sent to it
--
CREATE ROLE regress_owner;
CREATE ROLE regress_sender;
GRANT CREATE ON SCHEMA queues TO regress_owner;
CREATE SCHEMA regress_owner AUTHORIZATION regress_owner;
SET ROLE regress_owner;
SELECT queue.create('c', max_attempts => 1);
GRANT INSERT, DELETE ON queues.c TO regress_sender;
CREATE FUNCTION regress_owner.good(jsonb) RETURNS boolean LANGUAGE plpgsql AS
	$$ BEGIN RETURN ($1 ->> 'total')::numeric >= 0; END $$;
ALTER TABLE queues.c ADD CONSTRAINT total CHECK (regress_owner.good(payload));
ALTER TABLE queues.c ADD source text DEFAULT current_user;
ALTER TABLE queues.c ADD customer text GENERATED ALWAYS AS (payload ->> 'customer') STORED;
ALTER TABLE queues.c ALTER key SET NOT NULL;
ALTER TABLE queues.c ALTER headers SET DEFAULT '{"v": 1}', ALTER priority SET DEFAULT 7;

-- Every way to send
SET ROLE regress_sender;
SELECT queue.send('c', '{"total": 1, "customer": "alice"}', key => 'a') AS id;
SELECT queue.send('c', '{"total": -1}', key => 'a');
SELECT queue.send('c', '{"total": 1}');
SELECT queue.send_bytes('c', '\x01', key => 'b', headers => '{"v": 2}') AS id;
SELECT queue.send_bytes('c', '\x01');
SELECT count(*) FROM queue.send_batch('c', '{"{\"total\": 2}", "{\"total\": 3}"}', '{c,d}', ARRAY[NULL, '{"v": 3}']::jsonb[]);
SELECT count(*) FROM queue.send_batch('c', '{"{\"total\": 2}", "{\"total\": -3}"}', '{c,d}');
SELECT count(*) FROM queue.send_batch('c', '{"{\"total\": 2}", "{\"total\": 3}"}', '{c,NULL}');
SELECT queue.send('c', '{"total": 4}', key => 'e', delay => '1 hour') AS id;
SELECT queue.send('c', '{"total": -4}', key => 'e', delay => '1 hour');
SELECT count(*) FROM queue.send_batch('c', '{"{\"total\": 5}", "{\"total\": -5}"}', '{f,g}', delay => '1 hour');
SELECT queue.relay_accept('x', 'c', '{1}', '{2001-01-01}', '{"{\"total\": 6}"}', '{NULL}', '{h}', '{NULL}');
SELECT queue.relay_accept('x', 'c', '{2}', '{2001-01-01}', '{"{\"total\": -6}"}', '{NULL}', '{h}', '{NULL}');
SELECT queue.relay_accept('x', 'c', '{2}', '{2001-01-01}', '{"{\"total\": 6}"}', '{NULL}', '{NULL}', '{NULL}');
INSERT INTO queues.c (key, payload) VALUES ('i', '{"total": 7, "customer": "bob"}');
INSERT INTO queues.c (key, payload) VALUES ('i', '{"total": -7}');
BEGIN;
SAVEPOINT s;
SELECT queue.send('c', '{"total": -1}', key => 'a');
ROLLBACK TO s;
SELECT current_user, current_setting('search_path');
COMMIT;
RESET ROLE;
SELECT key, headers, priority, payload, body, source, customer FROM queues.c ORDER BY id;
SELECT key, headers, priority, payload FROM queue.deferred ORDER BY id;
SELECT sent, deferred FROM queue.stats WHERE queue = 'c';

-- The SQLSTATEs, and no row for one who may not read
\set VERBOSITY sqlstate
SELECT queue.send('c', '{"total": -1}', key => 'a');
SELECT queue.send('c', '{"total": 1}');
\set VERBOSITY default

GRANT SELECT ON queues.c TO regress_sender;
SET ROLE regress_sender;
DO $$
DECLARE detail text;
BEGIN
	PERFORM queue.send('c', '{"total": -1}', key => 'a');
EXCEPTION WHEN check_violation THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RAISE NOTICE 'one who may: %', detail LIKE 'Failing row contains (%"total": -1%';
END $$;
RESET ROLE;

-- Receivers see what was sent.
SELECT key, headers, payload, body, priority FROM queue.receive('c', 100) ORDER BY id;

-- Dead letters are checked again: the owner has changed his mind since.
SELECT queue.purge('c');
SELECT queue.send('c', '{"total": 8}', key => 'j') > 0 AS sent;
SELECT queue.reject(receipt) FROM queue.receive('c');
ALTER TABLE queues.c ADD CHECK ((payload ->> 'total')::int <> 8);
\set VERBOSITY terse
SELECT queue.redrive('c');
\set VERBOSITY default
SELECT count(*) FROM queue.dead_letters WHERE queue = 'c';
ALTER TABLE queues.c DROP CONSTRAINT c_payload_check;
SELECT queue.redrive('c');
SELECT key, payload, source, headers FROM queues.c;

-- Headers by default must be an object, too.
ALTER TABLE queues.c ALTER headers SET DEFAULT '[]';
SELECT queue.send('c', '{"total": 9}', key => 'k');
ALTER TABLE queues.c ALTER headers DROP DEFAULT;

-- Domains
CREATE DOMAIN regress_owner.positive AS int CHECK (VALUE > 0) NOT NULL;
ALTER TABLE queues.c ADD n regress_owner.positive DEFAULT 1;
ALTER TABLE queues.c ALTER n DROP DEFAULT;
SELECT queue.send('c', '{"total": 9}', key => 'k');
ALTER TABLE queues.c DROP n;
SELECT queue.send('c', '{"total": 9}', key => 'k') > 0 AS sent;

-- An index of the owner's, which new segments have as well
SELECT queue.drop('c');
ALTER SYSTEM SET queue.segment_size = '1MB';
SELECT pg_reload_conf();
SET ROLE regress_owner;
SELECT queue.create('x');
CREATE FUNCTION regress_owner.who(bigint) RETURNS name LANGUAGE sql IMMUTABLE AS 'SELECT current_user';
CREATE INDEX ON queues.x (key);
CREATE INDEX ON queues."x$1" (key);
CREATE INDEX ON queues."x$2" ((payload ->> 'n'), regress_owner.who(id)) WHERE key IS NOT NULL;
GRANT INSERT ON queues.x TO regress_sender;
SET ROLE regress_sender;
SELECT count(*) FROM queue.send_batch('x', (SELECT array_agg(jsonb_build_object('n', n, 'x', repeat(md5(n::text), 20))) FROM generate_series(1, 2000) n), (SELECT array_agg('k' || n) FROM generate_series(1, 2000) n));
SELECT count(*) FROM queue.send_batch('x', (SELECT array_agg(jsonb_build_object('n', n, 'x', repeat(md5(n::text), 20))) FROM generate_series(2001, 4000) n), (SELECT array_agg('k' || n) FROM generate_series(2001, 4000) n));
SELECT count(*) FROM queue.send_batch('x', (SELECT array_agg(jsonb_build_object('n', n, 'x', repeat(md5(n::text), 20))) FROM generate_series(4001, 6000) n), (SELECT array_agg('k' || n) FROM generate_series(4001, 6000) n));
RESET ROLE;
SET enable_seqscan = off;
EXPLAIN (costs off) SELECT payload ->> 'n' FROM queues."x$1" WHERE key = 'k17';
SELECT payload ->> 'n' FROM queues."x$1" WHERE key = 'k17';
SELECT count(*) FROM queues.x WHERE key IN ('k17', 'k1999', 'k2345');
SELECT count(*) >= 1000 AS indexed FROM queues."x$2" WHERE (payload ->> 'n') > '' AND regress_owner.who(id) = 'regress_owner' AND key IS NOT NULL;
RESET enable_seqscan;
SELECT queue.create('w');
DO $$
BEGIN
	FOR i IN 1 .. 600 LOOP
		EXIT WHEN to_regclass('queues."x$3"') IS NOT NULL;
		PERFORM queue.receive('w', wait => '100 ms');
	END LOOP;
END $$;
SELECT indexdef FROM pg_indexes WHERE tablename = 'x$3';
ALTER SYSTEM RESET queue.segment_size;
SELECT pg_reload_conf();
SELECT queue.drop('x');
SELECT queue.drop('w');

-- What the owner has written runs as the owner, and can neither do more nor be
-- led astray by the sender.
SET ROLE regress_owner;
SELECT queue.create('o');
GRANT INSERT ON queues.o TO regress_sender;
CREATE TABLE regress_owner.seen (who name, path text);
CREATE FUNCTION regress_owner.see() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO regress_owner.seen VALUES (current_user, current_setting('search_path'));
	PERFORM set_config('search_path', 'regress_owner', false);
	PERFORM set_config('application_name', 'changed', false);
	RETURN 'seen';
END $$;
ALTER TABLE queues.o ADD seen text;
ALTER TABLE queues.o ALTER seen SET DEFAULT regress_owner.see();
RESET ROLE;
CREATE SCHEMA regress_sender AUTHORIZATION regress_sender;
GRANT regress_sender TO regress_owner;
SET search_path = regress_sender, public;
SET application_name = 'mine';
SET ROLE regress_sender;
SELECT queue.send('o', '1') > 0 AS sent;
SELECT current_user, current_setting('search_path'), current_setting('application_name');
RESET ROLE;
SELECT queue.send('o', '2') > 0 AS sent;
SELECT * FROM regress_owner.seen;
CREATE OR REPLACE FUNCTION regress_owner.see() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RESET ROLE;
	RETURN 'seen';
END $$;
SELECT queue.send('o', '3');
CREATE OR REPLACE FUNCTION regress_owner.see() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RAISE EXCEPTION 'as %', current_user;
END $$;
SELECT queue.send('o', '3');
SELECT current_user = session_user AS same;

-- A batch within a batch
CREATE OR REPLACE FUNCTION regress_owner.see() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN count(*) FROM queue.send_batch('p', '{1,2,3}');
END $$;
SET ROLE regress_owner;
SELECT queue.create('p');
RESET ROLE;
SELECT count(*) FROM queue.send_batch('o', '{4,5,6}');
SELECT payload, seen FROM queues.o ORDER BY id;
SELECT count(*) FROM queue.receive('p', 100);
RESET search_path;
SELECT queue.drop('o');
SELECT queue.drop('p');
SET client_min_messages = warning;
DROP OWNED BY regress_owner CASCADE;
DROP OWNED BY regress_sender CASCADE;
DROP ROLE regress_owner, regress_sender;
