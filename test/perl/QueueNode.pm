# A server with the extension in it, and what several tests ask of one.

package QueueNode;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

our @EXPORT = qw(queue_node crash wait_for_worker drain);

# Every server that a test makes is one of UTF-8, and sorts by bytes, whatever
# the caller's locale.
$ENV{LC_ALL} = 'C.UTF-8';

# A running server with the extension in database postgres.  What else is given
# are options of PostgreSQL::Test::Cluster->init, and settings in conf.
sub queue_node
{
	my ($name, %options) = @_;
	my $conf = delete $options{conf} // '';
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(%options);
	$node->append_conf(
		'postgresql.conf', qq{
shared_preload_libraries = 'queue'
max_prepared_transactions = 20
$conf
});
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION queue');
	return $node;
}

# Kill the postmaster with no chance to do anything, and start it again.  The
# first attempts may find it not reaped yet, or a child with shared memory.
sub crash
{
	my ($node) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;

	$node->kill9;
	until ($node->start(fail_ok => 1))
	{
		die 'the server does not start after it was killed' if time > $deadline;
		$node->stop('fast', fail_ok => 1);
		select(undef, undef, undef, 0.1);
	}
	return;
}

sub wait_for_worker
{
	my ($node, $database) = @_;
	$database //= 'postgres';
	return $node->poll_query_until($database, q{
SELECT count(*) = 1 FROM pg_stat_activity
WHERE backend_type = 'queue maintenance' AND datname = current_database()});
}

# Receive and acknowledge all that a queue has ready, and return the ids.
sub drain
{
	my ($node, $queue, $database) = @_;
	my @ids;

	while (my $got = $node->safe_psql($database // 'postgres', qq{
SELECT id FROM queue.receive('$queue', 10000) m, LATERAL queue.ack(m.receipt) a WHERE a}))
	{
		push @ids, split(/\n/, $got);
	}
	return @ids;
}

1;
