# A relay to a procedure: each message's effects once, whatever happens to the
# worker and the server; and no DDL has to wait for it.

use strict;
use warnings;

use Page ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Sink;
use Test::More;
use Wait;

# The other side is a procedure of this database.  It reads in a file how it is to
# be.
my $state = PostgreSQL::Test::Utils::tempdir() . '/state';
my $suite = Sink->new(
	name => 'sql',
	create => sub {
		return qq{
CREATE TABLE got (n bigserial, id bigint, key text, payload jsonb, body bytea, headers jsonb);
CREATE PROCEDURE take(m queue.message) LANGUAGE plpgsql AS \$\$
DECLARE
	state text := pg_catalog.pg_read_file('$state');
BEGIN
	IF state = 'down' THEN
		RAISE EXCEPTION 'it is down' USING ERRCODE = 'cannot_connect_now';
	ELSIF state = 'slow' THEN
		PERFORM pg_catalog.pg_sleep(0.01);
	END IF;
	WHILE pg_catalog.pg_read_file('$state') = 'frozen' LOOP
		PERFORM pg_catalog.pg_sleep(0.01);
	END LOOP;
	INSERT INTO public.got (id, key, payload, body, headers)
	VALUES (m.id, m.key, m.payload, m.body, m.headers);
	IF m.payload ? 'bad' THEN
		RAISE EXCEPTION 'cannot take %', m.payload->>'bad';
	END IF;
END \$\$;};
	},
	options => { procedure => 'public.take' },
	state => \&be,
	arrived => sub { return Sink::take_rows($_[0]->node, 'postgres', 'got', 'n'); },
	conveys => [qw(id key payload body headers)],
	once => 1,
	ordered => 1,
	refused => { payload => { bad => 'this' }, error => qr/^cannot take this$/ },
	down => qr/^it is down$/);
my $node = $suite->node;

sub be
{
	my ($new) = @_;

	append_to_file("$state.new", $new);
	rename("$state.new", $state) or die $!;
	return;
}

be('up');
$suite->run;

# A procedure that takes many at once: every tenth of the messages is bad, and each
# of those dies alone.
my $messages = 3000;
$node->append_conf('postgresql.conf', 'queue.max_leases = 64');
$node->restart;
$node->safe_psql(
	'postgres', qq{
SELECT queue.create('q', max_attempts => 2, backoff => '10 ms');
CREATE PROCEDURE take_many(m queue.message[]) LANGUAGE plpgsql AS \$\$
DECLARE
	each queue.message;
BEGIN
	FOREACH each IN ARRAY m LOOP
		CALL public.take(each);
	END LOOP;
END \$\$;
SELECT queue.create_relay('r', 'q', options => '{"procedure": "public.take_many"}');
SELECT count(queue.send('q', CASE WHEN i % 10 = 0 THEN '{"bad": true}' ELSE jsonb_build_object('n', i) END,
	CASE WHEN i % 7 > 0 THEN 'k' || i % 7 END))
FROM generate_series(1, $messages) i});
wait_until(
	$node,
	"(SELECT count(*) = $messages * 9 / 10 FROM got)"
	  . " AND (SELECT count(*) = $messages / 10 FROM queue.dead_letters)",
	'take_many: everything is taken or dead');
is( $node->safe_psql(
		'postgres', q{
SELECT count(*), count(DISTINCT id), count(*) FILTER (WHERE payload ? 'bad') FROM got}),
	($messages * 9 / 10) . '|' . ($messages * 9 / 10) . '|0',
	'take_many: once each, and nothing of those that failed');
is( $node->safe_psql(
		'postgres', q{
SELECT count(*) FROM (SELECT id < lag(id) OVER (PARTITION BY key ORDER BY n) AS before
	FROM got WHERE key IS NOT NULL) x WHERE before}),
	'0',
	'take_many: in order for each key');
is( $node->safe_psql('postgres', 'SELECT DISTINCT attempts >= 2, reason, error FROM queue.dead_letters'),
	't|max_attempts|cannot take true',
	'take_many: dead letters say why');
is($node->safe_psql('postgres', 'SELECT count(*) FROM queues.q'), '0', 'take_many: nothing is left');

