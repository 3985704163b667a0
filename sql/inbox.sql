--
-- Exactly once at the consumer: which messages it has taken, and which versions
--
SELECT queue.inbox_accept('billing', 'order-1');
SELECT queue.inbox_accept('billing', 'order-1');
-- Each consumer has its own.
SELECT queue.inbox_accept('shipping', 'order-1');
-- Whatever the sender calls messages by: a Kafka offset, a UUID, the id in a queue
SELECT queue.inbox_accept('billing', '7/42'), queue.inbox_accept('billing', 42),
	queue.inbox_accept('billing', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid::text);
-- A number is the same as its digits.
SELECT queue.inbox_accept('billing', '42'), queue.inbox_accept('billing', 42::bigint);
-- A driver's parameter that has no type
PREPARE accept AS SELECT queue.inbox_accept($1, $2);
EXECUTE accept('billing', '42');
EXECUTE accept('billing', '43');
DEALLOCATE accept;
-- Names are told apart by their bytes.
SELECT id, queue.inbox_accept('billing', id) FROM unnest('{a,A,ä,"a "}'::text[]) id;
SELECT id, queue.inbox_accept('billing', id) FROM unnest('{A,"a ",ä,a}'::text[]) id;
CREATE COLLATION regress_fuzzy (provider = icu, locale = 'und-u-ks-level1', deterministic = false);
SELECT queue.inbox_accept('billing' COLLATE regress_fuzzy, 'ÄA' COLLATE regress_fuzzy),
	queue.inbox_accept('billing' COLLATE regress_fuzzy, 'äa' COLLATE regress_fuzzy);
DROP COLLATION regress_fuzzy;
SELECT queue.inbox_accept(name, reverse(name)), queue.inbox_accept(name, reverse(name))
	FROM (SELECT string_agg(md5(i::text), '') AS name FROM generate_series(1, 32) i) n;

-- The work and the mark are one transaction: what is rolled back was not taken.
BEGIN;
SELECT queue.inbox_accept('billing', 'order-2');
SELECT queue.inbox_accept('billing', 'order-2');
ROLLBACK;
SELECT queue.inbox_accept('billing', 'order-2');
BEGIN;
SAVEPOINT a;
SELECT queue.inbox_accept('billing', 'order-3');
ROLLBACK TO a;
SELECT queue.inbox_accept('billing', 'order-3');
SAVEPOINT b;
SELECT queue.inbox_accept('billing', 'order-4');
RELEASE b;
COMMIT;
SELECT queue.inbox_accept('billing', 'order-3'), queue.inbox_accept('billing', 'order-4');

-- So each message of a queue is worked on once, also when its sender sent it twice.
SELECT queue.create('in');
CREATE TABLE bills (id text);
SELECT count(*) FROM queue.send_batch('in', ARRAY['"order-5"', '"order-6"', '"order-5"', '"order-1"']::jsonb[]);
WITH taken AS MATERIALIZED (
	SELECT payload #>> '{}' AS id FROM queue.pop('in', 10)
)
INSERT INTO bills SELECT id FROM taken WHERE queue.inbox_accept('billing', id);
SELECT * FROM bills ORDER BY id;
SELECT queue.drop('in');
DROP TABLE bills;

-- A message is remembered for queue.inbox_retention, or for as long as is said.
SELECT queue.inbox_accept('billing', 'short', ttl => '1 us');
SELECT queue.inbox_accept('billing', 'short', ttl => '1 hour');
SELECT queue.inbox_accept('billing', 'short');
SELECT message_id, expires_at - now() > '6 days 23 hours' AS a_week, expires_at < now() + '61 minutes' AS an_hour
	FROM queue.inbox WHERE message_id IN ('order-1', 'short') ORDER BY 1, consumer;

