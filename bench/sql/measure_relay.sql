-- Messages per second, from the first that is published to the last of n.
CREATE OR REPLACE PROCEDURE bench.measure_relay(n bigint, INOUT rate double precision) LANGUAGE plpgsql AS $$
DECLARE
	start    bigint;
	first    bigint;
	done     bigint;
	began_at timestamptz;
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
		PERFORM pg_sleep(0.01);
		COMMIT;
	END LOOP;
	rate := (done - first) / extract(epoch FROM clock_timestamp() - began_at);
END
$$;
