# Messages that stay behind in a segment that is otherwise drained are moved out
# of it, whoever has them on lease.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Test::More;

my $node = queue_node(
	'primary',
	allows_streaming => 1,
	conf => q{
queue.segment_size = '1MB'
queue.straggler_age = 1
queue.sweep_interval = 3600
});
$node->safe_psql(
	'postgres', q{
SELECT queue.create('q', lease => '1 hour');
CREATE TABLE held (n serial, receipt bigint, id bigint);
});
ok(wait_for_worker($node), 'the maintenance worker runs');

my $fill = q{SELECT count(queue.send('q', to_jsonb(repeat('x', 1000)))) FROM generate_series(1, 4000)};
my $size = q{SELECT pg_relation_size('queues.q$1')};

# Three kept on lease, one of them on its second attempt; one given back by a
# rollback; one whose row somebody else has locked for now.
$node->safe_psql(
	'postgres', q{
SELECT queue.send('q', to_jsonb('kept ' || i), key => 'key', headers => '{"a": 1}') FROM generate_series(1, 4) i;
SELECT queue.send('q', to_jsonb(repeat(md5('toast'), 1000)));
SELECT queue.send('q', to_jsonb('given back'::text));
INSERT INTO held (receipt, id) SELECT receipt, id FROM queue.receive('q', 5);
BEGIN;
SELECT id FROM queue.receive('q');
ROLLBACK;
});
my $locker = $node->background_psql('postgres');
$locker->query_safe(
	q{BEGIN; SELECT id FROM queues.q WHERE id = (SELECT id FROM held WHERE n = 4) FOR UPDATE});
is($node->safe_psql('postgres', q{SELECT count(DISTINCT tableoid) FROM queues.q}),
	'1', 'all begin in one segment');
$node->safe_psql('postgres', $fill);
is( $node->safe_psql(
		'postgres', q{
SELECT count(queue.ack(receipt)) FROM queue.receive('q', 10000) WHERE payload <> '"given back"'}),
	'4000',
	'the others are taken');
$node->safe_psql('postgres', q{SELECT count(queue.extend(receipt, '2 hours')) FROM held});

ok( $node->poll_query_until(
		'postgres', q{SELECT count(*) = 4 FROM queue.deferred WHERE id IN (SELECT id FROM held)}),
	'the messages on lease are moved');
isnt($node->safe_psql('postgres', $size), '0', 'a segment with a locked row stays');
is( $node->safe_psql(
		'postgres', q{SELECT count(*) FROM queue.leases WHERE id IN (SELECT id FROM held) AND state = 'held'}
	),
	'5',
	'they are on lease still');
is($node->safe_psql('postgres', q{SELECT count(*) FROM queue.receive('q', 100)}),
	'0', 'and nobody else receives them');

$locker->query_safe('ROLLBACK');
$locker->quit;
ok( $node->poll_query_until(
		'postgres', q{SELECT count(*) = 5 FROM queue.deferred WHERE id IN (SELECT id FROM held)}),
	'the locked one is moved as soon as it is not locked');

# Receipts go on working, in all the ways there are.
is($node->safe_psql('postgres', q{SELECT queue.extend(receipt) FROM held WHERE n = 1}),
	't', 'a lease that moved can be extended');
is($node->safe_psql('postgres', q{BEGIN; SELECT queue.ack(receipt) FROM held WHERE n = 1; ROLLBACK}),
	't', 'its acknowledgement can be rolled back');
is($node->safe_psql('postgres', q{SELECT queue.ack(receipt) FROM held WHERE n = 1}), 't', 'and done again');
is( $node->safe_psql(
		'postgres', q{SELECT queue.nack(receipt, delay => '0 s', error => 'again') FROM held WHERE n = 2}),
	't',
	'a message that moved can fail');
is( $node->safe_psql(
		'postgres',
		q{SELECT payload, key, headers, attempts FROM queue.receive('q', 10) WHERE queue.ack(receipt)}),
	'"kept 2"|key|{"a": 1}|2',
	'and is received again, as it was');
is($node->safe_psql('postgres', q{SELECT queue.reject(receipt) FROM held WHERE n = 3}),
	't', 'a message that moved can be rejected');
is($node->safe_psql('postgres', q{SELECT payload FROM queue.dead_letters}), '"kept 3"', 'and is dead then');
is($node->safe_psql('postgres', q{SELECT queue.extend(receipt, '100 ms') FROM held WHERE n = 4}),
	't', 'a lease that moved can be shortened');
ok( $node->poll_query_until(
		'postgres', q{SELECT count(*) = 1 FROM queue.deferred WHERE attempts = 1 AND error = 'lease expired'}
	),
	'and ends');
ok( $node->poll_query_until(
		'postgres', q{SELECT count(*) = 1 FROM queue.receive('q', 10) m
			WHERE payload = '"kept 4"' AND attempts = 2 AND queue.ack(receipt)}),
	'so that another gets the message');
is($node->safe_psql('postgres', q{SELECT queue.ack(receipt) FROM held WHERE n = 4}),
	'f', 'and its receipt is worth nothing');
