# Dedup keys outlive crashes, restarts, dumps and promotion as their messages
# do, and are forgotten whatever snapshot is held.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Test::More;
use Wait;

my $node = queue_node('primary', allows_streaming => 1, conf => "restart_after_crash = on\n");
my $dir = $node->basedir;

# Send with a key: the id, and whether it was sent before.
sub once
{
	my ($queue, $key, $where, $database) = @_;
	return ($where // $node)
	  ->safe_psql($database // 'postgres',
		"SELECT id, duplicate FROM queue.send_once('$queue', '$key', '1')");
}

# Bytes of keys of a queue.
my $bytes = q{
SELECT coalesce(sum(pg_relation_size(relid)), 0) FROM queue.dedup_bucket WHERE queue = 'queues.%s'::regclass};

sub one_id
{
	return (split(/\|/, shift))[0];
}

$node->safe_psql(
	'postgres', q{
SELECT queue.create('orders', dedup_window => '1 day');
SELECT queue.create('content', dedup => 'content', dedup_window => '1 day');
SELECT queue.create('fast', durable => false, dedup_window => '1 day');
SELECT queue.send('content', '{"a": 1}');
});
my $first = one_id(once('orders', 'committed'));
once('fast', 'k');

#
# Crash, restart, prepared transactions
#

my $open = $node->background_psql('postgres');
$open->query_safe(q{BEGIN; SELECT queue.send_once('orders', 'open', '1')});
$node->safe_psql(
	'postgres',
	q{BEGIN; SELECT queue.send_once('orders', 'rolled back', '1'); ROLLBACK;
	BEGIN; SELECT queue.send_once('orders', 'prepared', '1'); PREPARE TRANSACTION 'p';
	BEGIN; SELECT queue.send_once('orders', 'prepared 2', '1'); PREPARE TRANSACTION 'p2'});

sub check
{
	my ($test) = @_;

	is(once('orders', 'committed'), "$first|t", "$test: a key is there");
	my ($status, $stdout, $stderr) = $node->psql(
		'postgres',
		q{\set VERBOSITY verbose
		SELECT queue.send('orders', '1', dedup_key => 'prepared', dedup_wait => false)});
	like(
		$stderr,
		qr/QM409: dedup key "prepared" is being used/,
		"$test: one of a prepared transaction is in use");
	return;
}

my $victim = $open->query_safe('SELECT pg_backend_pid()');
PostgreSQL::Test::Utils::system_log('pg_ctl', 'kill', 'KILL', $victim);
ok(wait_for { $node->safe_psql('postgres', 'SELECT 1') }, 'the server is back after a backend was killed');
check('crash');
like(once('orders', 'open'), qr/\|f$/, 'one of a transaction that the crash ended is not');
like(once('orders', 'rolled back'), qr/\|f$/, 'nor one that was rolled back');
like(once('fast', 'k'), qr/\|f$/, 'an unlogged queue loses keys and messages');
is($node->safe_psql('postgres', q{SELECT count(*) FROM queues.fast}), '1', 'both');
eval { $open->quit };

$node->restart;
check('restart');
is( $node->safe_psql(
		'postgres', q{SELECT queue.send('content', '{"a": 1}') - min(id), count(*) FROM queues.content}),
	'0|1',
	'restart: a message is known by its content');
$node->safe_psql('postgres', q{COMMIT PREPARED 'p'});
$node->safe_psql('postgres', q{ROLLBACK PREPARED 'p2'});
like(once('orders', 'prepared'), qr/\|t$/, 'then it has committed');
like(once('orders', 'prepared 2'), qr/\|f$/, 'or been rolled back');

#
# Asynchronous commit
#

# Told to one who does not risk it, a message that was sent at a risk is safe.
$node->safe_psql('postgres',
	q{ALTER SYSTEM SET wal_writer_delay = '10s'; SELECT pg_reload_conf(); CHECKPOINT});
$node->safe_psql('postgres', q{SELECT queue.send_once('orders', 'warm', '1')});
$node->safe_psql('postgres',
	q{SET synchronous_commit = off; SELECT queue.send_once('orders', 'at a risk', '1')});
my $told = one_id(once('orders', 'at a risk'));
crash($node);
is(once('orders', 'at a risk'), "$told|t", 'a duplicate is as durable as its sender asks for');
is($node->safe_psql('postgres', "SELECT count(*) FROM queues.orders WHERE id = $told"),
	'1', 'so is its message');

#
# Dump and restore, with or without the queue being used before it is dropped
#

my $tables =
  q{SELECT count(*) FROM pg_class WHERE relnamespace = 'queue'::regnamespace AND relname LIKE '%#%'};
command_ok([ 'pg_dump', '-Fc', '-d', $node->connstr('postgres'), '-f', "$dir/dump" ], 'dump');
foreach my $way ('used', 'unused', 'cascade')
{
	$node->safe_psql('postgres', "CREATE DATABASE $way");
	command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr($way), "$dir/dump" ], "$way: restore");
	if ($way eq 'used')
	{
		is(once('orders', 'committed', $node, $way), "$first|t", "$way: a key is there");
		like(once('orders', 'prepared', $node, $way), qr/\|t$/, "$way: another, too");
		like(once('orders', 'new', $node, $way), qr/\|f$/, "$way: a new one is new");
		like(once('orders', 'new', $node, $way), qr/\|t$/, "$way: once");
	}
	$node->safe_psql($way,
		$way eq 'cascade'
		? 'DROP TABLE queues.orders, queues.content, queues.fast CASCADE'
		: q{SELECT queue.drop(name) FROM queue.queues});

	# What the restore did not attach to its queue a new worker finds at once.
	$node->safe_psql('postgres', "ALTER DATABASE $way SET queue.straggler_age = '59s'");
	ok($node->poll_query_until($way, "SELECT ($tables) = 0"), "$way: the keys are dropped with the queues");
	is($node->safe_psql($way, 'SELECT count(*) FROM queue.dedup_bucket'), '0', "$way: all of it");
	$node->safe_psql($way, 'DROP EXTENSION queue CASCADE');
}

