--
-- Views: queue.queues, queue.stats, queue.leases
--
SELECT queue.create('v', lease => '1 hour', max_attempts => 2, backoff => '0', backoff_max => '0');
SELECT queue.create('w');
SELECT * FROM queue.queues ORDER BY name;

-- Nothing yet
SELECT * FROM queue.stats WHERE queue = 'v';
SELECT * FROM queue.leases;

-- ready and sent, leased and received
SELECT count(*) FROM queue.send_batch('v', '{1,2,3,4,5,6,7,8,9,10}');
SELECT queue, ready, leased, deferred, dead, sent, received, acked, failed, expired, waiting, segments, bytes > 0 AS bytes
	FROM queue.stats ORDER BY queue;
SELECT array_agg(receipt) AS receipts FROM queue.receive('v', 5) \gset
SELECT ready, leased, sent, received, acked, oldest_enqueued_at <= now() AS oldest FROM queue.stats WHERE queue = 'v';
SELECT queue.ack((:'receipts'::bigint[])[1]);
SELECT ready, leased, received, acked FROM queue.stats WHERE queue = 'v';

-- A rollback counts for nothing but what was received.
BEGIN;
SELECT queue.ack((:'receipts'::bigint[])[2]);
SELECT queue.send('v', '11') IS NOT NULL AS sent;
SELECT count(*) FROM queue.receive('v', 2);
ROLLBACK;
SELECT ready, leased, sent, acked FROM queue.stats WHERE queue = 'v';

-- failed, deferred and dead
SELECT queue.nack((:'receipts'::bigint[])[2], delay => '1 hour');
SELECT queue.nack((:'receipts'::bigint[])[3], delay => '0');
SELECT ready, leased, deferred, dead, acked, failed FROM queue.stats WHERE queue = 'v';
SELECT queue.nack(receipt), payload, attempts FROM queue.receive('v', 1);
SELECT deferred, dead, failed FROM queue.stats WHERE queue = 'v';
SELECT queue.reject((:'receipts'::bigint[])[4]);
SELECT queue.send('v', '12', delay => '1 hour') IS NOT NULL AS sent;
SELECT deferred, dead, failed FROM queue.stats WHERE queue = 'v';
BEGIN;
SAVEPOINT a;
SELECT queue.send('v', '12', delay => '1 hour') IS NOT NULL AS sent;
SELECT queue.send('v', '13') IS NOT NULL AS sent;
SELECT queue.reject((:'receipts'::bigint[])[5]);
ROLLBACK TO a;
COMMIT;
SELECT deferred, dead, sent FROM queue.stats WHERE queue = 'v';
SELECT queue.redrive('v');
SELECT ready, dead FROM queue.stats WHERE queue = 'v';
SELECT queue, id, attempts, kind, state FROM queue.leases ORDER BY id;

-- Purged
SELECT queue.purge('v');
SELECT queue.ack((:'receipts'::bigint[])[5]);
SELECT count(*) FROM queue.receive('v');
SELECT ready, leased, deferred, acked FROM queue.stats WHERE queue = 'v';
SELECT queue.queue_stats('pg_class');
SELECT queue.queue_stats(NULL);
SELECT queue.drop('v');
SELECT queue.drop('w');
SELECT queue FROM queue.stats;

-- Tables and views have names of their own.
SELECT relkind, string_agg(relname, ' ' ORDER BY relname) AS names
	FROM pg_class WHERE relnamespace = 'queue'::regnamespace AND relkind IN ('r', 'v') GROUP BY 1 ORDER BY 1;
-- A queue is always the argument "queue", but where it is to be created.
SELECT proargnames[1] AS first, string_agg(proname, ' ' ORDER BY proname) AS functions
	FROM pg_proc WHERE pronamespace = 'queue'::regnamespace AND proargnames IS NOT NULL AND pronargs > 0
	GROUP BY 1 ORDER BY 1;
-- Every function has a comment, which names its arguments but for those that are plain.
SELECT proname FROM pg_proc WHERE pronamespace = 'queue'::regnamespace AND obj_description(oid, 'pg_proc') IS NULL;
SELECT proname, argument
	FROM pg_proc, unnest(proargnames[:pronargs]) argument
	WHERE pronamespace = 'queue'::regnamespace AND argument NOT IN ('queue', 'receipt', 'receipts', 'name')
	AND obj_description(oid, 'pg_proc') NOT LIKE '%' || argument || '%' ORDER BY 1, 2;
