-- Relays: their options, who may have them, and a procedure as the sink.
SET client_min_messages = warning;

SELECT queue.create('relay_test', max_attempts => 2, backoff => '10 ms');
CREATE TABLE relay_got (n serial, id bigint, key text, payload jsonb, body bytea, attempts integer);
CREATE PROCEDURE relay_one(m queue.message) LANGUAGE plpgsql AS $$
BEGIN
	IF m.payload ? 'bad' THEN
		RAISE EXCEPTION 'cannot take %', m.payload->>'bad';
	END IF;
	INSERT INTO relay_got (id, key, payload, body, attempts)
		VALUES (m.id, m.key, m.payload, m.body, m.attempts);
END $$;
CREATE PROCEDURE relay_many(m queue.message[]) LANGUAGE sql AS $$
	INSERT INTO relay_got (id, key, payload, body, attempts)
		SELECT id, key, payload, body, attempts FROM pg_catalog.unnest(m);
$$;
CREATE FUNCTION relay_function(m queue.message) RETURNS void LANGUAGE sql AS 'SELECT';
CREATE PROCEDURE relay_text(t text) LANGUAGE sql AS 'SELECT';

-- Wait until a condition holds, but not for ever.
CREATE PROCEDURE wait_until(condition text) LANGUAGE plpgsql AS $$
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

--
-- Servers and mappings
--

CREATE SERVER relay_bad FOREIGN DATA WRAPPER queue_amqp OPTIONS (hostname 'localhost');
\echo :LAST_ERROR_SQLSTATE
CREATE SERVER relay_bad FOREIGN DATA WRAPPER queue_amqp OPTIONS (dbname 'x');
CREATE SERVER relay_bad FOREIGN DATA WRAPPER queue_amqp OPTIONS (port '0');
\echo :LAST_ERROR_SQLSTATE
CREATE SERVER relay_bad FOREIGN DATA WRAPPER queue_amqp OPTIONS (port '5672x');
CREATE SERVER relay_bad FOREIGN DATA WRAPPER queue_amqp OPTIONS (sslmode 'prefer');
CREATE SERVER relay_bad FOREIGN DATA WRAPPER queue_amqp OPTIONS (host '');
CREATE SERVER relay_bad FOREIGN DATA WRAPPER queue_amqp OPTIONS (username 'x');
CREATE SERVER relay_bad FOREIGN DATA WRAPPER queue_postgres OPTIONS (vhost '/');
CREATE SERVER relay_bad FOREIGN DATA WRAPPER queue_postgres OPTIONS (password 'secret');
CREATE SERVER relay_amqp FOREIGN DATA WRAPPER queue_amqp
	OPTIONS (host 'localhost', port '5671', vhost '/', sslmode 'verify-full', sslrootcert '/nowhere');
CREATE SERVER relay_postgres FOREIGN DATA WRAPPER queue_postgres
	OPTIONS (host 'localhost', port '1', dbname 'x', sslmode 'prefer');
CREATE USER MAPPING FOR CURRENT_USER SERVER relay_amqp OPTIONS (user 'x');
CREATE USER MAPPING FOR CURRENT_USER SERVER relay_amqp OPTIONS (username '', password 'secret');
CREATE USER MAPPING FOR CURRENT_USER SERVER relay_postgres OPTIONS (username 'x', password 'secret');
CREATE USER MAPPING FOR CURRENT_USER SERVER relay_amqp OPTIONS (username 'x', password 'secret');
CREATE FOREIGN DATA WRAPPER relay_other;
CREATE SERVER relay_other FOREIGN DATA WRAPPER relay_other;

