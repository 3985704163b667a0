-- Another database, with a queue that the shop's relay delivers to.

CREATE EXTENSION queue;

SELECT queue.create('arrivals');

CREATE TABLE shipments (
	event jsonb NOT NULL
);

-- Takes what has arrived; the queue and the table change together.
CREATE PROCEDURE unload()
LANGUAGE plpgsql AS $$
BEGIN
	LOOP
		INSERT INTO shipments SELECT payload FROM queue.pop('arrivals', 1000);
		EXIT WHEN NOT FOUND;
		COMMIT;
	END LOOP;
END;
$$;
