--
-- Unlogged queues: durable => false
--
SELECT queue.create('fast', durable => false);
SELECT name, durable FROM queue.queues;
SELECT relname, relpersistence FROM pg_class
	WHERE relnamespace = 'queues'::regnamespace AND relkind = 'r' ORDER BY 1;
SELECT queue.send('fast', '1');
SELECT queue.send_batch('fast', '{2,3}');
SELECT queue.send('fast', '4', delay => '1 microsecond');
INSERT INTO queues.fast (payload) VALUES ('5') RETURNING id;
SELECT id, payload FROM queue.receive('fast', 10, wait => '1 hour');
SELECT queue.purge('fast');
SELECT queue.send('fast', '6') IS NOT NULL AS sent;
SELECT queue.reject(receipt) FROM queue.receive('fast');
SELECT queue.redrive('fast');
SELECT payload FROM queue.pop('fast');

-- Its ids are durable all the same: none comes twice.
SELECT relpersistence FROM pg_class WHERE relname = 'fast$id';
SELECT queue.drop('fast');
