# A relay to a Kafka of three nodes, of which one dies: nothing is lost, and each
# key is in order.

use strict;
use warnings;

use Kafka;
use PostgreSQL::Test::Utils;
use QueueNode;
use Test::More;
use Wait;

Kafka::require_or_skip();

my $node = queue_node('source');
my $three = Kafka->new(nodes => 3);
my $brokers = $three->brokers;

sub query { return $node->safe_psql('postgres', $_[0]); }

$three->start;
$three->create_topics(map { $_ => [] } qw(three plain whole));
query(
	qq{
SELECT queue.create('events', max_attempts => 2, backoff => '10 ms');
CREATE SERVER three FOREIGN DATA WRAPPER queue_kafka OPTIONS (brokers '$brokers');
CREATE USER MAPPING FOR CURRENT_USER SERVER three;});

# Publish so many messages of so many keys, and have the topic's leader die
# meanwhile.  More than so many duplicates nothing explains.
sub lose_leader
{
	my ($topic, $messages, $keys, $duplicates, $options, @kcat) = @_;
	my $leader = $three->leader($topic);

	query(
		qq{
SELECT count(*) FROM queue.send_batch('events',
	(SELECT array_agg(to_jsonb(i)) FROM generate_series(1, $messages) i),
	(SELECT array_agg('k' || i % $keys) FROM generate_series(1, $messages) i));
SELECT queue.create_relay('r', 'events', 'three', '{"topic": "$topic", "batch": 100, $options}');});
	$node->poll_query_until('postgres', 'SELECT published > 1000 FROM queue.relays');
	$three->stop_node($leader, 'KILL');
	cmp_ok(query('SELECT lag_messages FROM queue.relays'), '>', 0, "$topic: a leader dies in the middle");
	wait_until(
		$node,
		'(SELECT count(*) = 0 FROM queues.events) AND (SELECT deferred = 0 FROM queue.stats)',
		"$topic: all is published");
	is(query('SELECT count(*) FROM queue.dead_letters'), '0', "$topic: nobody is dead");
	(wait_for { my $new = $three->leader($topic); $new > 0 && $new != $leader })
	  or fail('there is a new leader');
	my (%seen, %last, @disorder);
	for my $message ($three->take($topic, 1, @kcat))
	{
		my ($key, $n) = ($message->{key}, $message->{value});

		next if $seen{$n}++;
		push @disorder, $n if $n < ($last{$key} // 0);
		$last{$key} = $n;
	}
	is(scalar(keys %seen), $messages, "$topic: nothing is lost");
	is(join(' ', @disorder), '', "$topic: each key is in order");
	my $twice = grep { $_ > 1 } values %seen;
	note("$twice came twice, last error: " . query('SELECT last_error FROM queue.relays'));
	cmp_ok($twice, '<=', $duplicates, "$topic: at most what was in flight comes twice");
	query(q{SELECT queue.drop_relay('r')});
	$three->start;
	return;
}

lose_leader('three', 30_000, 10, 100, '"strict_order": false');
lose_leader('plain', 30_000, 1000, 100, '"idempotence": false');

# A transaction is there as a whole or not at all, so what came twice came with one
# whose end was not heard of.
lose_leader('whole', 30_000, 1000, 100, '"transactional": true', '-X', 'isolation.level=read_committed');

$node->stop;
$three->stop('KILL');
done_testing();
