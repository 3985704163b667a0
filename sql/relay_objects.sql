-- Relays among the database's objects: what they depend on, whose they are,
-- and how many a role may have.
SET client_min_messages = warning;

CREATE ROLE regress_relay_a LOGIN;
CREATE ROLE regress_relay_b LOGIN;
CREATE ROLE regress_relay_monitor;
GRANT pg_monitor TO regress_relay_monitor;
SELECT queue.create('relay_objects');
GRANT SELECT, DELETE ON queues.relay_objects TO regress_relay_a;
GRANT USAGE ON FOREIGN DATA WRAPPER queue_amqp TO regress_relay_a, regress_relay_b;
CREATE SCHEMA regress_relay AUTHORIZATION regress_relay_a;
SET ROLE regress_relay_a;
CREATE SERVER relay_server FOREIGN DATA WRAPPER queue_amqp OPTIONS (host '127.0.0.1', port '1');
CREATE PROCEDURE regress_relay.take(m queue.message) LANGUAGE sql AS 'SELECT';
SELECT queue.create_relay('s', 'relay_objects', 'relay_server', '{"exchange": "x"}');
SELECT queue.create_relay('p', 'relay_objects', options => '{"procedure": "regress_relay.take"}');
SELECT name, queue, server, owner, options FROM queue.relays ORDER BY name;

RESET ROLE;
CREATE PROCEDURE wait_for(condition text) LANGUAGE plpgsql AS $$
DECLARE
	holds boolean;
BEGIN
	FOR i IN 1..3000 LOOP
		EXECUTE 'SELECT ' || condition INTO holds;
		EXIT WHEN holds;
		COMMIT;
		PERFORM pg_catalog.pg_sleep(0.01);
	END LOOP;
	IF holds IS NOT TRUE THEN
		RAISE EXCEPTION 'this never came true: %', condition;
	END IF;
END $$;

-- No user name or password is made up for who is no superuser.
CALL wait_for($$(SELECT last_error LIKE 'user name and password are required: %' FROM queue.relays WHERE name = 's')$$);

-- What a relay uses cannot be dropped from under it,
SET ROLE regress_relay_a;
DROP SERVER relay_server;
\echo :LAST_ERROR_SQLSTATE
DROP PROCEDURE regress_relay.take;
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
DROP TABLE queues.relay_objects;
\echo :LAST_ERROR_SQLSTATE
SELECT queue.drop('relay_objects');
\echo :LAST_ERROR_SQLSTATE
DROP ROLE regress_relay_a;
\echo :LAST_ERROR_SQLSTATE

-- and if it is, the relay goes with it: no other of its name is used.
SET ROLE regress_relay_a;
DROP SERVER relay_server CASCADE;
SET ROLE regress_relay_b;
CREATE SERVER relay_server FOREIGN DATA WRAPPER queue_amqp OPTIONS (host '127.0.0.1', port '2');
GRANT USAGE ON FOREIGN SERVER relay_server TO PUBLIC;
RESET ROLE;
SELECT name FROM queue.relay_definition ORDER BY name;
BEGIN;
DROP PROCEDURE regress_relay.take CASCADE;
SELECT count(*) FROM queue.relay_definition;
ROLLBACK;
SELECT count(*) FROM queue.relay_definition;
BEGIN;
DROP TABLE queues.relay_objects CASCADE;
SELECT count(*) FROM queue.relay_definition;
ROLLBACK;

-- A replaced procedure is the same, one of that name in another schema is not.
SET ROLE regress_relay_a;
CREATE OR REPLACE PROCEDURE regress_relay.take(m queue.message) LANGUAGE sql AS 'SELECT 1';
SELECT options->>'procedure' FROM queue.relays WHERE name = 'p';
ALTER PROCEDURE regress_relay.take RENAME TO taken;
CREATE PROCEDURE regress_relay.take(m queue.message) LANGUAGE sql AS 'SELECT';
SELECT options->>'procedure' FROM queue.relays WHERE name = 'p';
SELECT queue.alter_relay('p', '{"procedure": "regress_relay.take"}');
DROP PROCEDURE regress_relay.taken;
DROP PROCEDURE regress_relay.take;

-- The owner: as of any object.
\set VERBOSITY sqlstate
SELECT queue.alter_relay('p', owner => 'regress_relay_b');
\set VERBOSITY default
SELECT queue.alter_relay('p', owner => 'no_such_role');
SELECT queue.alter_relay('p', NULL, NULL);
RESET ROLE;
SET ROLE regress_relay_b;
SELECT queue.alter_relay('p', owner => 'regress_relay_b');
SELECT queue.drop_relay('p');
DROP TYPE queues."$p";
CREATE TABLE pg_temp.uses_it (x queues."$p");
RESET ROLE;
SELECT queue.alter_relay('p', owner => 'regress_relay_b');
SELECT owner FROM queue.relays WHERE name = 'p';
CALL wait_for($$(SELECT state = 'backing off' AND last_error = 'permission denied for queue "relay_objects"' FROM queue.relays WHERE name = 'p')$$);
ALTER TYPE queues."$p" OWNER TO regress_relay_a;
CALL wait_for($$(SELECT state = 'idle' AND last_error IS NULL FROM queue.relays WHERE name = 'p')$$);
REASSIGN OWNED BY regress_relay_a TO regress_relay_b;
SELECT owner FROM queue.relays WHERE name = 'p';
REVOKE USAGE ON FOREIGN DATA WRAPPER queue_amqp FROM regress_relay_a, regress_relay_b;
DROP OWNED BY regress_relay_b CASCADE;
SELECT count(*) FROM queue.relay_definition;
SELECT count(*) FROM pg_type WHERE typname LIKE '$%' AND typnamespace = 'queues'::regnamespace;
CALL wait_for($$(SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'queue relay' AND datname = current_database())$$);

