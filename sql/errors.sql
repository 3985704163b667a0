--
-- Errors: what is wrong with which argument, and the codes that a driver sees
--
SELECT queue.create('e');
SELECT queue.create('d');
-- NULL
SELECT queue.create(NULL);
SELECT queue.create('f', lease => NULL);
SELECT queue.create('f', max_attempts => NULL);
SELECT queue.create('f', backoff => NULL);
SELECT queue.create('f', backoff_max => NULL);
SELECT queue.create('f', durable => NULL);
SELECT queue.create('f', ordered => NULL);
SELECT queue.create('f', on_dead => NULL);
SELECT queue.create('f', key_concurrency => NULL);
SELECT queue.create('f', max_in_flight => NULL);
SELECT queue.create('f', rate => NULL);
SELECT queue.create('f', rate_interval => NULL);
SELECT queue.create('f', dedup => NULL);
SELECT queue.create('f', dedup_window => NULL);
SELECT queue.alter(NULL);
SELECT queue.drop(NULL);
SELECT queue.purge(NULL);
SELECT queue.send(NULL, '1');
SELECT queue.send('e', NULL);
SELECT queue.send_bytes(NULL, '1');
SELECT queue.send_bytes('e', NULL);
SELECT queue.send('e', '1', dedup_wait => NULL);
SELECT queue.send_bytes('e', '1', dedup_wait => NULL);
SELECT queue.send_batch('e', '{1}', dedup_wait => NULL);
SELECT queue.send_once(NULL, 'k', '1');
SELECT queue.send_once('e', NULL, '1');
SELECT queue.send_once('e', 'k', NULL);
SELECT queue.send_once('e', 'k', '1', dedup_wait => NULL);
SELECT queue.send_batch(NULL, '{1}');
SELECT queue.send_batch('e', NULL);
SELECT queue.receive(NULL);
SELECT queue.receive('e', NULL);
SELECT queue.pop(NULL);
SELECT queue.pop('e', NULL);
SELECT queue.peek(NULL);
SELECT queue.peek('e', NULL);
SELECT queue.release(NULL, 1);
SELECT queue.release('e', NULL);
SELECT queue.redrive(NULL);
SELECT queue.purge_dead_letters(NULL);
SELECT queue.create_relay(NULL, 'e');
SELECT queue.create_relay('r', NULL);
SELECT queue.alter_relay(NULL);
SELECT queue.pause_relay(NULL);
SELECT queue.resume_relay(NULL);
SELECT queue.drop_relay(NULL);
SELECT queue.relay_accept(NULL, 'e', '{}', '{}', '{}', '{}', '{}', '{}');
SELECT queue.relay_accept('here', NULL, '{}', '{}', '{}', '{}', '{}', '{}');
SELECT queue.relay_accept('here', 'e', NULL, '{}', '{}', '{}', '{}', '{}');
SELECT queue.relay_accept('here', 'e', '{}', NULL, '{}', '{}', '{}', '{}');
SELECT queue.relay_accept('here', 'e', '{}', '{}', NULL, '{}', '{}', '{}');
SELECT queue.relay_accept('here', 'e', '{}', '{}', '{}', NULL, '{}', '{}');
SELECT queue.relay_accept('here', 'e', '{}', '{}', '{}', '{}', NULL, '{}');
SELECT queue.relay_accept('here', 'e', '{}', '{}', '{}', '{}', '{}', NULL);
SELECT queue.inbox_accept(NULL, 'm');
SELECT queue.inbox_accept('c', NULL);
SELECT queue.inbox_accept('c', NULL::bigint);
SELECT queue.inbox_advance(NULL, 'e', 1);
SELECT queue.inbox_advance('c', NULL, 1);
SELECT queue.inbox_advance('c', 'e', NULL);
SELECT queue.inbox_advance('c', 'e', 1, NULL);
SELECT queue.idempotency_begin(NULL, 'k');
SELECT queue.idempotency_begin('s', NULL);
SELECT queue.idempotency_begin('s', 'k', ttl => NULL);
SELECT queue.idempotency_complete(NULL, 'k');
SELECT queue.idempotency_complete('s', NULL);
SELECT queue.idempotency_fail(NULL, 'k');
SELECT queue.idempotency_fail('s', NULL);
-- A NULL receipt is nobody's.
SELECT queue.ack(NULL), queue.ack_batch(NULL), queue.nack(NULL), queue.nack_batch(NULL),
	queue.reject(NULL), queue.extend(NULL), queue.extend_batch(NULL);
