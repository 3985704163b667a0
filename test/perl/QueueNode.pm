# A server with the extension in it, and what several tests ask of one.

package QueueNode;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Wait;

our @EXPORT = qw(queue_node server_words crash worker_pid wait_for_worker drain);

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

# What a server has said in its log: without the statements it was sent, which
# tell secrets of their own.
sub server_words
{
	my ($node) = @_;
	my $log = slurp_file($node->logfile);

	$log =~ s/^[^\n]* (?:LOG:  statement|STATEMENT): .*?(?=^\d{4}-\d\d-\d\d |\z)//msg
	  or die 'no statement is in the log';
	return $log;
}

# Kill the postmaster with no chance to do anything, and start it again.  The
# first attempts may find it not reaped yet, or a child with shared memory.
sub crash
{
	my ($node) = @_;

	$node->kill9;
	wait_for { $node->start(fail_ok => 1) || !$node->stop('fast', fail_ok => 1) && 0 }
	  or die 'the server does not start after it was killed';
	return;
}

my $workers = q{pg_stat_activity WHERE backend_type = 'queue maintenance' AND datname};

# The maintenance worker of a database: its process id, or nothing.
sub worker_pid
{
	my ($node, $database) = @_;
	$database //= 'postgres';
	return $node->safe_psql('postgres', "SELECT pid FROM $workers = '$database'");
}

# Wait until there is one, other than the one with this id if one is given.
sub wait_for_worker
{
	my ($node, $database, $pid) = @_;
	$database //= 'postgres';
	$pid      //= 0;
	return $node->poll_query_until('postgres',
		"SELECT count(*) = 1 AND bool_and(pid <> $pid) FROM $workers = '$database'");
}

# Receive and acknowledge all that a queue has ready, and return the ids.
sub drain
{
	my ($node, $queue, $database) = @_;
	my @ids;

	while (
		my $got = $node->safe_psql(
			$database // 'postgres', qq{
SELECT id FROM queue.receive('$queue', 10000) m, LATERAL queue.ack(m.receipt) a WHERE a}))
	{
		push @ids, split(/\n/, $got);
	}
	return @ids;
}

1;
