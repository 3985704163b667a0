# A randomised model test.  Producers and consumers do everything the extension
# knows, at once, while sessions are killed, tables are vacuumed and a backend
# dies; ordinary tables, written in the same transactions, are the oracle.
#
# QUEUE_MODEL_SEED repeats a choice of work (not of timing), and
# QUEUE_MODEL_SECONDS says for how long.

use strict;
use warnings;

use POSIX ':sys_wait_h';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Test::More;
use Time::HiRes qw(sleep time);
use Wait;

my $seed = $ENV{QUEUE_MODEL_SEED} || (time * 1000) % 1_000_000_007;
my $seconds = $ENV{QUEUE_MODEL_SECONDS} || 40;
$seed = int($seed);
diag("QUEUE_MODEL_SEED=$seed QUEUE_MODEL_SECONDS=$seconds");
srand($seed);

# The sweep would find what the engine has lost sight of, so it is put off.  There
# are few places for keys: one that is not given back would soon be missed.
my $node = queue_node(
	'primary',
	conf => q{
restart_after_crash = on
track_commit_timestamp = on
log_statement = none
queue.segment_size = '1MB'
queue.straggler_age = 1
queue.sweep_interval = 100000
queue.max_keys = 64
});
$node->safe_psql(
	'postgres', q{
SELECT queue.create('work', max_attempts => 1000, backoff => '10 ms', backoff_max => '50 ms');
SELECT queue.create('few', max_attempts => 3, backoff => '10 ms', backoff_max => '50 ms', max_in_flight => 20);
SELECT queue.create('line');
SELECT queue.create('keys', ordered => true, max_attempts => 1000, backoff => '10 ms', backoff_max => '50 ms');
SELECT queue.create('fair', key_concurrency => 2, max_attempts => 1000, backoff => '10 ms', backoff_max => '50 ms');

CREATE SCHEMA model;
CREATE TABLE model.sent (q text, id bigint, digest text, key text, PRIMARY KEY (q, id));
CREATE TABLE model.delivery (q text, id bigint, receipt bigint, attempts int, digest text,
	at timestamptz, expires_at timestamptz, run bigint, key text);
CREATE TABLE model.gone (q text, id bigint, receipt bigint, how text, at timestamptz);
CREATE TABLE model.nacked (q text, id bigint, receipt bigint);
CREATE TABLE model.crash (since timestamptz, until timestamptz);
CREATE TABLE model.arrival (n bigserial, key text, seq bigint);
CREATE TABLE model.released (q text, id bigint, since timestamptz, until timestamptz);
CREATE SEQUENCE model.contents;
CREATE SEQUENCE model.runs;

-- Those that were noted down while the lease was certainly held: at says when.
CREATE VIEW model.timely AS SELECT * FROM model.delivery WHERE at < expires_at;

CREATE FUNCTION model.contents(size int) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('n', nextval('model.contents'), 'fill',
		(SELECT string_agg(md5(random()::text), '') FROM generate_series(0, size / 32)));
$$;

-- Send, and say so.
CREATE FUNCTION model.put(q text, how text, n int, size int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	contents jsonb[] := array(SELECT model.contents(size) FROM generate_series(1, n));
	bytes bytea;
BEGIN
	IF how = 'send' THEN
		INSERT INTO model.sent SELECT q, queue.send(q, c, key => 'k' || n), md5(c::text)
			FROM unnest(contents) c;
	ELSIF how = 'delay' THEN
		INSERT INTO model.sent SELECT q, queue.send(q, c, delay => random() * '100 ms'::interval),
			md5(c::text) FROM unnest(contents) c;
	ELSIF how = 'bytes' THEN
		bytes := contents[1]::text::bytea;
		INSERT INTO model.sent VALUES (q, queue.send_bytes(q, bytes, headers => '{"a": 1}'), md5(bytes));
	ELSIF how = 'batch' THEN
		INSERT INTO model.sent SELECT q, i, md5(c::text)
			FROM ROWS FROM (queue.send_batch(q, contents), unnest(contents)) AS b (i, c);
	ELSIF how = 'late batch' THEN
		INSERT INTO model.sent SELECT q, i, md5(c::text)
			FROM ROWS FROM (queue.send_batch(q, contents, delay => '20 ms'), unnest(contents)) AS b (i, c);
	ELSIF how = 'insert' THEN
		EXECUTE format('WITH i AS (INSERT INTO queues.%I (payload) SELECT unnest($1) RETURNING id, payload)
			INSERT INTO model.sent SELECT %L, id, md5(payload::text) FROM i', q, q) USING contents;
	END IF;
END $$;

-- Send a message in each of n subtransactions, some of which roll back.
CREATE FUNCTION model.put_subtransactions(q text, n int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. n LOOP
		BEGIN
			PERFORM model.put(q, 'send', 1, 10);
			IF random() < 0.3 THEN
				RAISE EXCEPTION 'never mind' USING ERRCODE = 'QM001';
			END IF;
		EXCEPTION WHEN SQLSTATE 'QM001' THEN
			NULL;
		END;
	END LOOP;
END $$;

CREATE PROCEDURE model.consume(q text, n int, lease_ms int, action text) LANGUAGE plpgsql AS $$
DECLARE
	lease interval := lease_ms * '1 ms'::interval;
	begun timestamptz := clock_timestamp();
	run bigint := nextval('model.runs');
	ids bigint[];
	receipts bigint[];
BEGIN
	WITH m AS MATERIALIZED (
		SELECT *, md5(coalesce(payload::text::bytea, body)) AS digest
		FROM queue.receive(consume.q, n, lease => lease, wait => '100 ms')),
	d AS (
		INSERT INTO model.delivery
		SELECT consume.q, id, receipt, attempts, digest, clock_timestamp(), begun + lease, run, key FROM m)
	SELECT array_agg(id), array_agg(receipt) INTO ids, receipts FROM m;
	IF action = 'give back' THEN
		ROLLBACK;
		RETURN;
	END IF;
	IF action = 'ack at once' THEN
		INSERT INTO model.gone SELECT q, i, r, 'ack', clock_timestamp() FROM unnest(ids, receipts) u(i, r)
			WHERE queue.ack(r);
	END IF;
	COMMIT;

	IF action = 'undo ack' THEN
		PERFORM queue.ack_batch(receipts);
		ROLLBACK;
	ELSIF action = 'undo savepoint' THEN
		BEGIN
			PERFORM queue.nack(r) FROM unnest(receipts) r;
			RAISE EXCEPTION 'never mind' USING ERRCODE = 'QM001';
		EXCEPTION WHEN SQLSTATE 'QM001' THEN
			NULL;
		END;
	ELSIF action = 'extend' THEN
		begun := clock_timestamp();
		WITH e AS MATERIALIZED (SELECT r FROM unnest(receipts) r WHERE queue.extend(r, lease))
		UPDATE model.delivery d SET expires_at = begun + lease FROM e WHERE d.receipt = e.r;
		COMMIT;
		PERFORM pg_sleep(lease_ms / 2000.0);
	ELSIF action = 'be late' THEN
		PERFORM pg_sleep(lease_ms / 1000.0);
	END IF;

	IF action = 'nack' THEN
		INSERT INTO model.nacked SELECT q, i, r FROM unnest(ids, receipts) u(i, r)
			WHERE queue.nack(r, delay => CASE WHEN random() < 0.5 THEN random() * '20 ms'::interval END,
				error => 'model');
	ELSIF action = 'reject' THEN
		INSERT INTO model.gone SELECT q, i, r, 'reject', clock_timestamp() FROM unnest(ids, receipts) u(i, r)
			WHERE queue.reject(r, 'model');
	ELSIF action <> 'abandon' THEN
		INSERT INTO model.gone SELECT q, i, r, 'ack', clock_timestamp() FROM unnest(ids, receipts) u(i, r)
			WHERE queue.ack(r);
	END IF;
END $$;

-- Send to a queue whose messages of a key come in the order in which they are sent.
CREATE FUNCTION model.put_key(key text, n int, late interval) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	contents jsonb[] := array(SELECT model.contents(10) FROM generate_series(1, n));
BEGIN
	INSERT INTO model.sent SELECT 'keys', i, md5(c::text), put_key.key
		FROM ROWS FROM (queue.send_batch('keys', contents, array_fill(put_key.key, ARRAY[n]), delay => late),
			unnest(contents)) AS b (i, c);
END $$;

CREATE FUNCTION model.pop(q text, n int) RETURNS void LANGUAGE sql AS $$
	INSERT INTO model.gone SELECT q, id, 0, 'pop', clock_timestamp() FROM queue.pop(q, n, wait => '100 ms');
$$;

CREATE FUNCTION model.raw(q text, n int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('WITH d AS (DELETE FROM queues.%I WHERE id IN (
		SELECT id FROM queues.%I LIMIT $1 FOR UPDATE SKIP LOCKED) RETURNING id)
		INSERT INTO model.gone SELECT %L, id, 0, ''raw'', clock_timestamp() FROM d', q, q, q) USING n;
END $$;

CREATE PROCEDURE model.consume_line() LANGUAGE plpgsql AS $$
DECLARE
	m record;
BEGIN
	FOR m IN SELECT * FROM queue.receive('line', 7, wait => '100 ms') LOOP
		INSERT INTO model.arrival (key, seq) VALUES (m.key, (m.payload ->> 'seq')::bigint);
		INSERT INTO model.gone SELECT 'line', m.id, m.receipt, 'ack', clock_timestamp()
			WHERE queue.ack(m.receipt);
	END LOOP;
END $$;
});

# Dedup keys: the same few keys again and again, in queues of their own.  What
# commits is noted down with when it was certainly entered.
$node->safe_psql(
	'postgres', q{
SELECT queue.create('once', dedup_window => '1 s', max_attempts => 1000);
SELECT queue.create('once long', dedup => 'content', dedup_window => '1 day', max_attempts => 1000);

CREATE TABLE model.once (q text, key text, id bigint, duplicate boolean, before timestamptz,
	after timestamptz);
CREATE TABLE model.once_refused (code text);

CREATE FUNCTION model.once_put(q text, how text, keys text[], wait boolean) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	contents jsonb[] := array(SELECT to_jsonb(k) FROM unnest(keys) k);
	noted jsonb[] := array(SELECT jsonb_build_object('n', nextval('model.contents')) FROM unnest(keys));
	before timestamptz := clock_timestamp();
	ids bigint[];
	duplicates boolean[];
BEGIN
	IF how = 'batch' THEN
		ids := array(SELECT queue.send_batch(q, contents, headers => noted, dedup_keys => keys,
			dedup_wait => wait));
		-- One that was not sent has not this one's headers.
		EXECUTE format('SELECT array_agg(NOT EXISTS (
			SELECT FROM queues.%I m WHERE m.id = u.id AND m.headers = u.h) ORDER BY n)
			FROM unnest($1, $2) WITH ORDINALITY u (id, h, n)', q) INTO duplicates USING ids, noted;
	ELSE
		SELECT array_agg(o.id), array_agg(o.duplicate) INTO ids, duplicates
		FROM unnest(keys, contents) u (k, c), queue.send_once(q, k, c, dedup_wait => wait,
			delay => CASE how WHEN 'delay' THEN random() * '100 ms'::interval ELSE '0' END) o;
	END IF;
	INSERT INTO model.once SELECT q, k, i, d, before, clock_timestamp()
		FROM unnest(keys, ids, duplicates) u (k, i, d);
	INSERT INTO model.sent SELECT q, i, md5(c::text)
		FROM unnest(contents, ids, duplicates) u (c, i, d) WHERE NOT d;
END $$;

-- The same, where some end another way.
CREATE FUNCTION model.once_try(q text, how text, keys text[], wait boolean) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
	IF how = 'other' THEN
		PERFORM queue.send(q, '"other contents"', dedup_key => keys[1], dedup_wait => wait);
	ELSE
		PERFORM model.once_put(q, how, keys, wait);
	END IF;
	IF how IN ('other', 'undo') THEN
		RAISE EXCEPTION 'never mind' USING ERRCODE = 'QM001';
	END IF;
EXCEPTION WHEN SQLSTATE 'QM001' OR SQLSTATE 'QM409' OR SQLSTATE 'QM422' OR deadlock_detected
		OR lock_not_available THEN
	INSERT INTO model.once_refused VALUES (SQLSTATE);
END $$;

-- By contents alone.
CREATE FUNCTION model.once_content(q text, key text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	contents jsonb := jsonb_build_object('key', key);
	before timestamptz := clock_timestamp();
	sent bigint := queue.send(q, contents);
	new boolean;
BEGIN
	new := NOT EXISTS (SELECT FROM model.once o WHERE o.q = once_content.q AND o.id = sent);
	INSERT INTO model.once VALUES (q, 'content ' || key, sent, NOT new, before, clock_timestamp());
	IF new THEN
		INSERT INTO model.sent VALUES (q, sent, md5(contents::text));
	END IF;
END $$;
});

sub pick
{
	return $_[ int(rand(@_)) ];
}

my $prepared = 0;

# End a transaction in one of the ways there are.
sub end_transaction
{
	my $r = rand;

	return "COMMIT;\n" if $r < 0.6;
	return "ROLLBACK;\n" if $r < 0.8;
	my $name = 'model ' . ++$prepared;
	return
		"PREPARE TRANSACTION '$name';\n"
	  . (rand() < 0.3 ? "SELECT pg_sleep(0.05);\n" : '')
	  . (rand() < 0.7 ? 'COMMIT' : 'ROLLBACK')
	  . " PREPARED '$name';\n";
}

sub put
{
	my $how = pick('send', 'send', 'send', 'bytes', 'batch', 'late batch', 'delay', 'insert');
	my $n = $how eq 'bytes' ? 1 : pick(1, 1, 2, 10, $how eq 'batch' ? 300 : 3);
	my $size = pick(10, 10, 100, 1000, $n < 20 ? 9000 : 10);

	return
	  sprintf("SELECT model.put('%s', '%s', %d, %d);\n", pick('work', 'work', 'few', 'fair'), $how, $n,
		$size);
}

sub produce
{
	my $r = rand;

	return put() if $r < 0.4;
	return
		'BEGIN'
	  . pick('', '', ' ISOLATION LEVEL REPEATABLE READ', ' ISOLATION LEVEL SERIALIZABLE') . ";\n"
	  . put()
	  . (rand() < 0.3 ? 'SELECT pg_sleep(' . rand(0.2) . ");\n" : '')
	  . put()
	  . end_transaction()
	  if $r < 0.7;
	return
		"BEGIN;\n"
	  . put()
	  . "SAVEPOINT a;\n"
	  . put()
	  . "SAVEPOINT b;\n"
	  . put()
	  . pick("ROLLBACK TO a;\n", "ROLLBACK TO b;\n", "RELEASE b;\n")
	  . put()
	  . end_transaction()
	  if $r < 0.98;

	# More transactions in progress than there are places to remember.
	return "BEGIN;\nSELECT model.put_subtransactions('work', 1500);\nSELECT pg_sleep(0.2);\n"
	  . end_transaction();
}

sub consume
{
	my $q = pick('work', 'work', 'few', 'fair', 'keys', 'keys', 'keys');
	my $n = pick(1, 3, 10, 100);
	my $r = rand;

	return "BEGIN;\nSELECT model.pop('$q', $n);\n" . end_transaction() if $r < 0.2;
	return "BEGIN;\nSELECT model.raw('$q', " . pick(1, 3) . ");\n" . pick("COMMIT;\n", "ROLLBACK;\n")
	  if $r < 0.25;
	return sprintf(
		"CALL model.consume('%s', %d, %d, '%s');\n",
		$q, $n,
		pick(50, 300, 2000),
		pick(
			'ack', 'ack', 'ack', 'ack at once', 'nack', 'reject',
			'abandon', 'give back', 'undo ack', 'undo savepoint', 'extend', 'be late'));
}

# Sends with increasing numbers under a key of its own.
my $sequence = 0;

sub produce_line
{
	my ($name) = @_;
	my $sql = "BEGIN;\n";

	for (0 .. int(rand(4)))
	{
		$sequence++;
		$sql .=
		  "WITH p (p) AS (VALUES ('{\"seq\": $sequence}'::jsonb)) INSERT INTO model.sent SELECT 'line', queue.send('line', p, key => '$name'), md5(p::text) FROM p;\n";
	}
	return $sql . pick("COMMIT;\n", "COMMIT;\n", "ROLLBACK;\n");
}

# Sends under keys of its own.  What a transaction has sent that is prepared can
# come late: such keys are others, of which no order is asked.
sub produce_keys
{
	my ($name) = @_;
	my $free = rand() < 0.2;
	my $sql = "BEGIN;\n";

	for (0 .. int(rand(4)))
	{
		$sql .= "SAVEPOINT s;\n" if rand() < 0.2;
		$sql .= sprintf(
			"SELECT model.put_key('%s', %d, %s);\n",
			($free ? 'free' : $name) . ' ' . pick(1, 1, 2, 3),
			pick(1, 1, 3, 20),
			rand() < 0.1 ? "'50 ms'" : 'NULL');
		$sql .= "ROLLBACK TO s;\n" if $sql =~ /SAVEPOINT/ && rand() < 0.2;
	}
	return $sql . ($free ? end_transaction() : pick("COMMIT;\n", "COMMIT;\n", "ROLLBACK;\n"));
}

# Send with dedup keys.
sub put_once
{
	my ($function) = @_;
	my $q = pick('once', 'once', 'once long');
	my $how =
	  $function eq 'once_try'
	  ? pick('send', 'batch', 'delay', 'undo', 'other')
	  : pick('send', 'batch', 'delay');
	my $key = $q eq 'once' ? 6 : 300;
	my $n = pick(1, 1, 2, $how eq 'batch' ? 20 : 3);

	return sprintf(
		"SELECT model.%s('%s', '%s', ARRAY[%s], %s);\n",
		$function, $q, $how,
		join(', ', map { "'k" . int(rand($key)) . "'" } 1 .. ($function eq 'once_put' ? 1 : $n)),
		pick('true', 'true', 'false'));
}

sub once
{
	my ($name) = @_;
	my $r = rand;

	# Also settle what a session that is gone has left, or all wait for it.
	return
		"SET lock_timeout = '1s';\n"
	  . "SELECT format('%s PREPARED %L', CASE WHEN random() < 0.5 THEN 'COMMIT' ELSE 'ROLLBACK' END, gid)"
	  . " FROM pg_prepared_xacts WHERE gid LIKE 'model%' AND prepared < now() - interval '1 s' \\gexec\n"
	  . "SELECT format('VACUUM %s', relid::regclass) FROM queue.dedup_bucket ORDER BY random() LIMIT 1 \\gexec\n"
	  . "CALL model.consume('"
	  . pick('once', 'once long')
	  . "', 100, 2000, 'ack');\n"
	  . "SELECT pg_sleep(0.1);\n"
	  if $name eq 'once_1';
	return "SET lock_timeout = '1s';\n" . put_once('once_try') if $r < 0.3;
	return "SELECT model.once_content('once long', '" . int(rand(300)) . "');\n" if $r < 0.4;
	return "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
	  . " WHERE application_name LIKE 'model once%' ORDER BY random() LIMIT 1;\n"
	  if $r < 0.42;
	return
		'BEGIN'
	  . pick('', '', ' ISOLATION LEVEL REPEATABLE READ') . ";\n"
	  . put_once('once_try')
	  . "SAVEPOINT a;\n"
	  . put_once('once_try')
	  . pick("ROLLBACK TO a;\n", "RELEASE a;\n", '')
	  . put_once('once_try')
	  . (rand() < 0.3 ? 'SELECT pg_sleep(' . rand(0.2) . ");\n" : '')
	  . end_transaction();
}

my %workers = (
	(map { ("producer_$_" => \&produce) } 1 .. 3),
	(map { ("consumer_$_" => \&consume) } 1 .. 6),
	(map { ("line_$_" => \&produce_line) } 1 .. 2),
	(map { ("keys_$_" => \&produce_keys) } 1 .. 2),
	(map { ("once_$_" => \&once) } 1 .. 4),
	'arrivals' => sub { return "CALL model.consume_line();\n" });
my %running;
my $errors = $node->basedir . '/errors';

# Have psql run a script of a worker's; when it ends, for whatever reason,
# another one follows.
sub start_worker
{
	my ($name) = @_;
	my $script = $node->basedir . "/$name.sql";

	open(my $fh, '>', $script) or die "could not write $script: $!";
	print $fh $workers{$name}->($name) for 1 .. 50;
	close $fh;

	my $pid = fork();
	die "could not fork: $!" unless defined $pid;
	if ($pid == 0)
	{
		$ENV{PGAPPNAME} = "model $name";
		open(STDIN, '<', '/dev/null');
		open(STDOUT, '>', '/dev/null');
		open(STDERR, '>>', $errors);
		exec('psql', '-X', '-q', '-d', $node->connstr('postgres'), '-f', $script) or POSIX::_exit(1);
	}
	$running{$name} = $pid;
	return;
}

# Release what somebody has on lease.
my $release = q{
WITH l AS MATERIALIZED (SELECT id FROM queue.leases WHERE queue = 'keys' AND state = 'held' ORDER BY random() LIMIT 2)
INSERT INTO model.released SELECT 'keys', id, now(), clock_timestamp() FROM l WHERE queue.release('keys', id)};

# What somebody else may do to a busy database.
sub disturb
{
	my $r = rand;
	my $table = pick('work', 'few', 'keys', 'fair') . pick('', '$1', '$2', '$3');
	my $sql;

	if ($r < 0.5)
	{
		my $class = pick('producer', 'consumer', 'line', 'keys');
		$sql = qq{SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE application_name LIKE 'model $class%' ORDER BY random() LIMIT 1};
	}
	elsif ($r < 0.6)
	{
		$sql =
		  q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'queue maintenance'};
	}
	elsif ($r < 0.8)
	{
		$sql = 'VACUUM ' . pick('', '(FREEZE) ') . "queues.$table";
	}
	elsif ($r < 0.9)
	{
		$sql =
		  'ALTER TABLE queues.' . pick('work', 'few') . ' ALTER COLUMN key SET STATISTICS ' . int(rand(1000));
	}
	elsif ($r < 0.92)
	{
		# What it does not do others have to.
		my $pid = $node->safe_psql('postgres',
			q{SELECT min(pid) FROM pg_stat_activity WHERE backend_type = 'queue maintenance'});

		if ($pid)
		{
			kill('STOP', $pid);
			sleep(0.5);
			kill('CONT', $pid);
		}
		return;
	}
	elsif ($r < 0.94)
	{
		$sql = $release;
	}
	elsif ($r < 0.96)
	{
		$sql = q{SELECT queue.alter('work', backoff_max => '60 ms')};
	}
	else
	{
		$sql = 'CHECKPOINT';
	}
	$node->psql('postgres', $sql, stderr => \my $ignored);
	return;
}

sub kill_backend
{
	my ($since, $pid) = split(
		/\|/,
		$node->safe_psql(
			'postgres', q{
SELECT clock_timestamp(), pid FROM pg_stat_activity WHERE application_name LIKE 'model consumer%' LIMIT 1}));

	return unless $pid;
	kill('KILL', $pid);
	wait_for
	{
		$node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE pid = $pid") eq '0'
	}
	  or die 'the server does not come back';
	$node->safe_psql('postgres', "INSERT INTO model.crash VALUES ('$since', clock_timestamp())");
	return;
}

start_worker($_) foreach sort keys %workers;
my $begun = time;
my $crashes = 0;
while (time < $begun + $seconds)
{
	sleep(0.05 + rand(0.3));
	foreach my $name (sort keys %running)
	{
		start_worker($name) if waitpid($running{$name}, WNOHANG) != 0;
	}
	disturb();
	if (time > $begun + ($crashes + 1) * $seconds / 6 && $crashes < 5)
	{
		$crashes++;
		kill_backend();
	}
}

# By chance nobody may have had a lease when one was to be released.
wait_for
{
	foreach my $name (sort keys %running)
	{
		start_worker($name) if waitpid($running{$name}, WNOHANG) != 0;
	}
	$node->safe_psql('postgres', "$release; SELECT count(*) FROM model.released") ne '0';
};

# Let the producers end, and what they left half done.
kill('TERM', values %running);
waitpid($_, 0) foreach values %running;
$node->safe_psql('postgres',
	q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'model %'});
$node->poll_query_until('postgres',
	q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name LIKE 'model %'});