#
# Promotion
#

$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
my $late = one_id(once('orders', 'late'));
$node->wait_for_catchup($standby);
$standby->promote;
is(once('orders', 'committed', $standby), "$first|t", 'promotion: a key is there');
is(once('orders', 'late', $standby), "$late|t", 'promotion: so is one replicated');
like(once('orders', 'after', $standby), qr/\|f$/, 'promotion: a new one is new');
like(once('orders', 'after', $standby), qr/\|t$/, 'promotion: once');
$standby->stop;

#
# Forgetting, while a snapshot is held, and a transaction is prepared
#

$node->safe_psql(
	'postgres', q{CREATE TABLE note (what text);
	SELECT queue.create('short', dedup_window => '1 day')});
my $reader = $node->background_psql('postgres');
$reader->query_safe(
	q{BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM note; INSERT INTO note VALUES ('has an xid')}
);
$node->safe_psql(
	'postgres',
	q{SELECT count(*) FROM queue.send_batch('short', array_fill('1'::jsonb, ARRAY[20000]),
	dedup_keys => ARRAY(SELECT 'key ' || n FROM generate_series(1, 20000) n))});
my $size = $node->safe_psql('postgres', sprintf($bytes, 'short'));
cmp_ok($size, '>', 1_000_000, 'there are keys');
$node->safe_psql('postgres', q{BEGIN; SELECT queue.send_once('short', 'p', '1'); PREPARE TRANSACTION 'p'});
$node->safe_psql('postgres', q{SELECT queue.alter('short', dedup_window => '1 s')});

# The prepared transaction keeps its table; the next one is used, and emptied.
ok( $node->poll_query_until(
		'postgres', q{
SELECT count(*) > 1 FROM queue.dedup_bucket, queue.send_once('short', clock_timestamp()::text, '1')
WHERE queue = 'queues.short'::regclass AND pg_relation_size(relid) > 0}),
	'another table is written to');
cmp_ok($node->safe_psql('postgres', sprintf($bytes, 'short')),
	'>', $size, 'what a prepared transaction wrote to is kept');
$node->safe_psql('postgres', q{COMMIT PREPARED 'p'});
ok($node->poll_query_until('postgres', 'SELECT (' . sprintf($bytes, 'short') . ') = 0'),
	'keys are forgotten, and the tables emptied')
  or diag($node->safe_psql('postgres', 'SELECT * FROM queue.maintenance'));
is($reader->query_safe('SELECT count(*) FROM note'), '1', 'while a snapshot is held');
like(once('short', 'key 1'), qr/\|f$/, 'one that was forgotten is new');
is($node->safe_psql('postgres', 'SELECT count(*) FROM queue.maintenance'), '0', 'nothing has failed');
$reader->quit;

# The tables in use are bounded, however long it goes on.
ok( $node->poll_query_until(
		'postgres', q{
SELECT count(*) BETWEEN 3 AND 8
FROM queue.dedup_bucket, queue.send_once('short', clock_timestamp()::text, '1')
WHERE queue = 'queues.short'::regclass}),
	'a queue has a few tables');

$node->stop;
done_testing();
