# Without shared_preload_libraries the extension can be created, and whatever
# needs its shared memory says what to do.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode ();
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('primary');
$node->init;
$node->start;

$node->safe_psql('postgres', 'CREATE EXTENSION queue');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'queue%'}),
	'0', 'the extension can be created, and starts nothing');

my @calls = (
	q{queue.create('q')},
	q{queue.alter('q', max_attempts => 2)},
	q{queue.drop('q')},
	q{queue.purge('q')},
	q{queue.send('q', '1')},
	q{queue.send_bytes('q', 'x')},
	q{queue.send_once('q', 'k', '1')},
	q{queue.send_batch('q', '{1}')},
	q{queue.receive('q')},
	q{queue.pop('q')},
	q{queue.peek('q')},
	q{queue.ack(1)},
	q{queue.ack_batch('{1}')},
	q{queue.nack(1)},
	q{queue.nack_batch('{1}')},
	q{queue.reject(1)},
	q{queue.extend(1)},
	q{queue.extend_batch('{1}')},
	q{queue.redrive('q')},
	q{queue.purge_dead_letters('q')},
	q{queue.queue_stats('queue.queue_definition')},
	q{queue.lease_list()},
	q{queue.create_relay('r', 'q')},
	q{queue.relay_list()},
	q{queue.relay_accept('s', 'q', '{}', '{}', '{}', '{}', '{}', '{}')});

foreach my $call (@calls)
{
	my ($rc, $stdout, $stderr) =
	  $node->psql('postgres', "\\set VERBOSITY verbose\nSELECT $call", on_error_stop => 0);

	like(
		$stderr,
		qr/ERROR:  55000: queue must be loaded via "shared_preload_libraries".*HINT:  Add queue to shared_preload_libraries/s,
		"$call says so");
}

# The settings can be set all the same, but for those that size shared memory.
is( $node->safe_psql(
		'postgres', q{SELECT string_agg(name, ',' ORDER BY name) FROM pg_settings
			WHERE name LIKE 'queue.%'}),
	'',
	'no session but one that has called us knows the settings');
is( $node->safe_psql(
		'postgres', q{LOAD 'queue';
SELECT count(*) > 0 FROM pg_settings WHERE name LIKE 'queue.%';
SELECT count(*) FROM pg_settings WHERE name IN ('queue.max_queues', 'queue.max_leases')}),
	"t\n0",
	'the settings come with the library');

$node->safe_psql('postgres', 'DROP EXTENSION queue CASCADE');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_namespace WHERE nspname IN ('queue', 'queues')}),
	'0', 'the extension can be dropped');

# With the library preloaded it works without more ado.
$node->safe_psql('postgres', 'CREATE EXTENSION queue');
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'queue'");
$node->restart;
is( $node->safe_psql(
		'postgres', q{SELECT queue.create('q');
SELECT queue.send('q', '1');
SELECT payload FROM queue.pop('q')}),
	"\n1\n1",
	'after a restart with the library preloaded it works');
ok( $node->poll_query_until(
		'postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'queue maintenance'}),
	'and has its worker');

$node->stop;
done_testing();