foreach my $gid (split(/\n/, $node->safe_psql('postgres', 'SELECT gid FROM pg_prepared_xacts')))
{
	$node->safe_psql('postgres', pick('COMMIT', 'ROLLBACK') . " PREPARED '$gid'");
}

# Take what was sent with dedup keys.
ok( wait_for
	{
		$node->safe_psql(
			'postgres', q{
CALL model.consume('once', 10000, 600000, 'ack');
CALL model.consume('once long', 10000, 600000, 'ack');
SELECT (SELECT count(*) FROM queues.once) + (SELECT count(*) FROM queues."once long")
	+ (SELECT count(*) FROM queue.deferred
		WHERE relid IN ('queues.once'::regclass, 'queues."once long"'::regclass))}) eq '0'
	},
	'all that was sent with dedup keys can be received');
my @once = split(
	/\|/,
	$node->safe_psql(
		'postgres', q{
SELECT count(*) FILTER (WHERE NOT duplicate AND q = 'once') - count(DISTINCT key) FILTER (WHERE q = 'once'),
	count(*) FILTER (WHERE NOT duplicate AND q = 'once long'),
	count(*) FILTER (WHERE duplicate AND q = 'once'), count(*) FILTER (WHERE duplicate AND q = 'once long'),
	(SELECT count(*) FROM model.once_refused WHERE code = 'QM409'),
	(SELECT count(*) FROM model.once_refused WHERE code = 'QM422')
FROM model.once}));
diag(
	"sent with dedup keys: again after a window $once[0], in a long one $once[1], duplicates $once[2] and $once[3], in progress $once[4], mismatches $once[5]"
);
is(scalar(grep { $_ == 0 } @once), 0, 'everything has happened to dedup keys');

