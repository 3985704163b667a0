# A snapshot held open for as long as the queue is used changes neither what a
# claim costs nor the size on disk once the messages are gone.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Test::More;

my $node = queue_node(
	'primary',
	conf => q{
queue.segment_size = '1MB'
autovacuum = off
});
$node->safe_psql(
	'postgres', q{
SELECT queue.create('q', lease => '1 hour');
CREATE TABLE control (id bigserial PRIMARY KEY, payload jsonb);
CREATE TABLE note (what text);
});
wait_for_worker($node);

my $reader = $node->background_psql('postgres');
$reader->query_safe(
	q{BEGIN ISOLATION LEVEL REPEATABLE READ;
	SELECT count(*) FROM control;
	INSERT INTO note VALUES ('has an xid too')});

# Bytes of the queue's tables that are not empty.
my $bytes = q{
SELECT coalesce(sum(pg_relation_size(oid)), 0) FROM pg_class
WHERE relnamespace = 'queues'::regnamespace AND relkind = 'r'};

# Send and take n messages one by one, always a few behind.  Returns the pages
# looked at for each message taken, in shared buffers: the plan says so.
sub work
{
	my ($n) = @_;
	my @plans;

	$node->safe_psql('postgres',
		qq{SELECT count(queue.send('q', to_jsonb(repeat('x', 500)))) FROM generate_series(1, $n)});
	for (1 .. $n / 100)
	{
		$node->safe_psql('postgres', q{SELECT count(queue.ack(receipt)) FROM queue.receive('q', 80)});
		my $plan = $node->safe_psql(
			'postgres',
			q{EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF)
			SELECT queue.ack(receipt) FROM queue.receive('q', 20)});
		my ($hit) = $plan =~ /Buffers: shared.* hit=(\d+)/;
		my ($read) = $plan =~ /Buffers: shared.* read=(\d+)/;
		my ($rows) = $plan =~ /rows=(\d+)/;
		die "unexpected plan: $plan" unless $rows && $rows == 20;
		push @plans, (($hit // 0) + ($read // 0)) / $rows;
	}
	@plans = sort { $a <=> $b } @plans;
	return $plans[ $#plans / 2 ];
}

# The same for the way it is done by hand, to see that the snapshot does harm.
sub work_by_hand
{
	my ($n) = @_;
	my $pages;

	for (1 .. $n / 100)
	{
		$node->safe_psql('postgres',
			q{INSERT INTO control (payload) SELECT to_jsonb(repeat('x', 500)) FROM generate_series(1, 100)});
		my $plan = $node->safe_psql(
			'postgres', q{
EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF)
DELETE FROM control WHERE id IN
	(SELECT id FROM control ORDER BY id FOR UPDATE SKIP LOCKED LIMIT 100)});
		($pages) = $plan =~ /Buffers: shared hit=(\d+)/;
	}
	return $pages / 100;
}

my $first = work(2000);
my $first_by_hand = work_by_hand(200);
my $peak = 0;
for (1 .. 6)
{
	work(3000);
	my $now = $node->safe_psql('postgres', $bytes);
	$peak = $now if $now > $peak;
}
my $last = work(2000);
my $last_by_hand = work_by_hand(8000);

diag("pages a message: $first at first, $last at last; by hand $first_by_hand and $last_by_hand");
cmp_ok($last, '<=', $first * 1.1 + 0.1, 'a claim looks at as many pages at the end as at the beginning');
cmp_ok($last_by_hand, '>', 2 * $first_by_hand, 'which is not so if it is done by hand');

is(scalar(drain($node, 'q')), 0, 'all is acknowledged');
$node->safe_psql('postgres', 'SELECT 1');

# 22000 messages of 500 bytes are more than 11 MB; only a tail is left.
ok($node->poll_query_until('postgres', qq{SELECT ($bytes) <= 2 * 1024 * 1024}),
	'segments are truncated while the snapshot is open')
  or diag(
	$node->safe_psql(
		'postgres', q{
SELECT oid::regclass, pg_relation_size(oid) FROM pg_class WHERE relnamespace = 'queues'::regnamespace AND relkind = 'r'}
	));
is($reader->query_safe('SELECT count(*) FROM control'), '0', 'and the snapshot is as it was');
cmp_ok($peak, '<', 10 * 1024 * 1024, 'the size on disk is bounded by what is in the queue');
cmp_ok(
	$node->safe_psql('postgres', q{SELECT pg_relation_size('control')}),
	'>',
	4 * 1024 * 1024,
	'which is not so if it is done by hand');

# A message in the parent, where plain SQL puts them, is no exception.
$node->safe_psql('postgres',
	q{INSERT INTO queues.q (payload) SELECT to_jsonb(repeat('x', 500)) FROM generate_series(1, 4000)});
is(scalar(drain($node, 'q')), 4000, 'rows of plain SQL are received');
ok($node->poll_query_until('postgres', q{SELECT pg_relation_size('queues.q') = 0}),
	'and their table is truncated too');

$reader->quit;
$node->stop;
done_testing();
