# One queue's trouble, or one session's lock, is not that of the others; and
# queue.maintenance tells what it is.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Test::More;

# Sweeps only when they are asked for
my $node = queue_node('primary', conf => "queue.sweep_interval = '600s'\nqueue.segment_size = '1MB'");
$node->safe_psql(
	'postgres', q{
SELECT queue.create(name, backoff => '1 hour') FROM unnest('{q,analyzed,locked,broken}'::text[]) name;
SELECT count(queue.send(name, '1')) FROM unnest('{q,analyzed,locked,broken}'::text[]) name, generate_series(1, 10);
CREATE ROLE reader;
CREATE ROLE stranger;
CREATE ROLE watcher IN ROLE pg_monitor;
GRANT SELECT ON queues.locked TO reader;
});
wait_for_worker($node);

# Expect that a lease of a queue ends in time.
sub expires
{
	my ($queue, $test) = @_;
	my $deferred = "SELECT count(*) FROM queue.deferred WHERE relid = 'queues.$queue'::regclass";
	my $before = $node->safe_psql('postgres', $deferred);
	my $start = time;

	$node->safe_psql('postgres', "SELECT FROM queue.receive('$queue', lease => '100 ms')");
	$node->poll_query_until('postgres', $deferred, $before + 1);
	cmp_ok(time - $start, '<', 20, $test);
	return;
}

sub trouble
{
	my ($queue) = @_;
	return $node->poll_query_until(
		'postgres', qq{
SELECT count(*) > 0 FROM queue.maintenance WHERE queue IS NOT DISTINCT FROM $queue AND sqlstate = '55P03'
AND failures > 0 AND first_failed_at <= last_failed_at AND last_failed_at < retry_at});
}

sub no_trouble
{
	return $node->poll_query_until('postgres', 'SELECT count(*) FROM queue.maintenance', '0');
}

# Traffic, so that there is something to maintain
sub traffic
{
	my ($queue) = @_;
	return $node->safe_psql('postgres', "SELECT queue.send('$queue', '1')");
}

expires('q', 'a lease ends in time whatever the sweep interval');

# Open transactions, such as migration tools have
my @sessions = map { $node->background_psql('postgres') } 1 .. 4;
$sessions[0]->query_safe(q{BEGIN; SELECT queue.create('open')});
$sessions[1]->query_safe(q{BEGIN; ANALYZE queues.analyzed});
$sessions[2]->query_safe(q{BEGIN; SELECT queue.send('locked', '1'); LOCK TABLE ONLY queues.locked});
$sessions[3]->query_safe(q{BEGIN; LOCK TABLE queues."q$1"});

traffic($_) foreach 'analyzed';
ok(trouble(q{'locked'}), 'a locked queue is shown');
expires('analyzed', 'leases of others end in time');
is( $node->safe_psql(
		'postgres', q{
SET statement_timeout = '10s';
SELECT queue, ready > 0, bytes IS NULL, segments IS NULL FROM queue.stats ORDER BY queue}),
	"analyzed|t|f|f\nbroken|t|f|f\nlocked|t|t|t\nq|t|t|t",
	'queue.stats shows what it can of all');
is( $node->safe_psql(
		'postgres', "SET ROLE $_; SELECT DISTINCT queue FROM queue.maintenance WHERE queue = 'locked'"),
	$_ eq 'stranger' ? '' : 'locked',
	"to a $_") foreach qw(reader watcher stranger);
$_->query_safe('ROLLBACK') foreach @sessions;
traffic($_) foreach 'locked', 'q';
ok(no_trouble(), 'and nothing once it is over');

# Large messages take time to be put aside, but not in one piece.
$node->safe_psql(
	'postgres', q{
SELECT queue.create('large', backoff => '1h');
SELECT count(queue.send('large', to_jsonb(repeat('x', 30000000)))) FROM generate_series(1, 12);
SELECT count(*) FROM queue.receive('large', 12, lease => '1 ms');
});
ok($node->poll_query_until('postgres', q{SELECT deferred = 12 FROM queue.stats WHERE queue = 'large'}),
	'many that expire at the same time are settled');
is( $node->safe_psql(
		'postgres', q{
SELECT count(DISTINCT xmin::text) > 1 FROM queue.deferred WHERE relid = 'queues.large'::regclass}),
	't',
	'but not in one transaction');
$node->safe_psql('postgres', q{SELECT queue.drop('large')});

# The extension's own tables
$sessions[0]->query_safe(q{BEGIN; LOCK TABLE queue.queue_definition});
ok(trouble('NULL'), 'so is a lock on queue.queue_definition');
is( $node->safe_psql(
		'postgres', "SET ROLE reader; SELECT count(*) FROM queue.maintenance WHERE queue IS NULL"),
	'0',
	'of which only pg_monitor is told');
