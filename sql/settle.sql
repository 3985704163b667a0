--
-- Settling: ack, nack, reject, extend, and leases that end by themselves
--
SELECT queue.create('s', lease => '1 hour', max_attempts => 3, backoff => '0', backoff_max => '0');

-- ack deletes the message, once.
SELECT queue.send('s', '1');
SELECT receipt FROM queue.receive('s') \gset
SELECT queue.ack(:receipt);
SELECT queue.ack(:receipt);
SELECT queue.nack(:receipt), queue.reject(:receipt), queue.extend(:receipt);
SELECT count(*) FROM queues.s;
SELECT count(*) FROM queue.leases;

-- Receipts that are none
SELECT queue.ack(0), queue.ack(-1), queue.ack(1), queue.ack(9223372036854775807), queue.ack(-9223372036854775808);
SELECT queue.ack(NULL), queue.nack(NULL), queue.reject(NULL), queue.extend(NULL);
SELECT queue.nack(9223372036854775807), queue.reject(-1), queue.extend(0);
SELECT queue.ack_batch(NULL), queue.nack_batch(NULL), queue.extend_batch(NULL);
SELECT queue.ack_batch('{}'), queue.nack_batch('{}'), queue.extend_batch('{}');
SELECT queue.ack_batch('{NULL,0,-1,9223372036854775807}'), queue.nack_batch('{NULL,1}'), queue.extend_batch('{NULL,1}');

-- Each of a batch counts once.
SELECT count(*) FROM queue.send_batch('s', '{1,2,3,4,5}');
SELECT array_agg(receipt) AS receipts FROM queue.receive('s', 5) \gset
SELECT queue.ack((:'receipts'::bigint[])[2]);
SELECT queue.ack_batch(:'receipts'::bigint[] || :'receipts'::bigint[] || NULL || 0::bigint);
SELECT queue.ack_batch(:'receipts');
SELECT count(*) FROM queues.s;

-- nack: it comes back, and its attempts are counted; the last goes to the
-- dead letters.
SELECT queue.send('s', '"fails"', key => 'k', headers => '{"h": 1}') AS id;
SELECT queue.nack(receipt, error => 'first'), attempts FROM queue.receive('s');
SELECT attempts, error, key, headers, payload FROM queue.deferred;
SELECT queue.nack(receipt, delay => '0', error => 'second'), attempts FROM queue.receive('s');
SELECT queue.nack(receipt, error => 'third'), attempts FROM queue.receive('s');
SELECT count(*) FROM queue.receive('s');
SELECT count(*) FROM queue.deferred;
SELECT queue, id, key, priority, headers, payload, body, attempts, reason, error, enqueued_at < died_at AS later
	FROM queue.dead_letters;

-- An acknowledged one leaves nothing behind.
SELECT queue.send('s', '"fails once"');
SELECT queue.nack(receipt) FROM queue.receive('s');
SELECT queue.ack(receipt), attempts, payload FROM queue.receive('s');
SELECT count(*) FROM queue.deferred;

-- nack with a delay; not before it is over
SELECT queue.send('s', '"in an hour"');
SELECT queue.nack(receipt, delay => '1 hour') FROM queue.receive('s');
SELECT count(*) FROM queue.receive('s');
SELECT payload, due_at > now() + '59 min' AS later, attempts FROM queue.deferred;
SELECT queue.send('s', '"soon"');
SELECT queue.nack(receipt, delay => '50 milliseconds') FROM queue.receive('s');
SELECT queue.ack(receipt), payload, attempts FROM queue.receive('s', wait => '1 hour');
SELECT queue.purge('s');

-- nack of a batch
SELECT count(*) FROM queue.send_batch('s', '{1,2,3}');
SELECT array_agg(receipt) AS receipts FROM queue.receive('s', 3) \gset
SELECT queue.nack_batch(:'receipts'::bigint[] || :'receipts'::bigint[] || NULL, error => 'all of them');
SELECT payload, attempts, error FROM queue.deferred ORDER BY id;
SELECT queue.ack_batch(array_agg(receipt)) FROM queue.receive('s', 10);

