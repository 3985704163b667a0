# Where messages are put: a key's messages lie in the order they were sent,
# whatever they are made of, and segments are put in order again by a restart.
# Nothing an owner does to the tables makes a send fail.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Test::More;
use Wait;

my $node = queue_node(
	'primary',
	conf => q{
queue.segment_size = '1MB'
queue.straggler_age = 3600
autovacuum = off
});
ok(wait_for_worker($node), 'the maintenance worker runs');

# Values stored elsewhere, of all lengths around those the toaster minds: short
# as pointers, and brought back in when they are sent.
$node->safe_psql(
	'postgres', q{
CREATE TABLE src (n serial, payload jsonb, filler text) WITH (toast_tuple_target = 128);
ALTER TABLE src ALTER payload SET STORAGE EXTERNAL, ALTER filler SET STORAGE EXTERNAL;
INSERT INTO src (payload, filler)
	SELECT to_jsonb((SELECT string_agg(md5((size * 1000 + i)::text), '') FROM generate_series(1, size / 32) i)),
		repeat('x', 3000)
	FROM generate_series(160, 9000, 96) size;
INSERT INTO src (payload) SELECT to_jsonb(i) FROM generate_series(1, 60) i;
CREATE FUNCTION misplaced(queue regclass) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE n bigint;
BEGIN
	EXECUTE format('SELECT count(*) FROM (
		SELECT id, lag(id) OVER (PARTITION BY key, tableoid ORDER BY ctid) AS before FROM %s) m
		WHERE before > id', queue) INTO n;
	RETURN n;
END $$;
});
my $toast =
  $node->safe_psql('postgres', q{SELECT reltoastrelid::regclass FROM pg_class WHERE relname = 'src'});
is($node->safe_psql('postgres', "SELECT count(DISTINCT chunk_id) FROM $toast"),
	2 * 93, 'there are values to send');

my @queues = (
	[ 'plain', 'SET (autovacuum_enabled = false)' ],
	[ 'ff10', 'SET (fillfactor = 10)' ],
	[ 'ff70', 'SET (fillfactor = 70)' ],
	[ 'target', 'SET (toast_tuple_target = 8000)' ],
	[ 'inline', 'ALTER payload SET STORAGE MAIN' ]);
foreach (@queues)
{
	my ($queue, $change) = @$_;

	$node->safe_psql('postgres', "SELECT queue.create('$queue')");
	$node->safe_psql('postgres', qq{ALTER TABLE queues."$queue$_" $change}) for ('', '$1', '$2');
	$node->pgbench(
		'-n -c 4 -j 2 -t 4',
		0,
		[qr{processed: 16/16}],
		[qr{^$}],
		"several senders to $queue",
		{
			"014_send_$queue" => qq{
SELECT queue.send('$queue', to_jsonb(:client_id), key => 'k' || :client_id);
SELECT count(queue.send('$queue', payload, key => 'k' || :client_id))
	FROM (SELECT payload FROM src WHERE pg_column_size(payload) < 9000 ORDER BY random()) s;
SELECT count(*) FROM queue.send_batch('$queue', (SELECT array_agg(payload ORDER BY random()) FROM src),
	(SELECT array_agg('k' || :client_id) FROM src));
}
		});
	is($node->safe_psql('postgres', "SELECT misplaced('queues.$queue')"), '0', "order of keys in $queue");
}

# VACUUM frees places in the block being filled.  A message without a key may take
# one; one with a key would come before others of its key.
foreach my $index ('', 'CREATE INDEX ON queues."%s$1" (key)')
{
	my $queue = $index ? 'gaps indexed' : 'gaps';
	my $vacuumed;

	$node->safe_psql('postgres', "SELECT queue.create('$queue')");
	$node->safe_psql('postgres', sprintf($index, $queue)) if $index;
	$node->safe_psql(
		'postgres', qq{
SELECT count(queue.send('$queue', to_jsonb(i))) FROM generate_series(1, 10) i;
SELECT count(queue.send('$queue', to_jsonb(i), key => 'k')) FROM generate_series(1, 3) i;
SELECT count(*) FROM queue.pop('$queue', 10)});
	ok( wait_for
		{
			$node->psql(
				'postgres',
				qq{VACUUM (VERBOSE, INDEX_CLEANUP on) queues."$queue\$1"},
				stderr => \$vacuumed);
			$vacuumed =~ /tuples: 10 removed/
		},
		"$queue: VACUUM frees places");
	my $without = $node->safe_psql('postgres', "SELECT queue.send('$queue', '0')");
	is($node->safe_psql('postgres', qq{SELECT ctid <= '(0,10)' FROM queues."$queue" WHERE id = $without}),
		't', "$queue: a message without a key takes one");
	$node->safe_psql(
		'postgres', qq{
SELECT count(queue.send('$queue', to_jsonb(i), key => 'k')) FROM generate_series(1, 2) i;
SELECT count(*) FROM queue.send_batch('$queue', ARRAY['1', '2']::jsonb[], ARRAY['k', 'k'])});
	is($node->safe_psql('postgres', qq{SELECT misplaced('queues."$queue"')}), '0', "order of keys in $queue");
}

