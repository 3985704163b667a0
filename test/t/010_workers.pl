# The maintenance worker runs where the extension is, whatever happens to it
# or to the server, and nowhere else.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode qw(worker_pid wait_for_worker);
use Test::More;
use Wait;

# Databases that have a maintenance worker.
my $databases = q{
SELECT coalesce(string_agg(datname, ',' ORDER BY datname), '') FROM pg_stat_activity
WHERE backend_type = 'queue maintenance'};

sub wait_for_workers
{
	my ($node, $expected, $test) = @_;
	ok($node->poll_query_until('postgres', $databases, $expected), $test);
}

my $node = PostgreSQL::Test::Cluster->new('primary');
$node->init(allows_streaming => 1);
$node->append_conf(
	'postgresql.conf', qq{
shared_preload_libraries = 'queue'
restart_after_crash = on
max_prepared_transactions = 5
});
$node->start;

$node->safe_psql('postgres', "CREATE DATABASE $_") for ('one', 'two', 'plain');

# CREATE EXTENSION
$node->safe_psql('one', 'BEGIN; CREATE EXTENSION queue; ROLLBACK');
$node->safe_psql('two', 'CREATE EXTENSION queue');
wait_for_workers($node, 'two', 'CREATE EXTENSION starts a worker there');
$node->safe_psql('one', "BEGIN; CREATE EXTENSION queue; PREPARE TRANSACTION 'create'");
$node->safe_psql('one', "COMMIT PREPARED 'create'");
wait_for_workers($node, 'one,two', 'so does COMMIT PREPARED of one');
is( $node->safe_psql(
		'postgres',
		q{SELECT count(DISTINCT application_name), min(application_name)
		  FROM pg_stat_activity WHERE backend_type = 'queue maintenance'}),
	'1|queue maintenance',
	'workers tell their name');
is( $node->safe_psql(
		'postgres',
		q{SELECT count(*) FROM pg_stat_activity
		  WHERE backend_type LIKE 'queue%' AND (backend_xmin IS NOT NULL OR xact_start IS NOT NULL)
		  AND state = 'idle'}),
	'0',
	'idle workers are in no transaction');

# A worker that is terminated
my $pid = worker_pid($node, 'one');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
ok(wait_for_worker($node, 'one', $pid), 'a terminated worker is replaced');

# The launcher terminated: it comes back and finds its workers running.
my $launcher =
  $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'queue launcher'});
my $workers = q{SELECT string_agg(pid::text, ',' ORDER BY pid) FROM pg_stat_activity
	WHERE backend_type = 'queue maintenance'};
my $before = $node->safe_psql('postgres', $workers);
$node->safe_psql('postgres', "SELECT pg_terminate_backend($launcher)");
ok( $node->poll_query_until(
		'postgres',
		qq{SELECT count(*) = 1 FROM pg_stat_activity
		   WHERE backend_type = 'queue launcher' AND pid <> $launcher}),
	'a terminated launcher is restarted');
is($node->safe_psql('postgres', $workers), $before, 'and adopts the workers there are');
$node->safe_psql('plain', 'CREATE EXTENSION queue');
wait_for_workers($node, 'one,plain,two', 'and starts new ones');
$node->safe_psql('plain', 'DROP EXTENSION queue');
wait_for_workers($node, 'one,two', 'DROP EXTENSION ends the worker');

# Restart
$node->restart;
wait_for_workers($node, 'one,two', 'workers start with the server');

# Crash: kill a backend as the OOM killer would.
my $session = $node->background_psql('one');
my $victim = $session->query('SELECT pg_backend_pid()');
my $started = $node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()');
kill 'KILL', $victim;
$session->{run}->finish;
ok( wait_for
	{
		$node->safe_psql('postgres',
			q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'queue launcher'}) eq '1'
	},
	'server restarts after the crash');
wait_for_workers($node, 'one,two', 'workers start after a crash');
is($node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()'),
	$started, 'of a backend, not of the postmaster');

is( $node->safe_psql(
		'one', q{
SELECT database, state, pid IS NOT NULL, problem IS NULL FROM queue.databases ORDER BY database}),
	"one|running|t|t\ntwo|running|t|t",
	'a view shows them');
my ($ret, $stdout, $stderr) =
  $node->psql('one', 'CREATE ROLE nobody; SET ROLE nobody; TABLE queue.databases');
like($stderr, qr/permission denied/, 'not to everyone');
is( $node->safe_psql(
		'one', 'GRANT pg_monitor TO nobody; SET ROLE nobody; SELECT count(*) FROM queue.databases'),
	'2',
	'but to pg_monitor');

# A standby, promoted
$node->safe_psql('one', q{SELECT queue.create('durable'); SELECT queue.create('unlogged', durable => false)});
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
is( $standby->safe_psql(
		'postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'queue%'}),
	'0',
	'nothing of ours runs on a standby');
is($standby->safe_psql('one', 'SELECT queue, ready, sent, bytes FROM queue.stats ORDER BY queue'),
	"durable|0|0|0\nunlogged|||", 'queue.stats has NULLs for an unlogged queue there');
$node->stop;
$standby->promote;
wait_for_workers($standby, 'one,two', 'workers start at promotion');
$standby->stop;

# No room for workers
$node->append_conf('postgresql.conf', 'max_worker_processes = 4');
my $offset = -s $node->logfile;
$node->start;
wait_for_workers($node, 'one,two', 'workers start with just enough slots');
$node->safe_psql('plain', 'CREATE EXTENSION queue');
$node->wait_for_log(
	qr/WARNING: .*out of background worker slots for queue maintenance in database "plain".*HINT: .*max_worker_processes, now 4/s,
	$offset);
ok(1, 'a database without a worker is in the log');
is( $node->safe_psql(
		'one', q{
SELECT database, state, problem, setting, failures > 0, since < retry_at
FROM queue.databases WHERE problem IS NOT NULL}),
	'plain|waiting|out of background worker slots|max_worker_processes|t|t',
	'and in the view, with the setting to raise');

# One role's relays do not use up the processes of all.
$node->append_conf('postgresql.conf', 'queue.max_relays_per_role = -1');
$node->reload;
ok($node->poll_query_until('one', q{SELECT current_setting('queue.max_relays_per_role') = '-1'}),
	'a cap by default');
$node->safe_psql(
	'one', q{
CREATE ROLE relayer LOGIN;
GRANT CREATE ON SCHEMA queues TO relayer;
CREATE PROCEDURE discard(m queue.message) LANGUAGE plpgsql AS 'BEGIN END';
SET ROLE relayer;
SELECT queue.create('relayed');
SELECT queue.create_relay('r' || n, 'relayed', options => '{"procedure": "discard"}') FROM generate_series(1, 2) n;
});
is( $node->psql(
		'one',
		q{SET ROLE relayer; SELECT queue.create_relay('r3', 'relayed', options => '{"procedure": "discard"}')}
	),
	3,
	'of half the worker processes');
$node->safe_psql('one',
	q{SET ROLE relayer; SELECT queue.drop_relay(name) FROM queue.relays; SELECT queue.drop('relayed')});

$node->safe_psql('two', 'DROP EXTENSION queue');
wait_for_workers($node, 'one,plain', 'one that found no slot starts when there is one');
ok($node->poll_query_until('one', 'SELECT count(*) FROM queue.databases WHERE problem IS NOT NULL', '0'),
	'and all is well');
$node->stop;

done_testing();
