# What the owner of a queue, or of a database, can make the maintenance worker
# do: nothing but his own.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Test::More;

my $node = queue_node(
	'primary',
	allows_streaming => 'logical',
	conf => q{
queue.segment_size = '1MB'
queue.sweep_interval = '1s'
});
$node->safe_psql(
	'postgres', q{
CREATE ROLE mallory LOGIN;
GRANT CREATE ON SCHEMA queues TO mallory;
GRANT CREATE ON SCHEMA public TO mallory;
CREATE TABLE fired (what text, who name);
GRANT INSERT ON fired TO PUBLIC;
SELECT queue.create('witness');
SELECT queue.send('witness', '1', delay => '1 hour');
});

sub as_mallory
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', "SET SESSION AUTHORIZATION mallory; $sql");
}

# Wait until the worker has swept a queue: it finds this row.
my $id = 1_000_000;

sub wait_for_sweep
{
	my ($queue) = @_;

	$id++;
	$node->safe_psql(
		'postgres',
		qq{SET session_replication_role = replica;
		INSERT INTO queues.$queue (id, enqueued_at, payload) VALUES ($id, now(), '"sweep"')});
	return $node->poll_query_until('postgres',
		qq{SELECT count(*) > 0 FROM queue.receive('$queue', 1000) WHERE queue.ack(receipt) AND id = $id});
}

# Have a queue's segments filled, drained and truncated.
sub wait_for_truncation
{
	my ($queue) = @_;

	as_mallory(
		qq{
SELECT count(*) FROM queue.send_batch('$queue', array_fill(to_jsonb(repeat('x', 200)), ARRAY[20000]));
SELECT queue.send('$queue', '1')});
	as_mallory(qq{SELECT sum(queue.ack_batch(ARRAY(SELECT receipt FROM queue.receive('$queue', 30000))))});
	return $node->poll_query_until('postgres',
		qq{SELECT bytes < 1024 * 1024 FROM queue.stats WHERE queue = '$queue'});
}

# The queue's own operators, and a trigger that has them found.
as_mallory(
	q{
SELECT queue.create('mine');
CREATE FUNCTION queues.equal(a oid, b regclass) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.fired VALUES ('operator', current_user);
	ALTER ROLE mallory SUPERUSER;
	RETURN a OPERATOR(pg_catalog.=) b;
END $$;
CREATE FUNCTION queues.equal(a regclass, b oid) RETURNS boolean LANGUAGE sql AS 'SELECT queues.equal(b, a)';
CREATE FUNCTION queues.equal(a regclass, b regclass) RETURNS boolean LANGUAGE sql
	AS 'SELECT queues.equal(b::oid, a)';
CREATE FUNCTION queues.less(a timestamptz, b timestamptz) RETURNS boolean LANGUAGE sql AS
	$$ SELECT queues.equal(0::oid, 0::regclass) $$;
CREATE OPERATOR queues.= (LEFTARG = oid, RIGHTARG = regclass, FUNCTION = queues.equal);
CREATE OPERATOR queues.= (LEFTARG = regclass, RIGHTARG = oid, FUNCTION = queues.equal);
CREATE OPERATOR queues.= (LEFTARG = regclass, RIGHTARG = regclass, FUNCTION = queues.equal);
CREATE OPERATOR queues.< (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = queues.less);
CREATE FUNCTION note_truncation() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.fired VALUES ('trigger', current_user);
	PERFORM set_config('search_path', 'queues, pg_catalog', false);
	RETURN NULL;
END $$;
CREATE TRIGGER note BEFORE TRUNCATE ON queues.mine
	FOR EACH STATEMENT EXECUTE FUNCTION note_truncation();
CREATE TRIGGER note BEFORE TRUNCATE ON queues."mine$1"
	FOR EACH STATEMENT EXECUTE FUNCTION note_truncation();
});
$node->safe_psql(
	'postgres', q{
CREATE FUNCTION note_event() RETURNS event_trigger LANGUAGE plpgsql AS
	$$ BEGIN INSERT INTO public.fired VALUES (tg_tag, current_user); END $$;
CREATE EVENT TRIGGER note ON ddl_command_end EXECUTE FUNCTION note_event();
CREATE TABLE truncated ();
SELECT pg_create_logical_replication_slot('witness', 'test_decoding');
TRUNCATE truncated;
});

ok(wait_for_truncation('mine'), 'his segments are truncated');
ok(wait_for_sweep('mine'), 'and his queue is swept');
ok(wait_for_sweep('witness'), 'and others');
is( $node->safe_psql(
		'postgres', q{SELECT what, who FROM fired WHERE what NOT IN ('CREATE TABLE', 'ALTER TABLE')}),
	'',
	'neither trigger nor event trigger nor operator ran');
