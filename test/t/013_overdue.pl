# Leases end though no maintenance worker looks after them: receivers do.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Test::More;

# The launcher has the only place there is.
my $node = queue_node('primary', conf => "max_worker_processes = 1\nmax_parallel_workers = 0");

$node->safe_psql(
	'postgres', q{
SELECT queue.create('q', lease => '100 ms', max_attempts => 3, backoff => '10 ms');
SELECT queue.create('other', lease => '100 ms', max_attempts => 1);
SELECT queue.send('q', '1', 'k', '{"h": 1}');
SELECT queue.send('other', '2');
SELECT * FROM queue.receive('other');
});
is( $node->safe_psql(
		'postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'queue maintenance'}),
	'0',
	'there is no maintenance worker');

my $receive = q{SELECT id, key, payload, headers, attempts FROM queue.receive('q', wait => '60 s')};

is($node->safe_psql('postgres', $receive), '1|k|1|{"h": 1}|1', 'a first delivery');
is( $node->safe_psql('postgres', $receive),
	'1|k|1|{"h": 1}|2',
	'the lease ends, and the next receiver has the message');
is( $node->safe_psql('postgres', 'SELECT attempts, error FROM queue.deferred'),
	'1|lease expired',
	'the attempt is counted where a crash cannot forget it');

# Rolled back, nothing has happened, and the message is not lost.
is( $node->safe_psql('postgres', "BEGIN;\n$receive;\nROLLBACK;"),
	'1|k|1|{"h": 1}|3',
	'a third one, rolled back');
is($node->safe_psql('postgres', 'SELECT attempts FROM queue.deferred'), '1', 'is not counted');
is( $node->safe_psql(
		'postgres', qq{
BEGIN;
SAVEPOINT s;
$receive;
ROLLBACK TO s;
COMMIT;
}),
	'1|k|1|{"h": 1}|3',
	'nor one rolled back to a savepoint');
crash($node);
is($node->safe_psql('postgres', $receive), '1|k|1|{"h": 1}|2', 'after a crash what was counted is');
is($node->safe_psql('postgres', $receive), '1|k|1|{"h": 1}|3', 'and counted on');

# The last attempt
ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM queue.receive('q') m}),
	'nobody gets it again');
ok( $node->poll_query_until(
		'postgres', q{
SELECT (SELECT count(*) FROM queue.receive('q')) = 0 AND
	EXISTS (SELECT FROM queue.dead_letters WHERE queue = 'q')}),
	'it dies in the end');
is( $node->safe_psql('postgres', q{SELECT id, attempts, reason, error FROM queue.dead_letters}),
	'1|3|max_attempts|lease expired',
	'with what was known of it');
is( $node->safe_psql(
		'postgres', q{SELECT leased, deferred, dead, expired FROM queue.stats WHERE queue = 'q'}),
	'0|0|1|2',
	'statistics (since the crash)');

# The last one's end is rolled back after PREPARE: it was the last one all the same.
$node->safe_psql(
	'postgres', q{
SELECT queue.create('decided', max_attempts => 1, backoff => '1 ms');
SELECT queue.send('decided', '3');
SELECT * FROM queue.receive('decided', lease => '1 us');
BEGIN;
SELECT * FROM queue.pop('decided');
PREPARE TRANSACTION 'p';});
is( $node->safe_psql(
		'postgres', q{
SELECT count(*) FROM queue.receive('decided');
ROLLBACK PREPARED 'p';
SELECT count(*) FROM queue.receive('decided')}),
	"0\n0",
	'rolled back, it is not delivered once more');
ok( $node->poll_query_until(
		'postgres', q{
SELECT (SELECT count(*) FROM queue.receive('decided')) = 0 AND
	EXISTS (SELECT FROM queue.dead_letters WHERE queue = 'decided' AND attempts = 1)}),
	'and dies in the end');

# In the same transaction: acknowledged, popped
$node->safe_psql(
	'postgres', q{
SELECT queue.send('q', '4'); SELECT queue.send('q', '5');
SELECT * FROM queue.receive('q', 2);});
is($node->safe_psql('postgres', q{SELECT payload, attempts FROM queue.pop('q', wait => '60 s')}),
	'4|2', 'pop takes one over');
is( $node->safe_psql(
		'postgres', q{
SELECT payload, queue.ack(receipt) FROM queue.receive('q', wait => '60 s')}),
	'5|t',
	'receive and ack in one statement');
is( $node->safe_psql(
		'postgres', q{SELECT (SELECT count(*) FROM queues.q), (SELECT count(*) FROM queue.deferred),
	(SELECT leased FROM queue.stats WHERE queue = 'q')}),
	'0|0|0',
	'and nothing is left');

# The old receipt ends when somebody takes the message over, not before.
my $receipt =
  $node->safe_psql('postgres', q{SELECT queue.send('q', '6'); SELECT receipt FROM queue.receive('q')});
$receipt =~ s/.*\n//s;
is($node->safe_psql('postgres', q{SELECT payload FROM queue.receive('q', lease => '1 h', wait => '60 s')}),
	'6', 'taken over');
is($node->safe_psql('postgres', "SELECT queue.ack($receipt), queue.extend($receipt, '1 h')"),
	'f|f', 'the old receipt is void');