# No more space than need be
cmp_ok(
	$node->safe_psql(
		'postgres', q{
SELECT sum(pg_relation_size(oid)) FROM pg_class WHERE relname ~ '^plain' AND relkind = 'r'}),
	'<',
	16 * 2 * 156 * 4096,
	'blocks are filled');

# Segments after a restart: dead letters sent again have old ids, and come to
# the newest segment.
sub fill
{
	my ($queue, $n) = @_;
	$node->safe_psql(
		'postgres', qq{
SELECT count(*) FROM queue.send_batch('$queue', (
	SELECT array_agg(to_jsonb(repeat(md5(i::text), 25))) FROM generate_series(1, $n) i), (
	SELECT array_agg('k'::text) FROM generate_series(1, $n) i))});
	return;
}

sub pooled
{
	my ($queue, $n) = @_;
	return $node->poll_query_until('postgres',
		qq{SELECT segments >= $n FROM queue.stats WHERE queue = '$queue'});
}
$node->safe_psql(
	'postgres', q{
SELECT queue.create('r', max_attempts => 1);
SELECT count(queue.send('r', to_jsonb('old ' || i), key => 'old')) FROM generate_series(1, 20) i;
SELECT count(queue.reject(receipt)) FROM queue.receive('r', 20)});
fill('r', 2000);
my $full = $node->safe_psql('postgres', q{SELECT tableoid::regclass FROM queues.r LIMIT 1});
$node->safe_psql('postgres', q{SELECT queue.redrive('r', 1)});
$node->safe_psql('postgres', q{SELECT queue.redrive('r', 10)});
$node->safe_psql('postgres', q{SELECT queue.send('r', '"new"', key => 'k')});
is( $node->safe_psql(
		'postgres',
		qq{SELECT count(*) >= 10 AND min(id) < 20 FROM queues.r WHERE tableoid <> '$full'::regclass}),
	't',
	'a newer segment begins with old ids');
$node->restart;
ok(wait_for_worker($node), 'the maintenance worker runs again');
$node->safe_psql('postgres', q{SELECT queue.send('r', '"newest"', key => 'k')});
is( $node->safe_psql(
		'postgres',
		qq{SELECT count(*) FROM queues.r WHERE payload = '"newest"' AND tableoid = '$full'::regclass}),
	'0',
	'a full segment does not become the tail');
is( $node->safe_psql(
		'postgres', q{
SELECT string_agg(payload #>> '{}', ', ' ORDER BY n) FROM (
	SELECT row_number() OVER () AS n, payload, key FROM queue.peek('r', 100000)) m
WHERE key = 'k' AND (n = 1 OR length(payload::text) < 20) AND length(payload::text) < 20}),
	'new, newest',
	'and those sent later come later');
is( $node->safe_psql(
		'postgres', q{
SELECT count(*) FROM (SELECT id, lag(id) OVER (ORDER BY n) AS before FROM (
	SELECT row_number() OVER () AS n, id, key FROM queue.peek('r', 100000)) p WHERE key = 'k') m WHERE before > id}
	),
	'0',
	'in order of segments');

# Large batches at the same time take ids beside one another, and all rise.
$node->safe_psql('postgres', q{SELECT queue.create('ids'); CREATE TABLE ids (n serial, who int, id bigint)});
$node->pgbench(
	'-n -c 4 -j 2 -t 3',
	0,
	[qr{processed: 12/12}],
	[qr{^$}],
	'large batches at the same time',
	{
		'014_ids' => q{
INSERT INTO ids (who, id) SELECT :client_id, queue.send('ids', '1');
INSERT INTO ids (who, id) SELECT :client_id, queue.send_batch('ids', (SELECT array_agg('1'::jsonb) FROM generate_series(1, 20500)));
}
	});
is($node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT id) FROM ids'),
	'246012|246012', 'every id is another');
is( $node->safe_psql(
		'postgres', q{
SELECT count(*)
FROM (SELECT id, lag(id) OVER (PARTITION BY who ORDER BY n) AS before FROM ids) i WHERE before > id}),
	'0',
	'and they rise');
cmp_ok($node->safe_psql('postgres', q{SELECT last_value FROM queues."ids$id"}),
	'<', 300000, 'few are left out');

