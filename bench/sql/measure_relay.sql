-- Messages per second, from the first that is published to the last of n.
CREATE OR REPLACE PROCEDURE bench.measure_relay(n bigint, INOUT rate double precision) LANGUAGE plpgsql AS $$
DECLARE
	start    bigint;
	first    bigint;
	done     bigint;
	last     bigint;
	began_at timestamptz;
	moved_at timestamptz := clock_timestamp();
BEGIN
	SELECT published INTO start FROM queue.relays WHERE name = 'bench';
	PERFORM queue.resume_relay('bench');
	COMMIT;
	LOOP
		SELECT published INTO done FROM queue.relays WHERE name = 'bench';
		IF done < start THEN
			start := 0;
		END IF;
		IF began_at IS NULL AND done > start THEN
			began_at := clock_timestamp();
			first := done;
		END IF;
		EXIT WHEN done >= start + n;
		IF done IS DISTINCT FROM last THEN
			last := done;
			moved_at := clock_timestamp();
		ELSIF clock_timestamp() > moved_at + interval '1 min' THEN
			RAISE 'the relay has published % of % messages, and none in the last minute', done - start, n;
		END IF;
		PERFORM pg_sleep(0.01);
		COMMIT;
	END LOOP;
	rate := (done - first) / extract(epoch FROM clock_timestamp() - began_at);
END
$$;
