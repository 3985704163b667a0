# Dump and restore, with messages in every state.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Test::More;

my $node = queue_node('primary', conf => "queue.segment_size = '1MB'");
my $dir = $node->basedir;

$node->safe_psql('postgres', q{CREATE ROLE sender; CREATE ROLE owner; CREATE DATABASE shop});
$node->safe_psql(
	'shop', q{
CREATE EXTENSION queue;
GRANT CREATE ON SCHEMA queues TO owner;
SET ROLE owner;
SELECT queue.create('orders', lease => '7 minutes', max_attempts => 9, backoff => '0 s',
	backoff_max => '3 hours');
SELECT queue.create('Mail "x"', durable => false);
GRANT INSERT ON queues.orders TO sender;
RESET ROLE;

SELECT queue.send('orders', to_jsonb(repeat('x', 1000)), key => 'k' || i, headers => '{"a": 1}')
	FROM generate_series(1, 3000) i;
SELECT queue.send_bytes('orders', repeat('b', 100000)::bytea);
INSERT INTO queues.orders (payload) SELECT '"plain"' FROM generate_series(1, 10);
SELECT count(*) FROM queue.receive('orders', 100);
SELECT count(queue.ack(receipt)) FROM queue.receive('orders', 1500);
SELECT count(queue.nack(receipt, delay => '1 day')) FROM queue.receive('orders', 10);
SELECT count(queue.reject(receipt, 'of no use')) FROM queue.receive('orders', 10);
SELECT count(queue.nack(receipt, error => 'again')) FROM queue.receive('orders', 10);
SELECT queue.send('orders', '"later"', delay => '1 day');
SELECT queue.send('Mail "x"', '"unlogged"');

SELECT queue.create('checked');
ALTER TABLE queues.checked ADD CHECK ((payload ->> 'n')::int > 0), ADD note text DEFAULT 'none',
	ADD twice int GENERATED ALWAYS AS ((payload ->> 'n')::int * 2) STORED, ALTER key SET NOT NULL;
CREATE INDEX ON queues.checked (key);
SELECT queue.send('checked', jsonb_build_object('n', i), key => 'k') FROM generate_series(1, 10) i;
INSERT INTO queues.checked (key, payload) VALUES ('k', '{"n": 11}');
});
my $orders = q{SELECT id, key, headers, payload, body, attempts FROM (
	SELECT id, key, headers, payload, body, 0 AS attempts FROM queues.orders
	UNION ALL SELECT id, key, headers, payload, body, attempts FROM queue.deferred) m};
my $contents = qq{
SELECT count(*), count(attempts > 0 OR NULL), md5(string_agg(m::text, ' ' ORDER BY id)) FROM ($orders) m};
my $settings = q{
SELECT * FROM queue.queues ORDER BY name;
SELECT queue, id, attempts, reason FROM queue.dead_letters ORDER BY id;
SELECT relid, count(*), min(due_at), max(due_at) FROM queue.deferred GROUP BY 1;
SELECT has_table_privilege('sender', 'queues.orders', 'INSERT'),
	has_table_privilege('sender', 'queues.orders', 'SELECT')};
my $before = $node->safe_psql('shop', $contents);
my $settings_before = $node->safe_psql('shop', $settings);
my $max_id = $node->safe_psql('shop', 'SELECT max(id) FROM queues.orders');

like($before, qr/^1502\|20\|/, 'there is something to dump');

# What was restored must be what was dumped, and a queue that works.
sub check
{
	my ($database, $how) = @_;

	is($node->safe_psql($database, $contents), $before, "$how: the messages are the same");
	is($node->safe_psql($database, $settings),
		$settings_before, "$how: so are settings, dead letters, due times and grants");
	ok(wait_for_worker($node, $database), "$how: the maintenance worker runs");
	cmp_ok($node->safe_psql($database, q{SELECT queue.send('orders', '"new"')}),
		'>', $max_id, "$how: ids go on");
	cmp_ok(
		$node->safe_psql(
			$database, q{SET ROLE sender; INSERT INTO queues.orders (payload) VALUES ('"new"');
			RESET ROLE; SELECT max(id) FROM queues.orders}),
		'>',
		$max_id + 1,
		"$how: also by plain SQL, by who has the right");

	# All but those due tomorrow: on lease or not, they are received.
	is(scalar(drain($node, 'orders', $database)), 1502 - 11 + 2, "$how: every message can be received");
	is($node->safe_psql($database, q{SELECT payload FROM queue.pop('Mail "x"', 10)}),
		'"unlogged"', "$how: and those of the other queue");
	is($node->safe_psql($database, q{SELECT queue.redrive('orders')}),
		'10', "$how: dead letters can be sent again");
	is(scalar(drain($node, 'orders', $database)), 10, "$how: and received");

	my $checked = q{SELECT count(*), sum(twice), count(note), count(key) FROM queues.checked};
	is($node->safe_psql($database, $checked), '11|132|11|11', "$how: what an owner added is there");
	foreach my $bad (q{'{"n": -1}', key => 'k'}, q{'{"n": 1}'}, q{'{"n": -1}', key => 'k', delay => '1 day'})
	{
		my ($status, $stdout, $stderr) = $node->psql($database, "SELECT queue.send('checked', $bad)");
		like($stderr, qr/violates (check|not-null) constraint/, "$how: and holds");
	}
	$node->safe_psql($database, q{SELECT queue.send('checked', '{"n": 13}', key => 'k')});
	is($node->safe_psql($database, $checked), '12|158|12|12', "$how: for what is sent");
	$node->safe_psql($database, q{SELECT queue.drop('checked')});
	$node->safe_psql($database, q{SELECT queue.drop('orders')});
	is($node->safe_psql($database, q{SELECT count(*) FROM queue.deferred}),
		'0', "$how: the queue can be dropped");
	return;
}