# A follower of the same key waits for the one before it, another key does not.
$node->safe_psql(
	'postgres', q{
TRUNCATE got;
SELECT queue.alter('q', max_attempts => 1000);
CREATE TABLE gate (closed boolean);
INSERT INTO gate VALUES (true);
CREATE OR REPLACE PROCEDURE take(m queue.message) LANGUAGE plpgsql AS $$
BEGIN
	IF m.payload ? 'gated' AND (SELECT closed FROM public.gate) THEN
		RAISE EXCEPTION 'the gate is closed';
	END IF;
	INSERT INTO public.got (id, key, payload) VALUES (m.id, m.key, m.payload);
END $$;
SELECT queue.alter_relay('r', '{"procedure": "public.take"}');
SELECT queue.send('q', '{"gated": 1}', 'a');
SELECT queue.send('q', '2', 'a');
SELECT queue.send('q', '3', 'b');
SELECT queue.send('q', '{"gated": 4}');
SELECT queue.send('q', '5');
});
wait_until($node, '(SELECT count(*) = 2 FROM got)', 'other keys go on');
my $failed = $node->safe_psql('postgres', 'SELECT failed FROM queue.relays');
wait_until($node, "(SELECT failed >= $failed + 4 FROM queue.relays)", 'while failed messages are retried');
is($node->safe_psql('postgres', 'SELECT payload FROM got ORDER BY payload'),
	"3\n5", 'and nothing of that key');
$node->safe_psql('postgres', 'UPDATE gate SET closed = false');
wait_until($node, '(SELECT count(*) = 5 FROM got)', 'everything comes in the end');
is( $node->safe_psql('postgres', q{SELECT payload FROM got WHERE key = 'a' ORDER BY n}),
	qq({"gated": 1}\n2),
	'in order for the key');

# The relay's worker, or nothing.
sub relay_pid
{
	my ($name) = @_;
	return $node->safe_psql('postgres',
		qq{SELECT pid FROM pg_stat_activity WHERE application_name = 'queue relay $name'});
}

# Others have all the leases
$node->safe_psql(
	'postgres', q{
SELECT queue.create('other');
SELECT count(queue.send('other', '{}')) FROM generate_series(1, 100);
CREATE TABLE receipts AS SELECT receipt FROM queue.receive('other', 100, lease => '1 hour');
SELECT queue.send('q', '6');});
wait_until(
	$node,
	q{(SELECT last_error LIKE 'all 64 leases are in use' FROM queue.relays)},
	'a lack of leases is shown');
my $pid = relay_pid('r');
$node->safe_psql('postgres', q{SELECT queue.ack_batch(array_agg(receipt)) FROM receipts});
wait_until($node, '(SELECT count(*) = 6 FROM got)', 'and over when there are some');
is(relay_pid('r'), $pid, 'by the same worker');

# A handler at work is interrupted
$node->safe_psql(
	'postgres', q{
CREATE OR REPLACE PROCEDURE take(m queue.message) LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.got (id) VALUES (m.id);
	PERFORM pg_catalog.pg_advisory_xact_lock(4711);
END $$;});
my $session = $node->background_psql('postgres');
$session->query_safe('SELECT pg_advisory_lock(4711)');
$node->safe_psql('postgres', q{SELECT queue.send('q', '7')});
wait_until(
	$node,
	q{(SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)},
	'a handler waits');
is($node->safe_psql('postgres', q{SELECT state, in_flight FROM queue.relays}),
	'running|1', 'and its relay runs');
$node->safe_psql('postgres', q{SELECT queue.pause_relay('r')});
wait_until(
	$node,
	q{(SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'queue relay')},
	'pause interrupts it');
is($node->safe_psql('postgres', q{SELECT count(*) FROM queue.leases WHERE queue = 'q' AND state = 'held'}),
	'0', 'its lease is given back');
$session->query_safe('SELECT pg_advisory_unlock(4711)');
$session->quit;
$node->safe_psql('postgres', q{SELECT queue.resume_relay('r')});
wait_until($node, '(SELECT count(*) = 7 FROM got)', 'and the message taken again');