-- Elements that are NULL
SELECT queue.send_batch('e', '{1,NULL}');
SELECT queue.relay_accept('here', 'e', '{1,NULL}', '{today,today}', '{1,2}', '{NULL,NULL}', '{a,b}', '{NULL,NULL}');
SELECT queue.relay_accept('here', 'e', '{1,2}', '{NULL,today}', '{1,2}', '{NULL,NULL}', '{a,b}', '{NULL,NULL}');
SELECT queue.ack_batch('{NULL,1}'), queue.nack_batch('{NULL,1}'), queue.extend_batch('{NULL,1}');
-- Arrays of different lengths, and too long ones
SELECT queue.send_batch('e', '{1}', keys => '{}');
SELECT queue.send_batch('e', '{1}', headers => ARRAY['{}', '{}']::jsonb[]);
SELECT queue.relay_accept('here', 'e', '{1}', '{}', '{1}', '{NULL}', '{a}', '{NULL}');
SELECT queue.relay_accept('here', 'e', '{1}', '{today}', '{}', '{NULL}', '{a}', '{NULL}');
SELECT queue.relay_accept('here', 'e', '{1}', '{today}', '{1}', '{}', '{a}', '{NULL}');
SELECT queue.relay_accept('here', 'e', '{1}', '{today}', '{1}', '{NULL}', '{}', '{NULL}');
SELECT queue.relay_accept('here', 'e', '{1}', '{today}', '{1}', '{NULL}', '{a}', '{}');
SELECT queue.send_batch('e', array_fill(NULL::jsonb, ARRAY[10000001]));
SELECT queue.ack_batch(array_fill(NULL::bigint, ARRAY[10000001]));
SELECT queue.nack_batch(array_fill(NULL::bigint, ARRAY[10000001]));
SELECT queue.extend_batch(array_fill(NULL::bigint, ARRAY[10000001]));
SELECT queue.relay_accept('here', 'e', array_fill(NULL::bigint, ARRAY[10000001]), '{}', '{}', '{}', '{}', '{}');
SELECT queue.send_batch('e', '{1}', dedup_keys => '{a,b}');
-- Dedup keys
SELECT queue.send('e', '1', dedup_key => '');
SELECT queue.send('e', '1', dedup_key => repeat('x', 1025));
SELECT queue.send_bytes('e', '1', dedup_key => '');
SELECT queue.send_batch('e', '{1,2}', dedup_keys => '{a,""}');
SELECT queue.send_once('e', '', '1');
SELECT queue.send_once('e', 'k', '1', headers => '[]');
SELECT queue.send_once('e', 'k', '1', delay => '-1 s');
SELECT queue.send_once('no such queue', 'k', '1');
SELECT queue.alter('e', dedup => 'off');
SELECT queue.send('e', '1', dedup_key => 'k');
SELECT queue.send_bytes('e', '1', dedup_key => 'k');
SELECT queue.send_batch('e', '{1,2}', dedup_keys => '{NULL,k}');
SELECT queue.send_once('e', 'k', '1');
SELECT queue.alter('e', dedup => 'content');
INSERT INTO queues.e (payload) VALUES ('1');
SELECT queue.alter('e', dedup => 'key');
SELECT queue.create('f', dedup => 'Content');
SELECT queue.alter('e', dedup => '');
SELECT queue.create('f', dedup_window => '11 years');
SELECT queue.alter('e', dedup_window => '0');
BEGIN READ ONLY;
SELECT queue.send_once('e', 'k', '1');
ROLLBACK;
-- A dedup key is one message's: payload or body, and key.
SELECT duplicate FROM queue.send_once('d', 'k', '{"a": 1, "b": 2}', 'alice');
SELECT duplicate FROM queue.send_once('d', 'k', '{"b":2,"a":1}', 'alice');
SELECT queue.send('d', '{"a": 1, "b": 2}', dedup_key => 'k');
SELECT queue.send_bytes('d', '1', key => 'alice', dedup_key => 'k');
SELECT queue.send_batch('d', '{1,2}', dedup_keys => '{b,b}');
-- Ordered queues
SELECT queue.create('f', ordered => true, on_dead => 'stop');
SELECT queue.alter('e', on_dead => '');
SELECT queue.create('f', on_dead => 'block');
SELECT queue.alter('e', on_dead => 'block');
SELECT queue.create('f', ordered => true, key_concurrency => 2);
SELECT queue.alter('e', ordered => true, key_concurrency => 2);
SELECT queue.create('o', ordered => true);
INSERT INTO queues.o (payload) VALUES ('1');
COPY queues.o (payload) FROM stdin;
1
\.
SELECT queue.drop('o');
-- Numbers
SELECT queue.create('f', max_attempts => 0);
SELECT queue.alter('e', max_attempts => -1);
SELECT queue.create('f', key_concurrency => -1);
SELECT queue.alter('e', key_concurrency => -2147483648);
SELECT queue.create('f', key_concurrency => 2147483648);
SELECT queue.create('f', max_in_flight => -1);
SELECT queue.alter('e', max_in_flight => -2147483648);
SELECT queue.create('f', max_in_flight => 2147483648);
SELECT queue.create('f', rate => -1);
SELECT queue.alter('e', rate => -1);
SELECT queue.alter('e', rate => 0.5);
SELECT queue.receive('e', 0);
SELECT queue.pop('e', -1);
SELECT queue.peek('e', 0);
SELECT queue.redrive('e', 0);
-- Intervals
SELECT queue.create('f', lease => '0');
SELECT queue.create('f', backoff => '-1 s');
SELECT queue.create('f', backoff_max => '-178000000 years');
SELECT queue.create('f', rate => 1, rate_interval => '0');
SELECT queue.alter('e', rate => 1, rate_interval => '-1 s');
SELECT queue.alter('e', rate => 1, rate_interval => '11 years');
SELECT queue.alter('e', lease => '11 years');
SELECT queue.alter('e', backoff => '-1 s');
SELECT queue.alter('e', backoff_max => '178000000 years');
SELECT queue.send('e', '1', delay => '-1 s');
SELECT queue.send_bytes('e', '1', delay => '11 years');
SELECT queue.send_batch('e', '{1}', delay => '-1 s');
SELECT queue.receive('e', lease => '0');
SELECT queue.receive('e', wait => '-1 s');
SELECT queue.pop('e', wait => '11 years');
SELECT queue.nack(1, delay => '-1 s');
SELECT queue.nack_batch('{1}', delay => '11 years');
SELECT queue.extend(1, lease => '0');
SELECT queue.extend_batch('{1}', lease => '11 years');
SELECT queue.inbox_accept('c', 'm', ttl => '0');
SELECT queue.inbox_accept('c', 'm', ttl => '11 years');
SELECT queue.inbox_advance('c', 'e', 1, ttl => '-1 s');
SELECT queue.inbox_advance('c', 'e', 1, ttl => '178000000 years');
SELECT queue.idempotency_begin('s', 'k', ttl => '0');
SELECT queue.idempotency_begin('s', 'k', ttl => '11 years');
SELECT queue.idempotency_complete('s', 'k', ttl => '-1 s');
-- Versions, and what to do with gaps
SELECT queue.inbox_advance('c', 'e', 0);
SELECT queue.inbox_advance('c', 'e', -9223372036854775808);
SELECT queue.inbox_advance('c', 'e', 1, gaps => 'Allow');
SELECT queue.inbox_advance('c', 'e', 1, gaps => '');
-- What something is called by: 1 to 1024 bytes, which fit into an index
SELECT queue.inbox_accept('', 'm');
SELECT queue.inbox_accept('c', '');
SELECT queue.inbox_accept(repeat('ä', 513), 'm');
SELECT queue.inbox_accept('c', repeat('m', 1025));
SELECT queue.inbox_advance('', 'e', 1);
SELECT queue.inbox_advance('c', '', 1);
SELECT queue.inbox_advance('c', repeat('e', 1025), 1);
SELECT queue.idempotency_begin('', 'k');
SELECT queue.idempotency_begin('s', '');
SELECT queue.idempotency_begin('s', 'k', '');
SELECT queue.idempotency_begin('s', repeat('k', 1025));
SELECT queue.idempotency_begin('s', 'k', repeat('f', 100000));
SELECT queue.idempotency_complete('s', '');
SELECT queue.idempotency_fail('', 'k');
SELECT queue.relay_accept('', 'e', '{}', '{}', '{}', '{}', '{}', '{}');
SELECT queue.relay_accept(repeat('s', 1025), 'e', '{}', '{}', '{}', '{}', '{}', '{}');
-- Headers
SELECT queue.send('e', '1', headers => '[]');
SELECT queue.send_bytes('e', '1', headers => '"text"');
SELECT queue.send_batch('e', '{1,2}', headers => ARRAY['{}', 'null']::jsonb[]);
SELECT queue.relay_accept('here', 'e', '{1}', '{today}', '{1}', '{NULL}', '{a}', '{5}');
INSERT INTO queues.e (payload, headers) VALUES ('1', '[]');
SELECT queue.drop('d');
-- Nothing was sent, and there is nobody new.
SELECT sent FROM queue.stats WHERE queue = 'e';
SELECT name FROM queue.queues;

