--
-- Pop: receive and delete in the caller's own transaction
--
SELECT queue.create('p');
SELECT count(*) FROM queue.send_batch('p', '{1,2,3,4,5}');

-- There is no lease, and so no receipt.
SELECT receipt, id, payload, attempts FROM queue.pop('p');
SELECT id FROM queue.pop('p', max_messages => 2);
SELECT count(*) FROM queue.leases;
SELECT count(*) FROM queues.p;

-- A rollback puts it back, and counts no attempt.
BEGIN;
SELECT id FROM queue.pop('p');
SELECT id, kind, state, expires_at FROM queue.leases;
SELECT id FROM queue.pop('p', 10);
SELECT id FROM queue.pop('p', 10);
ROLLBACK;
SELECT count(*) FROM queue.leases WHERE state <> 'returned';
SELECT id, attempts FROM queue.pop('p', 10);

-- So does one to a savepoint.
SELECT count(*) FROM queue.send_batch('p', '{6,7,8}');
BEGIN;
SELECT payload FROM queue.pop('p');
SAVEPOINT a;
SELECT payload FROM queue.pop('p');
SAVEPOINT b;
SELECT payload FROM queue.pop('p');
RELEASE b;
ROLLBACK TO a;
SELECT payload FROM queue.pop('p');
COMMIT;
SELECT payload FROM queue.pop('p');
SELECT payload FROM queue.pop('p');

-- Effects and message are one transaction: exactly once.
CREATE TABLE effects (n integer UNIQUE);
SELECT queue.send('p', '1') IS NOT NULL AS sent;
WITH m AS (SELECT payload FROM queue.pop('p')) INSERT INTO effects SELECT payload::int FROM m;
SELECT queue.send('p', '1') IS NOT NULL AS sent;
WITH m AS (SELECT payload FROM queue.pop('p')) INSERT INTO effects SELECT payload::int FROM m;
SELECT n FROM effects;
SELECT payload FROM queue.pop('p');
DROP TABLE effects;

-- A deferred message pops like any other.
SELECT queue.send('p', '"due"', delay => '1 microsecond') IS NOT NULL AS sent;
BEGIN;
SELECT payload, attempts FROM queue.pop('p', wait => '1 hour');
ROLLBACK;
SELECT payload, attempts FROM queue.pop('p', wait => '1 hour');
SELECT count(*) FROM queue.deferred;

-- Waiting
SELECT payload FROM queue.pop('p', wait => '10 milliseconds');
SELECT queue.drop('p');
