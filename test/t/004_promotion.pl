# A standby has the messages, refuses to touch them, and takes over when it is
# promoted, with what it was asked before.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Test::More;

my $primary = queue_node(
	'primary',
	allows_streaming => 1,
	conf => "queue.segment_size = '1MB'\nqueue.sweep_interval = 3600");
$primary->safe_psql(
	'postgres', q{
SELECT queue.create('q', lease => '1 hour');
SELECT queue.create('quiet');
SELECT queue.send('q', '"first"');
SELECT queue.send('quiet', '"first"');
SELECT queue.send('q', '"due"', delay => '1 us');
});
$primary->backup('backup');

my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;
$primary->wait_for_catchup($standby);

# Looking is allowed.
is($standby->safe_psql('postgres', q{SELECT payload FROM queue.peek('q')}),
	'"first"', 'a standby shows messages');
is($standby->safe_psql('postgres', q{SELECT queue, leased FROM queue.stats ORDER BY queue}),
	"q|0\nquiet|0", 'and statistics');
is($standby->safe_psql('postgres', q{SELECT count(*) FROM queue.leases}), '0', 'and leases');

# Nothing else is.
foreach my $call (
	q{queue.create('other')}, q{queue.alter('q', max_attempts => 2)},
	q{queue.drop('q')}, q{queue.purge('q')},
	q{queue.send('q', '1')}, q{queue.send_bytes('q', 'x')},
	q{queue.send_batch('q', '{1,2}')}, q{queue.send('q', '1', delay => '1 hour')},
	q{queue.receive('q')}, q{queue.receive('q', wait => '1 hour')},
	q{queue.pop('q')}, q{queue.ack(1)},
	q{queue.ack_batch('{1}')}, q{queue.nack(1)},
	q{queue.nack_batch('{1}')}, q{queue.reject(1)},
	q{queue.redrive('q')}, q{queue.purge_dead_letters('q')},
	q{queue.inbox_accept('c', 'm')}, q{queue.inbox_advance('c', 'e', 1)},
	q{queue.idempotency_begin('s', 'k')}, q{queue.idempotency_complete('s', 'k')},
	q{queue.idempotency_fail('s', 'k')})
{
	my ($rc, $stdout, $stderr) =
	  $standby->psql('postgres', "\\set VERBOSITY verbose\nSELECT $call", on_error_stop => 0);

	like(
		$stderr,
		qr/ERROR:  25006: cannot (execute .* in a read-only transaction|execute .* during recovery)/,
		"a standby refuses $call");
}

# The primary goes on: it makes segments grow, switches, truncates and makes new
# ones, without the standby's shared memory being told.
$primary->safe_psql('postgres',
	q{SELECT count(queue.send('q', to_jsonb(repeat('x', 1000)))) FROM generate_series(1, 3000) i});
drain($primary, 'q');
$primary->poll_query_until('postgres',
	q{SELECT pg_relation_size('queues.q$1') = 0 OR pg_relation_size('queues.q$2') = 0})
  or die 'no segment was truncated';
$primary->safe_psql(
	'postgres', q{
CREATE TABLE expected (id bigint);
CREATE TABLE receipts (receipt bigint);
INSERT INTO expected SELECT queue.send('q', to_jsonb(repeat('x', 1000))) FROM generate_series(1, 5000) i;
SELECT queue.send('quiet', to_jsonb(repeat('x', 1000))) FROM generate_series(1, 500) i;
INSERT INTO expected SELECT queue.send('q', '"due"', delay => '1 us') FROM generate_series(1, 10) i;
INSERT INTO receipts SELECT receipt FROM queue.receive('q', 100);
WITH m AS (SELECT id, queue.ack(receipt) FROM queue.receive('q', 100))
DELETE FROM expected USING m WHERE expected.id = m.id;
BEGIN;
INSERT INTO expected SELECT queue.send('q', '"prepared"');
PREPARE TRANSACTION 'send';
});
$primary->wait_for_catchup($standby);
cmp_ok($standby->safe_psql('postgres', q{SELECT count(*) FROM queue.peek('q', 10000)}),
	'>', 4800, 'a standby shows what came later');
is( $standby->safe_psql(
		'postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'queue%'}),
	'0',
	'no worker of ours runs on a standby');
my $max_id = $primary->safe_psql('postgres', 'SELECT max(id) FROM queues.q');

$primary->stop('immediate');
$standby->promote;

# At once, without waiting for a worker to tidy up.
is(scalar(drain($standby, 'quiet')), 501, 'messages that the standby had not seen are received');
is($standby->safe_psql('postgres', q{SELECT count(*) FROM receipts WHERE queue.ack(receipt)}),
	'0', 'receipts of the old primary are refused');
cmp_ok($standby->safe_psql('postgres', q{SELECT queue.send('q', '"new"')}), '>', $max_id, 'ids go on');
$standby->safe_psql('postgres', q{INSERT INTO expected SELECT max(id) FROM queues.q});
ok(wait_for_worker($standby), 'the maintenance worker starts');
$standby->safe_psql('postgres', q{COMMIT PREPARED 'send'});

my $receive = q{
WITH a AS MATERIALIZED (SELECT id FROM queue.receive('q', 10000) WHERE queue.ack(receipt)),
	d AS (DELETE FROM expected e USING a WHERE e.id = a.id RETURNING 1),
	n AS (INSERT INTO unexpected SELECT id FROM a WHERE id NOT IN (SELECT id FROM expected))
SELECT count(*) FROM d};
$standby->safe_psql('postgres', 'CREATE TABLE unexpected (id bigint)');
is($standby->safe_psql('postgres', $receive), '4912', 'every message is received on the new primary');
is($standby->safe_psql('postgres', 'SELECT count(*) FROM expected'), '0', 'all that are expected');
is($standby->safe_psql('postgres', 'SELECT count(*) FROM unexpected'), '0', 'and no other');

$standby->safe_psql('postgres',
	q{SELECT count(queue.send('q', to_jsonb(repeat('x', 1000)))) FROM generate_series(1, 3000) i});
is(scalar(drain($standby, 'q')), 3000, 'it goes on as a primary does');

$standby->stop;
done_testing();