# A cancelled handler is no attempt of the message's
$node->safe_psql(
	'postgres', q{
TRUNCATE got;
CREATE SEQUENCE calls;
CREATE OR REPLACE PROCEDURE take(m queue.message) LANGUAGE plpgsql AS $$
BEGIN
	IF nextval('public.calls') = 1 THEN
		PERFORM pg_catalog.pg_cancel_backend(pg_backend_pid());
		PERFORM pg_catalog.pg_sleep(60);
	END IF;
	INSERT INTO public.got (id, payload) VALUES (m.id, pg_catalog.to_jsonb(m.attempts));
END $$;
SELECT queue.send('q', '8', 'a');
});
wait_until($node, '(SELECT count(*) = 1 FROM got)', 'a cancelled handler is called again');
is($node->safe_psql('postgres', 'SELECT payload FROM got'), '1', 'as the first attempt');

# A restart brings everything back
$node->restart;
$node->safe_psql('postgres', q{SELECT queue.send('q', '9')});
wait_until($node, '(SELECT count(*) = 2 FROM got)', 'the relay comes back after a restart');

# What a procedure sets is not there for the next message, of the same
# transaction or another, whatever the database has set.
$node->safe_psql(
	'postgres', q{
SELECT queue.pause_relay('r');
CREATE ROLE nobody;
CREATE ROLE somebody LOGIN;
GRANT nobody TO somebody;
CREATE TABLE seen (n bigserial, text text);
GRANT INSERT ON seen TO PUBLIC;
GRANT USAGE ON SEQUENCE seen_n_seq TO PUBLIC;
GRANT SELECT, DELETE ON queues.q TO somebody;
CREATE PROCEDURE litter(m queue.message) LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.seen (text) VALUES (pg_catalog.concat_ws(' ', current_user, session_user,
		pg_catalog.current_setting('search_path'), pg_catalog.current_setting('work_mem'),
		pg_catalog.current_setting('role'), pg_catalog.to_regclass('pg_temp.litter') IS NULL,
		(SELECT pg_catalog.count(*) FROM pg_catalog.pg_locks WHERE locktype = 'advisory'
			AND pid = pg_catalog.pg_backend_pid()),
		(SELECT pg_catalog.count(*) FROM pg_catalog.pg_prepared_statements),
		(SELECT pg_catalog.count(*) FROM pg_catalog.pg_cursors)));
	PERFORM pg_catalog.set_config('search_path', 'nowhere', false);
	PERFORM pg_catalog.set_config('work_mem', '1MB', false);
	PERFORM pg_catalog.set_config('default_transaction_read_only', 'on', false);
	PERFORM pg_catalog.set_config('transform_null_equals', 'on', false);
	EXECUTE 'SET ROLE nobody';
	IF m.payload = '"much"' THEN
		EXECUTE 'RESET ROLE';
		CREATE TEMP TABLE litter (n int);
		PERFORM pg_catalog.pg_advisory_lock(m.id);
		EXECUTE 'PREPARE litter AS SELECT 1';
		EXECUTE 'DECLARE litter CURSOR WITH HOLD FOR SELECT 1';
		EXECUTE 'SET ROLE nobody';
	END IF;
END $$;
ALTER ROLE somebody IN DATABASE postgres SET role = 'nobody';
ALTER DATABASE postgres SET work_mem = '5MB';
ALTER ROLE somebody SET search_path = 'here';});
$node->safe_psql(
	'postgres', q{
SET ROLE somebody;
SELECT queue.create_relay('litter', 'q', options => '{"procedure": "public.litter"}');
RESET ROLE;
SELECT queue.send('q', to_jsonb(i)) FROM generate_series(1, 20) i;});
wait_until($node, '(SELECT count(*) = 20 FROM seen)', 'a procedure that litters');
for my $n (1 .. 3)
{
	$node->safe_psql('postgres', q{SELECT queue.send('q', '"much"')});
	wait_until($node, '(SELECT count(*) = 20 + ' . $n . ' FROM seen)', "much, $n");
}
is( $node->safe_psql('postgres', 'SELECT DISTINCT text FROM seen'),
	'somebody somebody here 5MB none t 0 0 0',
	'finds nothing of it');
