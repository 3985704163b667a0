# Dumps of definitions alone, of the schema queues alone, and by roles that are
# no superusers: what is restored can be made to work again.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Test::More;

my $node = queue_node('primary', conf => "queue.sweep_interval = '1s'");
my $dir = $node->basedir;

$node->safe_psql(
	'postgres', q{
CREATE ROLE owner LOGIN;
CREATE ROLE reader LOGIN;
GRANT pg_read_all_data TO reader;
CREATE DATABASE shop});
$node->safe_psql(
	'shop', q{
CREATE EXTENSION queue;
GRANT CREATE ON SCHEMA queues TO owner;
SET ROLE owner;
SELECT queue.create('orders', max_attempts => 1);
SELECT queue.create('mail', durable => false);
SELECT queue.send_batch('orders', '{1,2,3,4}');
INSERT INTO queues.orders (payload) VALUES ('5');
SELECT queue.nack(receipt) FROM queue.receive('orders') WHERE payload = '5';
SELECT queue.send('orders', '6', delay => '1 hour');
});

sub dump_and_restore
{
	my ($name, $as, $prepare, @options) = @_;

	command_ok([ 'pg_dump', '-f', "$dir/$name.sql", @options, $node->connstr('shop') ], "$name: dump");
	$node->safe_psql('postgres', "CREATE DATABASE $name OWNER owner");
	$node->safe_psql($name, $prepare) if $prepare;
	return $node->command_checks_all(
		[
			'psql', '-X', '-q', '-v', "ON_ERROR_STOP=" . ($as eq 'owner' ? 0 : 1),
			'-U', $as, '-d', $name, '-f', "$dir/$name.sql"
		],
		0,
		[qr/.*/],
		[qr/.*/],
		"$name: restore");
}
my $superuser = $node->safe_psql('postgres', 'SELECT current_user');

# Definitions alone
dump_and_restore('definitions', $superuser, '', '-s');
my ($result, $stdout, $stderr) = $node->psql('definitions', q{SELECT queue.send('orders', '1')});
like(
	$stderr,
	qr/queue "orders" does not exist.*make it a queue with queue.create\(\)/s,
	'definitions: the error says what to do');
$node->safe_psql('definitions', q{SET ROLE owner; SELECT queue.create('orders')});
is($node->safe_psql('definitions', q{SELECT queue.send('orders', '"new"')}),
	'1', 'definitions: it is a queue again');
is($node->safe_psql('definitions', q{SELECT payload FROM queue.pop('orders')}),
	'"new"', 'definitions: and works');
is( $node->safe_psql(
		'definitions', q{
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'queues.orders'::regclass;
SELECT count(*) FROM pg_inherits WHERE inhparent = 'queues.orders'::regclass;
SELECT count(*) FROM pg_class WHERE relname LIKE 'orders$id%'}),
	"2\n2\n1",
	'definitions: with what was restored, and nothing twice');
is( $node->safe_psql(
		'definitions', q{
SET ROLE owner; SELECT queue.drop('mail'); SELECT queue.drop('orders');
SELECT count(*) FROM pg_class WHERE relnamespace = 'queues'::regnamespace}),
	"\n\n0",
	'definitions: others can be dropped');

# The schema alone, with its rows
dump_and_restore('rows', $superuser, 'CREATE EXTENSION queue', '-n', 'queues');
$node->safe_psql('rows', q{SET ROLE owner; SELECT queue.create('orders')});
is($node->safe_psql('rows', q{SELECT queue.send('orders', '"new"') > 6}), 't', 'schema alone: ids go on');
is( $node->safe_psql(
		'rows', q{SELECT string_agg(payload::text, ' ' ORDER BY id) FROM queue.pop('orders', 10)}),
	'1 2 3 4 "new"',
	'schema alone: the messages are there');

# By a role that may read everything, restored by one that may not everything
my @as_reader = ('-U', 'reader');
command_ok([ 'pg_dump', @as_reader, '-f', "$dir/reader.sql", $node->connstr('shop') ],
	'a reader of all data can dump');
$node->safe_psql('postgres', 'CREATE DATABASE reader');
command_ok(
	[ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('reader'), '-f', "$dir/reader.sql" ],
	'and that restores');
is( $node->safe_psql(
		'reader', q{
SELECT queue, payload, reason FROM queue.dead_letters;
SELECT count(*) FROM queue.deferred;
SELECT queue.redrive('orders');
SELECT string_agg(payload::text, ' ' ORDER BY id) FROM queue.pop('orders', 10)}),
	"orders|5|max_attempts\n1\n1\n1 2 3 4 5",
	'with dead letters and deferred messages');

dump_and_restore('unprivileged', 'owner', 'CREATE EXTENSION queue; GRANT CREATE ON SCHEMA queues TO owner');
$node->safe_psql('unprivileged',
	q{SET ROLE owner; SELECT queue.create('orders'); SELECT queue.create('mail')});
is( $node->safe_psql(
		'unprivileged',
		q{SET ROLE owner; SELECT string_agg(payload::text, ' ' ORDER BY id) FROM queue.pop('orders', 10)}),
	'1 2 3 4',
	'an owner gets his queues and messages back');

# DROP EXTENSION, DROP SCHEMA: whatever the order, nothing of ours is in the way.
$node->safe_psql('rows', 'DROP EXTENSION queue CASCADE');
is( $node->safe_psql(
		'rows', q{SELECT count(*) FROM pg_class WHERE relnamespace::regnamespace::text LIKE 'queue%'}),
	'0',
	'DROP EXTENSION drops it all');
$node->safe_psql('rows', 'CREATE EXTENSION queue');
is($node->safe_psql('rows', q{SELECT queue.create('orders'); SELECT queue.send('orders', '1')}),
	"\n1", 'and it can be created again');

# Without the extension the hook has nothing to say.
$node->safe_psql(
	'postgres', q{
CREATE DATABASE other});
$node->safe_psql(
	'other', q{
CREATE SCHEMA queue;
CREATE TABLE queue.queue_definition (relid text, CONSTRAINT queue_definition_pkey PRIMARY KEY (relid));
CREATE SCHEMA queues; CREATE TABLE queues.t (id bigint PRIMARY KEY, parent bigint REFERENCES queues.t);
CREATE TEMP TABLE t (i int PRIMARY KEY);
ALTER TABLE queues.t OWNER TO owner;
DROP TABLE queues.t, t, queue.queue_definition;});
pass('a database without the extension is left alone');

$node->stop;
done_testing();
