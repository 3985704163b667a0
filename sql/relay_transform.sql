-- A function of the relay's owner that messages go through before they are
-- published: it renames, redacts, wraps, routes and drops.
SET client_min_messages = warning;

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

-- The other side is a queue of this database.
SELECT split_part(current_setting('unix_socket_directories'), ',', 1) AS host, current_setting('port') AS port \gset
CREATE SERVER transform_server FOREIGN DATA WRAPPER queue_postgres OPTIONS (host :'host', port :'port', dbname :'DBNAME');
CREATE USER MAPPING FOR CURRENT_USER SERVER transform_server OPTIONS (user :'USER');
SELECT queue.create('transform', max_attempts => 2, backoff => '10 ms'), queue.create('arrivals');

--
-- What can be a transform: a function that takes one message and returns one
--
CREATE SCHEMA tidy;
CREATE FUNCTION tidy.message(m queue.message) RETURNS queue.message LANGUAGE sql AS 'SELECT m';
CREATE FUNCTION tidy.jsonb(m queue.message) RETURNS jsonb LANGUAGE sql AS 'SELECT m.payload';
CREATE FUNCTION tidy.many(m queue.message) RETURNS SETOF queue.message LANGUAGE sql AS 'SELECT m';
CREATE FUNCTION tidy.two(m queue.message, n integer DEFAULT 1) RETURNS queue.message LANGUAGE sql AS 'SELECT m';
CREATE PROCEDURE tidy.procedure(m queue.message) LANGUAGE sql AS 'SELECT';
CREATE FUNCTION tidy.step(a queue.message, b queue.message) RETURNS queue.message LANGUAGE sql AS 'SELECT b';
CREATE AGGREGATE tidy.aggregate(queue.message) (SFUNC = tidy.step, STYPE = queue.message);
SELECT queue.create_relay('t', 'transform', 'transform_server', '{"transform": ""}');
\echo :LAST_ERROR_SQLSTATE
SELECT queue.create_relay('t', 'transform', 'transform_server', '{"transform": "tidy.nothing"}');
\echo :LAST_ERROR_SQLSTATE
SELECT queue.create_relay('t', 'transform', 'transform_server', '{"transform": "a.b.c.d"}');
SELECT queue.create_relay('t', 'transform', 'transform_server', '{"transform": "tidy.message(queue.message)"}');
SELECT queue.create_relay('t', 'transform', 'transform_server', '{"transform": "tidy.jsonb"}');
\echo :LAST_ERROR_SQLSTATE
SELECT queue.create_relay('t', 'transform', 'transform_server', '{"transform": "tidy.many"}');
SELECT queue.create_relay('t', 'transform', 'transform_server', '{"transform": "tidy.two"}');
SELECT queue.create_relay('t', 'transform', 'transform_server', '{"transform": "tidy.procedure"}');
\echo :LAST_ERROR_SQLSTATE
SELECT queue.create_relay('t', 'transform', 'transform_server', '{"transform": "tidy.aggregate"}');
-- A procedure needs none.
SELECT queue.create_relay('t', 'transform', options => '{"procedure": "tidy.procedure", "transform": "tidy.message"}');

--
-- It is the owner's own, or a superuser's: others could replace it.
--
CREATE ROLE regress_tidy LOGIN;
CREATE ROLE regress_other;
GRANT SELECT, DELETE ON queues.transform TO regress_tidy;
GRANT USAGE ON FOREIGN SERVER transform_server TO regress_tidy;
GRANT ALL ON SCHEMA tidy TO regress_tidy, regress_other;
SET ROLE regress_other;
CREATE FUNCTION tidy.theirs(m queue.message) RETURNS queue.message LANGUAGE sql AS 'SELECT m';
SET ROLE regress_tidy;
SELECT queue.create_relay('t', 'transform', 'transform_server', '{"transform": "tidy.theirs"}');
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
REVOKE EXECUTE ON FUNCTION tidy.message FROM PUBLIC;
SET ROLE regress_tidy;
SELECT queue.create_relay('t', 'transform', 'transform_server', '{"transform": "tidy.message"}');
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
SELECT queue.create_relay('t', 'transform', 'transform_server', '{"transform": "tidy.theirs"}');
GRANT EXECUTE ON FUNCTION tidy.message TO PUBLIC;
SET ROLE regress_tidy;
SELECT queue.create_relay('t', 'transform', 'transform_server', '{"transform": "tidy.message"}');
SELECT queue.drop_relay('t');
RESET ROLE;

