/* queue--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION queue" to load this file. \quit

-- queue: functions, views and catalogs.  queues: one table per queue, and
-- its segments (queues.orders, queues.orders$1, ...).
CREATE SCHEMA queue;
CREATE SCHEMA queues;
GRANT USAGE ON SCHEMA queue TO PUBLIC;
GRANT USAGE ON SCHEMA queues TO PUBLIC;

--
-- Types
--

CREATE TYPE queue.message AS (
	receipt     bigint,
	id          bigint,
	key         text,
	payload     jsonb,
	body        bytea,
	headers     jsonb,
	priority    smallint,
	attempts    integer,
	enqueued_at timestamptz
);
COMMENT ON TYPE queue.message IS 'A message as a consumer sees it; receipt is NULL where there is no lease to settle.';

--
-- Catalogs
--

-- One row per queue.  The C code reads it through a relation cache
-- invalidated by the queue's table, so change it with queue.alter() only.
CREATE TABLE queue.queue_definition (
	relid           regclass PRIMARY KEY,
	lease           interval NOT NULL,
	max_attempts    integer NOT NULL,
	backoff         interval NOT NULL,
	backoff_max     interval NOT NULL,
	ordered         boolean NOT NULL,
	on_dead         text NOT NULL,
	key_concurrency integer NOT NULL,
	max_in_flight   integer NOT NULL,
	rate            integer NOT NULL,
	rate_interval   interval NOT NULL,
	dedup           text NOT NULL,
	dedup_window    interval NOT NULL
);
GRANT SELECT ON queue.queue_definition TO PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('queue.queue_definition', '');

-- Every message with a due time: delayed sends and failed attempts.
-- key_hash: only where the queue's keys are ordered or limited.
CREATE TABLE queue.deferred (
	id          bigint NOT NULL,
	due_at      timestamptz NOT NULL,
	enqueued_at timestamptz NOT NULL,
	expires_at  timestamptz,
	deferred_at timestamptz NOT NULL,
	key_hash    bigint,
	relid       regclass NOT NULL,
	attempts    integer NOT NULL,
	priority    smallint,
	key         text,
	headers     jsonb,
	payload     jsonb,
	body        bytea,
	error       text,
	CONSTRAINT deferred_due PRIMARY KEY (relid, due_at, id)
);
CREATE INDEX deferred_key ON queue.deferred (relid, key_hash, id) WHERE key_hash IS NOT NULL;
SELECT pg_catalog.pg_extension_config_dump('queue.deferred', '');

-- Messages that nobody could process, by their queue's table.  Nobody reads
-- this one: see the view queue.dead_letters.  key_hash: only of those that
-- stop their key until they are sent again or purged.
CREATE TABLE queue.dead (
	relid       regclass NOT NULL,
	attempts    integer NOT NULL,
	id          bigint NOT NULL,
	died_at     timestamptz NOT NULL,
	enqueued_at timestamptz NOT NULL,
	expires_at  timestamptz,
	key_hash    bigint,
	priority    smallint,
	key         text,
	headers     jsonb,
	payload     jsonb,
	body        bytea,
	reason      text NOT NULL,
	error       text,
	PRIMARY KEY (relid, id, died_at)
);
CREATE INDEX dead_key ON queue.dead (relid, key_hash, id) WHERE key_hash IS NOT NULL;
SELECT pg_catalog.pg_extension_config_dump('queue.dead', '');

-- One row per relay; the maintenance worker keeps its processes running.
-- anchor: the type queues."$<name>", whose owner is the relay's owner, and
-- which depends on the queue and the server or the procedure.  server,
-- procedure: their names, for a restored anchor that depends on none as yet;
-- with a server the procedure is the function that transforms messages.
CREATE TABLE queue.relay_definition (
	name      text PRIMARY KEY,
	anchor    regtype UNIQUE NOT NULL,
	queue     regclass NOT NULL,
	server    text,
	procedure text,
	options   jsonb NOT NULL,
	paused    boolean NOT NULL DEFAULT false
);
SELECT pg_catalog.pg_extension_config_dump('queue.relay_definition', '');

-- Messages that were accepted and are not to be accepted again.  relid: the
-- queue that relays brought them to, from the source consumer; or 0, and they
-- were taken by a consumer of this role.  Roles are called by their names, as a
-- dump is to restore where they do not exist yet.
CREATE TABLE queue.inbox (
	relid       regclass NOT NULL,
	role        text COLLATE "C" NOT NULL,
	consumer    text COLLATE "C" NOT NULL,
	message_id  text COLLATE "C" NOT NULL,
	expires_at  timestamptz NOT NULL,
	PRIMARY KEY (relid, role, consumer, message_id)
);
CREATE INDEX inbox_expires_at ON queue.inbox (expires_at);
SELECT pg_catalog.pg_extension_config_dump('queue.inbox', '');

-- The newest version of each entity that a consumer of this role has accepted.
CREATE TABLE queue.inbox_version (
	role        text COLLATE "C" NOT NULL,
	consumer    text COLLATE "C" NOT NULL,
	entity      text COLLATE "C" NOT NULL,
	version     bigint NOT NULL,
	expires_at  timestamptz NOT NULL,
	PRIMARY KEY (role, consumer, entity)
) WITH (fillfactor = 80);
CREATE INDEX inbox_version_expires_at ON queue.inbox_version (expires_at);
SELECT pg_catalog.pg_extension_config_dump('queue.inbox_version', '');

-- Requests of which one copy is to be served, and what the answer was.
CREATE TABLE queue.idempotency (
	role        text COLLATE "C" NOT NULL,
	scope       text COLLATE "C" NOT NULL,
	key         text COLLATE "C" NOT NULL,
	fingerprint text COLLATE "C",
	completed   boolean NOT NULL,
	response    jsonb,
	expires_at  timestamptz NOT NULL,
	PRIMARY KEY (role, scope, key)
) WITH (fillfactor = 80);
CREATE INDEX idempotency_expires_at ON queue.idempotency (expires_at);
SELECT pg_catalog.pg_extension_config_dump('queue.idempotency', '');
-- The tables in which dedup keys lie, and whose they are: see
-- src/engine/bucket_table.h.
CREATE TABLE queue.dedup_bucket (
	relid regclass PRIMARY KEY,
	queue regclass NOT NULL
);
SELECT pg_catalog.pg_extension_config_dump('queue.dedup_bucket', '');

--
-- Administration
--

CREATE FUNCTION queue.create(name text,
	lease interval DEFAULT '30 seconds',
	max_attempts integer DEFAULT 5,
	backoff interval DEFAULT '1 second',
	backoff_max interval DEFAULT '1 hour',
	durable boolean DEFAULT true,
	ordered boolean DEFAULT false,
	on_dead text DEFAULT 'continue',
	key_concurrency integer DEFAULT 0,
	max_in_flight integer DEFAULT 0,
	rate integer DEFAULT 0,
	rate_interval interval DEFAULT '1 second',
	dedup text DEFAULT 'key',
	dedup_window interval DEFAULT '5 minutes')
RETURNS void
AS 'MODULE_PATHNAME', 'queue_create' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION queue.create IS
'Creates a queue: the table queues.<name>, owned by the caller, and its segments. A table of the caller''s that is there already, as after a restore of definitions alone, becomes a queue with what is in it. name: 1 to 55 bytes without dollar signs. lease: for how long a receiver has a message unless it asks otherwise, more than 0. max_attempts: deliveries before a message goes to the dead letters, at least 1. backoff, backoff_max: the wait after the first failure, doubled by each further one up to the maximum. durable: false makes it unlogged, emptied by a crash. ordered: messages of one key are received strictly in the order of their ids, by one receiver at a time. on_dead: what becomes of a key of an ordered queue when one of its messages dies: continue without it, or block until it is redriven or purged. key_concurrency: how many messages of a key, max_in_flight: how many of the queue, may be on lease at a time; 0 for any number. rate: how many messages are handed out in each rate_interval, evenly; 0 for any number. dedup: key, only messages sent with a dedup_key are recognised when they are sent again; content, every message, by what is in it; off, none. dedup_window: for how long, at least. Intervals: ten years at most. Needs CREATE on schema queues. Errors: 42710 if it exists, 42602 invalid name, 22004 NULL argument, 22023 value out of range, 42501 no right, 53400 when queue.max_queues or queue.max_queues_per_role are in use, 0A000 a table with constraints that a queue cannot have.';

CREATE FUNCTION queue.alter(queue text,
	lease interval DEFAULT NULL,
	max_attempts integer DEFAULT NULL,
	backoff interval DEFAULT NULL,
	backoff_max interval DEFAULT NULL,
	ordered boolean DEFAULT NULL,
	on_dead text DEFAULT NULL,
	key_concurrency integer DEFAULT NULL,
	max_in_flight integer DEFAULT NULL,
	rate integer DEFAULT NULL,
	rate_interval interval DEFAULT NULL,
	dedup text DEFAULT NULL,
	dedup_window interval DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME', 'queue_alter' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION queue.alter IS
'Changes the settings that are given and keeps those that are NULL. lease, max_attempts, backoff, backoff_max, ordered, on_dead, key_concurrency, max_in_flight, rate, rate_interval, dedup, dedup_window: as for queue.create. Owner only. Errors: 42704 unknown queue, 42501 not the owner, 22004 NULL queue, 22023 value out of range.';

CREATE FUNCTION queue.drop(queue text)
RETURNS void
AS 'MODULE_PATHNAME', 'queue_drop' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION queue.drop IS
'Drops a queue with all its messages, deferred ones and dead letters. Owner only. Errors: 42704 unknown queue, 42501 not the owner, 22004 NULL queue, 2BP01 if a relay still reads it or another object depends on it.';

CREATE FUNCTION queue.purge(queue text)
RETURNS void
AS 'MODULE_PATHNAME', 'queue_purge' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION queue.purge IS
'Removes every message of a queue, leased and deferred ones included, by TRUNCATE; dead letters and dedup keys stay. Waits for transactions that are sending to it. Owner only. Errors: 42704 unknown queue, 42501 not the owner, 22004 NULL queue.';

--
-- Send
--

CREATE FUNCTION queue.send(queue text, payload jsonb,
	key text DEFAULT NULL, headers jsonb DEFAULT NULL, delay interval DEFAULT NULL,
	dedup_key text DEFAULT NULL, dedup_wait boolean DEFAULT true)
RETURNS bigint
AS 'MODULE_PATHNAME', 'queue_send' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION queue.send IS
'Sends one message in the caller''s transaction and returns its id, unique in the queue and never reused. payload: any jsonb value. key: what the message is about; relays keep messages of one key in order. headers: a JSON object. delay: not to be received before this much later, ten years at most. dedup_key: names the message, 1 to 1024 bytes; if the queue was sent a message with it within its dedup_window, none is sent and the first one''s id returned. dedup_wait: whether to wait for a transaction in progress that sends with the same dedup_key; else QM409 is raised. Needs INSERT on queues.<queue>. Errors: 42704 unknown queue, 42501 no right, 22004 NULL queue, payload or dedup_wait, 22023 bad headers, delay or dedup_key, 55000 dedup_key in a queue with dedup off, QM409 dedup_key of a transaction in progress, QM422 dedup_key of another message, 23502 or 23514 a constraint of the owner''s is violated.';

CREATE FUNCTION queue.send_bytes(queue text, body bytea,
	key text DEFAULT NULL, headers jsonb DEFAULT NULL, delay interval DEFAULT NULL,
	dedup_key text DEFAULT NULL, dedup_wait boolean DEFAULT true)
RETURNS bigint
AS 'MODULE_PATHNAME', 'queue_send_bytes' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION queue.send_bytes IS
'Like queue.send, for a body of bytes instead of a jsonb payload. key, headers, delay, dedup_key, dedup_wait: as there. Errors: as queue.send; 22004 NULL queue, body or dedup_wait.';

CREATE FUNCTION queue.send_once(queue text, dedup_key text, payload jsonb,
	key text DEFAULT NULL, headers jsonb DEFAULT NULL, delay interval DEFAULT NULL,
	dedup_wait boolean DEFAULT true,
	OUT id bigint, OUT duplicate boolean)
AS 'MODULE_PATHNAME', 'queue_send_once' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION queue.send_once IS
'Like queue.send with a dedup_key, and tells whether the message is sent now. duplicate: true if it was sent before; id is that of the first one then. dedup_key, payload, key, headers, delay, dedup_wait: as there. Errors: as queue.send; 22004 NULL queue, dedup_key, payload or dedup_wait.';

CREATE FUNCTION queue.send_batch(queue text, payloads jsonb[],
	keys text[] DEFAULT NULL, headers jsonb[] DEFAULT NULL, delay interval DEFAULT NULL,
	dedup_keys text[] DEFAULT NULL, dedup_wait boolean DEFAULT true)
RETURNS SETOF bigint
AS 'MODULE_PATHNAME', 'queue_send_batch' LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 1000;
COMMENT ON FUNCTION queue.send_batch IS
'Sends one message for each payload and returns their ids in the same order. keys, headers: with as many elements as payloads, or NULL for none. delay: for all of them. dedup_keys: as many, NULL among them for none; of messages with the same one the first is sent, and the others return its id. dedup_wait: as for queue.send. An empty array sends nothing. Errors: as queue.send, and 22004 a NULL among payloads, 2202E arrays of different lengths, 54000 more than ten million elements.';

--
-- Receive and settle
--

CREATE FUNCTION queue.receive(queue text,
	max_messages integer DEFAULT 1,
	lease interval DEFAULT NULL,
	wait interval DEFAULT NULL)
RETURNS SETOF queue.message
AS 'MODULE_PATHNAME', 'queue_receive' LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 10;
COMMENT ON FUNCTION queue.receive IS
'Leases up to max_messages messages to the caller, with receipts to settle them. max_messages: at least 1. lease: for how long, more than 0 and ten years at most, the queue''s own by default. wait: how long to wait in the server when there is none, ten years at most, not at all by default. A transaction that rolls back gives its leases back. Needs SELECT and DELETE on queues.<queue>. Errors: 42704 unknown queue, 42501 no right, 22004 NULL queue or max_messages, 22023 value out of range, 53400 when queue.max_leases or queue.max_leases_per_role are used up.';

CREATE FUNCTION queue.pop(queue text,
	max_messages integer DEFAULT 1,
	wait interval DEFAULT NULL)
RETURNS SETOF queue.message
AS 'MODULE_PATHNAME', 'queue_pop' LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 10;
COMMENT ON FUNCTION queue.pop IS
'Receives and deletes up to max_messages messages in the caller''s transaction; a rollback puts them back. max_messages: at least 1. wait: as for queue.receive. Rights and errors: as queue.receive.';

CREATE FUNCTION queue.peek(queue text, max_messages integer DEFAULT 10)
RETURNS SETOF queue.message
AS 'MODULE_PATHNAME', 'queue_peek' LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 10;
COMMENT ON FUNCTION queue.peek IS
'Shows up to max_messages committed messages that are not on lease, oldest first, and takes none. max_messages: at least 1. Needs SELECT on queues.<queue>. Errors: 42704 unknown queue, 42501 no right, 22004 NULL queue or max_messages, 22023 value out of range.';

CREATE FUNCTION queue.ack(receipt bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'queue_ack' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION queue.ack IS
'Deletes the message of a receipt in the caller''s transaction. false when the receipt''s lease has ended, and nothing is done; NULL for NULL. Needs DELETE on the queue. Errors: 42501 no right.';

CREATE FUNCTION queue.ack_batch(receipts bigint[])
RETURNS integer
AS 'MODULE_PATHNAME', 'queue_ack_batch' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION queue.ack_batch IS
'Like queue.ack for each receipt; NULLs are passed over. Returns how many were acknowledged. Errors: 42501 no right, 54000 more than ten million elements.';

CREATE FUNCTION queue.nack(receipt bigint, delay interval DEFAULT NULL, error text DEFAULT NULL)
RETURNS boolean
AS 'MODULE_PATHNAME', 'queue_nack' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION queue.nack IS
'Reports a failed attempt: the message comes back after delay, or goes to the dead letters after max_attempts. delay: ten years at most, the queue''s back-off by default. error: kept with the message. false when the lease has ended; NULL for a NULL receipt. Needs DELETE on the queue. Errors: 42501 no right, 22023 delay out of range.';

CREATE FUNCTION queue.nack_batch(receipts bigint[], delay interval DEFAULT NULL, error text DEFAULT NULL)
RETURNS integer
AS 'MODULE_PATHNAME', 'queue_nack_batch' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION queue.nack_batch IS
'Like queue.nack for each receipt; NULLs are passed over. delay, error: for all of them. Returns how many leases still held. Errors: as queue.nack, and 54000 more than ten million elements.';

CREATE FUNCTION queue.reject(receipt bigint, reason text DEFAULT NULL)
RETURNS boolean
AS 'MODULE_PATHNAME', 'queue_reject' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION queue.reject IS
'Moves the message of a receipt to the dead letters at once. reason: shown there, rejected by default. false when the lease has ended; NULL for a NULL receipt. Needs DELETE on the queue. Errors: 42501 no right.';

CREATE FUNCTION queue.extend(receipt bigint, lease interval DEFAULT NULL)
RETURNS boolean
AS 'MODULE_PATHNAME', 'queue_extend' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION queue.extend IS
'Makes the lease of a receipt end this long from now. lease: more than 0 and ten years at most, the queue''s own by default. Takes effect at once, whatever becomes of the transaction. false when the lease has ended; NULL for a NULL receipt. Needs DELETE on the queue. Errors: 42501 no right, 22023 lease out of range.';

CREATE FUNCTION queue.extend_batch(receipts bigint[], lease interval DEFAULT NULL)
RETURNS integer
AS 'MODULE_PATHNAME', 'queue_extend_batch' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION queue.extend_batch IS
'Like queue.extend for each receipt; NULLs are passed over. Returns how many leases still held. Errors: as queue.extend, and 54000 more than ten million elements.';

CREATE FUNCTION queue.release(queue text, id bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'queue_release' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION queue.release IS
'Ends the lease on a message, which goes back to the head of its queue with no attempt counted; the receipt is good for nothing then. id: the message''s. Takes effect at once, whatever becomes of the transaction. false when there is no lease, or its consumer is just settling it. Owner only. Errors: 42704 unknown queue, 42501 not the owner, 22004 NULL argument, 55006 if a relay has the message.';

--
-- Dead letters
--

CREATE FUNCTION queue.redrive(queue text, max_messages integer DEFAULT NULL, key text DEFAULT NULL)
RETURNS bigint
AS 'MODULE_PATHNAME', 'queue_redrive' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION queue.redrive IS
'Sends dead letters back to their queue, oldest first, with their ids and with no attempts counted. max_messages: how many at most, at least 1, NULL for all. key: only those of this key. In an ordered queue they go before what was sent after them. Returns how many. Needs INSERT and DELETE on queues.<queue>. Errors: 42704 unknown queue, 42501 no right, 22004 NULL queue, 22023 value out of range.';

CREATE FUNCTION queue.purge_dead_letters(queue text, key text DEFAULT NULL)
RETURNS bigint
AS 'MODULE_PATHNAME', 'queue_purge_dead_letters' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION queue.purge_dead_letters IS
'Deletes the dead letters of a queue and returns how many. key: only those of this key. Owner only. Errors: 42704 unknown queue, 42501 not the owner, 22004 NULL queue.';

--
-- Once: what consumers and handlers of requests have done already
--

CREATE FUNCTION queue.inbox_accept(consumer text, message_id text, ttl interval DEFAULT NULL)
RETURNS boolean
AS 'MODULE_PATHNAME', 'queue_inbox_accept' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION queue.inbox_accept(text, text, interval) IS
'Whether a consumer has this message for the first time: true, and remembered in the caller''s transaction; false after that. Waits for a transaction that is accepting the same. consumer: a name of the calling role''s choice; each role has its own. message_id: what the sender calls the message, as text, 1 to 1024 bytes like consumer. ttl: for how long it is remembered, queue.inbox_retention by default, ten years at most. Errors: 22004 NULL consumer or message_id, 22023 value out of range, 40001 accepted by another transaction meanwhile that a REPEATABLE READ or SERIALIZABLE one cannot see.';

-- The only function there are two of: an untyped parameter is taken for a text.
CREATE FUNCTION queue.inbox_accept(consumer text, message_id bigint, ttl interval DEFAULT NULL)
RETURNS boolean
AS 'MODULE_PATHNAME', 'queue_inbox_accept_number' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION queue.inbox_accept(text, bigint, interval) IS
'The same for a message_id that is a number: 42 and ''42'' are the same message. consumer, ttl and errors: as there.';

CREATE FUNCTION queue.inbox_advance(consumer text, entity text, version bigint,
	gaps text DEFAULT 'allow', ttl interval DEFAULT NULL,
	OUT accepted boolean, OUT last_version bigint, OUT gap bigint)
AS 'MODULE_PATHNAME', 'queue_inbox_advance' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION queue.inbox_advance IS
'Accepts a version of an entity if it is newer than the last that the consumer has accepted, which is last_version, 0 if there is none. gap is how many versions lie between, 0 for one that is not newer. Waits for a transaction that is accepting a version of the same entity. consumer, entity: names of the calling role''s choice, 1 to 1024 bytes; each role has its own. version: at least 1. gaps: allow them, or refuse a version that is not the next. ttl: after so long without a version the entity is forgotten, ten years at most; by default never. Errors: 22004 NULL argument other than ttl, 22023 value out of range, 40001 as queue.inbox_accept.';

CREATE FUNCTION queue.idempotency_begin(scope text, key text,
	fingerprint text DEFAULT NULL, ttl interval DEFAULT '1 day',
	OUT status text, OUT response jsonb)
AS 'MODULE_PATHNAME', 'queue_idempotency_begin' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION queue.idempotency_begin IS
'Begins a request unless it was begun before, in the caller''s transaction. status is started: serve it; in progress: somebody does; completed: response is the answer; or mismatch: the key was used for another request. Waits for a transaction that is beginning, completing or failing the same. scope: what keys belong to, an operation for one; each role has its own. key: of the request. fingerprint: a digest of what it asks for, not compared where one is NULL. All three have 1 to 1024 bytes. ttl: for how long it is in progress at most, and remembered unless queue.idempotency_complete says otherwise, ten years at most. Errors: 22004 NULL scope, key or ttl, 22023 value out of range, 40001 as queue.inbox_accept.';

CREATE FUNCTION queue.idempotency_complete(scope text, key text, response jsonb DEFAULT NULL,
	ttl interval DEFAULT NULL)
RETURNS boolean
AS 'MODULE_PATHNAME', 'queue_idempotency_complete' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION queue.idempotency_complete IS
'Completes a request that is in progress, in the caller''s transaction. scope, key: as for queue.idempotency_begin. response: what that returns from now on. ttl: for how long from now, ten years at most, by default as long as queue.idempotency_begin was told. false when the request is not in progress: unknown, completed or expired. Errors: 22004 NULL scope or key, 22023 value out of range, 40001 as queue.inbox_accept.';

CREATE FUNCTION queue.idempotency_fail(scope text, key text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'queue_idempotency_fail' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION queue.idempotency_fail IS
'Forgets a request that is in progress, in the caller''s transaction, so that it can be begun again. scope, key: as for queue.idempotency_begin. false when it is not in progress: unknown, completed or expired. Errors: as queue.idempotency_complete.';

--
-- A plain INSERT INTO queues.<queue> reaches the engine through these.
--

CREATE FUNCTION queue.before_insert() RETURNS trigger
AS 'MODULE_PATHNAME', 'queue_before_insert' LANGUAGE C;
COMMENT ON FUNCTION queue.before_insert() IS
'Trigger of every queue table: gives a row inserted by SQL its id and key_hash, and checks it. Errors: 428C9 one of these was given, 22023 bad headers, 39P01 not called by a queue''s trigger.';

CREATE FUNCTION queue.after_insert() RETURNS trigger
AS 'MODULE_PATHNAME', 'queue_after_insert' LANGUAGE C;
COMMENT ON FUNCTION queue.after_insert() IS
'Trigger of every queue table: tells the engine where a row inserted by SQL lies. Errors: 39P01 not called by a queue''s trigger.';

--
-- Views
--

CREATE FUNCTION queue.queue_stats(queue regclass,
	OUT ready bigint, OUT leased bigint, OUT deferred bigint, OUT dead bigint,
	OUT sent bigint, OUT received bigint, OUT acked bigint, OUT failed bigint, OUT expired bigint,
	OUT oldest_enqueued_at timestamptz, OUT waiting integer, OUT segments integer, OUT bytes bigint)
AS 'MODULE_PATHNAME', 'queue_stats' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION queue.queue_stats IS
'Counters of one queue, given by its table, from shared memory; for the view queue.stats. bytes: on disk, indexes not included. NULL for a caller without SELECT on the queue who is no member of pg_monitor, and where it cannot be read now.';

CREATE FUNCTION queue.lease_list(
	OUT queue regclass, OUT id bigint, OUT attempts integer, OUT kind text, OUT state text,
	OUT leased_at timestamptz, OUT expires_at timestamptz, OUT pid integer)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'queue_lease_list' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION queue.lease_list IS
'Leases on the queues the caller may read, or on all for pg_monitor; for the view queue.leases.';

CREATE FUNCTION queue.blocked_key_list(
	OUT queue regclass, OUT key text, OUT waiting_for text, OUT id bigint,
	OUT since timestamptz, OUT until timestamptz, OUT messages bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'queue_blocked_key_list' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION queue.blocked_key_list IS
'Keys that wait, of the queues the caller may read, or of all for pg_monitor; for the view queue.blocked_keys.';

CREATE FUNCTION queue.maintenance_list(
	OUT queue regclass, OUT activity text, OUT error text, OUT sqlstate text, OUT failures integer,
	OUT first_failed_at timestamptz, OUT last_failed_at timestamptz, OUT retry_at timestamptz)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'queue_maintenance_list' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION queue.maintenance_list IS
'What the maintenance worker of this database could not do; for the view queue.maintenance.';

CREATE FUNCTION queue.database_list(
	OUT database oid, OUT state text, OUT pid integer, OUT problem text, OUT setting text,
	OUT failures integer, OUT since timestamptz, OUT retry_at timestamptz)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'queue_database_list' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION queue.database_list IS
'Databases and their maintenance workers; for the view queue.databases. For pg_monitor.';
REVOKE ALL ON FUNCTION queue.database_list FROM PUBLIC;
GRANT EXECUTE ON FUNCTION queue.database_list TO pg_monitor;

CREATE VIEW queue.queues AS
SELECT c.relname::text AS name,
	pg_catalog.pg_get_userbyid(c.relowner)::text AS owner,
	q.lease, q.max_attempts, q.backoff, q.backoff_max,
	c.relpersistence = 'p' AS durable,
	q.ordered, q.on_dead, q.key_concurrency, q.max_in_flight, q.rate, q.rate_interval,
	q.dedup, q.dedup_window
FROM queue.queue_definition q JOIN pg_catalog.pg_class c ON c.oid = q.relid;
GRANT SELECT ON queue.queues TO PUBLIC;
COMMENT ON VIEW queue.queues IS
'Queues of this database and their settings. For everybody.';

CREATE VIEW queue.stats AS
SELECT c.relname::text AS queue, s.*
FROM queue.queue_definition q JOIN pg_catalog.pg_class c ON c.oid = q.relid,
	LATERAL queue.queue_stats(q.relid) s
WHERE pg_catalog.has_table_privilege(q.relid, 'SELECT') OR pg_catalog.pg_has_role('pg_monitor', 'USAGE');
GRANT SELECT ON queue.stats TO PUBLIC;
COMMENT ON VIEW queue.stats IS
'Counters of the queues the caller may read, or of all for pg_monitor. NULLs stand for what cannot be told now: bytes and segments while a table is locked. oldest_enqueued_at: when the message received last was sent; NULL while none is ready, and until one has been received since the start of the server.';

-- Dead letters are for those who may read the queue they died in.
CREATE VIEW queue.dead_letters WITH (security_barrier) AS
SELECT (SELECT c.relname::text FROM pg_catalog.pg_class c WHERE c.oid = d.relid) AS queue,
	d.id, d.key, d.priority, d.headers, d.payload, d.body, d.attempts, d.reason, d.error,
	d.enqueued_at, d.died_at
FROM queue.dead d
WHERE pg_catalog.has_table_privilege(d.relid, 'SELECT');
GRANT SELECT ON queue.dead_letters TO PUBLIC;
COMMENT ON VIEW queue.dead_letters IS
'Messages that were rejected, failed too often or cannot be read, of the queues the caller may read. reason: rejected, or the text given to queue.reject; max_attempts; or unreadable. error: of the last attempt.';

CREATE VIEW queue.leases AS
SELECT c.relname::text AS queue, l.id, l.attempts, l.kind, l.state, l.leased_at, l.expires_at, l.pid
FROM queue.lease_list() l JOIN pg_catalog.pg_class c ON c.oid = l.queue;
GRANT SELECT ON queue.leases TO PUBLIC;
COMMENT ON VIEW queue.leases IS
'Messages on lease, of the queues the caller may read, or of all for pg_monitor. kind is receive, pop or relay; state is held, settling or returned. expires_at: NULL for pop and relay. pid: of who took it.';

CREATE VIEW queue.blocked_keys AS
SELECT c.relname::text AS queue, k.key, k.waiting_for, k.id, k.since, k.until, k.messages
FROM queue.blocked_key_list() k JOIN pg_catalog.pg_class c ON c.oid = k.queue;
GRANT SELECT ON queue.blocked_keys TO PUBLIC;
COMMENT ON VIEW queue.blocked_keys IS
'Keys of ordered and key-limited queues whose messages wait, of the queues the caller may read, or, without the keys, of all for pg_monitor. waiting_for: lease, retry, delay or dead letter, and id the message that has it. until: when that ends at the latest, NULL if nobody knows. messages: how many are known to wait behind it.';

CREATE VIEW queue.maintenance AS
SELECT c.relname::text AS queue, m.activity, m.error, m.sqlstate, m.failures,
	m.first_failed_at, m.last_failed_at, m.retry_at
FROM queue.maintenance_list() m LEFT JOIN pg_catalog.pg_class c ON c.oid = m.queue;
GRANT SELECT ON queue.maintenance TO PUBLIC;
COMMENT ON VIEW queue.maintenance IS
'What the maintenance worker of this database could not do, and why; nothing where all is well. A queue''s rows are for those who may read it, those about the database (queue is NULL) for pg_monitor.';

CREATE VIEW queue.databases AS
SELECT d.datname::text AS database, l.state, l.pid, l.problem, l.setting, l.failures, l.since, l.retry_at
FROM queue.database_list() l JOIN pg_catalog.pg_database d ON d.oid = l.database;
GRANT SELECT ON queue.databases TO pg_monitor;
COMMENT ON VIEW queue.databases IS
'Databases that have a maintenance worker, or should: state is running, starting, waiting or blocked. problem says why one has none, setting what to raise. For pg_monitor.';

--
-- Relays
--

-- A wrapper for each kind of sink that has servers: <kind>_validator, by whose
-- name it knows which options there are, and queue_<kind>.
CREATE FUNCTION queue.amqp_validator(text[], oid) RETURNS void
AS 'MODULE_PATHNAME', 'queue_sink_validator' LANGUAGE C STRICT;
COMMENT ON FUNCTION queue.amqp_validator IS
'Checks the options of servers and user mappings of queue_amqp. Errors: 22023 unknown option or bad value, 42501 an option that the caller may not set.';
CREATE FOREIGN DATA WRAPPER queue_amqp NO HANDLER VALIDATOR queue.amqp_validator;
COMMENT ON FOREIGN DATA WRAPPER queue_amqp IS 'RabbitMQ and other AMQP 0-9-1 brokers, for queue.create_relay';

CREATE FUNCTION queue.postgres_validator(text[], oid) RETURNS void
AS 'MODULE_PATHNAME', 'queue_sink_validator' LANGUAGE C STRICT;
COMMENT ON FUNCTION queue.postgres_validator IS
'Checks the options of servers and user mappings of queue_postgres. Errors: as queue.amqp_validator.';
CREATE FOREIGN DATA WRAPPER queue_postgres NO HANDLER VALIDATOR queue.postgres_validator;
COMMENT ON FOREIGN DATA WRAPPER queue_postgres IS 'queues in another PostgreSQL database, for queue.create_relay';

CREATE FUNCTION queue.file_validator(text[], oid) RETURNS void
AS 'MODULE_PATHNAME', 'queue_sink_validator' LANGUAGE C STRICT;
COMMENT ON FUNCTION queue.file_validator IS
'Checks the options of servers and user mappings of queue_file. Errors: as queue.amqp_validator.';
CREATE FOREIGN DATA WRAPPER queue_file NO HANDLER VALIDATOR queue.file_validator;
COMMENT ON FOREIGN DATA WRAPPER queue_file IS 'files of JSON lines on this server, for queue.create_relay';

CREATE FUNCTION queue.http_validator(text[], oid) RETURNS void
AS 'MODULE_PATHNAME', 'queue_sink_validator' LANGUAGE C STRICT;
COMMENT ON FUNCTION queue.http_validator IS
'Checks the options of servers and user mappings of queue_http. Errors: as queue.amqp_validator.';
CREATE FOREIGN DATA WRAPPER queue_http NO HANDLER VALIDATOR queue.http_validator;
COMMENT ON FOREIGN DATA WRAPPER queue_http IS 'HTTP servers and webhooks, for queue.create_relay';
CREATE FUNCTION queue.kafka_validator(text[], oid) RETURNS void
AS 'MODULE_PATHNAME', 'queue_sink_validator' LANGUAGE C STRICT;
COMMENT ON FUNCTION queue.kafka_validator IS
'Checks the options of servers and user mappings of queue_kafka. Errors: as queue.amqp_validator.';
CREATE FOREIGN DATA WRAPPER queue_kafka NO HANDLER VALIDATOR queue.kafka_validator;
COMMENT ON FOREIGN DATA WRAPPER queue_kafka IS 'Apache Kafka, for queue.create_relay';
CREATE FUNCTION queue.redis_validator(text[], oid) RETURNS void
AS 'MODULE_PATHNAME', 'queue_sink_validator' LANGUAGE C STRICT;
COMMENT ON FUNCTION queue.redis_validator IS
'Checks the options of servers and user mappings of queue_redis. Errors: as queue.amqp_validator.';
CREATE FOREIGN DATA WRAPPER queue_redis NO HANDLER VALIDATOR queue.redis_validator;
COMMENT ON FOREIGN DATA WRAPPER queue_redis IS 'Redis, for queue.create_relay';

CREATE FUNCTION queue.create_relay(name text, queue text,
	server text DEFAULT NULL, options jsonb DEFAULT '{}')
RETURNS void
AS 'MODULE_PATHNAME', 'queue_create_relay' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION queue.create_relay IS
'Starts a worker that publishes the messages of a queue. name: the relay''s, 1 to 62 bytes without control characters. server: a server of a foreign data wrapper queue_..., or NULL for a procedure in this database. options: a JSON object, see the manual. The worker acts as the caller. Needs SELECT and DELETE on the queue, and USAGE on the server or EXECUTE on the procedure. Errors: 42710 if it exists, 42704 unknown queue or server, 42883 unknown procedure or function, 42809 one that takes no message or returns none, 42501 no right, 22004 NULL name or queue, 22023 bad name or options, 55000 the library of the sink is not installed, or several workers for a queue that is not ordered, 53400 when queue.max_relays_per_role are in use.';

CREATE FUNCTION queue.alter_relay(name text, options jsonb DEFAULT NULL, owner text DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME', 'queue_alter_relay' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION queue.alter_relay IS
'Merges options into those of a relay, a null value removing one, or gives it to another role, which the caller must be a member of; and restarts its workers. options: a JSON object. owner: the new owner. At least one of them. Owner of the relay only. Errors: 42704 unknown relay, 42501 no right, 22004 NULL name, or nothing to change, 22023 bad options, others as queue.create_relay.';

CREATE FUNCTION queue.pause_relay(name text) RETURNS void
AS 'MODULE_PATHNAME', 'queue_pause_relay' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION queue.pause_relay IS
'Stops a relay''s worker until queue.resume_relay. Owner of the relay only. Errors: 42704 unknown relay, 42501 not the owner, 22004 NULL name.';

CREATE FUNCTION queue.resume_relay(name text) RETURNS void
AS 'MODULE_PATHNAME', 'queue_resume_relay' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION queue.resume_relay IS
'Lets a paused relay run again. Owner of the relay only. Errors: as queue.pause_relay.';

CREATE FUNCTION queue.drop_relay(name text) RETURNS void
AS 'MODULE_PATHNAME', 'queue_drop_relay' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION queue.drop_relay IS
'Removes a relay; its queue and its messages stay. Owner of the relay only. Errors: as queue.pause_relay.';

CREATE FUNCTION queue.relay_list(
	OUT name text, OUT queue text, OUT server text,
	OUT state text, OUT published bigint, OUT failed bigint, OUT dropped bigint, OUT in_flight integer,
	OUT lag_messages bigint, OUT lag_seconds double precision,
	OUT last_error text, OUT last_error_at timestamptz, OUT started_at timestamptz,
	OUT workers integer, OUT owner text, OUT options jsonb)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'queue_relay_list' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION queue.relay_list IS
'The relays the caller owns, or whose queue the caller may read; all for members of pg_monitor. lag_seconds: age of the oldest message not yet published. For the view queue.relays.';

CREATE VIEW queue.relays AS
SELECT name, queue, server, state, published, failed, dropped, in_flight,
	lag_messages, lag_seconds, last_error, last_error_at, started_at, workers, owner, options
FROM queue.relay_list();
GRANT SELECT ON queue.relays TO PUBLIC;
COMMENT ON VIEW queue.relays IS
'Relays of this database, for those who own them or may read their queue, and for pg_monitor. state is running, idle, backing off, paused or stopped. last_error: what keeps it from publishing, or the last refusal. dropped: by its transform. workers: processes that run for it.';

-- What the postgres sink calls in the database it publishes to.
CREATE FUNCTION queue.relay_accept(source text, queue text, ids bigint[], enqueued_ats timestamptz[],
	payloads jsonb[], bodies bytea[], keys text[], headers jsonb[])
RETURNS integer
AS 'MODULE_PATHNAME', 'queue_relay_accept' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION queue.relay_accept IS
'Sends the messages that have not arrived from this source before, and returns how many those were. source: names the sending queue for good. ids, enqueued_ats: those the messages have there. payloads, bodies: one of them for each message, the other NULL. keys, headers: NULL elements for none. Needs INSERT on queues.<queue>. Errors: 42704 unknown queue, 42501 no right, 22004 NULL argument, or NULL among ids or enqueued_ats, 2202E arrays of different lengths, 22023 bad message, 54000 more than ten million elements.';

-- The launcher starts this database's maintenance worker when this commits.
CREATE FUNCTION queue.start_workers() RETURNS void
AS 'MODULE_PATHNAME', 'queue_start_workers' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION queue.start_workers() IS
'Asks the launcher to look at this database when the transaction commits. CREATE EXTENSION calls it; nobody else needs to.';
SELECT queue.start_workers();