\set VERBOSITY sqlstate
-- 42704 undefined_object
SELECT queue.send('nowhere', '1');
SELECT queue.send_batch('nowhere', '{}');
SELECT queue.receive('nowhere');
SELECT queue.pop('nowhere');
SELECT queue.peek('nowhere');
SELECT queue.alter('nowhere');
SELECT queue.purge('nowhere');
SELECT queue.drop('nowhere');
SELECT queue.redrive('nowhere');
SELECT queue.purge_dead_letters('nowhere');
-- 42710 duplicate_object
SELECT queue.create('e');
-- 42602 invalid_name
SELECT queue.create('a$b');
-- 22023 invalid_parameter_value
SELECT queue.create('f', lease => '0');
SELECT queue.alter('e', max_attempts => 0);
SELECT queue.send('e', '1', headers => '[]');
SELECT queue.send('e', '1', delay => '-1 s');
SELECT queue.receive('e', 0);
SELECT queue.receive('e', lease => '0');
SELECT queue.pop('e', wait => '-1 s');
SELECT queue.nack(1, delay => '-1 s');
SELECT queue.redrive('e', 0);
SELECT queue.inbox_accept('c', '');
SELECT queue.inbox_advance('c', 'e', 0);
SELECT queue.inbox_advance('c', 'e', 1, gaps => 'no');
SELECT queue.idempotency_begin('s', 'k', ttl => '0');
-- 22004 null_value_not_allowed
SELECT queue.inbox_accept('c', NULL);
SELECT queue.inbox_accept('c', NULL::bigint);
SELECT queue.idempotency_begin('s', NULL);
SELECT queue.send(NULL, '1');
SELECT queue.send('e', NULL);
SELECT queue.send_batch('e', '{NULL}');
SELECT queue.receive(NULL);
SELECT queue.receive('e', NULL);
SELECT queue.drop(NULL);
SELECT queue.create('f', lease => NULL);
-- 2202E array_subscript_error
SELECT queue.send_batch('e', '{1}', keys => '{}');
-- 54000 program_limit_exceeded
SELECT queue.ack_batch(array_fill(NULL::bigint, ARRAY[10000001]));
-- 428C9 generated_always
INSERT INTO queues.e (id, payload) VALUES (1, '1');
-- 25006 read_only_sql_transaction
BEGIN READ ONLY;
SELECT queue.inbox_accept('c', 'm');
ROLLBACK;
BEGIN READ ONLY;
SELECT queue.inbox_advance('c', 'e', 1);
ROLLBACK;
BEGIN READ ONLY;
SELECT queue.idempotency_begin('s', 'k');
ROLLBACK;
BEGIN READ ONLY;
SELECT queue.idempotency_complete('s', 'k');
ROLLBACK;
BEGIN READ ONLY;
SELECT queue.idempotency_fail('s', 'k');
ROLLBACK;
BEGIN READ ONLY;
SELECT queue.send('e', '1');
ROLLBACK;
BEGIN READ ONLY;
SELECT queue.nack(1);
ROLLBACK;
BEGIN READ ONLY;
SELECT queue.purge('e');
ROLLBACK;
BEGIN READ ONLY;
SELECT queue.create('f');
ROLLBACK;
BEGIN READ ONLY;
SELECT queue.alter('e', lease => '1 s');
ROLLBACK;
BEGIN READ ONLY;
SELECT queue.drop('e');
ROLLBACK;
-- 42501 insufficient_privilege
CREATE ROLE regress_nobody;
SET ROLE regress_nobody;
SELECT queue.send('e', '1');
SELECT queue.receive('e');
SELECT queue.peek('e');
SELECT queue.drop('e');
SELECT queue.create('f');
RESET ROLE;
DROP ROLE regress_nobody;
-- 55000 object_not_in_prerequisite_state: the columns are the engine's
SELECT queue.send('e', '1', key => 'a') IS NOT NULL AS sent;
SELECT receipt FROM queue.receive('e') \gset
SELECT queue.send('e', '1', key => 'a') IS NOT NULL AS sent;
ALTER TABLE queues.e ALTER COLUMN key TYPE bigint USING 12345;
SELECT queue.send('e', '1', key => 'a');
SELECT queue.send_batch('e', '{1}');
SELECT queue.receive('e');
SELECT queue.pop('e');
SELECT queue.peek('e');
SELECT queue.nack(:receipt);
SELECT queue.drop('e');
-- order and limits of keys: 22023 invalid_parameter_value
SELECT queue.create('f', ordered => true, key_concurrency => 2);
SELECT queue.create('f', on_dead => 'block');
SELECT queue.create('f', ordered => true, on_dead => 'stop');
SELECT queue.create('f', ordered => true, on_dead => '');
SELECT queue.create('f', key_concurrency => -1);
SELECT queue.create('f', key_concurrency => 2147483647);
SELECT queue.alter('f', ordered => true);
SELECT queue.alter('f', on_dead => 'block');
SELECT queue.alter('f', key_concurrency => -1);
SELECT queue.alter('f', key_concurrency => 0, ordered => true, on_dead => 'block');
SELECT queue.alter('f', ordered => false);
SELECT queue.alter('f', key_concurrency => 1);
SELECT ordered, on_dead, key_concurrency FROM queue.queue_definition WHERE relid = 'queues.f'::regclass;
-- 22004 null_value_not_allowed
SELECT queue.create('g', ordered => NULL);
SELECT queue.create('g', on_dead => NULL);
SELECT queue.create('g', key_concurrency => NULL);
SELECT queue.redrive(NULL, key => 'a');
SELECT queue.purge_dead_letters(NULL, 'a');
-- 0A000 feature_not_supported
INSERT INTO queues.f (payload, key) VALUES ('1', 'a');
COPY queues.f (payload, key) FROM stdin;
1	a
\.
INSERT INTO queues.f (payload) VALUES ('1');
-- keys that are not there
SELECT queue.redrive('f', key => '');
SELECT queue.redrive('f', 1, 'a');
SELECT queue.redrive('f', 0, 'a');
SELECT queue.purge_dead_letters('f', 'a');
SELECT queue.drop('f');
\set VERBOSITY default
SELECT name FROM queue.queues;
