# A relay to a cluster of Redis: keys in all slots, slots on their way from one node
# to another, a node that is killed and one that takes its place.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Redis;
use Test::More;
use Wait;

Redis::require_or_skip();

my @nodes = map { Redis->new(cluster => 1) } 1 .. 6;
my $spare = $nodes[3];
my $password = $nodes[0]->password;

$_->start for @nodes;
Redis::make_cluster(@nodes[ 0 .. 2 ]);

my $port = $nodes[0]->port;
my $node = queue_node('source');
$node->safe_psql(
	'postgres', qq{
SELECT queue.create('events', max_attempts => 2, backoff => '10 ms');
CREATE SERVER redis FOREIGN DATA WRAPPER queue_redis OPTIONS (host '127.0.0.1', port '$port');
CREATE USER MAPPING FOR CURRENT_USER SERVER redis OPTIONS (username 'relay', password '$password');
SELECT queue.create_relay('r', 'events', 'redis', '{"target": "s.{key}", "batch": 100}');});

# Send so many messages of each of 300 keys.
my $keys = 300;
my $n = 0;

sub send_more
{
	my ($each) = @_;
	my $from = $n + 1;

	$n += $each;
	$node->safe_psql('postgres',
		"SELECT count(queue.send('events', to_jsonb(i), 'k' || k)) FROM generate_series($from, $n) i, generate_series(1, $keys) k"
	);
	return;
}

# What is in the streams of all nodes is what was sent, in order; returns how often
# a message is there again.
sub check_streams
{
	my ($test, @from) = @_;
	my ($again, $streams, @wrong) = (0, 0);

	for my $redis (@from)
	{
		for my $stream (@{ $redis->command('KEYS', 's.*') })
		{
			my $last = 0;

			$streams++;
			for my $entry (@{ $redis->command('XRANGE', $stream, '-', '+') })
			{
				my %field = @{ $entry->[1] };
				my $got = $field{payload};

				$again++ if $got <= $last;
				push @wrong, "$got after $last in $stream" if $got > $last + 1;
				$last = $got if $got > $last;
			}
			push @wrong, "$last is the last of $stream" if $last != $n;
		}
	}
	is($streams, $keys, "$test: every key has its stream");
	is("@wrong", '', "$test: with all messages in order");
	return $again;
}

# Who does not know that there is a cluster is told.
send_more(1);
wait_until(
	$node,
	q{(SELECT state = 'backing off' AND last_error ~ '^MOVED \d+ 127.0.0.1:\d+: the server is one of a cluster' FROM queue.relays)},
	'a cluster, and no option for it');
$node->safe_psql('postgres', q{ALTER SERVER redis OPTIONS (ADD cluster 'true')});
wait_until_published($node, 'with the option all is published');
is(check_streams('at rest', @nodes[ 0 .. 2 ]), 0, 'at rest: each once');

# What is in braces decides where a key is.
$node->safe_psql('postgres',
	q(SELECT queue.send('events', '1', '{k1}'), queue.send('events', '1', 'x{}{k2}'), queue.send('events', '1', '}{'))
);
wait_until_published($node, 'keys with braces');
is($node->safe_psql('postgres', 'SELECT last_error IS NULL FROM queue.relays'),
	't', 'go where the cluster has them');
for my $key ('{k1}', 'x{}{k2}', '}{')
{
	is( scalar(
			grep {
				eval { $_->command('DEL', "s.$key") }
			} @nodes[ 0 .. 2 ]),
		1,
		"$key has arrived");
}

# A slot, with its keys, from one node to another while messages go there
my $slot = $nodes[0]->command('CLUSTER', 'KEYSLOT', 's.k1');

sub owner
{
	for my $i (0 .. 2)
	{
		for my $range (@{ $nodes[0]->command('CLUSTER', 'SLOTS') })
		{
			return $i
			  if $slot >= $range->[0] && $slot <= $range->[1] && $range->[2]->[1] == $nodes[$i]->port;
		}
	}
	die "nobody has slot $slot";
}

my $from = owner();
my $to = ($from + 1) % 3;
my ($from_id, $to_id) = map { $nodes[$_]->command('CLUSTER', 'MYID') } $from, $to;

send_more(30);
$nodes[$to]->command('CLUSTER', 'SETSLOT', $slot, 'IMPORTING', $from_id);
$nodes[$from]->command('CLUSTER', 'SETSLOT', $slot, 'MIGRATING', $to_id);
send_more(5);
for my $key (@{ $nodes[$from]->command('CLUSTER', 'GETKEYSINSLOT', $slot, 1000) })
{
	$nodes[$from]
	  ->command('MIGRATE', '127.0.0.1', $nodes[$to]->port, $key, 0, 5000, 'AUTH2', 'admin', $password);
}

