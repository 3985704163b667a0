-- What every row needs: the extension, and the peers' tables.
\set VERBOSITY terse
SET client_min_messages = warning;

CREATE EXTENSION queue;
SELECT queue.create('bench');

CREATE SCHEMA bench;

-- 200 bytes of jsonb.
CREATE FUNCTION bench.payload() RETURNS jsonb IMMUTABLE LANGUAGE sql AS $$
	SELECT jsonb_build_object(
		'event', 'order.paid', 'order_id', 4815162342, 'customer', 'c-108-4242',
		'total', 129.90, 'currency', 'EUR', 'note', repeat('x', 47), 'paid', true)
$$;
DO $$
BEGIN
	IF pg_column_size(bench.payload()) <> 200 THEN
		RAISE 'payload has % bytes', pg_column_size(bench.payload());
	END IF;
END
$$;

-- The hand-written queue.
CREATE TABLE bench.handwritten (
	id         bigserial PRIMARY KEY,
	payload    jsonb NOT NULL,
	created_at timestamptz NOT NULL DEFAULT now()
);

-- The hand-written queue with a visibility timeout.
CREATE TABLE bench.timeout (
	id         bigserial PRIMARY KEY,
	payload    jsonb NOT NULL,
	created_at timestamptz NOT NULL DEFAULT now(),
	vt         timestamptz NOT NULL DEFAULT now(),
	read_count integer NOT NULL DEFAULT 0
);
CREATE INDEX timeout_vt ON bench.timeout (vt);

-- Bytes on disk of each contestant.
CREATE FUNCTION bench.disk(contestant text) RETURNS bigint LANGUAGE sql AS $$
	SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE c.relkind = 'r' AND CASE contestant
		WHEN 'queue' THEN n.nspname IN ('queue', 'queues')
		WHEN 'pgq' THEN n.nspname = 'pgq'
		ELSE n.nspname = 'bench' AND c.relname = contestant
	END
$$;

-- The same, with the time in microseconds.
CREATE FUNCTION bench.stamped() RETURNS jsonb VOLATILE LANGUAGE sql AS $$
	SELECT jsonb_build_object(
		'sent', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
		'event', 'order.paid', 'note', repeat('x', 127))
$$;
