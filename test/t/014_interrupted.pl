# What a process leaves that ends in the middle of a receive.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Test::More;

my $node = queue_node('primary', conf => "queue.sweep_interval = '1 h'");

wait_for_worker($node);
$node->safe_psql('postgres', q{SELECT queue.create('q', lease => '1 h')});

# Start a statement in the background; returns its psql and the server's process.
sub start
{
	my ($sql, $state) = @_;
	my $client = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', $sql ],
		'<', \undef, '>', \my $out, '2>', \my $err,
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));

	$node->poll_query_until('postgres', $state) or die 'the statement does not get there';
	return $client;
}

my $waiting = q{FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.relation = 'queue.deferred'::regclass AND NOT l.granted AND a.backend_type = 'client backend'};

# While it looks for due messages, a receiver is cancelled or terminated.
for my $end ('pg_cancel_backend', 'pg_terminate_backend')
{
	$node->safe_psql('postgres', q{SELECT queue.send('q', '1', delay => '1 us')});
	my $locker = $node->background_psql('postgres');
	$locker->query_safe('BEGIN; LOCK TABLE queue.deferred');
	my $client = start(q{SELECT payload FROM queue.receive('q')}, "SELECT count(*) = 1 $waiting");
	$node->safe_psql('postgres', "SELECT $end(pid) $waiting");
	$client->finish;
	$locker->query_safe('ROLLBACK');
	$locker->quit;
	is($node->safe_psql('postgres', q{SELECT payload FROM queue.pop('q')}),
		'1', "$end: what was due is due still");
}

# A client that has died does not get the next message.
for my $function ('receive', 'pop')
{
	my $client = start(
		qq{SELECT payload FROM queue.$function('q', wait => '10 min')},
		q{SELECT waiting = 1 FROM queue.stats WHERE queue = 'q'});

	$client->signal('KILL');
	$client->finish;
	$node->safe_psql('postgres', q{SELECT queue.send('q', '2')});
	is($node->safe_psql('postgres', q{SELECT payload FROM queue.pop('q', wait => '60 s')}),
		'2', "$function: a message goes to who is alive");
	ok( $node->poll_query_until(
			'postgres', q{SELECT waiting = 0 AND leased = 0 FROM queue.stats WHERE queue = 'q'}),
		"$function: and the dead one waits no more");
}
ok(!$node->log_contains('PANIC|TRAP|terminated by signal'), 'nothing crashed');

$node->stop;
done_testing();
