# A restart with messages in every state there is.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Test::More;

my $node = queue_node('primary', conf => "queue.segment_size = '1MB'");

my $create = q{SELECT queue.create('q', lease => '1 hour', backoff => '0 s', max_attempts => 3)};
$node->safe_psql(
	'postgres', qq{
$create;
CREATE TABLE receipts (receipt bigint, id bigint);
CREATE TABLE expected (id bigint, attempts int);
});

# Put messages in all states, and note in expected which are to be received
# after a restart, as which attempt.
sub fill
{
	$node->safe_psql(
		'postgres', q{
-- ready: by each of the ways in
INSERT INTO expected SELECT queue.send('q', '"ready"'), 1;
INSERT INTO expected SELECT queue.send_batch('q', array(SELECT to_jsonb(i) FROM generate_series(1, 1200) i)), 1;
INSERT INTO expected SELECT queue.send_bytes('q', repeat('b', 20000)::bytea), 1;
WITH i AS (INSERT INTO queues.q (payload) SELECT '"plain"' FROM generate_series(1, 10) RETURNING id)
INSERT INTO expected SELECT id, 1 FROM i;
-- leased
INSERT INTO receipts SELECT receipt, id FROM queue.receive('q', 100);
-- acknowledged
WITH m AS (SELECT id, queue.ack(receipt) FROM queue.receive('q', 100))
DELETE FROM expected USING m WHERE expected.id = m.id;
-- deferred by failing, due and not
UPDATE expected e SET attempts = 2
	FROM queue.receive('q', 10) m WHERE e.id = m.id AND queue.nack(m.receipt);
DELETE FROM expected USING queue.receive('q', 10) m
	WHERE expected.id = m.id AND queue.nack(m.receipt, delay => '1 day');
-- delayed
SELECT queue.send('q', '"delayed"', delay => '1 day');
INSERT INTO expected SELECT queue.send('q', '"due"', delay => '1 us'), 1;
-- dead
DELETE FROM expected USING queue.receive('q', 10) m
	WHERE expected.id = m.id AND queue.reject(m.receipt, 'of no use');
});

	# Not committed, or not taken for good, when the server goes down.
	$node->safe_psql(
		'postgres', q{
BEGIN;
INSERT INTO expected SELECT queue.send('q', '"prepared"'), 1;
WITH i AS (INSERT INTO queues.q (payload) VALUES ('"prepared plain"') RETURNING id)
INSERT INTO expected SELECT id, 1 FROM i;
INSERT INTO expected SELECT queue.send('q', '"prepared delayed"', delay => '1 us'), 1;
PREPARE TRANSACTION 'send';
BEGIN;
SELECT queue.send('q', '"not committed"');
PREPARE TRANSACTION 'undone';
BEGIN;
DELETE FROM expected USING queue.pop('q', 5) m WHERE expected.id = m.id;
PREPARE TRANSACTION 'take';
BEGIN;
DELETE FROM expected USING queue.receive('q', 5) m WHERE expected.id = m.id AND queue.ack(m.receipt);
PREPARE TRANSACTION 'give back';
});
	return;
}

# What is received now must be the expected, apart from what a prepared
# transaction still holds.
my $receive = q{
WITH m AS MATERIALIZED (SELECT * FROM queue.receive('q', 10000)),
	a AS MATERIALIZED (SELECT id, attempts FROM m WHERE queue.ack(receipt)),
	d AS (DELETE FROM expected e USING a WHERE e.id = a.id AND e.attempts = a.attempts RETURNING 1)
SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM d)};

