# A relay publishes in calls of limited size, by what messages take on their
# way and not by what they take where they are stored.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Test::More;

my $source = queue_node('source');
my $target = queue_node('target');
my $host = $target->host;
my $port = $target->port;
my $user = $target->safe_psql('postgres', 'SELECT current_user');

$target->safe_psql('postgres', q{SELECT queue.create('arrivals')});
$source->safe_psql(
	'postgres', qq{
SELECT queue.create('orders', max_attempts => 1);
CREATE SERVER target FOREIGN DATA WRAPPER queue_postgres
	OPTIONS (host '$host', port '$port', dbname 'postgres');
CREATE USER MAPPING FOR CURRENT_USER SERVER target OPTIONS (user '$user');
SELECT queue.create_relay('r', 'orders', 'target', '{"queue": "arrivals"}');});

# Publish, and return how many arrived by the calls they came with.
sub calls
{
	my ($what, $n, $payload) = @_;

	$source->safe_psql(
		'postgres', qq{
SELECT queue.pause_relay('r');
SELECT count(queue.send('orders', $payload)) FROM generate_series(1, $n) i;
SELECT queue.resume_relay('r');});
	ok($source->poll_query_until('postgres', 'SELECT count(*) = 0 FROM queues.orders'),
		"$what are published");
	my @calls = split(
		/\n/,
		$target->safe_psql(
			'postgres', 'SELECT count(*) FROM queues.arrivals GROUP BY xmin::text ORDER BY 1 DESC'));
	$target->safe_psql('postgres', q{SELECT queue.purge('arrivals')});
	my $sum = 0;
	$sum += $_ for @calls;
	is($sum, $n, "and all of them arrive");
	return @calls;
}

my ($most) = calls('small messages', 1000, 'to_jsonb(i)');
cmp_ok($most, '>', 100, 'many in a call');

($most) = calls('messages of 6 MB', 5, q{to_jsonb(repeat('x', 6000000))});
is($most, 2, 'as many as fit in a call of 16 MB');

# 130 kB of digits each, and a few bytes where they are stored
($most) = calls('messages that grow', 30, 'to_jsonb(array_fill(1e131071::numeric, array[30]))');
is($most, 4, 'as many as fit when they have grown');

($most) = calls('messages of 20 MB', 2, q{to_jsonb(repeat('x', 20000000))});
is($most, 1, 'and what is larger than a call goes alone');

is($source->safe_psql('postgres', 'SELECT count(*) FROM queue.dead_letters'), '0', 'none was refused');
$source->stop;
$target->stop;
done_testing();