ok($node->poll_query_until('postgres', "SELECT ($size) = 0"), 'the segment is truncated')
  or diag(
	$node->safe_psql(
		'postgres', q{
SELECT tableoid::regclass, id, ctid FROM queues.q; SELECT * FROM queue.leases; SELECT * FROM queue.stats}));
is( $node->safe_psql(
		'postgres',
		q{SELECT md5(payload #>> '{}') FROM queue.deferred WHERE id = (SELECT id FROM held WHERE n = 5)}),
	$node->safe_psql('postgres', q{SELECT md5(repeat(md5('toast'), 1000))}),
	'a large message has moved in whole');
is($node->safe_psql('postgres', q{SELECT queue.ack(receipt) FROM held WHERE n = 5}), 't', 'and is there');

# A message nobody has on lease, because its receiver rolled back.
$node->safe_psql(
	'postgres', q{
SELECT queue.purge('q');
SELECT queue.send('q', '"given back"');
BEGIN;
SELECT id FROM queue.receive('q');
ROLLBACK});
my $segment = $node->safe_psql('postgres', q{SELECT tableoid::regclass FROM queues.q});
$node->safe_psql('postgres', $fill);

# It comes first whenever somebody receives, so the others are taken by plain SQL.
$node->safe_psql('postgres', q{DELETE FROM queues.q WHERE payload <> '"given back"'});
is($node->safe_psql('postgres', q{BEGIN; SELECT payload FROM queue.receive('q', 10); ROLLBACK}),
	'"given back"', 'only the one given back is left');
ok($node->poll_query_until('postgres', qq{SELECT pg_relation_size('$segment') = 0}),
	'a message given back does not keep its segment either')
  or diag(
	$node->safe_psql(
		'postgres', q{
SELECT tableoid::regclass, id, ctid FROM queues.q; SELECT * FROM queue.leases; SELECT * FROM queue.stats}));
is( $node->safe_psql('postgres', q{SELECT payload, attempts FROM queue.pop('q', 10)}),
	'"given back"|1',
	'and is received, with no attempt counted');

# A tail beyond its size, as nothing was there to switch to: a lock keeps the
# worker from making a segment while one transaction fills all there are.
$node->safe_psql('postgres', q{SELECT queue.create('bulk', lease => '1 hour')});
my $lock = $node->background_psql('postgres');
$lock->query_safe('BEGIN; LOCK TABLE queues.bulk IN SHARE UPDATE EXCLUSIVE MODE');
$node->safe_psql(
	'postgres', q{
SELECT count(queue.send('bulk', to_jsonb(repeat('x', 1000)))) FROM generate_series(1, 5000);
INSERT INTO held (receipt, id) SELECT receipt, id FROM queue.receive('bulk', 5000)});
is( $node->safe_psql(
		'postgres', q{
SELECT count(queue.ack(receipt)) FROM held WHERE id < 5000 AND receipt IN (
	SELECT receipt FROM held ORDER BY n DESC LIMIT 5000)}),
	'4999',
	'all but the last of many messages are acknowledged');
$lock->query_safe('ROLLBACK');
$lock->quit;
ok( $node->poll_query_until(
		'postgres', q{SELECT coalesce(sum(pg_relation_size(oid)), 0) = 0 FROM pg_class
			WHERE relname ~ '^bulk' AND relkind = 'r'}),
	'that one does not keep the tail, which nobody sends to');
is($node->safe_psql('postgres', q{SELECT queue.ack(receipt) FROM held ORDER BY n DESC LIMIT 1}),
	't', 'and is there');

# Given back while it is being moved: the worker cannot commit, as it is to wait
# for a standby that does not exist.
sub setting
{
	my ($name, $value) = @_;

	$node->safe_psql('postgres', "ALTER SYSTEM SET $name = '$value'");
	$node->reload;
	return;
}

setting('queue.straggler_age', '1h');
$node->safe_psql(
	'postgres', q{
SELECT queue.create('back', lease => '1 hour');
SELECT queue.send('back', '"given back"')});
my $receiver = $node->background_psql('postgres');
is($receiver->query_safe(q{BEGIN; SELECT payload FROM queue.receive('back')}), '"given back"', 'received');
my $fill_back = $fill =~ s/'q'/'back'/r;
$node->safe_psql(
	'postgres', qq{
$fill_back;
SELECT count(queue.ack(receipt)) FROM queue.receive('back', 10000)});
# A tail of less than 64 blocks is left as it is.
ok( $node->poll_query_until(
		'postgres', q{
SELECT count(*) = 1 FROM pg_class WHERE relname ~ '^back[$]' AND relkind = 'r' AND pg_relation_size(oid) > 600000}
	),
	'the worker has truncated what it can');
setting('synchronous_standby_names', 'nobody');
setting('queue.straggler_age', '1');
ok( $node->poll_query_until(
		'postgres', q{
SELECT count(*) = 1 FROM pg_stat_activity JOIN pg_locks USING (pid)
WHERE backend_type = 'queue maintenance' AND wait_event = 'SyncRep' AND relation = 'queue.deferred'::regclass}
	),
	'and is about to move the message');
$receiver->query_safe('ROLLBACK');
$receiver->quit;
setting('synchronous_standby_names', '');
is( $node->safe_psql('postgres', q{SELECT payload, attempts FROM queue.receive('back', wait => '60 s')}),
	'"given back"|1',
	'a lease that is given back during the move is free after it');

$node->stop;
done_testing();
