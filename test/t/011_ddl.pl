# DDL that needs a database, or the extension, to itself succeeds at once
# although workers run there; and afterwards they run again.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode qw(worker_pid);
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('primary');
$node->init;
$node->append_conf(
	'postgresql.conf', q{
shared_preload_libraries = 'queue'
statement_timeout = '60s'
max_worker_processes = 16
});
$node->start;

# Databases and their number of workers: maintenance, and a relay that is busy.
sub wait_for_workers
{
	my ($expected, $test) = @_;
	ok( $node->poll_query_until(
			'postgres', q{
SELECT coalesce(string_agg(datname || ':' || workers, ' ' ORDER BY datname), '') FROM (
	SELECT datname, count(*) AS workers FROM pg_stat_activity
	WHERE backend_type = 'queue maintenance' OR backend_type = 'queue relay' AND wait_event = 'PgSleep'
	GROUP BY datname) w}, $expected),
		$test);
}

# Statements are given all the time they may need without us.
sub succeeds
{
	my ($database, $statement) = @_;
	my ($ret, $stdout, $stderr) = $node->psql($database, $statement);
	is($stderr, '', "$statement succeeds at first try");
}

# A database with the extension, a message on lease, one to receive, and one a
# relay is in the middle of.
sub create_shop
{
	my ($database) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql(
		$database, q{
CREATE EXTENSION queue;
SELECT queue.create('orders');
SELECT queue.send('orders', '{"order": 1}');
SELECT queue.send('orders', '{"order": 2}');
SELECT * FROM queue.receive('orders', lease => '1 hour');
CREATE PROCEDURE public.work(message queue.message) LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(3600); END';
SELECT queue.create('jobs');
SELECT queue.create_relay('worker', 'jobs', options => '{"procedure": "public.work"}');
SELECT queue.send('jobs', '{}');
});
}

create_shop('shop');
wait_for_workers('shop:2', 'worker runs');

# CREATE DATABASE ... TEMPLATE
my $pid = worker_pid($node, 'shop');
succeeds('postgres', 'CREATE DATABASE copy TEMPLATE shop');
wait_for_workers('copy:2 shop:2', 'the copy has a worker, and the template again');
isnt(worker_pid($node, 'shop'), $pid, 'which is a new one');
is($node->safe_psql('copy', q{SELECT count(*) FROM queue.receive('orders', max_messages => 10)}),
	'2', 'no lease is copied');
is($node->safe_psql('shop', q{SELECT count(*) FROM queue.receive('orders', max_messages => 10)}),
	'1', 'nor lost');

# ALTER DATABASE
succeeds('postgres', 'ALTER DATABASE copy RENAME TO mirror');
wait_for_workers('mirror:2 shop:2', 'worker runs after RENAME');
my $tablespace = PostgreSQL::Test::Utils::tempdir;
succeeds('postgres', "CREATE TABLESPACE elsewhere LOCATION '$tablespace'");
succeeds('postgres', 'ALTER DATABASE mirror SET TABLESPACE elsewhere');
wait_for_workers('mirror:2 shop:2', 'worker runs after SET TABLESPACE');
succeeds('postgres', 'ALTER DATABASE mirror IS_TEMPLATE true');
wait_for_workers('shop:2', 'a template has no worker');
succeeds('postgres', 'CREATE DATABASE another TEMPLATE mirror');
wait_for_workers('another:2 shop:2', 'a copy of it has one');
succeeds('postgres', 'ALTER DATABASE mirror IS_TEMPLATE false');
wait_for_workers('another:2 mirror:2 shop:2', 'it has one when it is no template any more');

# DROP DATABASE
succeeds('postgres', 'DROP DATABASE mirror');
succeeds('postgres', 'DROP DATABASE another WITH (FORCE)');
succeeds('postgres', 'SET client_min_messages = warning; DROP DATABASE IF EXISTS another');
wait_for_workers('shop:2', 'the others keep their workers');

# A statement that fails
my ($ret, $stdout, $stderr) = $node->psql('postgres', 'ALTER DATABASE shop RENAME TO postgres');
like($stderr, qr/already exists/, 'RENAME to a name in use fails');
wait_for_workers('shop:2', 'worker runs after a statement that failed');

# Somebody who may not
$node->safe_psql('postgres', 'CREATE ROLE nobody LOGIN CREATEDB');
$pid = worker_pid($node, 'shop');
for my $statement (
	'CREATE DATABASE theirs TEMPLATE shop',
	'ALTER DATABASE shop RENAME TO theirs',
	'DROP DATABASE shop',
	'DROP DATABASE shop WITH (FORCE)')
{
	$node->psql(
		'postgres', $statement,
		stderr => \$stderr,
		extra_params => [ '-U', 'nobody' ]);
	like($stderr, qr/permission denied|must be owner/, "$statement fails without the right to");
}
$node->psql(
	'shop', 'DROP EXTENSION queue CASCADE',
	stderr => \$stderr,
	extra_params => [ '-U', 'nobody' ]);
like($stderr, qr/must be owner/, 'DROP EXTENSION fails without the right to');
is(worker_pid($node, 'shop'), $pid, 'and the worker has not been disturbed');

# DROP EXTENSION, rolled back
my $session = $node->background_psql('shop');
$session->query_safe('BEGIN; SET LOCAL client_min_messages = warning; DROP EXTENSION queue CASCADE');
is(worker_pid($node, 'shop'), '', 'no worker runs while DROP EXTENSION is not committed');
$session->query_safe('ROLLBACK');
wait_for_workers('shop:2', 'worker runs after rollback of DROP EXTENSION');
is($node->safe_psql('shop', q{SELECT count(*) FROM queues.orders}), '2', 'messages are there');

# By a session that dies
$session->query_safe('BEGIN; SET LOCAL client_min_messages = warning; DROP EXTENSION queue CASCADE');
my $backend = $session->query_safe('SELECT pg_backend_pid()');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($backend)");
wait_for_workers('shop:2', 'worker runs after the end of a session that was to drop the extension');
$session->{run}->finish;

# Committed
succeeds('shop', 'SET client_min_messages = warning; DROP EXTENSION queue CASCADE');
wait_for_workers('', 'no worker runs after DROP EXTENSION');
succeeds('shop', 'BEGIN; CREATE EXTENSION queue; DROP EXTENSION queue; COMMIT; CREATE EXTENSION queue');
wait_for_workers('shop:1', 'worker runs when the extension is created again');
is($node->safe_psql('shop', q{SELECT queue.create('orders'); SELECT queue.send('orders', '3')}),
	"\n1", 'queues start from nothing');

# Prepared
$node->append_conf('postgresql.conf', 'max_prepared_transactions = 2');
$node->restart;
wait_for_workers('shop:1', 'worker runs');
succeeds('shop',
	"BEGIN; SET LOCAL client_min_messages = warning; DROP EXTENSION queue CASCADE; PREPARE TRANSACTION 'drop'"
);
succeeds('shop', "COMMIT PREPARED 'drop'");
wait_for_workers('', 'no worker runs after COMMIT PREPARED of DROP EXTENSION');
succeeds('postgres', 'DROP DATABASE shop');

$node->stop;
done_testing();
