# A relay that has messages confirmed by Redis's replicas: what is published without
# one waits for it where it is, however long that takes.

use strict;
use warnings;

use FakeServer;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Redis;
use Test::More;
use Wait;

Redis::require_or_skip();

my $redis = Redis->new;
my ($port, $password) = ($redis->port, $redis->password);
my $replica = Redis->new(config =>
	  "replicaof 127.0.0.1 $port\nmasteruser admin\nmasterauth $password\nrepl-diskless-sync-delay 0\n");
$redis->start;

# Who may not ask for replicas is told before anything is published.
$redis->command(qw(ACL SETUSER relay -wait));
my $node = queue_node('source');
$node->safe_psql(
	'postgres', qq{
SELECT queue.create('events', max_attempts => 1, backoff => '10 ms');
CREATE SERVER redis FOREIGN DATA WRAPPER queue_redis OPTIONS (host '127.0.0.1', port '$port');
CREATE USER MAPPING FOR CURRENT_USER SERVER redis OPTIONS (username 'relay', password '$password');
SELECT queue.create_relay('r', 'events', 'redis',
	'{"target": "replicated", "replicas": 1, "batch": 2, "confirm_timeout": 1}');
SELECT count(queue.send('events', to_jsonb(i), 'k' || i % 7)) FROM generate_series(1, 100) i});
wait_until($node, q{(SELECT last_error LIKE 'NOPERM %' FROM queue.relays)}, 'without the right to WAIT');
is($redis->command('XLEN', 'replicated'), 0, 'nothing is published');
$redis->command(qw(ACL SETUSER relay +wait));

# For longer than the time to confirm, and for more questions than messages in flight
my $behind = q{last_error = '0 of 1 replicas have what was published'};
wait_until($node, qq{(SELECT $behind FROM queue.relays)}, 'without a replica nothing is confirmed');
wait_until(
	$node,
	qq{(SELECT $behind AND last_error_at > started_at + interval '10 s' FROM queue.relays)},
	'and goes on to be asked for');
is($redis->command('XLEN', 'replicated'), 2, 'published once');
is($node->safe_psql('postgres', 'SELECT count(*) FROM queues.events'), '100', 'and all stays in the queue');
is($node->safe_psql('postgres', 'SELECT state, failed FROM queue.relays'), 'running|0', 'none is refused');

# Frozen while the relay waits for a replica
$redis->signal('STOP');
wait_until(
	$node,
	qq{(SELECT last_error = 'the server at 127.0.0.1:$port does not answer any more' FROM queue.relays)},
	'a server that does not answer is given up all the same');
$redis->signal('CONT');
$replica->start;
wait_until(
	$node,
	q{(SELECT count(*) = 0 FROM queues.events) AND (SELECT deferred = 0 FROM queue.stats)},
	'with a replica all is published');
my $entries = $redis->command('XRANGE', 'replicated', '-', '+');
my %seen = map { my %field = @{ $_->[1] }; ($field{payload} => 1) } @$entries;
is(scalar(keys %seen), 100, 'everything has arrived');
cmp_ok(@$entries, '<=', 100 + 4, 'and no more again than was in flight');
is_deeply($replica->command('XRANGE', 'replicated', '-', '+'), $entries, 'the replica has it all');
is($node->safe_psql('postgres', 'SELECT count(*) FROM queue.dead_letters'), '0', 'nothing is dead');

# A server that does not wait before it says that there are none
my $fake = FakeServer->new(
	hasty => sub {
		my $n = 0;

		Redis::fake(
			$_[0],
			XADD => "+1-1\r\n",
			WAIT => sub { return $_[1] eq '0' || $n++ == 3 ? ":1\r\n" : ":0\r\n" });
	});
my $fake_port = $fake->port;
my $start = time;
$fake->mode('hasty');
$node->safe_psql(
	'postgres', qq{
ALTER SERVER redis OPTIONS (SET port '$fake_port');
SELECT queue.send('events', '1')});
wait_until($node, '(SELECT count(*) = 0 FROM queues.events)', 'a server that does not wait confirms later');
my @said = $fake->take_log;
is(scalar(grep { $_ eq 'XADD' } @said), 1, 'what was published once');
cmp_ok(time - $start, '>=', 2, 'and is asked no more than once a second');

ok(!$node->log_contains('TRAP:|terminated by signal'), 'nothing crashed');
$node->stop;
$replica->stop;
$redis->stop;
done_testing();
