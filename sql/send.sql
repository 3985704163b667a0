--
-- Send: one message, bytes, and batches
--
SELECT queue.create('s');
SELECT queue.send('s', '{"order": 1}');
SELECT queue.send('s', '{"order": 2}', key => 'customer 7', headers => '{"type": "created"}');
SELECT queue.send(queue => 's', payload => 'null', headers => '{}', key => '');
SELECT queue.send_bytes('s', '\x00ff00', 'k', '{"content-type": "application/octet-stream"}');
SELECT queue.send_bytes('s', '');
SELECT id, key, payload, body, headers, priority, attempts, enqueued_at <= now() AS past
	FROM queue.pop('s', 10);

-- Drivers that send parameters of unknown type resolve all of them.
PREPARE send1 AS SELECT queue.send($1, $2);
EXECUTE send1('s', '1');
PREPARE send2 AS SELECT queue.send($1, $2, $3, $4, $5);
EXECUTE send2('s', '2', NULL, NULL, NULL);
PREPARE sendb AS SELECT queue.send_batch($1, $2, $3, $4, $5);
EXECUTE sendb('s', '{1,2}', '{a,b}', NULL, NULL);
DEALLOCATE ALL;

-- Batches: ids in the order of the payloads, keys and headers beside them.
SELECT queue.send_batch('s', ARRAY['"a"', '"b"', '"c"']::jsonb[]);
SELECT * FROM queue.send_batch('s', ARRAY['"d"', '"e"']::jsonb[], keys => ARRAY['k1', NULL],
	headers => ARRAY[NULL, '{"n": 2}']::jsonb[]) AS id;
SELECT count(*) FROM queue.send_batch('s', '{}');
SELECT count(*) FROM queue.send_batch('s', '{}', keys => '{}', headers => '{}');
SELECT id, key, payload, headers FROM queue.pop('s', 100);

-- More than a thousand at once
SELECT count(id), max(id) - min(id) + 1 AS consecutive, bool_and(id > previous) AS ascending
	FROM (SELECT id, lag(id, 1, 0::bigint) OVER () AS previous
		FROM queue.send_batch('s', (SELECT array_agg(to_jsonb(i)) FROM generate_series(1, 3500) i)) id) s;
SELECT count(*), sum(payload::int), bool_and(payload::int = n) AS in_order
	FROM (SELECT payload, row_number() OVER () AS n FROM queue.pop('s', 10000)) m;

-- Only as much of a batch's result as is wanted is read, all of it is sent.
SELECT queue.send_batch('s', '{1,2,3}') IS NOT NULL AS sent LIMIT 1;
SELECT count(*) FROM queue.pop('s', 10);

-- What is missing or misshapen
SELECT queue.send(NULL, '1');
SELECT queue.send('s', NULL);
SELECT queue.send_bytes('s', NULL);
SELECT queue.send_batch(NULL, '{1}');
SELECT queue.send_batch('s', NULL);
SELECT queue.send_batch('s', '{1,NULL,3}');
SELECT queue.send_batch('s', '{1,2}', keys => '{a}');
SELECT queue.send_batch('s', '{1,2}', headers => ARRAY['{}', '{}', '{}']::jsonb[]);
SELECT queue.send_batch('s', '{}', keys => '{a}');
SELECT queue.send('s', '1', headers => '[]');
SELECT queue.send('s', '1', headers => '"text"');
SELECT queue.send_bytes('s', '1', headers => '5');
SELECT queue.send_batch('s', '{1,2}', headers => ARRAY['{}', 'null']::jsonb[]);
SELECT queue.send('s', '1', delay => '-1 second');
SELECT queue.send('s', '1', delay => '11 years');
SELECT queue.send_batch('s', '{1}', delay => '-1 second');
SELECT queue.send('nowhere', '1');
SELECT queue.send('', '1');
SELECT queue.send('queues.s', '1');
SELECT queue.send('s$1', '1');
SELECT count(*) FROM queue.pop('s', 10);

-- Not where nothing can be written
BEGIN READ ONLY;
SELECT queue.send('s', '1');
ROLLBACK;
BEGIN READ ONLY;
SELECT queue.send_batch('s', '{1}');
ROLLBACK;

