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

--
-- Relays
--
SELECT queue.create('kinds');
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

SELECT queue.create_relay('k', 'kinds', 'kinds_amqp', '{"exchange": "x", "cloudevents": "yes"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_amqp', '{"exchange": "x", "cloudevents": "binary"}');
\echo :LAST_ERROR_SQLSTATE
SELECT queue.create_relay('k', 'kinds', 'kinds_amqp', '{"exchange": "x", "ce_type": "{type}"}');
SELECT queue.create_relay('k', 'kinds', 'kinds_amqp', '{"exchange": "x", "ce_source": ""}');
SELECT queue.create_relay('k', 'kinds', 'kinds_amqp', jsonb_build_object('exchange', 'x', 'ce_subject', repeat('x', 1025)));

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
GRANT USAGE ON FOREIGN DATA WRAPPER queue_file, queue_amqp TO regress_kinds;
SET ROLE regress_kinds;
CREATE SERVER kinds_other FOREIGN DATA WRAPPER queue_file OPTIONS (directory '/nowhere/at/all');
\echo :LAST_ERROR_SQLSTATE
CREATE SERVER kinds_other FOREIGN DATA WRAPPER queue_amqp OPTIONS (sslrootcert '/nowhere');
RESET ROLE;
GRANT pg_read_server_files TO regress_kinds;
SET ROLE regress_kinds;
CREATE SERVER kinds_other FOREIGN DATA WRAPPER queue_file OPTIONS (directory '/nowhere/at/all');
CREATE SERVER kinds_reads FOREIGN DATA WRAPPER queue_amqp OPTIONS (sslrootcert '/nowhere');
RESET ROLE;
GRANT pg_write_server_files TO regress_kinds;
SET ROLE regress_kinds;
CREATE SERVER kinds_other FOREIGN DATA WRAPPER queue_file OPTIONS (directory '/nowhere/at/all');
RESET ROLE;

DROP SERVER kinds_file, kinds_amqp, kinds_redis, kinds_other, kinds_reads;
DROP OWNED BY regress_kinds;
DROP ROLE regress_kinds;
SELECT queue.drop('kinds');