command_ok([ 'pg_dump', '-d', $node->connstr('shop'), '-f', "$dir/plain.sql" ], 'dump as a script');
command_ok([ 'pg_dump', '-Fc', '-d', $node->connstr('shop'), '-f', "$dir/custom" ], 'dump as an archive');

$node->safe_psql('postgres', 'CREATE DATABASE plain');
command_ok(
	[ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('plain'), '-f', "$dir/plain.sql" ],
	'restore a script');
check('plain', 'script');

$node->safe_psql('postgres', 'CREATE DATABASE parallel');
command_ok([ 'pg_restore', '-j2', '--exit-on-error', '-d', $node->connstr('parallel'), "$dir/custom" ],
	'restore an archive in parallel');
check('parallel', 'archive');

# In one transaction, where the worker sees all or nothing.
$node->safe_psql('postgres', 'CREATE DATABASE single');
command_ok([ 'pg_restore', '-1', '-d', $node->connstr('single'), "$dir/custom" ],
	'restore an archive in one transaction');
check('single', 'one transaction');

is($node->safe_psql('shop', $contents), $before, 'the database that was dumped is as it was');

# A dump while others send and receive gives a consistent past: each message is
# in it that had been sent and not acknowledged, by the tables that say so.
$node->safe_psql(
	'shop', q{
SELECT queue.purge('orders');
DELETE FROM queue.dead_letters;
CREATE TABLE sent (id bigint);
CREATE TABLE acked (id bigint);
});
append_to_file("$dir/send.sql",
	"INSERT INTO sent SELECT queue.send('orders', to_jsonb(repeat('x', 500)));\n");
append_to_file(
	"$dir/take.sql",
	q{WITH m AS (SELECT id, queue.ack(receipt) FROM queue.receive('orders', 5, wait => '100 ms'))
INSERT INTO acked SELECT id FROM m;
});
my @load = map {
	IPC::Run::start(
		[
			'pgbench', '-n', '-h', $node->host, '-p', $node->port,
			'-c', '2', '-T', '600', '-f', "$dir/$_.sql",
			'shop'
		],
		'<',
		\undef,
		'>',
		\my $out,
		'2>',
		\my $err)
} ('send', 'take');
for my $round (1 .. 3)
{
	my $database = "live$round";
	my $acked = $node->safe_psql('shop', 'SELECT count(*) FROM acked');

	$node->poll_query_until('shop', "SELECT count(*) > $acked + 500 FROM acked");
	command_ok([ 'pg_dump', '-Fc', '-d', $node->connstr('shop'), '-f', "$dir/$database" ],
		"round $round: dump under load");
	$node->safe_psql('postgres', "CREATE DATABASE $database");
	command_ok([ 'pg_restore', '-j2', '--exit-on-error', '-d', $node->connstr($database), "$dir/$database" ],
		"round $round: restore");
	is( $node->safe_psql(
			$database, q{
SELECT id FROM queues.orders EXCEPT ALL (SELECT id FROM sent EXCEPT ALL SELECT id FROM acked)}),
		'',
		"round $round: it holds nothing but what was sent and not acknowledged");

	# What was acknowledged between pg_dump's snapshot and its lock can be gone, as after any TRUNCATE.
	my $missing = $node->safe_psql(
		$database, q{
SELECT array_agg(id) FROM (
	SELECT id FROM sent EXCEPT ALL SELECT id FROM acked EXCEPT ALL SELECT id FROM queues.orders) m});
	is( $node->safe_psql(
			'shop',
			"SELECT count(*) FROM unnest(nullif('$missing', '')::bigint[]) id WHERE id NOT IN (SELECT id FROM acked)"
		),
		'0',
		"round $round: and all of that which nobody had acknowledged when it got to the table");
}
my $acked = $node->safe_psql('shop', 'SELECT count(*) FROM acked');
ok($node->poll_query_until('shop', "SELECT count(*) > $acked + 500 FROM acked"), 'the load goes on');
$_->signal('TERM') foreach @load;
$_->finish foreach @load;

$node->stop;
done_testing();
