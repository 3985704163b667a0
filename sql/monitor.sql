--
-- pg_monitor sees how the queues are, and no message.
--
CREATE ROLE regress_monitor IN ROLE pg_monitor;
CREATE ROLE regress_stranger;
CREATE ROLE regress_reader;
SELECT queue.create('m', lease => '1 hour');
SELECT queue.send('m', '"secret"'), queue.send('m', '2'), queue.send('m', '3');
SELECT queue.reject(receipt) FROM queue.receive('m');
SELECT receipt FROM queue.receive('m') \gset
SELECT queue.create('k', ordered => true, on_dead => 'block', lease => '1 hour');
SELECT count(*) FROM queue.send_batch('k', '{1,2,3}', keys => '{"secret","secret","other secret"}');
SELECT queue.reject(receipt) FROM queue.receive('k');
SELECT count(*) FROM queue.receive('k');
GRANT SELECT ON queues.k TO regress_reader;

SET ROLE regress_monitor;
SELECT queue, ready, leased, sent FROM queue.stats WHERE queue = 'm';
SELECT queue, id, kind, state FROM queue.leases WHERE queue = 'm';
SELECT * FROM queue.maintenance;
SELECT database = current_database() AS this, problem FROM queue.databases WHERE database = current_database();
SELECT (queue.queue_stats('queues.m')).leased;
-- That keys wait, and not which; who may read the queue sees that, too.
SELECT queue, key, waiting_for, id FROM queue.blocked_keys WHERE queue = 'k';
SET ROLE regress_reader;
SELECT queue, key, waiting_for, id FROM queue.blocked_keys WHERE queue = 'k';
SET ROLE regress_monitor;

-- No messages, and no rights
SELECT * FROM queues.m;
SELECT * FROM queue.deferred;
SELECT * FROM queue.dead_letters;
SELECT queue.peek('m');
SELECT queue.receive('m');
SELECT queue.ack(:receipt);

SET ROLE regress_stranger;
SELECT * FROM queue.stats WHERE queue = 'm';
SELECT * FROM queue.leases WHERE queue = 'm';
SELECT * FROM queue.blocked_keys WHERE queue = 'k';
SELECT * FROM queue.maintenance;
SELECT queue.queue_stats('queues.m');
SELECT * FROM queue.databases;
SELECT * FROM queue.database_list();

-- Settings of maintenance are a superuser's, for a role or a database too.
SET queue.segment_size = '1MB';
RESET ROLE;
ALTER ROLE regress_stranger SET queue.segment_size = '1MB';
ALTER ROLE regress_stranger RESET queue.segment_size;
SET queue.segment_size = '1MB';
SET queue.max_leases = 100;
RESET queue.segment_size;

SELECT queue.drop('m'), queue.drop('k');
DROP ROLE regress_monitor, regress_stranger, regress_reader;