# A read-only transaction counts nothing and takes nothing over.
$node->safe_psql(
	'postgres', q{
SELECT queue.release('q', id) FROM queue.leases;
SELECT payload FROM queue.receive('q', lease => '1 us');});
is( $node->safe_psql(
		'postgres', q{BEGIN READ ONLY; SELECT count(*) FROM queue.receive('q', wait => '100 ms'); COMMIT}),
	'0',
	'a read-only transaction gets nothing');
is($node->safe_psql('postgres', q{SELECT payload FROM queue.receive('q', wait => '60 s')}), '6', 'others do');

# Somebody has the row locked: not now, and nobody hangs.
$node->safe_psql(
	'postgres', q{
SELECT queue.send('q', '7');
SELECT payload FROM queue.receive('q', 10, lease => '1 ms');});
my $locker = $node->background_psql('postgres');
$locker->query_safe(q{BEGIN; SELECT id FROM queues.q FOR UPDATE});
is($node->safe_psql('postgres', q{SELECT count(*) FROM queue.receive('q', wait => '100 ms')}),
	'0', 'a locked row is left alone');

# Nor is who waits for it in the way of others.
my $before = $node->safe_psql('postgres', q{SELECT expires_at FROM queue.leases WHERE queue = 'q'});
my $waiter = $node->background_psql('postgres');
$waiter->query_until(
	qr/waiting/, q{
\echo waiting
SELECT payload FROM queue.receive('q', wait => '10 s');
});
ok( $node->poll_query_until(
		'postgres', qq{
SELECT count(*) = 1 FROM queue.leases WHERE queue = 'q' AND expires_at > '$before'}),
	'somebody waits, and has tried');
ok( $node->poll_query_until(
		'postgres', q{
SELECT count(*) = 1 FROM pg_stat_activity a WHERE query LIKE '%receive%' AND pid <> pg_backend_pid() AND NOT EXISTS (
	SELECT FROM pg_locks l WHERE l.pid = a.pid AND mode = 'RowExclusiveLock')}),
	'without a lock');
$waiter->query_safe('SELECT 1');
$waiter->quit;
$locker->query_safe('ROLLBACK');
$locker->quit;
is($node->safe_psql('postgres', q{SELECT payload FROM queue.receive('q', wait => '60 s')}),
	'7', 'and taken over later');

# Who waits settles a last attempt, and keeps nobody waiting for that.
is( $node->safe_psql(
		'postgres', q{
SELECT queue.create('last', lease => '100 ms', max_attempts => 1);
SELECT queue.send('last', '8');
SELECT payload FROM queue.receive('last');}),
	"\n1\n8",
	'a last attempt');
is( $node->safe_psql(
		'postgres', q{
SET statement_timeout = '60 s';
SELECT count(*) FROM queue.receive('last', wait => '1 h')}),
	'0',
	'ends the wait of who sees it end');
is($node->safe_psql('postgres', q{SELECT payload, reason FROM queue.dead_letters WHERE queue = 'last'}),
	'8|max_attempts', 'and is a dead letter at once');

# A lease on a message taken over can end before who did that has committed.
$node->safe_psql(
	'postgres', q{
SELECT queue.create('open', lease => '1 ms', backoff => '0');
SELECT queue.send('open', '9');
SELECT payload FROM queue.receive('open');});
my $taker = $node->background_psql('postgres');
$receipt = $taker->query_safe(q{BEGIN; SELECT receipt FROM queue.receive('open', wait => '60 s')});
$receipt =~ s/.*\n//s;
is($node->safe_psql('postgres', q{SELECT count(*) FROM queue.receive('open', wait => '100 ms')}),
	'0', 'it is nobody else\'s until then');
is($node->safe_psql('postgres', q{SELECT * FROM queue.maintenance}), '', 'which is no trouble');
my ($status, undef, $stderr) =
  $node->psql('postgres', "SET lock_timeout = '100 ms'; SELECT queue.ack($receipt)");
like($stderr, qr/lock timeout/, 'an acknowledgement by another session waits');
$taker->query_safe('COMMIT');
$receipt = $node->safe_psql('postgres',
	q{SELECT receipt FROM queue.receive('open', lease => '1 ms', wait => '60 s') WHERE attempts = 3});
isnt($receipt, '', 'and then goes on');
$receipt =
  $taker->query_safe(q{BEGIN; SELECT receipt FROM queue.receive('open', wait => '60 s') WHERE attempts = 4});
$receipt =~ s/.*\n//s;
$taker->query_safe('ROLLBACK');
$taker->quit;
is($node->safe_psql('postgres', "SELECT queue.ack($receipt)"),
	'f', 'a receipt is void when that was rolled back');
is($node->safe_psql('postgres', q{SELECT attempts FROM queue.pop('open', wait => '60 s')}),
	'4', 'and the message there');

# With its table a message is gone, and its lease must not stay.
is( $node->safe_psql(
		'postgres', q{
SELECT queue.create('dropped', lease => '1 ms', backoff => '0');
SELECT queue.send('dropped', '10');
SELECT payload FROM queue.receive('dropped');
DROP TABLE queues."dropped$1"}),
	"\n1\n10",
	'a segment is dropped with a lease');
is( $node->safe_psql(
		'postgres', q{
SELECT count(*) FROM queue.receive('dropped', wait => '100 ms');
SELECT count(*) FROM queue.leases WHERE queue = 'dropped'}),
	"0\n0",
	'which ends all the same');

$node->stop;
done_testing();