is($node->safe_psql('postgres', q{SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'}),
	'f', 'and he is no superuser');
is( $node->safe_psql(
		'postgres', q{
SELECT data FROM pg_logical_slot_get_changes('witness', NULL, NULL) WHERE data LIKE '%TRUNCATE%'}),
	'table public.truncated: TRUNCATE: (no-flags)',
	'and no TRUNCATE is replicated but those of others');
$node->safe_psql('postgres', q{DROP EVENT TRIGGER note});

# An index of his: his function runs with his rights, if at all.
as_mallory(
	q{
CREATE FUNCTION spy(n bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF current_user <> 'mallory' THEN ALTER ROLE mallory SUPERUSER; END IF;
	PERFORM set_config('search_path', 'queues, pg_catalog', false);
	RETURN n;
END $$;
SELECT queue.create('indexed');
CREATE INDEX ON queues."indexed$1" (spy(1), spy(id));
});
as_mallory(
	q{
	INSERT INTO queues."indexed$1" (id, enqueued_at, payload)
	SELECT i, now(), to_jsonb(repeat('x', 500)) FROM generate_series(1, 5000) i});
ok( $node->poll_query_until(
		'postgres', q{
SELECT count(queue.ack(receipt)) > 0 FROM queue.receive('indexed', 10000)}),
	'rows with an index are received');
ok(wait_for_truncation('indexed'), 'and their segment truncated');
ok(wait_for_sweep('witness'), 'and other queues swept');
is($node->safe_psql('postgres', q{SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'}),
	'f', 'and he is no superuser yet');
is( as_mallory(
		q{
SET enable_seqscan = off;
INSERT INTO queues."indexed$1" (id, enqueued_at, payload) VALUES (7, now(), '1');
SELECT count(*) FROM queues."indexed$1" WHERE public.spy(1) = 1}),
	'1',
	'the index is good');

# One that takes its time: the worker must not be the one to wait for it.
as_mallory(
	q{
CREATE FUNCTION linger(n bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF current_setting('application_name') = 'queue maintenance' THEN
		INSERT INTO public.fired VALUES ('index', current_user);
		PERFORM pg_sleep(1000000);
	END IF;
	RETURN n;
END $$;
SELECT queue.create('slow');
CREATE INDEX ON queues.slow (key);
CREATE INDEX ON queues.slow ((payload ->> 'n'));
CREATE INDEX ON queues.slow (linger(1));
CREATE INDEX ON queues.slow (id) WHERE linger(2) > 0;
CREATE INDEX ON queues.slow (repeat('x', 2));
CREATE INDEX ON queues."slow$1" (linger(3)) WHERE linger(4) > 0;
CREATE INDEX ON queues."slow$2" (linger(3)) WHERE linger(4) > 0;
});
ok(wait_for_truncation('slow'), 'segments are truncated whatever the indexes on them');
ok(wait_for_sweep('witness'), 'and other queues swept');
ok($node->poll_query_until('postgres', q{SELECT to_regclass('queues."slow$3"') IS NOT NULL}),
	'and segments are made');
is( $node->safe_psql(
		'postgres', q{
SELECT indexdef FROM pg_indexes WHERE tablename = 'slow$3' ORDER BY 1}),
	q{CREATE INDEX "slow$3_idx_1" ON queues."slow$3" USING btree (key)
CREATE INDEX "slow$3_idx_2" ON queues."slow$3" USING btree (((payload ->> 'n'::text)))},
	'with the indexes that have nothing to evaluate');
is($node->safe_psql('postgres', q{SELECT count(*) FROM fired WHERE what = 'index'}),
	'0', 'and no function of his ran in the worker');

# Names of segments and of their indexes, taken by others or about to be
$node->safe_psql('postgres', q{SELECT queue.create('named'); CREATE INDEX ON queues.named (key)});
as_mallory(q{CREATE TYPE queues."named$3" AS ENUM (); CREATE DOMAIN queues."named$4" AS integer});
my $open = $node->background_psql('postgres');
$open->query_safe(
	q{SET SESSION AUTHORIZATION mallory; BEGIN; CREATE TABLE queues."named$5" (); CREATE TYPE queues."named$6" AS ();
CREATE TABLE queues."named$7_idx_1" (); CREATE TABLE queues."named$7_key_idx" ()});
$node->safe_psql(
	'postgres', q{
SELECT count(*) FROM queue.send_batch('named', array_fill(to_jsonb(repeat('x', 200)), ARRAY[20000]));
SELECT queue.send('named', '1')});
ok( $node->poll_query_until(
		'postgres', q{
SELECT count(*) > 0 FROM pg_index WHERE indrelid = to_regclass('queues."named$7"')}),
	'names taken by others, or about to be, keep no queue from getting segments');
$open->quit;

# Settings of a database and of a role
my $superuser = $node->safe_psql('postgres', 'SELECT current_user');
my $pid = worker_pid($node);
$node->safe_psql(
	'postgres', qq{
ALTER DATABASE postgres SET role = mallory;
ALTER DATABASE postgres SET session_authorization = mallory;
ALTER DATABASE postgres SET search_path = queues, pg_catalog;
ALTER ROLE "$superuser" SET default_transaction_read_only = on;
ALTER ROLE "$superuser" SET default_transaction_isolation = 'serializable';
ALTER ROLE "$superuser" SET session_replication_role = replica;
ALTER ROLE "$superuser" SET statement_timeout = 1;
SELECT pg_terminate_backend($pid);
});
$ENV{PGOPTIONS} = '-c role=none -c search_path=public -c default_transaction_read_only=off'
  . ' -c default_transaction_isolation=read\ committed -c session_replication_role=origin -c statement_timeout=0';
ok(wait_for_worker($node, 'postgres', $pid), 'a worker starts with settings of the database and of the role');
$node->safe_psql('postgres',
	q{SET ROLE mallory; SELECT queue.create('later', backoff => '1h'); SELECT queue.send('later', '1'); SELECT FROM queue.receive('later', lease => '100ms')}
);
ok($node->poll_query_until('postgres', q{SELECT deferred FROM queue.stats WHERE queue = 'later'}, '1'),
	'and leases expire');
ok(wait_for_truncation('later'), 'and segments are truncated and provided');
ok(wait_for_sweep('later'), 'and queues swept');
$node->safe_psql('postgres', 'SET client_min_messages = warning; DROP TABLE queues.later CASCADE');
is($node->safe_psql('postgres', 'SELECT queue, activity, error FROM queue.maintenance'),
	'', 'and nothing is wrong');
is($node->safe_psql('postgres', q{SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'}),
	'f', 'and he is no superuser still');

$node->stop;
done_testing();
