# The server killed under load: what was committed is there afterwards, what was
# acknowledged does not come back, and only what was on lease is delivered twice.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Test::More;
use Wait;

my $rounds = 4;

my $node = queue_node(
	'primary',
	conf => q{
queue.segment_size = '1MB'
restart_after_crash = on
});

# Who sends and who consumes says so in a table, in the same transaction.  The
# consumers' other table is written in a transaction before the acknowledgement,
# so that it knows each delivery that any effect outside could have been made by.
$node->safe_psql(
	'postgres', q{
SELECT queue.create('work', lease => '1 hour');
CREATE TABLE sent (id bigint PRIMARY KEY, kind text);
CREATE TABLE delivered (id bigint, round int, receipt bigint);
CREATE TABLE acked (id bigint);
CREATE TABLE expected_round (round int);
INSERT INTO expected_round VALUES (1);

CREATE FUNCTION produce(fill int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	r float := random();
BEGIN
	IF r < 0.5 THEN
		INSERT INTO sent SELECT queue.send('work', to_jsonb(repeat('x', fill))), 'one';
	ELSIF r < 0.7 THEN
		INSERT INTO sent SELECT queue.send_batch('work',
			array(SELECT to_jsonb(i) FROM generate_series(1, 20) i)), 'batch';
	ELSIF r < 0.8 THEN
		WITH i AS (INSERT INTO queues.work (payload) VALUES ('"plain"') RETURNING id)
		INSERT INTO sent SELECT id, 'insert' FROM i;
	ELSIF r < 0.9 THEN
		INSERT INTO sent SELECT queue.send('work', '"later"', delay => '10 ms'), 'later';
	ELSE
		PERFORM queue.send('work', '"never"');
		RAISE EXCEPTION 'never mind' USING ERRCODE = 'QM001';
	END IF;
EXCEPTION WHEN SQLSTATE 'QM001' THEN
	NULL;
END $$;

CREATE PROCEDURE consume() LANGUAGE plpgsql AS $$
DECLARE
	receipts bigint[];
	ids bigint[];
BEGIN
	SELECT array_agg(receipt), array_agg(id) INTO receipts, ids
	FROM queue.receive('work', 10, wait => '1 second');
	INSERT INTO delivered SELECT i, round, r FROM unnest(ids, receipts) u(i, r), expected_round;
	COMMIT;
	INSERT INTO acked SELECT u.i FROM unnest(ids, receipts) u(i, r) WHERE queue.ack(u.r);
	COMMIT;
END $$;

CREATE PROCEDURE take() LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO acked SELECT id FROM queue.pop('work', 5, wait => '1 second');
	IF random() < 0.2 THEN
		ROLLBACK;
	END IF;
END $$;
});

my $dir = $node->basedir;
append_to_file("$dir/produce.sql", "\\set fill random(10, 2000)\nSELECT produce(:fill);\n");
append_to_file("$dir/consume.sql", "CALL consume();\n");
append_to_file("$dir/take.sql", "CALL take();\n");

sub start_load
{
	return map {
		my ($script, $clients) = @$_;
		IPC::Run::start(
			[
				'pgbench', '-n', '-h', $node->host, '-p', $node->port, '-c', $clients,
				'-T', '600', '-f', "$dir/$script.sql", 'postgres'
			],
			'<',
			\undef,
			'>',
			\my $out,
			'2>',
			\my $err);
	} ([ 'produce', 3 ], [ 'consume', 2 ], [ 'take', 1 ]);
}

# What nobody may ever find: each query names the offenders.
sub check
{
	my ($test) = @_;

	is( $node->safe_psql(
			'postgres', 'SELECT count(*) FROM (SELECT id FROM acked GROUP BY id HAVING count(*) > 1) d'),
		'0',
		"$test: nothing acknowledged came back");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM acked WHERE id NOT IN (SELECT id FROM sent)'),
		'0', "$test: nothing was received that was not committed");
	is( $node->safe_psql(
			'postgres', q{
SELECT count(*) FROM sent WHERE id NOT IN (SELECT id FROM acked)
	AND id NOT IN (SELECT id FROM queues.work) AND id NOT IN (SELECT id FROM queue.deferred)}),
		'0',
		"$test: nothing committed is lost");
	is( $node->safe_psql(
			'postgres', q{
SELECT count(*) FROM (SELECT id FROM queues.work UNION ALL SELECT id FROM queue.deferred) m
WHERE id NOT IN (SELECT id FROM sent) OR id IN (SELECT id FROM acked)}),
		'0',
		"$test: nothing is left that should not be");

	# No message is on lease longer than its round, and no lease expires here.
	is( $node->safe_psql(
			'postgres',
			'SELECT count(*) FROM (SELECT id FROM delivered GROUP BY id, round HAVING count(*) > 1) d'),
		'0',
		"$test: nothing was delivered twice between two crashes");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM queue.dead_letters'), '0', "$test: nothing died");
}

