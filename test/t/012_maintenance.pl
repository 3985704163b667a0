# What the maintenance worker does for a database, with nobody else about.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode qw(worker_pid wait_for_worker);
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('primary');
$node->init;
$node->append_conf(
	'postgresql.conf', q{
shared_preload_libraries = 'queue'
queue.segment_size = '1MB'
queue.max_queues = 4
});
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE shop');
$node->safe_psql(
	'shop', q{
CREATE EXTENSION queue;
SELECT queue.create('orders', backoff => '1 hour');
SELECT queue.create('last', max_attempts => 1);
});

# The next worker does at once what is otherwise done once in a while.
sub replace_worker
{
	wait_for_worker($node, 'shop');
	my $pid = worker_pid($node, 'shop');
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
	return wait_for_worker($node, 'shop', $pid);
}

# Leases that expire
$node->safe_psql(
	'shop', q{
SELECT queue.send('orders', '1');
SELECT queue.send('last', '2');
SELECT * FROM queue.receive('orders', lease => '100 ms');
SELECT * FROM queue.receive('last', lease => '100 ms');
});
ok($node->poll_query_until('shop', 'SELECT count(*) = 1 FROM queue.deferred WHERE attempts = 1'),
	'a message whose lease expired is deferred');
ok($node->poll_query_until('shop', q{SELECT count(*) = 1 FROM queue.dead_letters WHERE queue = 'last'}),
	'or dies if that was its last attempt');

# A queue that cannot be maintained leaves the others be.
$node->safe_psql(
	'shop', q{
SELECT queue.create('broken');
SELECT queue.create('busy');
ALTER TABLE queues.broken DROP COLUMN body CASCADE;
});
my $offset = -s $node->logfile;
replace_worker();
$node->wait_for_log(
	qr/ERROR:  table "queues.broken" is not as queue.create\(\) made it.*CONTEXT:  queue maintenance: .*, queue "broken"/s,
	$offset);
ok(1, 'an error in maintenance is reported, with its queue');
$node->safe_psql(
	'shop', q{
SELECT count(*) FROM queue.send_batch('busy', array_fill(to_jsonb(repeat('x', 200)), ARRAY[20000]));
SELECT sum(queue.ack_batch(ARRAY(SELECT receipt FROM queue.receive('busy', max_messages => 20000))));
});
ok($node->poll_query_until('shop', q{SELECT bytes < 1024 * 1024 FROM queue.stats WHERE queue = 'busy'}),
	'drained segments are truncated');

# A queue dropped as a table
$node->safe_psql(
	'shop', q{
SELECT queue.send('busy', '3', delay => '1 hour');
SET client_min_messages = error;
CREATE PUBLICATION everything FOR ALL TABLES;
DROP TABLE queues.broken CASCADE;
DROP TABLE queues.busy CASCADE;
});
is( $node->safe_psql(
		'shop', 'SELECT count(*) FROM queue.queue_definition; SELECT count(*) FROM queue.deferred'),
	"2\n1",
	'queues are dropped by table, and nothing is left of them');
replace_worker();
$node->safe_psql('shop', 'DROP PUBLICATION everything');
is( $node->safe_psql(
		'shop', q{
SELECT queue.create(name) FROM unnest('{third,fourth}'::text[]) name;
SELECT queue.send('third', '1');
SELECT queue.send('fourth', '1');
}),
	"\n\n1\n1",
	'and their shared memory used again');
my ($ret, $stdout, $stderr) = $node->psql('shop', "SELECT queue.create('fifth')");
like($stderr, qr/too many queues are in use/, 'of which there is no more than before');

# After a restart there can be room for fewer.
$node->append_conf('postgresql.conf', 'queue.max_queues = 2');
$node->restart;
is($node->safe_psql('shop', 'SELECT count(*) FROM queue.stats'),
	'4', 'queue.stats shows those that have none');
$node->append_conf('postgresql.conf', 'queue.max_queues = 4');
$node->restart;

# A database dropped with its queues
$node->safe_psql('postgres', 'DROP DATABASE shop');
$node->safe_psql('postgres', 'CREATE DATABASE shop');
$node->safe_psql('shop',
	q{CREATE EXTENSION queue; SELECT queue.create('queue_' || n) FROM generate_series(1, 4) n});
ok( $node->poll_query_until(
		'shop', q{SELECT count(queue.send('queue_' || n, '1')) FROM generate_series(1, 4) n}, '4'),
	'as is that of queues dropped with their database');

# The inbox
$node->safe_psql(
	'shop', q{
INSERT INTO queue.inbox SELECT 'queue.inbox', '', 'somewhere', n, now() FROM generate_series(1, 25000) n;
INSERT INTO queue.inbox VALUES ('queue.inbox', '', 'somewhere', 0, now() + interval '1 day');
});
replace_worker();
ok($node->poll_query_until('shop', 'SELECT count(*) FROM queue.inbox', '1'),
	'rows of the inbox that are too old are deleted');

$node->stop;
done_testing();