# The slot is the first node's yet, its keys are not: it says where to ask.
send_more(5);
wait_until_published($node, 'a slot on its way: all is published');
$nodes[$_]->command('CLUSTER', 'SETSLOT', $slot, 'NODE', $to_id) for $to, $from, 3 - $from - $to;
send_more(5);
wait_until_published($node, 'a slot that has moved: all is published');
is(owner(), $to, 'it has another owner');
is(check_streams('moved', @nodes[ 0 .. 2 ]), 0, 'moved: each once');
is($node->safe_psql('postgres', 'SELECT count(*), bool_and(last_error IS NULL) FROM queue.relays'),
	'1|t', 'and there was no trouble');

# A node takes the place of another, without a word: the relay has yet to hear of it.
# What was confirmed the other has, as each node has a replica that confirms.
my @masters = map { $_->command('CLUSTER', 'MYID') } @nodes[ 0 .. 2 ];
my %replica_of = (3 => 2, 4 => 0, 5 => 1);
for my $i (sort keys %replica_of)
{
	my ($replica, $master) = ($nodes[$i], $masters[ $replica_of{$i} ]);

	$replica->command('CLUSTER', 'MEET', '127.0.0.1', $port, $nodes[0]->{bus_port});
	(   wait_for
		{
			$replica->command('CLUSTER', 'NODES') =~ /\Q$master\E/
			  && $replica->command('CLUSTER', 'REPLICATE', $master)
		}) or die 'no replica';
	(wait_for { $replica->command('INFO', 'replication') =~ /master_link_status:up/ })
	  or die 'it gets nothing';
	(wait_for { $nodes[0]->command('CLUSTER', 'NODES') =~ /slave $master/ }) or die 'nobody knows it';
}
$node->safe_psql('postgres', q{SELECT queue.alter_relay('r', '{"replicas": 1}')});
send_more(20);
wait_until(
	$node,
	q{(SELECT in_flight > 0 AND lag_messages < 5000 FROM queue.relays)},
	'some of it is published, confirmed by replicas');
$nodes[2]->stop('KILL');
(   wait_for
	{
		$spare->command('CLUSTER', 'INFO') =~ /cluster_state:ok/ && $spare->command('ROLE')->[0] eq 'master'
	}) or die 'the replica does not take over';
$node->safe_psql('postgres', q{SELECT queue.alter_relay('r', '{"replicas": null}')});
wait_until_published($node, 'a node is killed: all is published to the one in its place');
cmp_ok(check_streams('killed', @nodes[ 0, 1 ], $spare),
	'<=', 200, 'killed: at most what was in flight comes twice');

# The node the server names is killed, and there is none for its slots until it is back.
$_->stop for @nodes[ 4, 5 ];
send_more(5);
wait_until_published($node, 'more');
$nodes[0]->stop('KILL');
send_more(5);
wait_until($node, q{(SELECT state = 'backing off' FROM queue.relays)}, 'without the node it named it waits');
$nodes[0]->start;
wait_until_published($node, 'and goes on when it is back');
cmp_ok(check_streams('back', @nodes[ 0, 1 ], $spare),
	'<=', 300, 'back: at most what was in flight comes twice');
is($node->safe_psql('postgres', 'SELECT count(*) FROM queue.dead_letters'), '0', 'nothing is dead');

# A node that has a name in its certificate, and is known by its address too
my $named = Redis->new(
	cluster => 1,
	tls => 1,
	config => "cluster-announce-ip 127.0.0.1\ncluster-announce-hostname localhost\n");
my ($tls_port, $ca_file) = ($named->tls_port, $named->ca_file);
$named->start;
$named->command(qw(CLUSTER ADDSLOTSRANGE 0 16383));
(wait_for { $named->command('CLUSTER', 'INFO') =~ /cluster_state:ok/ }) or die 'no cluster';
$node->safe_psql(
	'postgres', qq{
SELECT queue.drop_relay('r');
DROP SERVER redis CASCADE;
CREATE SERVER redis FOREIGN DATA WRAPPER queue_redis OPTIONS (host 'localhost', port '$tls_port', cluster 'true',
	sslmode 'verify-full', sslrootcert '$ca_file');
CREATE USER MAPPING FOR CURRENT_USER SERVER redis OPTIONS (username 'relay', password '$password');
SELECT queue.create_relay('r', 'events', 'redis');
SELECT queue.send('events', '1');});
wait_until_published($node, 'the nodes of a cluster are verified by the names they announce');
is($named->command('XLEN', 'events'), 1, 'which has got it');
ok(!$node->log_contains('terminated by signal'), 'nothing crashed');
$node->stop;
done_testing();