my $max_id = 0;
foreach my $how ('fast', 'crash', 'immediate')
{
	fill();
	my $dead = $node->safe_psql('postgres', 'SELECT count(*) FROM queue.dead_letters');
	my $later = $node->safe_psql('postgres',
		q{SELECT count(*) FROM queue.deferred WHERE due_at > now() + interval '1 hour'});
	$max_id = $node->safe_psql(
		'postgres', q{
SELECT max(id) FROM (SELECT id FROM queues.q UNION ALL SELECT id FROM queue.deferred) m});

	if ($how eq 'crash')
	{
		crash($node);
	}
	else
	{
		$node->stop($how);
		$node->start;
	}

	# Receipts of the past are worth nothing, even while their slots are in use.
	my $refused = q{
SELECT count(*), count(*) FILTER (WHERE queue.ack(receipt)), queue.ack_batch(array_agg(receipt)),
	count(*) FILTER (WHERE queue.nack(receipt)), count(*) FILTER (WHERE queue.extend(receipt)),
	count(*) FILTER (WHERE queue.reject(receipt)) FROM receipts};
	is( $node->safe_psql(
			'postgres', qq{
BEGIN;
SELECT count(*) FROM queue.receive('q', 100);
$refused;
ROLLBACK}),
		"100\n100|0|0|0|0|0",
		"$how: receipts are refused");

	my ($received, $matched) = split(/\|/, $node->safe_psql('postgres', $receive));
	cmp_ok($received, '>', 1000, "$how: messages are received");
	is($matched, $received, "$how: each was expected, with its attempts");

	# Those in expected that are left are held by prepared transactions.
	is($node->safe_psql('postgres', 'SELECT count(*) FROM expected'),
		'10', "$how: only those that prepared transactions took are missing");
	$node->safe_psql(
		'postgres', q{
COMMIT PREPARED 'send';
ROLLBACK PREPARED 'undone';
COMMIT PREPARED 'take';
ROLLBACK PREPARED 'give back';
});
	is($node->safe_psql('postgres', $receive),
		'8|8', "$how: prepared transactions have their effects after the restart");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM expected'),
		'0', "$how: and all that was committed has come");

	is( $node->safe_psql(
			'postgres', q{SELECT count(*) FROM queue.deferred WHERE due_at > now() + interval '1 hour'}),
		$later,
		"$how: what is due later is still there");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM queue.dead_letters'),
		$dead, "$how: so are dead letters");
	cmp_ok($node->safe_psql('postgres', q{SELECT queue.send('q', '"new"')}), '>', $max_id, "$how: ids go on");
	is($node->safe_psql('postgres', q{SELECT payload FROM queue.pop('q', 10)}),
		'"new"', "$how: what is sent afterwards is received");
	$node->safe_psql('postgres', 'TRUNCATE receipts');
	ok(wait_for_worker($node), "$how: the worker is back");
}

# Dead letters and delayed messages of all rounds come back when asked.
is($node->safe_psql('postgres', q{SELECT queue.redrive('q')}), '30', 'dead letters are sent again');
is($node->safe_psql('postgres', q{SELECT count(*), min(attempts), max(attempts) FROM queue.pop('q', 100)}),
	'30|1|1', 'and received');
is($node->safe_psql('postgres', q{SELECT payload, attempts FROM queue.pop('q', 100)}), '',
	'and nothing else');

# An id is never used twice, whichever way the server goes down.
$node->safe_psql('postgres', 'CREATE TABLE ids (id bigint PRIMARY KEY)');
foreach my $how ('crash', 'fast', 'crash', 'immediate', 'crash')
{
	$node->safe_psql('postgres', 'CHECKPOINT') if $how eq 'immediate';
	$node->safe_psql(
		'postgres', q{
INSERT INTO ids SELECT queue.send('q', '1') FROM generate_series(1, 700);
INSERT INTO ids SELECT queue.send_batch('q', array(SELECT to_jsonb(i) FROM generate_series(1, 2500) i))});
	if ($how eq 'crash')
	{
		crash($node);
	}
	else
	{
		$node->stop($how);
		$node->start;
	}
}
is($node->safe_psql('postgres', 'SELECT count(*) FROM ids'), 5 * 3200, 'no id was used twice');
is($node->safe_psql('postgres', 'SELECT count(*) FROM ids JOIN queues.q USING (id)'),
	5 * 3200, 'the ids returned are those of the messages');

$node->stop;
done_testing();
