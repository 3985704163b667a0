-- Messages with keys, received in order of each key.
SELECT queue.create('ordered', ordered => true);

-- The hand-written queue, with keys: the indexes answer which message is the
-- oldest, and whether a key has an older one.
CREATE TABLE bench.ordered (
	id         bigserial PRIMARY KEY,
	key        text NOT NULL,
	payload    jsonb NOT NULL,
	created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ordered_key ON bench.ordered (key, id);

-- The same with a visibility timeout: a key is held as long as its oldest message is.
CREATE TABLE bench.ordered_timeout (
	id         bigserial PRIMARY KEY,
	key        text NOT NULL,
	payload    jsonb NOT NULL,
	created_at timestamptz NOT NULL DEFAULT now(),
	vt         timestamptz NOT NULL DEFAULT '-infinity',
	read_count integer NOT NULL DEFAULT 0
) WITH (fillfactor = 70);
CREATE INDEX ordered_timeout_key ON bench.ordered_timeout (key, id);