--
-- What create_relay refuses
--
SELECT queue.create_relay(NULL, 'relay_test');
\echo :LAST_ERROR_SQLSTATE
SELECT queue.create_relay('', 'relay_test');
SELECT queue.create_relay(repeat('x', 64), 'relay_test');
SELECT queue.create_relay('r', NULL);
SELECT queue.create_relay('r', 'no_such_queue', options => '{"procedure": "relay_one"}');
\echo :LAST_ERROR_SQLSTATE
SELECT queue.create_relay('r', 'relay_test', 'no_such_server');
\echo :LAST_ERROR_SQLSTATE
SELECT queue.create_relay('r', 'relay_test', 'relay_other');
\echo :LAST_ERROR_SQLSTATE
SELECT queue.create_relay('r', 'relay_test');
SELECT queue.create_relay('r', 'relay_test', options => '[]');
SELECT queue.create_relay('r', 'relay_test', options => '{"procedure": "relay_one", "exchange": "x"}');
\echo :LAST_ERROR_SQLSTATE
SELECT queue.create_relay('r', 'relay_test', options => '{"procedure": ["relay_one"]}');
SELECT queue.create_relay('r', 'relay_test', options => '{"procedure": "relay_one", "batch": 0}');
\echo :LAST_ERROR_SQLSTATE
SELECT queue.create_relay('r', 'relay_test', options => '{"procedure": "relay_one", "batch": 1.5}');
SELECT queue.create_relay('r', 'relay_test', options => '{"procedure": "relay_one", "max_attempts": "many"}');
SELECT queue.create_relay('r', 'relay_test', options => '{"procedure": "no_such_procedure"}');
\echo :LAST_ERROR_SQLSTATE
SELECT queue.create_relay('r', 'relay_test', options => '{"procedure": "relay_text"}');
SELECT queue.create_relay('r', 'relay_test', options => '{"procedure": "relay_function"}');
SELECT queue.create_relay('r', 'relay_test', options => '{"procedure": "a.b.c.d"}');
SELECT queue.create_relay('r', 'relay_test', 'relay_amqp', '{"procedure": "relay_one"}');
SELECT queue.create_relay('r', 'relay_test', 'relay_amqp', '{"routing_key": "{id}"}');
SELECT queue.create_relay('r', 'relay_test', 'relay_amqp', '{"routing_key": "{header:}"}');
SELECT queue.create_relay('r', 'relay_test', 'relay_amqp', '{"routing_key": "a}"}');
SELECT queue.create_relay('r', 'relay_test', 'relay_amqp', '{"exchange": "x", "mandatory": "perhaps"}');
SELECT queue.create_relay('r', 'relay_test', 'relay_amqp');
SELECT queue.create_relay('r', 'relay_test', 'relay_postgres', '{"queue": ""}');
SELECT queue.create_relay('r', 'relay_test', 'relay_postgres', '{"exchange": "x"}');
SELECT count(*) FROM queue.relays;

--
-- A procedure for each message
--
SELECT queue.create_relay('one', 'relay_test', options => '{"procedure": "relay_one"}');
SELECT queue.create_relay('one', 'relay_test', options => '{"procedure": "relay_one"}');
\echo :LAST_ERROR_SQLSTATE
SELECT queue.send('relay_test', '{"n": 1}', key => 'a');
SELECT queue.send('relay_test', '{"bad": "this"}', key => 'a');
SELECT queue.send('relay_test', '{"n": 2}', key => 'a');
SELECT queue.send('relay_test', '{"bad": "that"}');
SELECT queue.send_bytes('relay_test', '\x0102', key => 'b');
CALL wait_until($$(SELECT count(*) = 3 FROM relay_got)$$);
CALL wait_until($$(SELECT count(*) = 2 FROM queue.dead_letters WHERE queue = 'relay_test')$$);
SELECT key, payload, body, attempts FROM relay_got WHERE key = 'a' ORDER BY n;
SELECT key, payload, body, attempts FROM relay_got WHERE key = 'b' ORDER BY n;
SELECT key, payload, attempts, reason, error FROM queue.dead_letters WHERE queue = 'relay_test' ORDER BY id;
CALL wait_until($$(SELECT state = 'idle' FROM queue.relays WHERE name = 'one')$$);
SELECT queue, server, published, failed, in_flight, lag_messages, lag_seconds, last_error IN ('cannot take this', 'cannot take that') AS last_error,
	last_error_at IS NOT NULL AS last_error_at, started_at IS NOT NULL AS started_at
FROM queue.relays WHERE name = 'one';

-- The effects and the acknowledgement are one transaction.
SELECT count(*) FROM queues.relay_test;

