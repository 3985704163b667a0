-- What the measurements at the end call.

SELECT queue.create('measured');
SELECT queue.create('ping');
SELECT queue.create('pong');

CREATE TABLE timings (
	what     text NOT NULL,
	messages bigint NOT NULL,
	started  timestamptz NOT NULL,
	ended    timestamptz NOT NULL
);
CREATE TABLE latencies (
	what    text NOT NULL,
	latency interval NOT NULL
);

-- Sends a thousand of the shop's events a call.
CREATE PROCEDURE send_batches(queue text, calls integer)
LANGUAGE plpgsql AS $$
DECLARE
	events jsonb[] := ARRAY(SELECT o.event FROM orders o ORDER BY number LIMIT 1000);
	started timestamptz := clock_timestamp();
BEGIN
	FOR i IN 1 .. calls LOOP
		PERFORM queue.send_batch(queue, events);
		COMMIT;
	END LOOP;
	INSERT INTO timings VALUES ('send_batch', calls * cardinality(events), started, clock_timestamp());
END;
$$;

-- Receives and acknowledges until nothing is left.
CREATE PROCEDURE receive_all(queue text, batch integer)
LANGUAGE plpgsql AS $$
DECLARE
	receipts bigint[];
	messages bigint := 0;
	started timestamptz := clock_timestamp();
BEGIN
	LOOP
		receipts := ARRAY(SELECT receipt FROM queue.receive(queue, batch));
		EXIT WHEN receipts = '{}';
		COMMIT;
		messages := messages + queue.ack_batch(receipts);
		COMMIT;
	END LOOP;
	INSERT INTO timings VALUES ('receive', messages, started, clock_timestamp());
END;
$$;

-- Two sessions play ping-pong, so that each message meets a receiver that waits.
-- A message says when it was sent; its latency includes the sender's commit.
CREATE PROCEDURE ping(messages integer)
LANGUAGE plpgsql AS $$
DECLARE
	answer queue.message;
BEGIN
	FOR i IN 1 .. messages LOOP
		PERFORM queue.send('ping', jsonb_build_object('sent', clock_timestamp()));
		COMMIT;
		SELECT * INTO STRICT answer FROM queue.receive('pong', wait => '10 s');
		PERFORM queue.ack(answer.receipt);
		COMMIT;
	END LOOP;
END;
$$;

CREATE PROCEDURE pong(messages integer)
LANGUAGE plpgsql AS $$
DECLARE
	message queue.message;
	received timestamptz;
BEGIN
	FOR i IN 1 .. messages LOOP
		SELECT * INTO STRICT message FROM queue.receive('ping', wait => '10 s');
		received := clock_timestamp();
		PERFORM queue.ack(message.receipt);
		INSERT INTO latencies
			VALUES (current_setting('synchronous_commit'), received - (message.payload->>'sent')::timestamptz);
		PERFORM queue.send('pong', '{}');
		COMMIT;
	END LOOP;
END;
$$;
