-- What demo/run --to adds to the shop: a queue whose relay goes to a broker.

SELECT queue.create('announcing');

-- What has been read back from the broker, byte for byte.
CREATE TABLE announced (
	event text NOT NULL
);

-- Has the relay go, and takes the time until all that waits is through.
CREATE PROCEDURE announce_all()
LANGUAGE plpgsql AS $$
DECLARE
	messages bigint := (SELECT count(*) FROM queues.announcing);
	started timestamptz := clock_timestamp();
BEGIN
	PERFORM queue.resume_relay('announcements');
	COMMIT;
	WHILE EXISTS (SELECT FROM queue.stats AS s
		WHERE s.queue = 'announcing' AND (ready > 0 OR leased > 0 OR deferred > 0)) LOOP
		COMMIT;
		PERFORM pg_sleep(0.01);
	END LOOP;
	INSERT INTO timings VALUES ('announce', messages, started, clock_timestamp());
END;
$$;