-- DROP TYPE is another way to say it, and what a dump of schema queues alone
-- has left behind is no obstacle.
CREATE PROCEDURE relay_take(m queue.message) LANGUAGE sql AS 'SELECT';
SELECT queue.create_relay('p', 'relay_objects', options => '{"procedure": "relay_take"}');
DROP TYPE queues."$p";
SELECT count(*) FROM queue.relay_definition;
CREATE TYPE queues."$p" AS ();
SELECT queue.create_relay('p', 'relay_objects', options => '{"procedure": "relay_take"}');
SELECT queue.create_relay('p', 'relay_objects', options => '{"procedure": "relay_take"}');

-- A row that was restored: its names are looked up once.
DELETE FROM pg_depend WHERE classid = 'pg_type'::regclass AND objid = 'queues."$p"'::regtype
	AND refclassid IN ('pg_proc'::regclass, 'pg_class'::regclass);
CALL wait_for($$(SELECT count(*) = 2 FROM pg_depend WHERE classid = 'pg_type'::regclass AND objid = 'queues."$p"'::regtype
	AND refclassid IN ('pg_proc'::regclass, 'pg_class'::regclass)) OR queue.alter_relay('p', '{}') IS NULL$$);
DROP PROCEDURE relay_take;
SELECT queue.drop_relay('p');

-- Names
SELECT queue.create_relay(E'a\nb', 'relay_objects', options => '{"procedure": "relay_take"}');
SELECT queue.create_relay(repeat('x', 63), 'relay_objects', options => '{"procedure": "relay_take"}');

-- Times
CREATE SERVER relay_server FOREIGN DATA WRAPPER queue_amqp OPTIONS (host '127.0.0.1', port '1');
SELECT queue.create_relay('s', 'relay_objects', 'relay_server', '{"exchange": "x", "confirm_timeout": 0}');
SELECT queue.create_relay('s', 'relay_objects', 'relay_server', '{"exchange": "x", "confirm_timeout": "2 days"}');
SELECT queue.create_relay('s', 'relay_objects', 'relay_server', '{"exchange": "x", "confirm_timeout": "soon"}');
SELECT queue.create_relay('s', 'relay_objects', 'relay_server', '{"exchange": "x", "confirm_timeout": "90 s"}');
SELECT queue.alter_relay('s', '{"confirm_timeout": 5}');
SELECT options FROM queue.relays;

-- Files are for those who may read files.
GRANT USAGE ON FOREIGN DATA WRAPPER queue_amqp TO regress_relay_a;
SET ROLE regress_relay_a;
CREATE SERVER relay_file FOREIGN DATA WRAPPER queue_amqp OPTIONS (sslrootcert '/etc/passwd');
\echo :LAST_ERROR_SQLSTATE
CREATE SERVER relay_file FOREIGN DATA WRAPPER queue_amqp OPTIONS (host '127.0.0.1', port '1');
ALTER SERVER relay_file OPTIONS (ADD sslrootcert '/etc/passwd');
RESET ROLE;
GRANT pg_read_server_files TO regress_relay_a;
SET ROLE regress_relay_a;
ALTER SERVER relay_file OPTIONS (ADD sslrootcert '/etc/passwd');
CREATE USER MAPPING FOR regress_relay_a SERVER relay_file OPTIONS (username 'x', password 'x');
SELECT queue.create_relay('f', 'relay_objects', 'relay_file', '{"exchange": "x"}');
RESET ROLE;
CALL wait_for($$(SELECT last_error LIKE 'could not connect: %' FROM queue.relays WHERE name = 'f')$$);
REVOKE pg_read_server_files FROM regress_relay_a;
CALL wait_for($$(SELECT last_error LIKE 'the owner of server "relay_file" is not permitted%' FROM queue.relays WHERE name = 'f')$$);
SELECT queue.drop_relay('f');

-- Who sees them: the owner, who may read the queue, and monitors.
CREATE ROLE regress_relay_nobody;
SET ROLE regress_relay_nobody;
SELECT count(*) FROM queue.relays;
SET ROLE regress_relay_monitor;
SELECT count(*) FROM queue.relays;
RESET ROLE;
DROP ROLE regress_relay_nobody;

-- So many a role may have.
SHOW queue.max_relays_per_role;
CREATE SCHEMA regress_relay AUTHORIZATION regress_relay_a;
SET ROLE regress_relay_a;
CREATE PROCEDURE regress_relay.take(m queue.message) LANGUAGE sql AS 'SELECT';
SELECT queue.create_relay('p1', 'relay_objects', options => '{"procedure": "regress_relay.take"}');
SELECT queue.create_relay('p2', 'relay_objects', options => '{"procedure": "regress_relay.take"}');
SELECT queue.create_relay('p3', 'relay_objects', options => '{"procedure": "regress_relay.take"}');
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
SELECT queue.create_relay('p3', 'relay_objects', options => '{"procedure": "regress_relay.take"}');
SELECT queue.alter_relay('p3', owner => 'regress_relay_a');
SELECT queue.create_relay('p4', 'relay_objects', options => '{"procedure": "regress_relay.take"}');
DROP OWNED BY regress_relay_a CASCADE;
SELECT name FROM queue.relays;
SELECT queue.drop_relay('s');
SELECT count(*) FROM queue.relay_definition;
SELECT queue.drop('relay_objects');
DROP SERVER relay_server CASCADE;
DROP PROCEDURE wait_for;
DROP ROLE regress_relay_a, regress_relay_b, regress_relay_monitor;