-- Large ones, toasted and not, compressible and not
CREATE TABLE contents (n serial, payload jsonb, body bytea);
INSERT INTO contents (payload)
	SELECT to_jsonb(repeat('x', size)) FROM unnest(ARRAY[1000, 8000, 9000, 1500000]) size;
INSERT INTO contents (payload)
	SELECT jsonb_agg(md5(i::text)) FROM generate_series(1, 300) i
	UNION ALL SELECT jsonb_agg(md5(i::text)) FROM generate_series(1, 60000) i;
INSERT INTO contents (body)
	SELECT string_agg(decode(md5(i::text), 'hex'), '') FROM generate_series(1, 100000) i;
SELECT queue.send('s', payload) IS NOT NULL AS sent FROM contents WHERE payload IS NOT NULL ORDER BY n;
SELECT queue.send_bytes('s', body) IS NOT NULL AS sent FROM contents WHERE body IS NOT NULL;
SELECT c.n, m.payload = c.payload AS payload, m.body = c.body AS body,
		length(c.payload::text) AS length, length(c.body) AS bytes
	FROM (SELECT *, row_number() OVER () AS n FROM queue.receive('s', 10)) m JOIN contents c USING (n)
	ORDER BY n;
SELECT count(*) FROM queue.leases WHERE queue = 's';
SELECT queue.purge('s');
SELECT count(*) FROM queue.send_batch('s',
	(SELECT array_agg(payload ORDER BY n) FROM contents WHERE payload IS NOT NULL),
	keys => (SELECT array_agg(repeat('k', n * 1000) ORDER BY n) FROM contents WHERE payload IS NOT NULL));
SELECT count(*), bool_and(m.payload = c.payload AND length(m.key) = n * 1000) AS same
	FROM (SELECT *, row_number() OVER () AS n FROM queue.pop('s', 10)) m JOIN contents c USING (n);

-- The same by way of a failure, which copies them
SELECT queue.send('s', payload) IS NOT NULL AS sent FROM contents WHERE n = 6;
SELECT queue.send('s', payload, delay => '1 microsecond') IS NOT NULL AS sent FROM contents WHERE n = 6;
SELECT queue.nack(receipt, delay => '0') FROM queue.receive('s', 2, wait => '1 min');
SELECT m.payload = c.payload AS same FROM queue.receive('s', 2, wait => '1 min') m, contents c WHERE c.n = 6;
DROP TABLE contents;
SELECT queue.purge('s');

-- Delayed messages are due in time; until then nobody gets them.
SELECT queue.send('s', '"later"', delay => '1 hour') IS NOT NULL AS sent;
SELECT count(*) FROM queue.send_batch('s', '{1,2}', delay => '1 hour', keys => '{a,b}');
SELECT queue.send('s', '"now"', delay => '0') AS now \gset
SELECT id = :now AS is_now, payload FROM queue.receive('s', 10);
SELECT queue.send_bytes('s', '\x01', delay => '100 milliseconds', key => 'soon', headers => '{"a": 1}') AS soon \gset
SELECT id = :soon AS is_soon, body, key, headers, attempts FROM queue.receive('s', 10, wait => '1 min');
SELECT count(*) FROM queue.receive('s', 10);
SELECT payload, key, due_at - enqueued_at BETWEEN '59 min' AND '61 min' AS in_an_hour, attempts
	FROM queue.deferred WHERE due_at > now() + interval '1 minute' ORDER BY id;

-- A rollback takes all of it back.
SELECT queue.purge('s');
BEGIN;
SELECT queue.send('s', '1') IS NOT NULL AS sent;
SELECT queue.send('s', '2', delay => '1 microsecond') IS NOT NULL AS sent;
ROLLBACK;
BEGIN;
SELECT queue.send('s', '3') IS NOT NULL AS sent;
SAVEPOINT a;
SELECT count(*) FROM queue.send_batch('s', '{4,5}');
ROLLBACK TO a;
SELECT queue.send('s', '6') IS NOT NULL AS sent;
COMMIT;
SELECT payload FROM queue.pop('s', 10);

-- Nobody receives his own message before he has committed it.
BEGIN;
SELECT queue.send('s', '1') IS NOT NULL AS sent;
SELECT count(*) FROM queue.receive('s');
COMMIT;
SELECT payload FROM queue.pop('s');
SELECT queue.drop('s');
