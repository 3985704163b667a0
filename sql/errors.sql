--
-- Errors: the codes that a driver sees
--
SELECT queue.create('e');
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
-- 22004 null_value_not_allowed
SELECT queue.send(NULL, '1');
SELECT queue.send('e', NULL);
SELECT queue.send_batch('e', '{NULL}');
SELECT queue.receive(NULL);
SELECT queue.receive('e', NULL);
SELECT queue.drop(NULL);
SELECT queue.create('f', lease => NULL);
-- 2202E array_subscript_error
SELECT queue.send_batch('e', '{1}', keys => '{}');
-- 428C9 generated_always
INSERT INTO queues.e (id, payload) VALUES (1, '1');
-- 25006 read_only_sql_transaction
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
\set VERBOSITY default
SELECT name FROM queue.queues;