--
-- inbox_advance: of each entity the newest version, and never an older one after it
--
SELECT * FROM queue.inbox_advance('billing', 'customer 7', 1);
SELECT * FROM queue.inbox_advance('billing', 'customer 7', 2);
-- The same again, or an older one, is refused.
SELECT * FROM queue.inbox_advance('billing', 'customer 7', 2);
SELECT * FROM queue.inbox_advance('billing', 'customer 7', 1);
-- A gap is reported: three versions were never seen.
SELECT * FROM queue.inbox_advance('billing', 'customer 7', 6);
-- And refused where each version is needed: try again when the others have come.
SELECT * FROM queue.inbox_advance('billing', 'customer 7', 8, gaps => 'refuse');
SELECT * FROM queue.inbox_advance('billing', 'customer 7', 7, gaps => 'refuse');
SELECT * FROM queue.inbox_advance('billing', 'customer 7', 8, gaps => 'refuse');
-- An entity not seen before has version 0: it begins with 1, or where gaps are allowed with any.
SELECT * FROM queue.inbox_advance('billing', 'customer 8', 57, gaps => 'refuse');
SELECT * FROM queue.inbox_advance('billing', 'customer 8', 57);
SELECT * FROM queue.inbox_advance('billing', 'customer 8', 58, gaps => 'refuse');
SELECT * FROM queue.inbox_advance('billing', 'customer 9', 1, gaps => 'refuse');
-- Others have their own.
SELECT * FROM queue.inbox_advance('shipping', 'customer 7', 2, 'refuse');
SELECT * FROM queue.inbox_advance('shipping', 'customer 7', 9223372036854775807);
SELECT * FROM queue.inbox_advance('shipping', 'customer 7', 9223372036854775807);
-- A rollback takes a version back.
BEGIN;
SELECT accepted FROM queue.inbox_advance('billing', 'customer 9', 2);
SAVEPOINT a;
SELECT accepted FROM queue.inbox_advance('billing', 'customer 9', 3);
ROLLBACK TO a;
SELECT * FROM queue.inbox_advance('billing', 'customer 9', 3, 'refuse');
ROLLBACK;
SELECT * FROM queue.inbox_advance('billing', 'customer 9', 2, 'refuse');
-- An entity is remembered for ever, or until it has had no version for so long.
SELECT accepted FROM queue.inbox_advance('billing', 'visit', 5, ttl => '1 us');
SELECT * FROM queue.inbox_advance('billing', 'visit', 3, ttl => '1 hour');
SELECT * FROM queue.inbox_advance('billing', 'visit', 3, ttl => '1 hour');
SELECT entity, version, isfinite(expires_at) AS ends FROM queue.inbox_version
	WHERE consumer = 'billing' ORDER BY entity;

--
-- What a role has accepted is its own: nobody else can see, spoil or anticipate it.
--
CREATE ROLE regress_billing;
CREATE ROLE regress_team;
CREATE ROLE regress_one IN ROLE regress_team;
CREATE ROLE regress_two IN ROLE regress_team;
SET ROLE regress_one;
SELECT queue.inbox_accept('billing', 'order-1');
SELECT * FROM queue.inbox_advance('billing', 'customer 7', 1);
SELECT count(*) FROM queue.inbox;
SELECT count(*) FROM queue.inbox_version;
DELETE FROM queue.inbox;
-- Nor can one with a function of his own, or settings.
RESET ROLE;
CREATE SCHEMA regress_trap AUTHORIZATION regress_one;
SET ROLE regress_one;
CREATE FUNCTION regress_trap.yes(text, text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'the trap was called by %', current_user; END $$;
CREATE OPERATOR regress_trap.= (FUNCTION = regress_trap.yes, LEFTARG = text, RIGHTARG = text);
CREATE FUNCTION regress_trap.unnest(text[]) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'the trap was called by %', current_user; END $$;
SET search_path = regress_trap, pg_catalog;
SELECT queue.inbox_accept('billing', 'order-1'), queue.inbox_accept('billing', 'order-9');
SELECT * FROM queue.inbox_advance('billing', 'customer 7', 2);
SHOW search_path;
RESET search_path;
DROP SCHEMA regress_trap CASCADE;
RESET ROLE;
-- Services that share what they have accepted do so as one role.
SET ROLE regress_team;
SELECT queue.inbox_accept('billing', 'order-1');
RESET ROLE;
SET SESSION AUTHORIZATION regress_two;
SELECT queue.inbox_accept('billing', 'order-1');
SET ROLE regress_team;
SELECT queue.inbox_accept('billing', 'order-1');
RESET SESSION AUTHORIZATION;
-- A function that runs as its owner accepts for its owner.
CREATE FUNCTION regress_accept(id text) RETURNS boolean LANGUAGE sql SECURITY DEFINER
	AS $$ SELECT queue.inbox_accept('billing', id) $$;
ALTER FUNCTION regress_accept OWNER TO regress_team;
SET ROLE regress_billing;
SELECT regress_accept('order-1'), regress_accept('order-2'), queue.inbox_accept('billing', 'order-2');
RESET ROLE;
DROP FUNCTION regress_accept;
SELECT role, consumer, message_id FROM queue.inbox WHERE role LIKE 'regress%' ORDER BY 1, 2, 3;
SELECT role, entity, version FROM queue.inbox_version WHERE role LIKE 'regress%';
DROP ROLE regress_billing, regress_team, regress_one, regress_two;

DELETE FROM queue.inbox;
DELETE FROM queue.inbox_version;