# Take what is left, until leases have ended and nothing is deferred any more:
# without limits, with which it would take long.
$node->safe_psql(
	'postgres', q{
CREATE TABLE model.unlimited AS SELECT clock_timestamp() AS at;
SELECT queue.alter('fair', key_concurrency => 0);
SELECT queue.alter('few', max_in_flight => 0);
});
my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
my $left;
do
{
	$node->safe_psql(
		'postgres', q{
CALL model.consume('work', 10000, 600000, 'ack');
CALL model.consume('few', 10000, 600000, 'ack');
CALL model.consume('keys', 10000, 600000, 'ack');
CALL model.consume('fair', 10000, 600000, 'ack');
CALL model.consume_line();
});
	$left = $node->safe_psql(
		'postgres', q{
SELECT (SELECT count(*) FROM queues.work) + (SELECT count(*) FROM queues.few)
	+ (SELECT count(*) FROM queues.line) + (SELECT count(*) FROM queues.keys)
	+ (SELECT count(*) FROM queues.fair) + (SELECT count(*) FROM queue.deferred)});
} while ($left > 0 && time < $deadline);
is($left, 0, 'all that is in the queues can be received')
  or diag(
	$node->safe_psql(
		'postgres', q{
SELECT tableoid::regclass, count(*), min(id), max(id), min(ctid), max(ctid) FROM queues.work GROUP BY 1
UNION ALL
SELECT tableoid::regclass, count(*), min(id), max(id), min(ctid), max(ctid) FROM queues.few GROUP BY 1
UNION ALL
SELECT tableoid::regclass, count(*), min(id), max(id), min(ctid), max(ctid) FROM queues.line GROUP BY 1;
SELECT tableoid::regclass, key, count(*), min(id), max(id), min(ctid), max(ctid)
	FROM queues.keys GROUP BY 1, 2;
SELECT tableoid::regclass, key, count(*), min(id), max(id), min(ctid), max(ctid)
	FROM queues.fair GROUP BY 1, 2;
SELECT * FROM queue.blocked_keys;
SELECT relid, count(*), min(due_at), max(due_at) FROM queue.deferred GROUP BY 1;
SELECT queue, state, kind, count(*), min(expires_at), max(expires_at) FROM queue.leases GROUP BY 1, 2, 3}));

