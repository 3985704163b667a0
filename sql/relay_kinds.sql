-- Options of every type, as the table of kinds has them, and whose they may be.
SET client_min_messages = warning;

-- Each kind with servers has its wrapper, of the extension.
SELECT fdwname, fdwvalidator::regproc
FROM pg_catalog.pg_foreign_data_wrapper w JOIN pg_catalog.pg_depend d ON d.objid = w.oid AND d.classid = 'pg_foreign_data_wrapper'::regclass
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' ORDER BY fdwname;

--
-- Servers
--
CREATE SERVER kinds_bad FOREIGN DATA WRAPPER queue_file;
\echo :LAST_ERROR_SQLSTATE
CREATE SERVER kinds_bad FOREIGN DATA WRAPPER queue_file OPTIONS (directory '');
CREATE SERVER kinds_bad FOREIGN DATA WRAPPER queue_file OPTIONS (directory 'somewhere/else');
CREATE SERVER kinds_bad FOREIGN DATA WRAPPER queue_file OPTIONS (host 'localhost');
CREATE SERVER kinds_file FOREIGN DATA WRAPPER queue_file OPTIONS (directory '/nowhere/at/all');
ALTER SERVER kinds_file OPTIONS (DROP directory);
ALTER SERVER kinds_file OPTIONS (SET directory 'here');
CREATE USER MAPPING FOR CURRENT_USER SERVER kinds_file OPTIONS (password 'secret');
CREATE FOREIGN DATA WRAPPER kinds_bad VALIDATOR queue.file_validator OPTIONS (directory '/');
CREATE SERVER kinds_amqp FOREIGN DATA WRAPPER queue_amqp;

