--
-- How a message is stored: what an update of the extension must be able to read
--
SELECT queue.create('f', lease => '1 hour', backoff => '0');
SELECT attnum, attname, format_type(atttypid, atttypmod) AS type, attnotnull
FROM pg_attribute WHERE attrelid = 'queues.f'::regclass AND attnum > 0 ORDER BY attnum;

-- The hash of a key is stored with it, however the message is sent, and is
-- that of the key's bytes (hash_bytes_extended).
SELECT queue.send('f', '1', key => 'k') > 0 AS sent;
SELECT queue.send_bytes('f', '\x01', key => 'k') > 0 AS sent;
SELECT count(*) FROM queue.send_batch('f', '{3,4}', keys => '{k,other}');
INSERT INTO queues.f (key, payload) VALUES ('k', '5');
INSERT INTO queues.f (payload) VALUES ('6');
SELECT key, key_hash = hashtextextended(key COLLATE "C", 0) AS good, count(*)
FROM queues.f GROUP BY 1, 2 ORDER BY 1, 2;
INSERT INTO queues.f (key, key_hash, payload) VALUES ('k', 1, '7');

-- A row without a body ends before it, which spares it eight bytes: so many
-- fit in a block, of 8168 bytes, with a line pointer of 4 bytes each.
SELECT queue.purge('f');
SELECT count(*) FROM queue.send_batch('f', array_fill('"12345678"'::jsonb, ARRAY[200]));
SELECT (24 + 16 + 17 + 7) / 8 * 8 + 4 AS bytes, count(*) FROM queues.f WHERE ctid < '(1,0)';
SELECT count(*) FROM queue.pop('f', 200);
SELECT queue.purge('f');
SELECT count(queue.send_bytes('f', '\x3132333435363738393031323334353637')) FROM generate_series(1, 200);
SELECT (32 + 16 + 18 + 7) / 8 * 8 + 4 AS bytes, count(*) FROM queues.f WHERE ctid < '(1,0)';
SELECT DISTINCT convert_from(body, 'UTF8') AS body FROM queue.pop('f', 200);

-- What is set for a message by plain SQL or by a default goes with it where
-- it is deferred, and to the dead letters and back.
INSERT INTO queues.f (key, payload, expires_at, priority) VALUES ('k', '8', '2100-01-01 00:00+00', 3);
SELECT queue.nack(receipt, delay => '0') FROM queue.receive('f');
SELECT d.expires_at = '2100-01-01 00:00+00' AS expires_at, d.priority FROM queue.deferred d;
SELECT queue.reject(receipt) FROM queue.receive('f');
SELECT queue.redrive('f');
SELECT key, expires_at = '2100-01-01 00:00+00' AS expires_at, priority,
	key_hash = hashtextextended(key COLLATE "C", 0) AS good FROM queues.f;
SELECT queue.purge('f');
ALTER TABLE queues.f ALTER COLUMN key SET DEFAULT 'usual', ALTER COLUMN expires_at SET DEFAULT '2100-01-01 00:00+00';
SELECT queue.send('f', '9') > 0 AS now, queue.send('f', '10', delay => '1 hour') > 0 AS later;
SELECT payload, key, expires_at = '2100-01-01 00:00+00' AS expires_at,
	key_hash = hashtextextended(key COLLATE "C", 0) AS good FROM queues.f;
SELECT payload, key, expires_at = '2100-01-01 00:00+00' AS expires_at FROM queue.deferred;

-- Columns added by somebody, even with a value for the rows that are there, are his.
ALTER TABLE queues.f ALTER COLUMN key DROP DEFAULT, ALTER COLUMN expires_at DROP DEFAULT;
ALTER TABLE queues.f ADD COLUMN note text DEFAULT 'was there';
ALTER TABLE queues.f ALTER COLUMN note DROP DEFAULT;
SELECT queue.send('f', '11') > 0 AS sent;
SELECT payload, note FROM queues.f ORDER BY id;
SELECT payload FROM queue.pop('f', 2);
SELECT queue.drop('f');