$node->safe_psql(
	'postgres', q{
ALTER DATABASE postgres RESET work_mem;
SELECT queue.drop_relay('litter');
SELECT queue.resume_relay('r');});

# Locked tables, or a queue dropped with a transaction open, are no matter for the view.
my $locker = $node->background_psql('postgres');
$locker->query_safe(q{BEGIN; LOCK TABLE queues.q, queues."q$1", queues."q$2" IN ACCESS EXCLUSIVE MODE});
is( $node->safe_psql(
		'postgres', q{SET statement_timeout = '10 s'; SELECT count(*) FROM queue.relays WHERE name = 'r'}),
	'1',
	'the view waits for no lock');
$locker->query_safe('ROLLBACK');
$locker->query_safe(
	q{BEGIN; CREATE PROCEDURE other(m queue.message) LANGUAGE sql AS 'SELECT';
	SELECT queue.create('open'); SELECT queue.create_relay('open', 'open', options => '{"procedure": "other"}')}
);
is($node->safe_psql('postgres', q{SET statement_timeout = '10 s'; SELECT count(*) FROM queue.relays}),
	'1', 'nor for a relay that is being created');
$node->safe_psql('postgres', q{SELECT queue.send('q', '10')});
wait_until($node, q{(SELECT published > 0 FROM queue.relays WHERE name = 'r')}, 'and the others go on');
$locker->query_safe('ROLLBACK');
$locker->quit;

# A queue that was moved away is missed, its relay's worker trying again at ever longer
# intervals.
my $missing = 'the queue of relay "r" does not exist any more';
$node->safe_psql('postgres', 'CREATE SCHEMA elsewhere; ALTER TABLE queues.q SET SCHEMA elsewhere');
ok((wait_for { (() = slurp_file($node->logfile) =~ /ERROR:  \Q$missing\E/g) > 2 }),
	'a queue that was moved away is missed');
wait_until(
	$node,
	qq{(SELECT state = 'backing off' AND last_error = '$missing' FROM queue.relays WHERE name = 'r')},
	'and not looked for all the time');
$node->safe_psql('postgres', 'ALTER TABLE elsewhere.q SET SCHEMA queues; DROP SCHEMA elsewhere');
$node->safe_psql('postgres', q{SELECT queue.send('q', '11')});
ok($node->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM queues.q)'), 'until it is back');

# What stands in the way of a database's end
$node->safe_psql('postgres', 'CREATE DATABASE gone');
$node->safe_psql(
	'gone', q{
CREATE EXTENSION queue;
SELECT queue.create('q');
CREATE PROCEDURE take(m queue.message) LANGUAGE sql AS 'SELECT';
SELECT queue.create_relay('r', 'q', options => '{"procedure": "public.take"}');});
ok($node->poll_query_until('gone', q{SELECT state = 'idle' FROM queue.relays}),
	'a relay in another database');
$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE gone');
ok($node->poll_query_until('gone', q{SELECT state = 'idle' FROM queue.relays}),
	'comes back after a copy was made');
ok($node->poll_query_until('copy', q{SELECT state = 'idle' FROM queue.relays}), 'and runs in the copy too');
$node->safe_psql('copy', 'DROP EXTENSION queue CASCADE');
ok( $node->poll_query_until(
		'postgres',
		q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'queue relay' AND datname = 'copy'}),
	'DROP EXTENSION ends it');
$node->safe_psql('postgres', 'DROP DATABASE gone');
$node->safe_psql('postgres', 'DROP DATABASE copy');

# What the page has as an example
$node->safe_psql('postgres', 'CREATE DATABASE page');
$node->safe_psql('page', join('', 'CREATE EXTENSION queue;', Page::examples('docs/sinks/sql.md')));
ok($node->poll_query_until('page', q{SELECT customer = 'alice' AND event = '{"paid": 42.50}' FROM ledger}),
	'the example of the page: the procedure was called');
is($node->safe_psql('page', 'SELECT count(*) FROM queues.payments'),
	'0', 'the example of the page: nothing is left');
ok(!$node->log_contains('PANIC|server process .* was terminated by signal (?!9)'), 'nothing crashed');

$node->stop;
done_testing();