--
-- What it can do.  Ids and times stay, whatever it returns of them.
--
CREATE FUNCTION tidy.orders(m queue.message) RETURNS queue.message LANGUAGE plpgsql AS $$
BEGIN
	CASE m.payload->>'do'
	WHEN 'rename' THEN
		m.key := 'order/' || m.key;
	WHEN 'redact' THEN
		m.payload := m.payload - 'card';
	WHEN 'wrap' THEN
		m.payload := pg_catalog.jsonb_build_object('id', m.id, 'attempts', m.attempts, 'receipt', m.receipt, 'data', m.payload);
	WHEN 'route' THEN
		m.headers := pg_catalog.jsonb_build_object('to', m.payload->>'to');
	WHEN 'encode' THEN
		m.body := pg_catalog.convert_to(m.payload->>'text', 'UTF8');
		m.payload := NULL;
	WHEN 'drop' THEN
		RETURN NULL;
	WHEN 'forge' THEN
		m.id := 0;
		m.receipt := 1;
		m.enqueued_at := '2000-01-01';
		m.attempts := 100;
	ELSE
	END CASE;
	RETURN m;
END $$;
SELECT queue.create_relay('t', 'transform', 'transform_server', '{"queue": "arrivals", "transform": "tidy.orders"}');
SELECT options FROM queue.relays WHERE name = 't';
SELECT count(queue.send('transform', payload, key => key)) FROM (VALUES
	('{"do": "rename"}'::jsonb, '17'), ('{"do": "redact", "card": 4111}', NULL), ('{"do": "wrap"}', NULL),
	('{"do": "route", "to": "Rome"}', NULL), ('{"do": "encode", "text": "día"}', NULL), ('{"do": "drop"}', '17'),
	('{"do": "forge"}', NULL), ('{"do": "nothing"}', NULL)) v(payload, key);
CALL wait_for('count(*) = 7 FROM queues.arrivals');
SELECT key, payload - 'id' AS payload, convert_from(body, 'UTF8') AS body, headers
FROM queues.arrivals ORDER BY id;
CALL wait_for($$(SELECT published = 7 AND dropped = 1 AND failed = 0 FROM queue.relays WHERE name = 't')$$);
SELECT count(*) FROM queues.transform;
SELECT queue.purge('arrivals');

--
-- An error is a refusal of that message: others go on, and the dead letter is
-- the message as it was sent.
--
CREATE OR REPLACE FUNCTION tidy.orders(m queue.message) RETURNS queue.message LANGUAGE plpgsql AS $$
BEGIN
	IF m.payload ? 'sql' THEN
		EXECUTE m.payload->>'sql';
	ELSIF m.payload ? 'bad' THEN
		m := pg_catalog.jsonb_populate_record(m, m.payload->'bad');
	ELSE
		m.headers := pg_catalog.jsonb_build_object('path', pg_catalog.current_setting('search_path'), 'as', current_user,
			'work_mem', pg_catalog.current_setting('work_mem'));
	END IF;
	RETURN m;
END $$;
CREATE TABLE transform_writes (n integer);
SELECT count(queue.send('transform', payload, key => 'k' || row_number)) FROM (SELECT payload, row_number() OVER () FROM (VALUES
	('{"sql": "DO $x$ BEGIN RAISE EXCEPTION $y$not this one$y$; END $x$"}'::jsonb),
	('{"sql": "DO $x$ BEGIN RAISE EXCEPTION $y$not this either$y$ USING ERRCODE = $y$57P01$y$; END $x$"}'),
	('{"sql": "INSERT INTO public.transform_writes VALUES (1)"}'),
	('{"sql": "CREATE TEMP TABLE t (i integer)"}'),
	('{"sql": "SET SESSION AUTHORIZATION regress_tidy"}'),
	('{"sql": "SET ROLE regress_tidy"}'),
	('{"sql": "RESET ROLE"}'),
	('{"sql": "SET transaction_read_only = off"}'),
	('{"sql": "COMMIT"}'),
	('{"sql": "ROLLBACK"}'),
	('{"sql": "DO $x$ BEGIN COMMIT; END $x$"}'),
	('{"sql": "SAVEPOINT s"}'),
	('{"sql": "LISTEN x"}'),
	('{"sql": "PREPARE x AS SELECT 1"}'),
	('{"sql": "DECLARE x CURSOR WITH HOLD FOR SELECT 1"}'),
	('{"sql": "SELECT queue.send($x$arrivals$x$, $x$1$x$)"}'),
	('{"sql": "SELECT queue.pop($x$transform$x$)"}'),
	('{"sql": "SELECT queue.ack(1)"}'),
	('{"sql": "SELECT queue.pause_relay($x$t$x$)"}'),
	('{"sql": "SELECT queue.alter_relay($x$t$x$, $x${\"transform\": null}$x$)"}'),
	('{"sql": "SELECT queue.drop_relay($x$t$x$)"}'),
	('{"sql": "PREPARE TRANSACTION $x$x$x$"}'),
	('{"sql": "DO $x$ BEGIN RAISE EXCEPTION $y$%$y$, repeat($y$é$y$, 10000); END $x$"}'),
	('{"bad": {"payload": null, "body": null}}'),
	('{"bad": {"body": "\\x00"}}'),
	('{"bad": {"headers": [1, 2]}}')) v(payload)) w;
