# Rows that come past the engine are found by the sweep.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Test::More;

my $node = queue_node('primary', conf => "queue.sweep_interval = '1s'\nqueue.segment_size = '1MB'");
$node->safe_psql('postgres', q{SELECT queue.create('q', lease => '1 hour')});
ok(wait_for_worker($node), 'the maintenance worker runs');

# Insert past the engine, and receive.
my $id = 1_000_000;

sub found
{
	my ($test, $insert, $n) = @_;

	$node->safe_psql('postgres', $insert);
	my @ids;
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		push @ids,
		  split(
			/\n/,
			$node->safe_psql(
				'postgres',
				q{SELECT id FROM queue.receive('q', 10000, wait => '100 ms') WHERE queue.ack(receipt)}));
		last if @ids >= $n;
	}
	is(scalar(@ids), $n, $test);
	return;
}

sub rows
{
	my ($table, $n) = @_;
	my $first = $id + 1;

	$id += $n;
	return qq{INSERT INTO $table (id, enqueued_at, payload)
		SELECT i, now(), to_jsonb(repeat('x', 500)) FROM generate_series($first, $id) i};
}

my $replica = 'SET session_replication_role = replica';

# As logical replication does it: triggers do not fire.
found('a row in an empty queue', "$replica; " . rows('queues.q', 1), 1);
found('many rows', "$replica; " . rows('queues.q', 5000), 5000);
found('rows in an empty segment', rows('queues."q$1"', 10), 10);
found('rows in the other segment', rows('queues."q$2"', 1000), 1000);
found('rows after messages',
	"SELECT queue.send('q', '1') FROM generate_series(1, 100); " . rows('queues."q$1"', 50), 150);
found('rows after rows', rows('queues."q$1"', 50), 50);

# In places that have been passed: what VACUUM has made room for.
$node->safe_psql('postgres', "$replica; " . rows('queues.q', 500));
my $held = $node->background_psql('postgres');
$node->poll_query_until('postgres', q{SELECT count(*) = 500 FROM queue.peek('q', 1000)});
found('rows to delete', 'SELECT 1', 500);
$node->safe_psql('postgres', 'VACUUM queues.q');
found('rows in the room of others', "$replica; " . rows('queues.q', 100), 100);

# While others are on lease, deleted or uncommitted.
$held->query_safe("BEGIN; $replica; " . rows('queues.q', 10));
found('rows beside uncommitted ones', "$replica; " . rows('queues.q', 10), 10);
$held->query_safe('COMMIT');
found('rows committed later', 'SELECT 1', 10);
$held->query_safe(q{RESET session_replication_role; BEGIN; SELECT queue.send('q', '1');}
	  . rows('queues."q$1"', 10)
	  . '; PREPARE TRANSACTION \'rows\'');
$node->safe_psql('postgres', q{COMMIT PREPARED 'rows'});
found('rows of a prepared transaction', 'SELECT 1', 11);
$held->quit;

# An update makes a new version of a row, with the same id.
$node->safe_psql('postgres', q{SELECT queue.send('q', '"old"')});
$node->safe_psql('postgres', q{UPDATE queues.q SET payload = '"new"'});
my $got = '';
for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
{
	$got .= $node->safe_psql('postgres', q{SELECT payload FROM queue.pop('q', 10, wait => '100 ms')});
	last if $got ne '';
}
is($got, '"new"', 'an updated row is received as it is now');

# A table that is rewritten.
$node->safe_psql(
	'postgres', q{
SELECT queue.send('q', to_jsonb(i)) FROM generate_series(1, 100) i;
SELECT count(queue.ack(receipt)) FROM queue.receive('q', 50)});
$node->safe_psql('postgres', "VACUUM FULL queues.$_") foreach ('"q$1"', '"q$2"');
found('rows of a rewritten table', 'SELECT 1', 50);

is($node->safe_psql('postgres', q{SELECT count(*) FROM queues.q}), '0', 'and nothing is left');

$node->stop;
done_testing();
