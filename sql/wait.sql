--
-- Waiting: several receivers, and those who are woken in vain
--
CREATE EXTENSION dblink;
SELECT queue.create('w', lease => '1 hour');
SELECT dblink_connect(name, 'dbname=' || quote_literal(current_database())
	|| ' host=' || quote_literal(split_part(current_setting('unix_socket_directories'), ',', 1))
	|| ' port=' || current_setting('port')) FROM unnest(ARRAY['a', 'b', 'c']) name;
CREATE PROCEDURE until_waiting(n integer) LANGUAGE plpgsql AS $$
BEGIN
	WHILE (SELECT waiting <> n FROM queue.stats WHERE queue = 'w') LOOP
		ASSERT clock_timestamp() < now() + interval '5 min', 'others wait, or nobody';
	END LOOP;
END $$;
CREATE FUNCTION wait_in(name text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM dblink_send_query(name, 'SELECT payload FROM queue.receive(''w'', wait => ''1 hour'')');
END $$;
-- The first result of those that have one
CREATE PROCEDURE first_result() LANGUAGE plpgsql AS $$
DECLARE
	name text;
	got jsonb;
BEGIN
	LOOP
		FOREACH name IN ARRAY ARRAY['a', 'b', 'c'] LOOP
			CONTINUE WHEN dblink_is_busy(name) = 1;
			SELECT payload INTO got FROM dblink_get_result(name) m (payload jsonb);
			CONTINUE WHEN NOT FOUND;
			PERFORM FROM dblink_get_result(name) m (payload jsonb);
			RAISE NOTICE 'received %', got;
			RETURN;
		END LOOP;
		ASSERT clock_timestamp() < now() + interval '5 min', 'nobody has received anything';
	END LOOP;
END $$;

-- A message each
SELECT wait_in('a');
CALL until_waiting(1);
SELECT wait_in('b');
CALL until_waiting(2);
SELECT wait_in('c');
CALL until_waiting(3);
SELECT queue.send('w', '"m"');
CALL first_result();
CALL until_waiting(2);
SELECT count(*) FROM queue.send_batch('w', ARRAY['"m"', '"m"']::jsonb[]);
CALL first_result();
CALL first_result();
CALL until_waiting(0);

-- Those who are canceled no longer wait; the message is for another.
SELECT wait_in('a');
CALL until_waiting(1);
SELECT wait_in('b');
CALL until_waiting(2);
SELECT dblink_cancel_query('a');
CALL until_waiting(1);
SELECT queue.send('w', '4');
SELECT payload FROM dblink_get_result('b') m (payload jsonb);
SELECT payload FROM dblink_get_result('b') m (payload jsonb);
SELECT payload FROM dblink_get_result('a') m (payload jsonb);
SELECT payload FROM dblink_get_result('a') m (payload jsonb);

-- Whoever has it and rolls back passes it on; so does one whose session ends.
SELECT queue.send('w', '5');
SELECT dblink_exec('a', 'BEGIN');
SELECT payload FROM dblink('a', $$SELECT payload FROM queue.receive('w')$$) m (payload jsonb);
SELECT wait_in('b');
CALL until_waiting(1);
SELECT dblink_exec('a', 'ROLLBACK');
CALL first_result();
SELECT queue.send('w', '6');
SELECT dblink_exec('a', 'BEGIN');
SELECT payload FROM dblink('a', $$SELECT payload FROM queue.pop('w')$$) m (payload jsonb);
SELECT wait_in('b');
CALL until_waiting(1);
SELECT dblink_disconnect('a');
SELECT payload FROM dblink_get_result('b') m (payload jsonb);
SELECT payload FROM dblink_get_result('b') m (payload jsonb);

-- A session that ends while it waits is forgotten.
SELECT wait_in('b');
CALL until_waiting(1);
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
	WHERE datname = current_database() AND query LIKE '%wait => ''1 hour''%' AND state = 'active' AND pid <> pg_backend_pid();
CALL until_waiting(0);
SELECT dblink_disconnect('b'), dblink_disconnect('c');

DROP PROCEDURE until_waiting, first_result;
DROP FUNCTION wait_in;
DROP EXTENSION dblink;
SELECT queue.drop('w');