-- What is sent and rolled back is nobody's.
BEGIN;
SELECT queue.send('relay_test', '{"n": 3}') IS NOT NULL;
ROLLBACK;
SELECT queue.send('relay_test', '{"n": 4}') IS NOT NULL;
CALL wait_until($$(SELECT count(*) = 1 FROM relay_got WHERE payload->>'n' = '4')$$);
SELECT count(*) FROM relay_got WHERE payload->>'n' = '3';

--
-- Pause, alter, resume
--
CREATE ROLE regress_relay_owner LOGIN;
CREATE ROLE regress_relay_group NOLOGIN;
GRANT regress_relay_group TO regress_relay_owner;
GRANT SELECT, DELETE ON queues.relay_test TO regress_relay_owner;
GRANT INSERT ON relay_got TO regress_relay_owner;
GRANT USAGE ON SEQUENCE relay_got_n_seq TO regress_relay_owner;
SELECT queue.pause_relay('one');
CALL wait_until($$(SELECT started_at IS NULL FROM queue.relays WHERE name = 'one')$$);
SELECT state FROM queue.relays WHERE name = 'one';
TRUNCATE relay_got;
SELECT count(queue.send('relay_test', '{"n": 5}', key => 'k' || i % 3)) FROM generate_series(1, 100) i;
SELECT lag_messages FROM queue.relays WHERE name = 'one';
SELECT queue.alter_relay('one', '{"bach": 10}');
SELECT queue.alter_relay('one', '{"procedure": null}');
SELECT queue.alter_relay('one', NULL);
SELECT queue.alter_relay('one', '{"procedure": "relay_many", "batch": 7, "max_attempts": 3}');
SELECT options FROM queue.relay_definition WHERE name = 'one';
SELECT queue.alter_relay('one', '{"max_attempts": null}');
SELECT options FROM queue.relay_definition WHERE name = 'one';
SELECT queue.resume_relay('one');
-- One statement can do several things to it.
SELECT queue.pause_relay('one'), queue.alter_relay('one', '{"batch": 10}'), queue.resume_relay('one'),
	queue.alter_relay('one', '{"batch": 7}');
CALL wait_until($$(SELECT count(*) = 100 FROM relay_got)$$);
SELECT count(DISTINCT id) FROM relay_got;
SELECT count(*) FROM (SELECT id < lag(id) OVER (PARTITION BY key ORDER BY n) AS before FROM relay_got) x WHERE before;

-- An altered relay goes on with what it is now.
TRUNCATE relay_got;
CREATE TEMP TABLE relay_altered AS SELECT pg_catalog.clock_timestamp() AS at;
SELECT queue.alter_relay('one', '{"procedure": "relay_one"}');
CALL wait_until($$(SELECT started_at > at FROM queue.relays, relay_altered WHERE name = 'one')$$);
SELECT queue.send('relay_test', '{"bad": "it"}') IS NOT NULL;
CALL wait_until($$(SELECT count(*) = 1 FROM queue.dead_letters WHERE queue = 'relay_test' AND error = 'cannot take it')$$);

-- A procedure that cannot be called is the relay's trouble and no message's.
REVOKE EXECUTE ON PROCEDURE relay_one FROM PUBLIC;
SELECT queue.alter_relay('one', owner => 'regress_relay_owner');
SELECT queue.send('relay_test', '{"n": 6}') IS NOT NULL;
CALL wait_until($$(SELECT state = 'backing off' AND last_error = 'permission denied for procedure relay_one(queue.message)' FROM queue.relays WHERE name = 'one')$$);
SELECT owner FROM queue.relays WHERE name = 'one';
GRANT EXECUTE ON PROCEDURE relay_one TO regress_relay_owner;
CALL wait_until($$(SELECT count(*) = 1 FROM relay_got)$$);
SELECT payload, attempts FROM relay_got;

-- Its trouble is past.
CALL wait_until($$(SELECT state = 'idle' AND last_error IS NULL FROM queue.relays WHERE name = 'one')$$);