CREATE SERVER kinds_bad FOREIGN DATA WRAPPER queue_http;
CREATE SERVER kinds_bad FOREIGN DATA WRAPPER queue_http OPTIONS (url 'ftp://example.com/');
CREATE SERVER kinds_bad FOREIGN DATA WRAPPER queue_http OPTIONS (url 'https://user:password@example.com/');
CREATE SERVER kinds_bad FOREIGN DATA WRAPPER queue_http OPTIONS (url 'https:///path');
CREATE SERVER kinds_bad FOREIGN DATA WRAPPER queue_http OPTIONS (url 'https://example.com:65536/');
CREATE SERVER kinds_bad FOREIGN DATA WRAPPER queue_http OPTIONS (url 'https://example.com:80x');
CREATE SERVER kinds_bad FOREIGN DATA WRAPPER queue_http OPTIONS (url 'http://[::1');
CREATE SERVER kinds_bad FOREIGN DATA WRAPPER queue_http OPTIONS (url 'http://a]:1@b/');
CREATE SERVER kinds_bad FOREIGN DATA WRAPPER queue_http OPTIONS (url 'https://@example.com');
CREATE SERVER kinds_bad FOREIGN DATA WRAPPER queue_http OPTIONS (url E'https://example.com/\r\nX: y');
CREATE SERVER kinds_bad FOREIGN DATA WRAPPER queue_http OPTIONS (url 'https://example.com', sslmode 'disable');
CREATE SERVER kinds_bad FOREIGN DATA WRAPPER queue_http OPTIONS (url 'https://example.com', http_version '3');
CREATE SERVER kinds_http FOREIGN DATA WRAPPER queue_http OPTIONS (url 'https://example.com:8443/v1?x=y', allow_private 'true');
CREATE USER MAPPING FOR CURRENT_USER SERVER kinds_http OPTIONS (signing_secret 'secret');
CREATE USER MAPPING FOR CURRENT_USER SERVER kinds_http OPTIONS (signing_secret 'whsec_c2hvcnQ=');
CREATE USER MAPPING FOR CURRENT_USER SERVER kinds_http OPTIONS (token E'a\r\nX: secret');
CREATE USER MAPPING FOR CURRENT_USER SERVER kinds_http OPTIONS (username 'a:b');
CREATE USER MAPPING FOR CURRENT_USER SERVER kinds_http OPTIONS (url 'https://example.com');
CREATE USER MAPPING FOR CURRENT_USER SERVER kinds_http
	OPTIONS (signing_secret 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYqr, whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX');

--
-- A name that is misspelt, of each kind and in each place: what may have been
-- meant, or else what there is, or whose option it is.
--
SELECT queue.create('misspelt');
CREATE SERVER misspelt FOREIGN DATA WRAPPER queue_postgres OPTIONS (db_name 'x');
CREATE SERVER misspelt FOREIGN DATA WRAPPER queue_amqp OPTIONS (vhosts '/');
CREATE SERVER misspelt FOREIGN DATA WRAPPER queue_file OPTIONS (dir '/');
CREATE SERVER misspelt FOREIGN DATA WRAPPER queue_file OPTIONS (rotate_age '1');
CREATE SERVER misspelt FOREIGN DATA WRAPPER queue_http OPTIONS (uri 'https://example.com');
CREATE SERVER misspelt FOREIGN DATA WRAPPER queue_kafka OPTIONS (broker 'a');
CREATE SERVER misspelt FOREIGN DATA WRAPPER queue_kafka OPTIONS (brokers 'a', properties 'linger-ms=1');
CREATE SERVER misspelt FOREIGN DATA WRAPPER queue_redis OPTIONS ("Host" 'a');
CREATE SERVER misspelt_postgres FOREIGN DATA WRAPPER queue_postgres;
CREATE SERVER misspelt_amqp FOREIGN DATA WRAPPER queue_amqp;
CREATE SERVER misspelt_file FOREIGN DATA WRAPPER queue_file OPTIONS (directory '/nowhere');
CREATE SERVER misspelt_http FOREIGN DATA WRAPPER queue_http OPTIONS (url 'https://example.com');
CREATE SERVER misspelt_kafka FOREIGN DATA WRAPPER queue_kafka OPTIONS (brokers 'a');
CREATE SERVER misspelt_redis FOREIGN DATA WRAPPER queue_redis;
CREATE USER MAPPING FOR CURRENT_USER SERVER misspelt_postgres OPTIONS (users 'x');
CREATE USER MAPPING FOR CURRENT_USER SERVER misspelt_amqp OPTIONS (usrname 'x');
CREATE USER MAPPING FOR CURRENT_USER SERVER misspelt_http OPTIONS (signing_secrets 'x');
CREATE USER MAPPING FOR CURRENT_USER SERVER misspelt_kafka OPTIONS (pasword 'secret');
CREATE USER MAPPING FOR CURRENT_USER SERVER misspelt_redis OPTIONS (password_requird 'false');
SELECT queue.create_relay('m', 'misspelt', 'misspelt_postgres', '{"qeue": "x"}');
SELECT queue.create_relay('m', 'misspelt', 'misspelt_amqp', '{"routingkey": "x"}');
SELECT queue.create_relay('m', 'misspelt', 'misspelt_file', '{"rotate_szie": 1}');
SELECT queue.create_relay('m', 'misspelt', 'misspelt_http', '{"idempotency-header": "x"}');
SELECT queue.create_relay('m', 'misspelt', 'misspelt_kafka', '{"topics": "x"}');
SELECT queue.create_relay('m', 'misspelt', 'misspelt_redis', '{"comand": "xadd"}');
SELECT queue.create_relay('m', 'misspelt', 'misspelt_redis', '{"host": "xadd"}');
SELECT queue.create_relay('m', 'misspelt', options => '{"procedures": "xadd"}');

-- One to be taken away is an option too.
SELECT queue.create_relay('m', 'misspelt', 'misspelt_redis', '{"bacth": null}');
SELECT queue.create_relay('m', 'misspelt', 'misspelt_redis');
SELECT queue.alter_relay('m', '{"bacth": null}');
SELECT queue.alter_relay('m', '{"maxlan": 10}');
SELECT queue.alter_relay('m', '{"batch": null, "cloudevent": "binary"}');

-- What is like nothing there is, or absurd
SELECT queue.alter_relay('m', '{"": 1}');
SELECT queue.alter_relay('m', '{"b": 1}');
SELECT queue.alter_relay('m', '{"bätch": 1}');
SELECT queue.alter_relay('m', jsonb_build_object(repeat('batch', 13), 1));
\set VERBOSITY sqlstate
SELECT queue.alter_relay('m', jsonb_build_object(repeat('ä', 1000000), 1));
DO $$ BEGIN EXECUTE format('CREATE SERVER misspelt FOREIGN DATA WRAPPER queue_amqp OPTIONS (%I %L)', repeat('x', 100000), 'x'); END $$;
DO $$ BEGIN EXECUTE format('CREATE SERVER misspelt FOREIGN DATA WRAPPER queue_kafka OPTIONS (brokers %L, properties %L)', 'a', repeat('x', 1000000) || '=1'); END $$;
\set VERBOSITY default
SELECT queue.drop_relay('m');
DROP SERVER misspelt_postgres, misspelt_amqp, misspelt_file, misspelt_http, misspelt_kafka, misspelt_redis CASCADE;
SELECT queue.drop('misspelt');

--
-- Relays
--
SELECT queue.create('kinds');
SELECT queue.create_relay('k', 'kinds', 'kinds_http', '{"method": "get"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_http', '{"path": "orders"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_http', '{"path": "/a b"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_http', '{"path": "/{id}"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_http', '{"path": "/#{key}"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_http', '{"headers": "no colon"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_http', '{"headers": "X-A: a\r\nX-B: b"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_http', '{"headers": "Authorization: secret"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_http', '{"headers": "Content-LENGTH: 1"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_http', '{"headers": "X-A: {a}"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_http', '{"idempotency_header": "Host"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_http', '{"retry": "6xx"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_http', '{"success": "2xx;409"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_http', '{"success": ""}');
SELECT queue.create_relay('k', 'kinds', 'kinds_http', '{"concurrency": 0}');
SELECT queue.create_relay('k', 'kinds', 'kinds_http', '{"follow_redirects": 11}');
SELECT queue.create_relay('k', 'kinds', 'kinds_http', '{"timeout": "0 s"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_http', '{"cloudevents": "structured"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_file', '{"directory": "/"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_file', '{"name": ""}');
SELECT queue.create_relay('k', 'kinds', 'kinds_file', '{"name": "../x"}');
\echo :LAST_ERROR_SQLSTATE
SELECT queue.create_relay('k', 'kinds', 'kinds_file', '{"name": ".x"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_file', '{"name": "a\nb"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_file', jsonb_build_object('name', repeat('x', 201)));
SELECT queue.create_relay('k', 'kinds', 'kinds_file', '{"rotate_size": 0}');
SELECT queue.create_relay('k', 'kinds', 'kinds_file', '{"rotate_size": "1 elephant"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_file', '{"rotate_size": "2000 TB"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_file', '{"rotate_size": "NaN"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_file', '{"rotate_age": 0}');
SELECT queue.create_relay('k', 'kinds', 'kinds_file', '{"rotate_age": "1 month"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_file', '{"rotate_age": "-1 day"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_file', '{"rotate_age": "1000000 days"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_amqp', '{"exchange": "x", "strict_order": 2}');
SELECT queue.create_relay('k', 'kinds', 'kinds_amqp', jsonb_build_object('routing_key', repeat('x', 256)));
SELECT queue.create_relay('k', 'kinds', 'kinds_amqp', '{"routing_key": "{key}{"}');

-- Several workers share an ordered queue only, and no file.
SELECT queue.create_relay('k', 'kinds', 'kinds_amqp', '{"exchange": "x", "workers": 0}');
\echo :LAST_ERROR_SQLSTATE
SELECT queue.create_relay('k', 'kinds', 'kinds_amqp', '{"exchange": "x", "workers": 17}');
SELECT queue.create_relay('k', 'kinds', 'kinds_amqp', '{"exchange": "x", "workers": "all"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_amqp', '{"exchange": "x", "workers": 2}');
\echo :LAST_ERROR_SQLSTATE
SELECT queue.create_relay('k', 'kinds', 'kinds_amqp', '{"exchange": "x"}');
SELECT queue.alter_relay('k', '{"workers": 2}');
SELECT queue.alter('kinds', ordered => true);
SELECT queue.alter_relay('k', '{"workers": 2}');
SELECT queue.alter_relay('k', '{"workers": null}');
SELECT queue.drop_relay('k');
SELECT queue.create_relay('k', 'kinds', 'kinds_file', '{"workers": 2}');
\echo :LAST_ERROR_SQLSTATE
SELECT queue.alter('kinds', ordered => false);
SELECT queue.create_relay('k', 'kinds', 'kinds_amqp', '{"exchange": "x", "cloudevents": "yes"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_amqp', '{"exchange": "x", "cloudevents": "binary"}');
\echo :LAST_ERROR_SQLSTATE
SELECT queue.create_relay('k', 'kinds', 'kinds_amqp', '{"exchange": "x", "ce_type": "{type}"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_amqp', '{"exchange": "x", "ce_source": ""}');
SELECT queue.create_relay('k', 'kinds', 'kinds_amqp', jsonb_build_object('exchange', 'x', 'ce_subject', repeat('x', 1025)));

CREATE SERVER kinds_bad FOREIGN DATA WRAPPER queue_kafka;
CREATE SERVER kinds_bad FOREIGN DATA WRAPPER queue_kafka OPTIONS (brokers '');
CREATE SERVER kinds_bad FOREIGN DATA WRAPPER queue_kafka OPTIONS (brokers 'a:0');
CREATE SERVER kinds_bad FOREIGN DATA WRAPPER queue_kafka OPTIONS (brokers 'ssl://a:9092');
CREATE SERVER kinds_bad FOREIGN DATA WRAPPER queue_kafka OPTIONS (brokers 'a:9092,');
CREATE SERVER kinds_bad FOREIGN DATA WRAPPER queue_kafka OPTIONS (brokers 'a', sasl_mechanism 'GSSAPI');
\echo :LAST_ERROR_SQLSTATE
CREATE SERVER kinds_bad FOREIGN DATA WRAPPER queue_kafka OPTIONS (brokers 'a', properties 'linger.ms');
CREATE SERVER kinds_bad FOREIGN DATA WRAPPER queue_kafka OPTIONS (brokers 'a', properties 'linger.ms=1 batch.size=0');
CREATE SERVER kinds_bad FOREIGN DATA WRAPPER queue_kafka OPTIONS (brokers 'a', properties 'partitioner=best');
CREATE SERVER kinds_bad FOREIGN DATA WRAPPER queue_kafka OPTIONS (brokers 'a', properties 'linger.ms=1	plugin.library.paths=/tmp/x.so');
\echo :LAST_ERROR_SQLSTATE
\set VERBOSITY terse
CREATE SERVER kinds_bad FOREIGN DATA WRAPPER queue_kafka OPTIONS (brokers 'a', properties 'ssl.key.location=/etc/passwd');
CREATE SERVER kinds_bad FOREIGN DATA WRAPPER queue_kafka OPTIONS (brokers 'a', properties 'sasl.password=secret');
CREATE SERVER kinds_bad FOREIGN DATA WRAPPER queue_kafka OPTIONS (brokers 'a', properties 'debug=all');
\set VERBOSITY default
CREATE SERVER kinds_kafka FOREIGN DATA WRAPPER queue_kafka
	OPTIONS (brokers 'kafka-1.example.com:9092,[::1]:9092,10.0.0.1', properties 'linger.ms=5 client.id=shop');
SELECT queue.create_relay('k', 'kinds', 'kinds_kafka');
\echo :LAST_ERROR_SQLSTATE
SELECT queue.create_relay('k', 'kinds', 'kinds_kafka', '{"topic": ""}');
SELECT queue.create_relay('k', 'kinds', 'kinds_kafka', jsonb_build_object('topic', repeat('x', 250)));
SELECT queue.create_relay('k', 'kinds', 'kinds_kafka', '{"topic": "a", "key": "{id}"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_kafka', '{"topic": "a", "compression": "best"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_kafka', '{"topic": "a", "acks": 0}');
SELECT queue.create_relay('k', 'kinds', 'kinds_kafka', '{"topic": "a", "acks": 1}');
SELECT queue.create_relay('k', 'kinds', 'kinds_kafka', '{"topic": "a", "idempotence": false, "transactional": true}');
SELECT queue.create_relay('k', 'kinds', 'kinds_kafka', '{"topic": "a", "format": "avro"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_kafka', '{"topic": "a", "format": "confluent", "cloudevents": "structured", "ce_type": "t"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_kafka', '{"topic": "a", "cloudevents": "binary"}');
DROP SERVER kinds_kafka;
CREATE SERVER kinds_bad FOREIGN DATA WRAPPER queue_redis OPTIONS (databse '1');
CREATE SERVER kinds_bad FOREIGN DATA WRAPPER queue_redis OPTIONS (database '-1');
CREATE SERVER kinds_bad FOREIGN DATA WRAPPER queue_redis OPTIONS (cluster 'three');
CREATE SERVER kinds_bad FOREIGN DATA WRAPPER queue_redis OPTIONS (password 'secret');
CREATE SERVER kinds_redis FOREIGN DATA WRAPPER queue_redis;
CREATE USER MAPPING FOR CURRENT_USER SERVER kinds_redis OPTIONS (user 'x');
SELECT queue.create_relay('k', 'kinds', 'kinds_redis', '{"command": "xread"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_redis', '{"target": ""}');
SELECT queue.create_relay('k', 'kinds', 'kinds_redis', '{"target": "{id}"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_redis', '{"maxlen": 0}');
SELECT queue.create_relay('k', 'kinds', 'kinds_redis', '{"replicas": 0}');
SELECT queue.create_relay('k', 'kinds', 'kinds_redis', '{"payload_field": "header:x"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_redis', '{"headers": "some"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_redis', '{"envelope": true}');
\echo :LAST_ERROR_SQLSTATE
SELECT queue.create_relay('k', 'kinds', 'kinds_redis', '{"command": "publish", "replicas": 1}');
SELECT queue.create_relay('k', 'kinds', 'kinds_redis', '{"command": "rpush", "maxlen": 10}');
SELECT queue.create_relay('k', 'kinds', 'kinds_redis', '{"command": "rpush", "headers": "json"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_redis', '{"command": "lpush", "cloudevents": "binary", "ce_type": "t"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_redis', '{"command": "lpush", "envelope": true, "cloudevents": "structured", "ce_type": "t"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_redis', '{"cloudevents": "structured"}');

-- What goes together is checked of what it all comes to.
SELECT queue.create_relay('k', 'kinds', 'kinds_file', '{"rotate_size": "100MB", "rotate_age": "1 day", "name": "k"}');
SELECT queue.alter_relay('k', '{"name": "a/b"}');
SELECT queue.alter_relay('k', '{"name": null, "rotate_size": 4096.0}');
SELECT options FROM queue.relays WHERE name = 'k';
SELECT queue.create_relay('a', 'kinds', 'kinds_amqp', '{"routing_key": "{key}.{header:h}"}');
SELECT queue.alter_relay('a', '{"routing_key": null}');
SELECT queue.drop_relay('a');
SELECT queue.drop_relay('k');

--
-- Where the server writes is for those who may have it write anywhere
--
CREATE ROLE regress_kinds;
GRANT USAGE ON FOREIGN DATA WRAPPER queue_file, queue_amqp, queue_http TO regress_kinds;
SET ROLE regress_kinds;
CREATE SERVER kinds_other FOREIGN DATA WRAPPER queue_file OPTIONS (directory '/nowhere/at/all');
\echo :LAST_ERROR_SQLSTATE
CREATE SERVER kinds_other FOREIGN DATA WRAPPER queue_amqp OPTIONS (sslrootcert '/nowhere');
RESET ROLE;
GRANT pg_read_server_files TO regress_kinds;
SET ROLE regress_kinds;
CREATE SERVER kinds_other FOREIGN DATA WRAPPER queue_file OPTIONS (directory '/nowhere/at/all');
CREATE SERVER kinds_reads FOREIGN DATA WRAPPER queue_amqp OPTIONS (sslrootcert '/nowhere');
CREATE SERVER kinds_private FOREIGN DATA WRAPPER queue_http OPTIONS (url 'http://127.0.0.1', allow_private 'true');
CREATE SERVER kinds_private FOREIGN DATA WRAPPER queue_http OPTIONS (url 'http://127.0.0.1');
ALTER SERVER kinds_private OPTIONS (ADD allow_private 'true');
RESET ROLE;
GRANT pg_write_server_files TO regress_kinds;
SET ROLE regress_kinds;
CREATE SERVER kinds_other FOREIGN DATA WRAPPER queue_file OPTIONS (directory '/nowhere/at/all');
RESET ROLE;

--
-- Who is no superuser has to log in with what the user mapping has, unless a
-- superuser says of the mapping that he need not.
--
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
ALTER ROLE regress_kinds LOGIN;
GRANT SELECT, DELETE ON queues.kinds TO regress_kinds;
CREATE SERVER kinds_login FOREIGN DATA WRAPPER queue_amqp OPTIONS (host '127.0.0.1', port '1');
GRANT USAGE ON FOREIGN SERVER kinds_login TO regress_kinds;
SET ROLE regress_kinds;
CREATE USER MAPPING FOR regress_kinds SERVER kinds_login OPTIONS (username 'x', password_required 'perhaps');
CREATE USER MAPPING FOR regress_kinds SERVER kinds_login OPTIONS (username 'x', password_required 'false');
\echo :LAST_ERROR_SQLSTATE
CREATE USER MAPPING FOR regress_kinds SERVER kinds_login OPTIONS (username 'x', password_required 'true');
SELECT queue.create_relay('k', 'kinds', 'kinds_login', '{"exchange": "x"}');
CALL wait_for($$(SELECT last_error LIKE 'user name and password are required: %' FROM queue.relays WHERE name = 'k')$$);
ALTER USER MAPPING FOR regress_kinds SERVER kinds_login OPTIONS (SET password_required 'false');
RESET ROLE;
ALTER USER MAPPING FOR regress_kinds SERVER kinds_login OPTIONS (SET password_required 'false');
CALL wait_for($$(SELECT last_error LIKE 'could not connect: %' FROM queue.relays WHERE name = 'k')$$);
SET ROLE regress_kinds;
ALTER USER MAPPING FOR regress_kinds SERVER kinds_login OPTIONS (SET username 'y');
\echo :LAST_ERROR_SQLSTATE
ALTER USER MAPPING FOR regress_kinds SERVER kinds_login OPTIONS (DROP password_required);
CALL wait_for($$(SELECT last_error LIKE 'user name and password are required: %' FROM queue.relays WHERE name = 'k')$$);
SELECT queue.drop_relay('k');
RESET ROLE;
CREATE USER MAPPING FOR regress_kinds SERVER kinds_file OPTIONS (password_required 'true');
CALL wait_for($$count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'queue relay' AND datname = current_database()$$);
DROP PROCEDURE wait_for;
DROP SERVER kinds_login CASCADE;

DROP SERVER kinds_http CASCADE;
DROP SERVER kinds_file, kinds_amqp, kinds_redis, kinds_other, kinds_reads, kinds_private;
DROP OWNED BY regress_kinds;
DROP ROLE regress_kinds;
SELECT queue.drop('kinds');