-- The back-off doubles up to its maximum.
SELECT queue.alter('s', max_attempts => 100, backoff => '1 hour', backoff_max => '5 hours');
CREATE PROCEDURE fail_times(n integer) AS $$
BEGIN
	PERFORM queue.send('s', to_jsonb(n));
	COMMIT;
	FOR i IN 1 .. n - 1 LOOP
		PERFORM queue.nack(receipt, delay => '0') FROM queue.receive('s');
		COMMIT;
	END LOOP;
	PERFORM queue.nack(receipt) FROM queue.receive('s');
END $$ LANGUAGE plpgsql;
CALL fail_times(1);
CALL fail_times(2);
CALL fail_times(3);
CALL fail_times(4);
CALL fail_times(70);
SELECT payload, attempts, round(extract(epoch FROM due_at - now()) / 3600) AS hours
	FROM queue.deferred ORDER BY id;
DROP PROCEDURE fail_times;
SELECT queue.purge('s');
SELECT queue.alter('s', max_attempts => 3, backoff => '0', backoff_max => '0');

-- reject: to the dead letters at once
SELECT queue.send('s', '"unreadable"');
SELECT queue.reject(receipt, 'no such customer') FROM queue.receive('s');
SELECT queue.send('s', '"no reason given"');
SELECT queue.reject(receipt) FROM queue.receive('s');
SELECT payload, attempts, reason, error FROM queue.dead_letters ORDER BY id;
SELECT count(*) FROM queues.s;

-- extend: at once, whatever becomes of the transaction
SELECT queue.send('s', '"long work"');
SELECT receipt FROM queue.receive('s') \gset
BEGIN;
SELECT queue.extend(:receipt, '3 hours');
ROLLBACK;
SELECT expires_at - now() BETWEEN '2 hours 59 min' AND '3 hours 1 min' AS in_three_hours FROM queue.leases;
SELECT queue.extend(:receipt);
SELECT expires_at - now() BETWEEN '59 min' AND '61 min' AS in_an_hour FROM queue.leases;
SELECT queue.extend_batch(ARRAY[:receipt, NULL, 0, :receipt], lease => '2 hours');
SELECT expires_at - now() BETWEEN '119 min' AND '121 min' AS in_two_hours FROM queue.leases;
SELECT queue.extend(:receipt, '0');
SELECT queue.extend(:receipt, '-1 second');
SELECT queue.extend_batch(ARRAY[:receipt], '11 years');
SELECT queue.nack(:receipt, delay => '-1 second');
SELECT queue.nack_batch(ARRAY[:receipt], delay => '11 years');
SELECT queue.ack(:receipt);
SELECT queue.extend(:receipt);

-- A lease that ends by itself: the attempt counts, and the receipt is void.
SELECT queue.send('s', '"crash"');
SELECT receipt AS first FROM queue.receive('s', lease => '1 millisecond') \gset
SELECT receipt AS second, attempts, payload FROM queue.receive('s', wait => '1 hour') \gset
SELECT :attempts AS attempts, :'payload' AS payload;
SELECT queue.ack(:first), queue.nack(:first), queue.reject(:first), queue.extend(:first);
SELECT queue.ack_batch(ARRAY[:first]);
SELECT id, attempts, state FROM queue.leases WHERE state = 'held';

-- Extended to the past, the second lease ends too, then the third, the last.
SELECT queue.extend(:second, '1 microsecond');
SELECT receipt, attempts FROM queue.receive('s', lease => '1 microsecond', wait => '1 hour') \gset
SELECT :attempts AS attempts;
DO $$
BEGIN
	WHILE NOT EXISTS (SELECT FROM queue.dead_letters WHERE payload = '"crash"') LOOP
		IF clock_timestamp() > now() + interval '3 minutes' THEN
			RAISE EXCEPTION 'the message did not become a dead letter';
		END IF;
		PERFORM queue.receive('s', wait => '10 milliseconds');
	END LOOP;
END $$;
SELECT payload, attempts, reason, error FROM queue.dead_letters WHERE payload = '"crash"';
SELECT queue.ack(:second), queue.ack(:receipt);
SELECT count(*) FROM queue.leases WHERE state = 'held';
SELECT count(*) FROM queue.deferred;
SELECT queue.drop('s');