SELECT queue.send('transform', '"good"', key => 'good') > 0;
CALL wait_for('count(*) = 1 FROM queues.arrivals');
CALL wait_for($$count(*) = 0 FROM queues.transform$$);
CALL wait_for($$count(*) >= 26 FROM queue.dead_letters$$);
SELECT payload, attempts, reason, regexp_replace(error, 'é+', 'é') AS error FROM queue.dead_letters WHERE queue = 'transform' ORDER BY id;
SELECT count(*) FROM transform_writes;
SELECT payload, headers->>'path' AS path, headers->>'as' = current_user AS as_owner FROM queues.arrivals;
SELECT queue.purge('arrivals');

-- What it sets is undone after each call, and locks do not stay.
SELECT count(queue.send('transform', payload)) FROM (VALUES
	('{"sql": "SET work_mem = 12345"}'::jsonb), ('{"sql": "SET search_path = public"}'),
	('{"sql": "SELECT set_config($x$work_mem$x$, $x$12345$x$, false), pg_advisory_lock(1)"}'), ('"then"')) v(payload);
CALL wait_for('count(*) = 4 FROM queues.arrivals');
SELECT headers->>'path' AS path, headers->>'work_mem' = current_setting('work_mem') AS reset FROM queues.arrivals WHERE payload = '"then"';
CALL wait_for($$count(*) = 0 FROM pg_locks WHERE locktype = 'advisory'$$);
SELECT queue.purge('arrivals');

-- Whatever it leaves is gone before the next call: a cursor of the same name, a
-- lease, a notification, a large object.
LISTEN transform_note;
CREATE OR REPLACE FUNCTION tidy.orders(m queue.message) RETURNS queue.message LANGUAGE plpgsql AS $$
DECLARE
	open CURSOR FOR SELECT 1;
	taken integer;
BEGIN
	OPEN open;
	PERFORM pg_catalog.pg_notify('transform_note', 'sent');
	SELECT count(*) INTO taken FROM queue.receive('transform', 10);
	m.headers := pg_catalog.to_jsonb(pg_catalog.jsonb_build_object('taken', taken));
	IF m.payload = '"large"' THEN
		PERFORM pg_catalog.lo_create(0);
	END IF;
	RETURN m;
END $$;
SELECT queue.alter_relay('t', '{"batch": 2}');
SELECT count(*) FROM queue.send_batch('transform', (SELECT array_agg(to_jsonb(i)) FROM generate_series(1, 40) i));
CALL wait_for('count(*) = 40 FROM queues.arrivals');
SELECT bool_or(headers->>'taken' > '0') AS has_taken FROM queues.arrivals;
CALL wait_for($$(SELECT ready = 0 AND leased = 0 AND deferred = 0 FROM queue.stats WHERE queue = 'transform')$$);
SELECT queue.send('transform', '"large"') > 0;
CALL wait_for($$(SELECT ready = 0 AND leased = 0 AND deferred = 0 FROM queue.stats WHERE queue = 'transform')$$);
SELECT count(*) FROM pg_largeobject_metadata;
UNLISTEN *;
SELECT queue.alter_relay('t', '{"batch": null}');
SELECT queue.purge('arrivals'), queue.purge_dead_letters('transform') >= 0;

-- What it returns may be a table's, and lie elsewhere.
CREATE TABLE transform_texts (payload jsonb, body bytea);
ALTER TABLE transform_texts ALTER payload SET STORAGE EXTERNAL, ALTER body SET STORAGE EXTERNAL;
INSERT INTO transform_texts VALUES (to_jsonb(repeat('text', 100000)), NULL), (NULL, convert_to(repeat('text', 100000), 'UTF8'));
CREATE OR REPLACE FUNCTION tidy.orders(m queue.message) RETURNS queue.message LANGUAGE sql AS $$
	SELECT m.receipt, m.id, m.key, t.payload, t.body, m.headers, m.priority, m.attempts, m.enqueued_at
	FROM public.transform_texts t WHERE t.payload IS NULL = (m.payload = '"body"')