# When each message of an ordered key was done with, and all before it.
$node->safe_psql(
	'postgres', q{
CREATE TABLE model.line AS
	SELECT *, max(gone) OVER (PARTITION BY key ORDER BY id
		ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
	FROM (SELECT s.key, s.id, coalesce(g.at, 'infinity') AS gone
		FROM model.sent s LEFT JOIN model.gone g USING (q, id) WHERE s.q = 'keys') l;
CREATE INDEX ON model.line (key, id);
CREATE INDEX ON model.delivery (run);
CREATE INDEX ON model.delivery (q, id);
CREATE INDEX ON model.gone (q, id);
ANALYZE});

# Each of these queries finds what must not be.
my %offenders = (
	'a committed message was lost' => q{
SELECT q, id FROM model.sent
EXCEPT SELECT q, id FROM model.gone
EXCEPT SELECT queue, id FROM queue.dead_letters},
	'a message was received or died that was never committed' => q{
(SELECT q, id FROM model.delivery UNION SELECT q, id FROM model.gone WHERE how <> 'reject'
	UNION SELECT queue, id FROM queue.dead_letters)
EXCEPT SELECT q, id FROM model.sent},
	'a message was taken twice' => q{
SELECT q, id, array_agg(how) FROM model.gone GROUP BY q, id HAVING count(*) > 1},
	'a message was taken and died all the same' => q{
SELECT q, id FROM model.gone WHERE how <> 'reject' INTERSECT SELECT queue, id FROM queue.dead_letters},
	'a dead letter is there twice' => q{
SELECT queue, id FROM queue.dead_letters GROUP BY 1, 2 HAVING count(*) > 1},
	'a rejected message is no dead letter' => q{
SELECT q, id FROM model.gone WHERE how = 'reject'
EXCEPT SELECT queue, id FROM queue.dead_letters WHERE reason = 'model'},
	'a message died without a reason' => q{
SELECT queue, id, attempts, reason FROM queue.dead_letters d
WHERE NOT (reason = 'max_attempts' AND queue = 'few' AND attempts = 3)
	AND NOT EXISTS (SELECT FROM model.gone g
		WHERE g.q = d.queue AND g.id = d.id AND how = 'reject' AND reason = 'model')},
	'a message was delivered after its last attempt' => q{
SELECT q, id, attempts FROM model.delivery WHERE q = 'few' AND attempts > 3},
	'a message has other contents' => q{
SELECT q, id FROM model.delivery d JOIN model.sent s USING (q, id) WHERE d.digest <> s.digest},
	'a message came again without a nack, an expiry or a crash' => q{
SELECT q, key, id, run, receipt, attempts, at, expires_at, next FROM (
	SELECT *, lead(at) OVER (PARTITION BY q, id ORDER BY at) AS next FROM model.timely) d
WHERE next < expires_at
	AND NOT EXISTS (SELECT FROM model.nacked n WHERE n.receipt = d.receipt)
	AND NOT EXISTS (SELECT FROM model.crash c WHERE d.at <= c.until AND d.next >= c.since)
	-- An earlier one of the run has failed, or it or this one was released.
	AND NOT (q = 'keys' AND EXISTS (SELECT FROM model.delivery e
		WHERE e.run = d.run AND e.key = d.key AND e.id <= d.id AND (
			(e.id < d.id AND e.expires_at <= d.next)
			OR EXISTS (SELECT FROM model.nacked n WHERE n.receipt = e.receipt)
			OR EXISTS (SELECT FROM model.released r
				WHERE r.q = e.q AND r.id = e.id AND r.since <= d.next AND r.until >= d.at))))},
	'a message came again after it was acknowledged' => q{
SELECT q, id, g.at, d.at FROM model.gone g JOIN model.timely d USING (q, id)
WHERE how <> 'raw' AND d.at > g.at},
	'attempts went back' => q{
SELECT q, id, attempts, previous FROM (
	SELECT *, lag(attempts) OVER w AS previous, lag(at) OVER w AS previously FROM model.timely
	WINDOW w AS (PARTITION BY q, id ORDER BY at)) d
WHERE CASE WHEN q IN ('keys', 'fair') THEN attempts < previous ELSE attempts <= previous END
	AND NOT EXISTS (SELECT FROM model.crash c WHERE d.previously <= c.until AND d.at >= c.since)},
	'more messages were in flight than may be' => q{
WITH held AS (
	SELECT d.receipt, d.at, g.at AS until FROM model.timely d JOIN model.gone g USING (q, id, receipt)
	WHERE d.q = 'few' AND g.at < d.expires_at AND d.at < (SELECT u.at FROM model.unlimited u))
SELECT h.receipt, h.at, count(*) FROM held h JOIN held o ON h.at BETWEEN o.at AND o.until
GROUP BY h.receipt, h.at HAVING count(*) > 20},
	'something is counted as in flight in the end' => q{
SELECT queue, leased FROM queue.stats s
WHERE leased <> (SELECT count(*) FROM queue.leases l WHERE l.queue = s.queue AND state <> 'returned')},
	'a run of an ordered queue was handed out before an earlier message of its key was done with' => q{
SELECT * FROM (SELECT key, run, min(id) AS id, min(at) AS at FROM model.delivery
	WHERE q = 'keys' AND key NOT LIKE 'free%' GROUP BY key, run) d
JOIN model.line l USING (key, id) WHERE l.before > d.at},
	'a message of an ordered queue was handed out without an earlier one of its run' => q{
SELECT d.key, d.run, d.id, d.at, l.id AS earlier, l.gone
FROM (SELECT *, lag(id) OVER (PARTITION BY key, run ORDER BY id) AS previous FROM model.delivery
	WHERE q = 'keys' AND key NOT LIKE 'free%') d
JOIN model.line l ON l.key = d.key AND l.id > d.previous AND l.id < d.id AND l.gone > d.at},
	'a message of an ordered queue was popped before an earlier one of its key was done with' => q{
SELECT l.* FROM model.line l JOIN model.gone g ON g.q = 'keys' AND g.id = l.id AND g.how = 'pop'
WHERE l.key NOT LIKE 'free%' AND l.before > l.gone},
	'a key of an ordered queue had two owners' => q{
SELECT * FROM (
	SELECT *, max(until) OVER (PARTITION BY key ORDER BY at, run
		ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
	FROM (SELECT d.key, d.run, min(d.at) AS at, max(g.at) AS until
		FROM model.timely d JOIN model.gone g USING (q, id, receipt)
		WHERE d.q = 'keys' AND g.how = 'ack' AND g.at < d.expires_at GROUP BY d.key, d.run) r) o
WHERE at <= before},
	'a key with a limit had more on lease' => q{
SELECT * FROM (
	SELECT key, t, sum(n) OVER (PARTITION BY key ORDER BY t, n) AS held
	FROM (SELECT d.key, d.at, g.at AS until FROM model.timely d JOIN model.gone g USING (q, id, receipt)
		WHERE d.q = 'fair' AND g.how = 'ack' AND g.at < d.expires_at AND d.key IS NOT NULL
			AND d.at < (SELECT at FROM model.unlimited)) h,
	LATERAL (VALUES (h.at, 1), (h.until, -1)) e (t, n)) s
WHERE held > 2},
	'a key waits in the end' => q{SELECT * FROM queue.blocked_keys},
	# Whichever was entered first, the other was within a window of its commit.
	'a message was sent again within the window' => q{
WITH new AS (
	SELECT *, pg_xact_commit_timestamp(xmin)
			+ CASE q WHEN 'once' THEN '1 s' ELSE '1 day' END::interval AS until
	FROM model.once WHERE NOT duplicate)
SELECT q, key, a.id, b.id AS other, a.after, b.after AS other_after, a.until
FROM new a JOIN new b USING (q, key)
WHERE a.id < b.id AND b.after < a.until AND a.after < b.until},
	'a message was sent before and is no message of that key' => q{
SELECT q, key, id FROM model.once WHERE duplicate
EXCEPT SELECT q, key, id FROM model.once WHERE NOT duplicate},
	'messages of one key and sender came out of order' => q{
SELECT key, seq, previous FROM (
	SELECT *, lag(seq) OVER (PARTITION BY key ORDER BY n) AS previous FROM model.arrival) a
WHERE seq <= previous});

foreach my $what (sort keys %offenders)
{
	is($node->safe_psql('postgres', "SELECT count(*) FROM ($offenders{$what}) o"), '0', "not so: $what")
	  or diag($node->safe_psql('postgres', "SELECT * FROM ($offenders{$what}) o LIMIT 10"));
}

# Nothing but what the disturbances explain.
my $explained = join('|',
	'terminating connection',
	'could not serialize access',
	'current transaction is aborted',
	'prepared transaction with identifier .* does not exist',
	'the database system is');
my @unexplained = grep { /(ERROR|FATAL|PANIC):/ && !/$explained/ }
  split(/\n/, -e $errors ? slurp_file($errors) : '');
is(scalar(@unexplained), 0, 'no session met an error that nobody caused')
  or diag(join("\n", @unexplained[ 0 .. ($#unexplained < 20 ? $#unexplained : 20) ]));

# It is no test if nothing has happened.
my @happened = split(
	/\|/,
	$node->safe_psql(
		'postgres', q{
SELECT (SELECT count(*) FROM model.sent), (SELECT count(*) FROM model.delivery WHERE attempts > 1),
	(SELECT count(*) FROM model.nacked), (SELECT count(*) FROM queue.dead_letters),
	(SELECT count(*) FROM model.arrival), (SELECT count(*) FROM model.crash),
	(SELECT count(*) FROM model.gone WHERE how = 'pop'), (SELECT count(*) FROM model.gone WHERE how = 'raw'),
	(SELECT count(*) FROM model.gone WHERE q = 'keys' AND how = 'ack'),
	(SELECT count(*) FROM (SELECT FROM model.delivery WHERE q = 'keys' GROUP BY run, key HAVING count(*) > 1) r),
	(SELECT count(*) FROM model.gone WHERE q = 'fair' AND how = 'ack'), (SELECT count(*) FROM model.released)}));
diag(
	"sent $happened[0], delivered again $happened[1], nacked $happened[2], dead $happened[3], in line $happened[4], crashes $happened[5], popped $happened[6], raw $happened[7], of ordered keys $happened[8], in runs $happened[9], of limited keys $happened[10], released $happened[11]"
);
is(scalar(grep { $_ == 0 } @happened), 0, 'everything has happened');

ok( $node->poll_query_until(
		'postgres', q{SELECT count(*) = 0 FROM pg_class
			WHERE relname ~ '^(work|few|fair)\$[0-9]+$' AND pg_relation_size(oid) >= 1024 * 1024}),
	'segments are truncated in the end');

$node->stop;
done_testing();