-- A new name is no new procedure.
ALTER PROCEDURE relay_one RENAME TO relay_renamed;
CALL wait_until($$(SELECT procedure = 'public.relay_renamed(queue.message)' FROM queue.relay_definition WHERE name = 'one')$$);
SELECT options FROM queue.relays WHERE name = 'one';
SELECT queue.send('relay_test', '{"n": 7}') IS NOT NULL;
CALL wait_until($$(SELECT count(*) = 2 FROM relay_got)$$);
ALTER PROCEDURE relay_renamed RENAME TO relay_one;
REASSIGN OWNED BY regress_relay_owner TO CURRENT_USER;
SELECT owner = current_user FROM queue.relays WHERE name = 'one';
REVOKE ALL ON queues.relay_test, relay_got, relay_got_n_seq FROM regress_relay_owner;
REVOKE ALL ON PROCEDURE relay_one FROM regress_relay_owner;

--
-- Rights
--
SET ROLE regress_relay_owner;
SELECT queue.create_relay('two', 'relay_test', options => '{"procedure": "relay_one"}');
SELECT queue.alter_relay('one', '{"batch": 10}');
SELECT queue.pause_relay('one');
SELECT queue.resume_relay('one');
SELECT queue.drop_relay('one');
\echo :LAST_ERROR_SQLSTATE
SELECT queue.drop_relay('no_such_relay');
\echo :LAST_ERROR_SQLSTATE
SELECT queue.pause_relay(NULL);
SELECT count(*) FROM queue.relays;
SELECT count(*) FROM queue.relay_list();
SELECT * FROM queue.relay_definition;
RESET ROLE;
GRANT SELECT, DELETE ON queues.relay_test TO regress_relay_owner;
SET ROLE regress_relay_owner;
SELECT name FROM queue.relays;
SELECT queue.create_relay('two', 'relay_test', 'relay_amqp', '{"exchange": "x"}');
\echo :LAST_ERROR_SQLSTATE
SELECT queue.create_relay('two', 'relay_test', options => '{"procedure": "relay_one"}');
RESET ROLE;

-- It acts as its owner.
SELECT queue.create('relay_whose');
GRANT SELECT, DELETE ON queues.relay_whose TO regress_relay_owner;
CREATE TABLE relay_who (who name, who_logged_in name, at timestamptz);
CREATE PROCEDURE relay_whose(m queue.message) LANGUAGE sql AS
	'INSERT INTO relay_who VALUES (current_user, session_user, now())';
GRANT INSERT ON relay_who TO regress_relay_owner;
SET ROLE regress_relay_owner;
SELECT queue.create_relay('two', 'relay_whose', options => '{"procedure": "public.relay_whose"}');
RESET ROLE;
SELECT queue.send('relay_whose', '{}') IS NOT NULL;
CALL wait_until($$(SELECT count(*) = 1 FROM relay_who)$$);
SELECT who, who_logged_in FROM relay_who;
REVOKE DELETE ON queues.relay_whose FROM regress_relay_owner;
SELECT queue.send('relay_whose', '{}') IS NOT NULL;
CALL wait_until($$(SELECT last_error = 'permission denied for queue "relay_whose"' FROM queue.relays WHERE name = 'two')$$);
SELECT count(*) FROM relay_who;

--
-- relay_accept, which the postgres sink calls
--
SELECT queue.create('relay_inbox');
SELECT queue.relay_accept('here', 'relay_inbox', ARRAY[1, 2]::bigint[], ARRAY['2020-01-01', '2020-01-02']::timestamptz[],
	ARRAY['{"n": 1}', NULL]::jsonb[], ARRAY[NULL, '\x02']::bytea[], ARRAY['k', NULL], ARRAY[NULL, '{"h": 2}']::jsonb[]);
SELECT queue.relay_accept('here', 'relay_inbox', ARRAY[2, 3]::bigint[], ARRAY['2020-01-02', '2020-01-03']::timestamptz[],
	ARRAY[NULL, '{"n": 3}']::jsonb[], ARRAY['\x02', NULL]::bytea[], ARRAY[NULL, NULL]::text[], ARRAY[NULL, NULL]::jsonb[]);