is( $node->safe_psql(
		'postgres', q{SET statement_timeout = '10s'; SET ROLE watcher;
SELECT count(*) > 0 FROM queue.maintenance WHERE queue IS NULL AND activity = 'listing queues'}),
	't',
	'with what could not be done');
$sessions[0]->query_safe('ROLLBACK');
ok(no_trouble(), 'until it is over');
$sessions[0]->query_safe(q{BEGIN; LOCK TABLE queue.relay_definition, queue.inbox});
expires('q', 'leases end while other tables are locked');
$sessions[0]->query_safe('ROLLBACK');
$sessions[0]->query_safe(q{BEGIN; SELECT queue.send('q', '1'); REINDEX INDEX queue.queue_definition_pkey});
ok(trouble(q{'q'}), 'and so is one on an index');
$sessions[0]->query_safe('ROLLBACK');
ok(no_trouble(), 'until that is over, too');

# A purge that is prepared has its queue locked, with expired leases in it; and
# a message lies in somebody's temporary child of another.
$node->safe_psql(
	'postgres', q{
SELECT FROM queue.receive('locked', lease => '100 ms');
BEGIN;
SELECT queue.purge('locked');
PREPARE TRANSACTION 'purge';
});
my $temporary = $node->background_psql('postgres');
$temporary->query_safe(
	q{SET client_min_messages = warning; CREATE TEMP TABLE child () INHERITS (queues.analyzed);
INSERT INTO child (id, enqueued_at, payload) VALUES (-1, now(), '1')});
expires('q', 'leases end while a purge is prepared');
is($node->safe_psql('postgres', q{SELECT count(*) FILTER (WHERE id < 0) FROM queue.peek('analyzed', 100)}),
	'0', 'a temporary child is nobody\'s segment');
expires('analyzed', 'and in no lease\'s way');
$temporary->quit;
$node->safe_psql('postgres', q{ROLLBACK PREPARED 'purge'});
ok(no_trouble(), 'until that is rolled back');

# A queue that cannot be maintained
$node->safe_psql(
	'postgres', q{
SET client_min_messages = warning;
ALTER TABLE queues.broken DROP COLUMN body CASCADE;
});
$node->safe_psql('postgres', q{BEGIN; CREATE TABLE t (); PREPARE TRANSACTION 't'});
$node->safe_psql('postgres', q{ROLLBACK PREPARED 't'});
ok( $node->poll_query_until(
		'postgres', q{
SELECT count(*) > 0 FROM queue.maintenance WHERE queue = 'broken' AND sqlstate = '55000' AND failures > 1
AND error ~ 'not as queue.create'}),
	'a broken one is shown');
is($node->safe_psql('postgres', q{SELECT DISTINCT queue FROM queue.maintenance}), 'broken', 'alone');
cmp_ok(
	$node->safe_psql(
		'postgres', q{SELECT max(extract(epoch FROM retry_at - last_failed_at)) FROM queue.maintenance}),
	'>', 9,
	'and tried again ever later');
expires('q', 'while leases of others end');
$node->safe_psql('postgres', 'SET client_min_messages = warning; DROP TABLE queues.broken CASCADE');
ok(no_trouble(), 'and is forgotten when it is dropped');

# ROLLBACK PREPARED asks for a sweep.
$node->safe_psql(
	'postgres', q{
SET session_replication_role = replica;
INSERT INTO queues."q$1" (id, enqueued_at, payload) VALUES (1000000, now(), '"swept"')});
$node->safe_psql('postgres', q{BEGIN; CREATE TABLE t (); PREPARE TRANSACTION 't'});
$node->safe_psql('postgres', q{ROLLBACK PREPARED 't'});
ok( $node->poll_query_until(
		'postgres',
		q{SELECT count(queue.ack(receipt)) > 0 FROM queue.receive('q', 100) WHERE payload = '"swept"'}),
	'ROLLBACK PREPARED has queues swept');

# A setting of the database
is($node->psql('postgres', q{SET ROLE stranger; SET queue.sweep_interval = 1}),
	3, 'settings are for superusers');
my $pid = worker_pid($node);
$node->safe_psql('postgres', q{ALTER DATABASE postgres SET queue.sweep_interval = '1s'});
ok(wait_for_worker($node, 'postgres', $pid), 'ALTER DATABASE SET replaces the worker');
$node->safe_psql(
	'postgres', q{
SET session_replication_role = replica;
INSERT INTO queues."q$1" (id, enqueued_at, payload) VALUES (1000001, now(), '"swept"')});
ok( $node->poll_query_until(
		'postgres',
		q{SELECT count(queue.ack(receipt)) > 0 FROM queue.receive('q', 100) WHERE payload = '"swept"'}),
	'by one that does as it says');

$_->quit foreach @sessions;
$node->stop;
done_testing();