for my $round (1 .. $rounds)
{
	my @load = start_load();
	my ($produced, $consumed) = split(/\|/,
		$node->safe_psql('postgres', 'SELECT (SELECT count(*) FROM sent), (SELECT count(*) FROM acked)'));

	$node->poll_query_until(
		'postgres', "SELECT (SELECT count(*) FROM sent) > $produced + 3000
		AND (SELECT count(*) FROM acked) > $consumed + 500") or die 'the load does not get on';
	if ($round % 2)
	{
		crash($node);
	}
	else
	{
		$node->stop('immediate');
		$node->start;
	}
	$_->finish foreach @load;
	check("round $round");
	$node->safe_psql('postgres', 'UPDATE expected_round SET round = round + 1');
}

# A backend killed while it has messages, one acknowledged and not committed:
# the server restarts by itself and hands all of them out again.
$node->safe_psql('postgres', 'SELECT count(produce(10)) FROM generate_series(1, 500)');
my $session = $node->background_psql('postgres', on_error_stop => 0);
my @held = split(
	/\n/,
	$session->query_safe(
		q{SELECT id FROM queue.receive('work', 100) m WHERE queue.extend(m.receipt, '2 hours')}));
is(scalar(@held), 100, 'a backend holds leases');
is($session->query_safe(q{BEGIN; SELECT count(*) FROM queue.pop('work', 10)}), '10', 'and has taken others');
my $pid = $session->query_safe('SELECT pg_backend_pid()');
kill('KILL', $pid);
$session->{run}->finish;

wait_for { $node->safe_psql('postgres', q{SELECT count(*) FROM queue.leases}) eq '0' }
  or die 'the server does not come back';
ok(wait_for_worker($node), 'the maintenance worker is back after a backend was killed');
check('after the kill of a backend');

my @rest = drain($node, 'work');
my %rest = map { $_ => 1 } @rest;
is(scalar(keys %rest), scalar(@rest), 'nothing comes twice');
is(scalar(grep { !$rest{$_} } @held), 0, 'the messages of the killed backend come again');
$node->safe_psql('postgres', 'INSERT INTO acked VALUES (' . join('), (', @rest) . ')');
$node->poll_query_until(
	'postgres', q{SELECT count(*) = 0 FROM queue.deferred
	WHERE due_at > clock_timestamp()});
@rest = drain($node, 'work');
$node->safe_psql('postgres', 'INSERT INTO acked VALUES (' . join('), (', @rest) . ')') if @rest;
is( $node->safe_psql(
		'postgres', q{SELECT count(*) FROM sent FULL JOIN acked USING (id)
		WHERE sent.kind IS NULL OR acked IS NULL}),
	'0',
	'in the end each committed message was acknowledged once');
check('in the end');
is($node->safe_psql('postgres', 'SELECT count(*) FROM queues.work'), '0', 'and the queue is empty');

$node->stop;
done_testing();
