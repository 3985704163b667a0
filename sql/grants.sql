--
-- Rights: the grants on a queue's table are the rights on the queue
--
CREATE ROLE regress_owner;
CREATE ROLE regress_sender;
CREATE ROLE regress_consumer;
CREATE ROLE regress_reader;
CREATE ROLE regress_nobody;

-- Whoever may create tables in schema queues may create queues.
SET ROLE regress_owner;
SELECT queue.create('g');
RESET ROLE;
GRANT CREATE ON SCHEMA queues TO regress_owner;
SET ROLE regress_owner;
SELECT queue.create('g', lease => '1 hour', max_attempts => 1);
SELECT name, owner FROM queue.queues;
GRANT INSERT ON queues.g TO regress_sender;
GRANT SELECT, DELETE ON queues.g TO regress_consumer;
GRANT SELECT ON queues.g TO regress_reader;

-- INSERT: send
SET ROLE regress_sender;
SELECT queue.send('g', '1');
SELECT queue.send_batch('g', '{2,3}');
SELECT queue.send_bytes('g', 'four');
SELECT queue.send('g', '"later"', delay => '1 hour');
INSERT INTO queues.g (payload) VALUES ('6');
SELECT queue.receive('g');
SELECT queue.pop('g');
SELECT queue.peek('g');
SELECT queue.alter('g', lease => '1 s');
SELECT queue.purge('g');
SELECT queue.drop('g');
SELECT queue.redrive('g');
SELECT queue FROM queue.stats;

-- SELECT: look
SET ROLE regress_reader;
SELECT id FROM queue.peek('g');
SELECT id FROM queues.g ORDER BY id;
SELECT queue, ready, leased, segments FROM queue.stats;
SELECT queue.send('g', '1');
SELECT queue.receive('g');
SELECT queue.pop('g');

-- SELECT and DELETE: receive and settle
SET ROLE regress_consumer;
SELECT receipt, id FROM queue.receive('g') \gset
SELECT queue, id FROM queue.leases;
SELECT queue.send('g', '1');
SELECT queue.redrive('g');

-- A receipt is no right.
SET ROLE regress_reader;
SELECT id FROM queue.leases;
SELECT queue.ack(:receipt);
SELECT queue.nack(:receipt);
SELECT queue.reject(:receipt);
SELECT queue.extend(:receipt, '1 day');
SELECT queue.ack_batch(ARRAY[:receipt]);
SELECT queue.nack_batch(ARRAY[:receipt]);
SELECT queue.extend_batch(ARRAY[:receipt], '1 day');
SET ROLE regress_nobody;
SELECT queue.ack(:receipt);
SELECT count(*) FROM queue.leases;
SELECT count(*) FROM queue.stats;
SELECT queue.queue_stats('queues.g');
SELECT queue.peek('g');
SELECT queue.send('g', '1');
SELECT payload FROM queue.deferred;
SELECT * FROM queues.g;
SELECT * FROM queues."g$1";
UPDATE queue.queue_definition SET max_attempts = 1;

-- What has been accepted or begun is the role's own, and is nobody's else to look at.
SELECT queue.inbox_accept('grants', '1');
SELECT accepted FROM queue.inbox_advance('grants', 'e', 1);
SELECT status FROM queue.idempotency_begin('grants', '1');
SELECT * FROM queue.inbox;
SELECT * FROM queue.inbox_version;
SELECT * FROM queue.idempotency;
SET ROLE regress_reader;
SELECT queue.inbox_accept('grants', '1');
SELECT accepted FROM queue.inbox_advance('grants', 'e', 1);
SELECT status FROM queue.idempotency_begin('grants', '1');
-- EXECUTE is needed, and nothing else.
RESET ROLE;
REVOKE EXECUTE ON FUNCTION queue.inbox_accept(text, text, interval) FROM PUBLIC;
SET ROLE regress_nobody;
SELECT queue.inbox_accept('grants', '2');
RESET ROLE;
GRANT EXECUTE ON FUNCTION queue.inbox_accept(text, text, interval) TO PUBLIC;
DELETE FROM queue.inbox;
DELETE FROM queue.inbox_version;
DELETE FROM queue.idempotency;

-- The right is needed when it is used: taken away, it is gone.
RESET ROLE;
REVOKE DELETE ON queues.g FROM regress_consumer;
SET ROLE regress_consumer;
SELECT queue.ack(:receipt);
RESET ROLE;
GRANT DELETE ON queues.g TO regress_consumer;
SET ROLE regress_consumer;
SELECT queue.extend(:receipt, '1 day');
SELECT queue.ack(:receipt);
SELECT queue.nack(receipt) FROM queue.receive('g');
SELECT id FROM queue.pop('g');

-- A failure's copy is the engine's to write, not the consumer's.
SELECT id, reason FROM queue.dead_letters;
SELECT queue.redrive('g');

-- Only the owner administers; a superuser may, too.
SELECT queue.alter('g', lease => '1 s');
SELECT queue.purge('g');
SELECT queue.purge_dead_letters('g');
SELECT queue.drop('g');
RESET ROLE;
SELECT queue.alter('g', lease => '1 s');
SET ROLE regress_owner;
SELECT queue.redrive('g');
SELECT queue.purge('g');
SELECT queue.purge_dead_letters('g');
SELECT queue.alter('g', lease => '2 s');

-- Ownership is the table's, and can be given to somebody else.
RESET ROLE;
ALTER TABLE queues.g OWNER TO regress_consumer;
SET ROLE regress_owner;
SELECT queue.purge('g');
SET ROLE regress_consumer;
SELECT queue.alter('g', lease => '3 s');
RESET ROLE;
SELECT queue.drop('g');
REVOKE CREATE ON SCHEMA queues FROM regress_owner;
DROP ROLE regress_owner, regress_sender, regress_consumer, regress_reader, regress_nobody;
