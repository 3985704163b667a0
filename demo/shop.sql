-- The shop: orders, and three queues that hear of each of them.

CREATE EXTENSION queue;

-- What is going to happen, as read from a file.
CREATE TABLE log (
	number   integer PRIMARY KEY,
	source   text NOT NULL,
	customer text NOT NULL,
	details  text NOT NULL
);
CREATE SEQUENCE turn;

CREATE TABLE orders (
	number   integer PRIMARY KEY,
	customer text NOT NULL,
	details  text NOT NULL
);

-- The event that speaks of an order.
CREATE FUNCTION event(orders) RETURNS jsonb
LANGUAGE sql IMMUTABLE
RETURN jsonb_build_object('order', $1.number, 'customer', $1.customer, 'details', $1.details);

SELECT queue.create('accounting');
SELECT queue.create('shipping');
SELECT queue.create('mailing');

-- accounting: the server itself runs a handler.
CREATE TABLE accounts (
	event     jsonb NOT NULL,
	booked_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE PROCEDURE book(message queue.message)
LANGUAGE sql
BEGIN ATOMIC
	INSERT INTO accounts (event) VALUES (message.payload);
END;

-- mailing: sessions that receive, work and acknowledge in one transaction.
CREATE TABLE mails (
	event jsonb NOT NULL
);
CREATE PROCEDURE send_mails()
LANGUAGE plpgsql AS $$
DECLARE
	message queue.message;
BEGIN
	LOOP
		FOR message IN SELECT * FROM queue.receive('mailing', 100, wait => '10 s') LOOP
			INSERT INTO mails VALUES (message.payload);
			PERFORM queue.ack(message.receipt);
		END LOOP;
		COMMIT;
	END LOOP;
END;
$$;