SELECT id, key, payload, body, headers FROM queue.receive('relay_inbox', 10);
-- The same ids from elsewhere, or of another time, are other messages.
SELECT queue.relay_accept('there', 'relay_inbox', ARRAY[1]::bigint[], ARRAY['2020-01-01']::timestamptz[],
	ARRAY['{}']::jsonb[], ARRAY[NULL]::bytea[], ARRAY[NULL]::text[], ARRAY[NULL]::jsonb[]);
SELECT queue.relay_accept('here', 'relay_inbox', ARRAY[1]::bigint[], ARRAY['2020-01-09']::timestamptz[],
	ARRAY['{}']::jsonb[], ARRAY[NULL]::bytea[], ARRAY[NULL]::text[], ARRAY[NULL]::jsonb[]);
-- A rollback forgets that they were accepted.
BEGIN;
SELECT queue.relay_accept('here', 'relay_inbox', ARRAY[9]::bigint[], ARRAY['2020-01-01']::timestamptz[],
	ARRAY['{}']::jsonb[], ARRAY[NULL]::bytea[], ARRAY[NULL]::text[], ARRAY[NULL]::jsonb[]);
ROLLBACK;
SELECT queue.relay_accept('here', 'relay_inbox', ARRAY[9]::bigint[], ARRAY['2020-01-01']::timestamptz[],
	ARRAY['{}']::jsonb[], ARRAY[NULL]::bytea[], ARRAY[NULL]::text[], ARRAY[NULL]::jsonb[]);
SELECT queue.relay_accept('here', 'relay_inbox', '{}', '{}', '{}', '{}', '{}', '{}');
SELECT queue.relay_accept('here', 'relay_inbox', NULL, '{}', '{}', '{}', '{}', '{}');
SELECT queue.relay_accept('here', 'relay_inbox', '{1}', '{}', '{}', '{}', '{}', '{}');
SELECT queue.relay_accept('here', 'relay_inbox', '{1}', '{2020-01-01}', '{NULL}', '{NULL}', '{NULL}', '{NULL}');
SELECT queue.relay_accept('here', 'relay_inbox', '{1}', '{2020-01-01}', '{1}', '{NULL}', '{NULL}', '{1}');
SELECT queue.relay_accept('here', 'relay_inbox', '{NULL}', '{2020-01-01}', '{1}', '{NULL}', '{NULL}', '{NULL}');
SELECT queue.relay_accept('here', 'no_such_queue', '{1}', '{2020-01-01}', '{1}', '{NULL}', '{NULL}', '{NULL}');
SET ROLE regress_relay_owner;
SELECT queue.relay_accept('here', 'relay_inbox', '{1}', '{2020-01-01}', '{1}', '{NULL}', '{NULL}', '{NULL}');
RESET ROLE;

--
-- Without a server there, and without a queue
--
SELECT queue.create_relay('three', 'relay_inbox', 'relay_postgres');
CALL wait_until($$(SELECT state = 'backing off' AND last_error IS NOT NULL FROM queue.relays WHERE name = 'three')$$);
CREATE USER MAPPING FOR CURRENT_USER SERVER relay_postgres OPTIONS (user 'x', password 'secret');
CALL wait_until($$(SELECT last_error LIKE '%refused%' FROM queue.relays WHERE name = 'three')$$);
SELECT last_error LIKE '%secret%' FROM queue.relays WHERE name = 'three';
SELECT queue.drop('relay_inbox');
SELECT queue.drop_relay('three');
CALL wait_until($$(SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'queue relay three')$$);
SELECT queue.drop('relay_inbox');

SELECT queue.drop_relay('one');
SELECT queue.drop_relay('two');
SELECT queue.drop('relay_test');
SELECT queue.drop('relay_whose');
CALL wait_until($$(SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'queue relay' AND datname = current_database())$$);
DROP TABLE relay_got, relay_who;
DROP PROCEDURE relay_one, relay_many, relay_text, relay_whose, wait_until;
DROP FUNCTION relay_function;
DROP SERVER relay_amqp CASCADE;
DROP SERVER relay_postgres CASCADE;
DROP FOREIGN DATA WRAPPER relay_other CASCADE;
DROP ROLE regress_relay_owner, regress_relay_group;