# VACUUM cuts off the blocks that are kept ahead; who knows of them must not
# insert there.
$node->safe_psql('postgres', q{SELECT queue.create('v')});
my $sender = $node->background_psql('postgres');
$sender->query_safe(q{SELECT queue.send('v', '"a"') IS NOT NULL});
foreach my $i (1 .. 3)
{
	my $size = $node->safe_psql('postgres', q{SELECT pg_relation_size('queues.v$1')});
	$node->safe_psql('postgres', q{VACUUM (TRUNCATE) queues."v$1"});
	cmp_ok($node->safe_psql('postgres', q{SELECT pg_relation_size('queues.v$1')}),
		'<', $size, 'VACUUM cuts the tail');
	is($sender->query_safe(q{SELECT queue.send('v', to_jsonb(repeat('x', 1500))) IS NOT NULL}),
		't', 'a session that knew it sends');
	is( $sender->query_safe(
			q{SELECT count(queue.send('v', to_jsonb(repeat('x', 1500)))) FROM generate_series(1, 20)}),
		'20',
		'and goes on');
	is($node->safe_psql('postgres', q{SELECT queue.send('v', '"b"') IS NOT NULL}), 't',
		'and so does another');
}
is($sender->query_safe(q{SELECT count(queue.ack(receipt)) FROM queue.receive('v', 100)}), '67', 'all arrive');
$node->safe_psql('postgres', q{VACUUM (TRUNCATE) queues."v$1"});
is($sender->query_safe(q{SELECT queue.send('v', '"c"') IS NOT NULL}), 't',
	'nor does it when nothing is left');
is($node->safe_psql('postgres', q{SELECT payload FROM queue.pop('v')}), '"c"', 'which arrives');
$node->safe_psql('postgres',
	q{SELECT count(queue.send('v', to_jsonb(repeat('x', 1500)))) FROM generate_series(1, 20)});
$node->safe_psql('postgres', q{SELECT count(*) FROM queue.pop('v', 100)});
$node->safe_psql('postgres', q{VACUUM (TRUNCATE) queues.v; VACUUM FULL queues."v$1"});
is($sender->query_safe(q{SELECT queue.send('v', '"d"') IS NOT NULL}), 't', 'and after VACUUM FULL');
$sender->quit;
is($node->safe_psql('postgres', q{SELECT payload FROM queue.pop('v')}), '"d"', 'that arrives, too');

# Space of the queue's own table is used again, also where maintenance has found
# nothing any more; peek shows what is there.  Tables are visited in order, so
# that it has been when a segment behind it is truncated.
$node->safe_psql(
	'postgres', q{
SELECT queue.create('p');
INSERT INTO queues.p (payload) SELECT to_jsonb(repeat(md5(i::text), 20)) FROM generate_series(1, 2000) i;
SELECT count(*) FROM queue.pop('p', 1999)});
fill('p', 2000);
$node->safe_psql('postgres',
	q{SELECT queue.send('p', '1'); DELETE FROM queues."p$1"; DELETE FROM queues."p$2"});
ok($node->poll_query_until('postgres', q{SELECT pg_relation_size('queues.p$1') = 0}),
	'maintenance has been there');
$node->safe_psql('postgres', 'VACUUM queues.p');
is( $node->safe_psql(
		'postgres', q{INSERT INTO queues.p (payload) VALUES ('"reused"') RETURNING ctid < '(50,0)'}),
	't',
	'a row is inserted where others were');
is($node->safe_psql('postgres', q{SELECT count(*) FROM queue.peek('p', 10) WHERE payload = '"reused"'}),
	'1', 'peek shows it');

# A segment may be dropped: one in the pool, the tail, or all of them.
foreach my $dropped ('v$2', 'v$1', 'v$1 v$2')
{
	$node->safe_psql('postgres', qq{SELECT queue.drop('v')});
	$node->safe_psql('postgres', qq{SELECT queue.create('v')});
	is($node->safe_psql('postgres', q{SELECT queue.send('v', '1') IS NOT NULL}), 't', 'the queue is in use');
	$node->safe_psql('postgres', q{SELECT count(*) FROM queue.pop('v')});
	$node->safe_psql('postgres', qq{DROP TABLE queues."$_"}) for (split / /, $dropped);
	my $sum = 0;
	foreach my $i (1 .. 5)
	{
		fill('v', 1000);
		$sum += 1000;
	}
	is($node->safe_psql('postgres', q{SELECT count(*) FROM queue.pop('v', 100000)}),
		$sum, "messages are sent without $dropped");
	ok( $node->poll_query_until(
			'postgres', q{
SELECT count(*) >= 1 AND queue.send('v', '2') IS NOT NULL FROM pg_inherits WHERE inhparent = 'queues.v'::regclass}
		),
		'there are segments again');
	ok( $node->poll_query_until(
			'postgres', q{
SELECT tableoid <> 'queues.v'::regclass FROM queues.v
WHERE queue.send('v', '3') IS NOT NULL ORDER BY id DESC LIMIT 1}),
		'that are used');
}
$node->safe_psql('postgres', q{DROP TABLE queues.v CASCADE});
my ($status, $stdout, $stderr) = $node->psql(
	'postgres', q{
\set VERBOSITY sqlstate
SELECT queue.send('v', '1')});
like($stderr, qr/42704/, 'a queue that was dropped as a table is no queue');

$node->stop;
done_testing();
