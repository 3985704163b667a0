# Ordered queues across crashes, restarts, promotion, dump and restore, and in
# the hands of relays: each key's messages in the order of their ids.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Test::More;
use Wait qw(wait_for);

my $node = queue_node(
	'primary',
	allows_streaming => 1,
	conf => q{
queue.segment_size = '1MB'
queue.straggler_age = 1
queue.sweep_interval = 3600
restart_after_crash = on
});

# What one session receives, as "key:payload ...".
sub receive
{
	my ($n, $queue, $on) = @_;

	$queue //= 'o';
	return ($on // $node)->safe_psql(
		'postgres',
		"SELECT coalesce(string_agg(key || ':' || payload || CASE WHEN attempts > 1 THEN '/' || attempts ELSE '' END, ' ' ORDER BY id), '')
			FROM queue.receive('$queue', $n)");
}

sub receive_ack
{
	my ($n, $queue, $on) = @_;

	$queue //= 'o';
	return ($on // $node)->safe_psql(
		'postgres',
		"SELECT coalesce(string_agg(key || ':' || payload || CASE WHEN attempts > 1 THEN '/' || attempts ELSE '' END, ' ' ORDER BY id), '')
			FROM queue.receive('$queue', $n) WHERE queue.ack(receipt)");
}

# All that can be received, each key's in the order in which it came.
sub drain_keys
{
	my ($on) = @_;
	my %got;

	while (my $some = receive_ack(20, 'o', $on))
	{
		push @{ $got{ $_ =~ s/:.*//r } }, $_ foreach split(/ /, $some);
	}
	return join(' ', map { @{ $got{$_} } } sort keys %got);
}

sub send_run
{
	my ($first, $last, $key, $queue) = @_;

	$queue //= 'o';
	$node->safe_psql('postgres',
		"SELECT count(queue.send('$queue', to_jsonb(i), '$key')) FROM generate_series($first, $last) i");
	return;
}

sub no_keys_left
{
	my ($test, $on) = @_;

	is(($on // $node)->safe_psql('postgres', 'SELECT * FROM queue.blocked_keys'), '', "$test: no key waits");
	return;
}

sub receipt
{
	return $node->safe_psql('postgres', q{SELECT receipt FROM queue.receive('o')});
}

$node->safe_psql('postgres',
	q{SELECT queue.create('o', ordered => true, lease => '1 hour', backoff => '0', max_attempts => 5)});
ok(wait_for_worker($node), 'the maintenance worker runs');

# One failed, one delayed, one on lease, others behind them; and a crash.
sub fill
{
	send_run(1, 4, $_) foreach 'failed', 'leased';
	$node->safe_psql('postgres', q{SELECT queue.send('o', '1', 'late', delay => '1 hour')});
	send_run(2, 3, 'late');
	$node->safe_psql('postgres', 'SELECT queue.nack(' . receipt() . q{, delay => '1 hour')});
	is(receive(1), 'leased:1', 'on lease');
	is(receive(10), '', 'the others wait');
	return;
}

# Let what is delayed be due.
sub due
{
	my ($on) = @_;

	($on // $node)->safe_psql('postgres', q{UPDATE queue.deferred SET due_at = now() - interval '1 s'});
	return;
}

my $all = 'failed:1/2 failed:2 failed:3 failed:4 leased:1 leased:2 leased:3 leased:4 late:1 late:2 late:3';
foreach my $how ('crash', 'restart', 'crash of a backend')
{
	fill();
	if ($how eq 'crash')
	{
		crash($node);
	}
	elsif ($how eq 'restart')
	{
		$node->restart;
	}
	else
	{
		my $session = $node->background_psql('postgres', on_error_die => 0);
		my $pid = $session->query_safe('SELECT pg_backend_pid()');

		kill('KILL', $pid);
		wait_for
		{
			$node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE pid = $pid") eq '0'
		}
		  or die 'the server does not come back';
		eval { $session->quit };
	}
	is(receive_ack(2), 'leased:1 leased:2', "$how: what was on lease comes again, first");
	is(receive_ack(10), 'leased:3 leased:4', "$how: what is not due holds its key up as before");
	due();
	$node->restart;
	is(drain_keys(), $all =~ s/leased:\S+ //gr, "$how: until it is due");
	no_keys_left($how);
}

# Two-phase commit across a restart: the key belongs to the transaction.
foreach my $end ('COMMIT', 'ROLLBACK')
{
	foreach my $what ("nack", "ack")
	{
		send_run(1, 3, 'p');
		send_run(1, 1, 'q');
		my $receipt = receipt();
		$node->safe_psql('postgres',
				"BEGIN; SELECT queue.$what($receipt"
			  . ($what eq 'nack' ? ", delay => '0'" : '')
			  . "); PREPARE TRANSACTION 'p'");
		$node->restart;
		is(receive_ack(10), 'q:1', "$what prepared: after a restart its key waits for it");
		$node->safe_psql('postgres', "$end PREPARED 'p'");
		is( drain_keys(),
			$end eq 'ROLLBACK' ? 'p:1 p:2 p:3' : $what eq 'ack' ? 'p:2 p:3' : 'p:1/2 p:2 p:3',
			"$what prepared: and goes on after $end");
		no_keys_left("$what, $end");
	}
}

# A transaction that has sent, prepared: nobody waits for it, and it comes when it can.
$node->safe_psql('postgres', q{BEGIN; SELECT queue.send('o', '1', 'p'); PREPARE TRANSACTION 'p'});
send_run(2, 2, 'p');
$node->restart;
is(receive(10), 'p:2', 'what was sent later is there');
$node->safe_psql('postgres', q{COMMIT PREPARED 'p'});
is(receive(10), '', 'what comes late waits for that');
$node->safe_psql('postgres', q{SELECT queue.release('o', id) FROM queue.leases});
is(drain_keys(), 'p:1 p:2', 'and they are in order again');

# A backend ends while its key's turn is under way.
send_run(1, 3, 'a');
{
	my $receipt = receipt();

	is(receive(10), '', 'they wait');
	$node->safe_psql('postgres', "SELECT queue.ack($receipt)");

	my $stop = $node->background_psql('postgres');
	my $victim = $node->background_psql('postgres', on_error_die => 0, on_error_stop => 0);
	my $pid = $victim->query_safe('SELECT pg_backend_pid()');

	$stop->query_safe("SELECT pg_advisory_lock(hashtext('turn-taken'), $pid)");
	$victim->query_until(qr/turn/, "\\echo turn\nSELECT * FROM queue.receive('o', 10);\n");
	ok( $node->poll_query_until(
			'postgres',
			"SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND pid = $pid"),
		'a turn is under way');
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
	$stop->query_safe('SELECT pg_advisory_unlock_all()');
	is($node->safe_psql('postgres', q{SELECT payload FROM queue.receive('o', wait => '1 min')}),
		'2', 'its process ends: the key goes on');
	$node->safe_psql('postgres', q{SELECT queue.release('o', id) FROM queue.leases});
	is(receive_ack(10), 'a:2 a:3', 'nothing is lost');
	no_keys_left('terminated');
	eval { $victim->quit };
	$stop->quit;
}

# A run that expires: the first has failed, the others have not been tried.  Slots
# of leases are used in another order the second time.
foreach my $round (1 .. 2)
{
	send_run(1, 4, 'a');
	$node->safe_psql('postgres', q{SELECT count(*) FROM queue.receive('o', 4, lease => '1 ms')});
	ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM queue.leases}), 'a run has expired');
	is(drain_keys(), 'a:1/2 a:2 a:3 a:4', "round $round: it comes back, with an attempt of the first");
}
no_keys_left('expired');

# The limit of keys: a clear error, nothing is lost, and it goes on when keys are free.
$node->append_conf('postgresql.conf', 'queue.max_keys = 16');
$node->restart;
$node->safe_psql('postgres',
	q{SELECT queue.send('o', to_jsonb(i), 'k' || k) FROM generate_series(1, 2) i, generate_series(10, 34) k});
$node->safe_psql('postgres', q{SELECT queue.send('o', '1', 'due', delay => '1 us')});
my $got = 0;
{
	my @receipts;
	my ($rc, $stdout, $stderr) = (0, '', '');

	for (1 .. 100)
	{
		($rc, $stdout, $stderr) = $node->psql(
			'postgres',
			"\\set VERBOSITY verbose\nSELECT receipt FROM queue.receive('o', 5)",
			on_error_stop => 0);
		last if $stderr;
		push @receipts, split(/\n/, $stdout);
	}
	is(scalar(@receipts), 15, 'as many keys as there are slots, but for one that waits for those before it');
	like($stderr, qr/ERROR:  53400: too many keys/, 'and then an error that says so');
	$node->safe_psql('postgres', "SELECT queue.ack_batch('{" . join(',', @receipts) . "}')");
	$got = @receipts;
}
$node->safe_psql(
	'postgres',
	q{CREATE TABLE got (n serial, key text, payload jsonb);
INSERT INTO got (key, payload) SELECT 'k' || k, '1' FROM generate_series(10, 24) k});
my $rounds = 0;
while ($rounds++ < 100)
{
	$node->psql(
		'postgres',
		q{INSERT INTO got (key, payload) SELECT key, payload FROM queue.receive('o', 7) WHERE queue.ack(receipt) ORDER BY id},
		stderr => \my $ignored);
	last
	  if $node->safe_psql('postgres',
		q{SELECT (SELECT count(*) FROM queues.o) + (SELECT count(*) FROM queue.deferred)}) eq '0';
}
cmp_ok($rounds, '<', 100, 'it goes on when keys are free, until nothing is left');
is( $node->safe_psql(
		'postgres',
		q{SELECT key FROM got GROUP BY key HAVING array_agg(payload::int ORDER BY n) NOT IN ('{1,2}', '{2}', '{1}')}
	),
	'',
	'in the order of each key');
no_keys_left('limit');

# A role cannot have them all.
$node->safe_psql(
	'postgres', q{
CREATE ROLE other; GRANT USAGE, CREATE ON SCHEMA queues TO other;
SET ROLE other;
SELECT queue.create('theirs', ordered => true, lease => '1 hour');
SELECT count(queue.send('theirs', '1', 'k' || k)) FROM generate_series(1, 30) k;
});
my $theirs = 0;
for (1 .. 40)
{
	my (undef, $stdout, $stderr) =
	  $node->psql('postgres', q{SET ROLE other; SELECT key FROM queue.receive('theirs')});
	last if $stderr;
	$theirs++ if $stdout;
}
is($theirs, 8, 'half of the keys for the queues of a role');
send_run(1, 1, 'mine');
is(receive_ack(1), 'mine:1', 'others have the rest');
$node->safe_psql('postgres', q{SELECT queue.drop('theirs')});
$node->append_conf('postgresql.conf', 'queue.max_keys = 1000');
$node->restart;

# The sweep finds what shared memory has lost: a turn's process was killed is
# a crash, so this is what a restored or replicated row is.
$node->append_conf('postgresql.conf', "queue.sweep_interval = '1s'");
$node->reload;
send_run(1, 2, 's');
is(receive_ack(1), 's:1', 'past the first');
$node->safe_psql(
	'postgres', q{
SET session_replication_role = replica;
INSERT INTO queues."o$1" SELECT 9000000, now(), (SELECT key_hash FROM queues.o LIMIT 1), NULL, NULL, 's', NULL, '3', NULL}
);
is(receive_ack(1), 's:2', 'and the second');
is( $node->safe_psql(
		'postgres', q{SELECT payload FROM queue.receive('o', wait => '1 min') WHERE queue.ack(receipt)}),
	'3',
	'the sweep finds the third');
$node->append_conf('postgresql.conf', "queue.sweep_interval = 3600");
$node->reload;
no_keys_left('sweep');

# Segments are emptied though messages of a key that is blocked lie in them.
$node->safe_psql('postgres', q{SELECT queue.alter('o', on_dead => 'block')});
send_run(1, 5, 'blocked');
$node->safe_psql('postgres', 'SELECT queue.reject(' . receipt() . q{, 'no good')});
is(receive(10), '', 'a blocked key');
my $tail = $node->safe_psql('postgres', q{SELECT DISTINCT tableoid::regclass FROM queues.o});
$node->safe_psql(
	'postgres', q{
SELECT count(queue.send('o', to_jsonb(repeat('x', 1000)), 'k' || i % 100)) FROM generate_series(1, 4000) i});
my $n = 0;
while (my $drained =
	$node->safe_psql('postgres', q{SELECT count(*) FROM queue.receive('o', 1000) WHERE queue.ack(receipt)}))
{
	$n += $drained;
}
is($n, 4000, 'others do not wait for it');
ok($node->poll_query_until('postgres', qq{SELECT pg_relation_size('$tail') = 0}), 'its segment is emptied');
is( $node->safe_psql('postgres', q{SELECT key, waiting_for, messages FROM queue.blocked_keys}),
	'blocked|dead letter|4',
	'it is blocked still');
is(receive(10), '', 'and nobody receives it');
crash($node);
is(receive(10), '', 'not after a crash either');
is($node->safe_psql('postgres', q{SELECT queue.redrive('o', key => 'blocked')}), '1', 'sent again');
is(drain_keys(), 'blocked:1 blocked:2 blocked:3 blocked:4 blocked:5', 'all come in their order');
no_keys_left('stragglers');
$node->safe_psql('postgres', q{SELECT queue.alter('o', on_dead => 'continue')});

# Two relays share an ordered queue: each key in order, and one that dies stops its key.
$node->safe_psql(
	'postgres', q{
CREATE TABLE relayed (n serial, key text, payload jsonb, relay text);
CREATE TABLE poison (payload jsonb);
CREATE PROCEDURE relay_one(message queue.message) LANGUAGE plpgsql AS $$
BEGIN
	IF EXISTS (SELECT FROM poison p WHERE p.payload = message.payload) THEN
		RAISE EXCEPTION 'poison';
	END IF;
	INSERT INTO relayed (key, payload, relay) VALUES (message.key, message.payload, pg_backend_pid()::text);
END $$;
INSERT INTO poison VALUES ('20');
SELECT queue.create('relayed', ordered => true, on_dead => 'block', max_attempts => 2, backoff => '10 ms');
SELECT queue.create_relay('first', 'relayed', options => '{"procedure": "public.relay_one"}');
SELECT queue.create_relay('second', 'relayed', options => '{"procedure": "public.relay_one"}');
SELECT count(*) FROM queue.send_batch('relayed', ARRAY(SELECT to_jsonb(i) FROM generate_series(1, 300) i),
	ARRAY(SELECT 'k' || i % 3 FROM generate_series(1, 300) i));
});
my $relayed = q{SELECT count(*), count(*) FILTER (WHERE payload::int <= previous) FROM
	(SELECT payload, lag(payload::int) OVER (PARTITION BY key ORDER BY n) AS previous FROM relayed) r};
ok($node->poll_query_until('postgres', "SELECT count(*) = 206 FROM relayed"),
	'relays: all but what is behind the poison');
is( $node->safe_psql(
		'postgres',
		q{SELECT key, waiting_for FROM queue.blocked_keys WHERE queue = 'relayed' AND waiting_for = 'dead letter'}
	),
	'k2|dead letter',
	'relays: its key is blocked');
is($node->safe_psql('postgres', $relayed), '206|0', 'relays: each key in order');
$node->safe_psql('postgres', q{DELETE FROM poison; SELECT queue.redrive('relayed', key => 'k2')});
ok($node->poll_query_until('postgres', "SELECT count(*) = 300 FROM relayed"), 'relays: and goes on');
is($node->safe_psql('postgres', $relayed), '300|0', 'relays: in order all the same');
$node->safe_psql(
	'postgres', q{
SELECT queue.drop_relay('first'), queue.drop_relay('second');
SELECT queue.drop('relayed');
DROP PROCEDURE relay_one;
});

# A standby takes over.
$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
fill();
$node->wait_for_catchup($standby);

# A dump, too.
my $dump = $node->basedir . '/dump';
command_ok([ 'pg_dump', '-Fc', '-d', $node->connstr('postgres'), '-f', $dump ], 'dumped');
$node->stop('immediate');
$standby->promote;
is(receive_ack(10, 'o', $standby), 'leased:1 leased:2 leased:3 leased:4', 'promoted: in order');
due($standby);
$standby->restart;
is(drain_keys($standby), $all =~ s/leased:\S+ //gr, 'promoted: what was not due');
no_keys_left('promoted', $standby);
$standby->stop;

my $other = PostgreSQL::Test::Cluster->new('other');
$other->init;
$other->append_conf('postgresql.conf', "shared_preload_libraries = 'queue'");
$other->start;
$other->safe_psql('postgres', 'CREATE ROLE other');
command_ok([ 'pg_restore', '--exit-on-error', '-d', $other->connstr('postgres'), $dump ], 'restored');
is(receive_ack(10, 'o', $other), 'leased:1 leased:2 leased:3 leased:4', 'restored: in order');
due($other);
$other->restart;
is(drain_keys($other), $all =~ s/leased:\S+ //gr, 'restored: what was not due');
no_keys_left('restored', $other);
$other->stop;

done_testing();