$$;
SELECT queue.send('transform', '"payload"') > 0, queue.send('transform', '"body"') > 0;
CALL wait_for('count(*) = 2 FROM queues.arrivals');
SELECT length(payload->>0) AS payload, length(body) AS body FROM queues.arrivals ORDER BY id;
SELECT queue.purge('arrivals');
DROP TABLE transform_texts;

-- In a transaction that is read only a relay is not changed by anybody.
BEGIN READ ONLY;
SELECT queue.pause_relay('t');
ROLLBACK;
BEGIN READ ONLY;
SELECT queue.create_relay('u', 'transform', 'transform_server');
ROLLBACK;

--
-- A relay depends on it: it cannot be dropped from under the relay, nor used
-- any more when it is another role's.
--
DROP FUNCTION tidy.orders;
\echo :LAST_ERROR_SQLSTATE
BEGIN;
DROP FUNCTION tidy.orders CASCADE;
SELECT count(*) FROM queue.relay_definition;
ROLLBACK;
ALTER FUNCTION tidy.orders OWNER TO regress_other;
SELECT queue.send('transform', '"waits"') > 0;
CALL wait_for($$(SELECT last_error = 'function tidy.orders(queue.message) is not the relay''s owner''s' FROM queue.relays WHERE name = 't')$$);
SELECT count(*) FROM queues.arrivals;
SELECT queue.alter_relay('t', '{"transform": "tidy.theirs"}');
SELECT queue.alter_relay('t', '{"transform": "tidy.message"}');
DROP FUNCTION tidy.orders;
SELECT options FROM queue.relays WHERE name = 't';
CALL wait_for('count(*) = 1 FROM queues.arrivals');

-- Nor by a relay that is given to another role.
ALTER ROLE regress_other LOGIN;
GRANT SELECT, DELETE ON queues.transform TO regress_other;
SET ROLE regress_tidy;
CREATE FUNCTION tidy.mine(m queue.message) RETURNS queue.message LANGUAGE sql AS 'SELECT m';
SELECT queue.create_relay('u', 'transform', 'transform_server', '{"transform": "tidy.mine"}');
RESET ROLE;
SELECT queue.alter_relay('u', owner => 'regress_other');
CALL wait_for($$(SELECT last_error = 'function tidy.mine(queue.message) is not the relay''s owner''s' FROM queue.relays WHERE name = 'u')$$);
SELECT queue.drop_relay('u');

-- A name that changes is still the same function's.
ALTER FUNCTION tidy.message RENAME TO renamed;
SELECT options->>'transform' FROM queue.relays WHERE name = 't';

-- A row that was restored waits for its function.
BEGIN;
DELETE FROM pg_depend WHERE classid = 'pg_type'::regclass AND objid = 'queues."$t"'::regtype AND refclassid = 'pg_proc'::regclass;
UPDATE queue.relay_definition SET procedure = 'tidy.absent(queue.message)' WHERE name = 't';
SELECT queue.alter_relay('t', '{"batch": 100}');
COMMIT;
CALL wait_for($$(SELECT last_error = 'function tidy.absent(queue.message) does not exist' FROM queue.relays WHERE name = 't')$$);
CREATE FUNCTION tidy.absent(m queue.message) RETURNS queue.message LANGUAGE sql AS 'SELECT NULL::queue.message';
SELECT queue.send('transform', '"dropped"') > 0;
SELECT queue.alter_relay('t', '{"batch": null}');
CALL wait_for($$(SELECT dropped = 2 FROM queue.relays WHERE name = 't')$$);
DROP FUNCTION tidy.absent;
\echo :LAST_ERROR_SQLSTATE

-- And it can be taken away.
SELECT queue.alter_relay('t', '{"transform": null}');
DROP FUNCTION tidy.absent;
SELECT options FROM queue.relays WHERE name = 't';
SELECT queue.send('transform', '"plain"') > 0;
CALL wait_for('count(*) = 2 FROM queues.arrivals');
SELECT payload FROM queues.arrivals ORDER BY id;

SELECT queue.drop_relay('t');
CALL wait_for($$count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'queue relay' AND datname = current_database()$$);
DROP SERVER transform_server CASCADE;
DROP OWNED BY regress_tidy, regress_other;
DROP ROLE regress_tidy, regress_other;
DROP SCHEMA tidy CASCADE;
DROP TABLE transform_writes;
DROP PROCEDURE wait_for;
SELECT queue.drop('transform'), queue.drop('arrivals');
