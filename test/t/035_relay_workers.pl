# Several workers of one relay, and functions that transform its messages: order per
# key whatever becomes of the workers, and no function that keeps a relay from its work.

use strict;
use warnings;

use Page ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Test::More;
use Time::HiRes qw(time);
use Wait;

my $node =
  queue_node('source', conf => "max_worker_processes = 24\nrestart_after_crash = on\nqueue.max_relays = 12");
my $host = $node->host;
my $port = $node->port;
my $user = $node->safe_psql('postgres', 'SELECT current_user');

sub query { return $node->safe_psql('postgres', $_[0]); }

# Processes of a relay, those with a condition
sub workers
{
	my ($relay, $condition) = @_;

	return split(
		/\n/,
		query(
			"SELECT pid FROM pg_stat_activity WHERE backend_type = 'queue relay' AND application_name ~ '^queue relay $relay( #|\$)' "
			  . ($condition // '')));
}

# End a relay's only worker, and wait for the next one.
sub renew_worker
{
	my ($relay) = @_;
	my ($before) = workers($relay);

	query("SELECT pg_terminate_backend($before)");
	return wait_for { my @now = workers($relay); @now == 1 && $now[0] != $before };
}

# Whoever asks something of a relay is to have it within two seconds; the test
# allows for a machine that is busy.
sub ends_soon
{
	my ($what, $sql, $condition) = @_;
	my $start = time;

	query($sql);
	wait_until($node, $condition, $what);
	cmp_ok(time - $start, '<', 6, "$what: soon");
	return;
}

#
# Order per key
#
query(
	qq{
CREATE TABLE got (n bigserial, key text, number integer, pid integer DEFAULT pg_backend_pid());
CREATE TABLE refused (n bigserial, number integer);
CREATE PROCEDURE take(m queue.message) LANGUAGE plpgsql AS \$\$
BEGIN
	-- Now and then one is refused, for the first time.
	IF m.payload ? 'refuse' AND m.attempts = 1 THEN
		RAISE EXCEPTION 'not now';
	END IF;
	INSERT INTO public.got (key, number) VALUES (m.key, (m.payload->>'n')::integer);
END \$\$;
SELECT queue.create('q', ordered => true, max_attempts => 100, backoff => '10 ms', backoff_max => '50 ms');
SELECT queue.create_relay('r', 'q', options => '{"procedure": "public.take", "workers": 4, "batch": 20}');});

ok($node->poll_query_until('postgres', q{SELECT workers = 4 AND state = 'idle' FROM queue.relays}),
	'four workers run');
is( query(
		q{SELECT string_agg(application_name, ',' ORDER BY application_name) FROM pg_stat_activity
	WHERE backend_type = 'queue relay'}),
	'queue relay r,queue relay r #2,queue relay r #3,queue relay r #4',
	'each has its name');

my $sent = 0;

# Messages of 20 keys, and some of none
sub send_some
{
	my ($n, $queue) = @_;
	$queue //= 'q';

	query(
		"SELECT count(queue.send('$queue', jsonb_build_object('n', i) || CASE WHEN i % 17 = 0 THEN '{\"refuse\": true}' ELSE '{}' END::jsonb,
	CASE WHEN i % 21 > 0 THEN 'k' || i % 21 END)) FROM generate_series($sent + 1, $sent + $n) i");
	$sent += $n;
	return;
}

# Everything is there, each once where that is promised, and each key in order.
sub all_in_order
{
	my ($what, $once) = @_;

	wait_until($node, "count(DISTINCT number) = $sent FROM got", "$what: all arrive");
	is(query('SELECT count(*) - count(DISTINCT number) FROM got'), '0', "$what: each once") if $once;
	is( query(
			'SELECT count(*)
	FROM (SELECT number - lag(number) OVER (PARTITION BY key ORDER BY n) AS step
	FROM (SELECT key, number, min(n) AS n FROM got WHERE key IS NOT NULL
		GROUP BY key, number) f) s WHERE step < 0'
		),
		'0',
		"$what: in order, key by key");
	is(query("SELECT count(*) FROM queue.dead_letters"), '0', "$what: none is a dead letter");
	return;
}

send_some(2000);
all_in_order('four workers', 1);
cmp_ok(query('SELECT count(DISTINCT pid) FROM got'), '>', 1, 'several of them had something to do');
ok( $node->poll_query_until(
		'postgres', "SELECT published = $sent AND failed > 0 AND in_flight = 0 FROM queue.relays"),
	'they are counted together');

# Workers are ended at random, and there are more or fewer of them, while messages
# come.
srand(7);
for my $round (1 .. 12)
{
	my @pids = workers('r');

	send_some(300);
	query("SELECT pg_terminate_backend($pids[rand @pids])") if @pids;
	query(sprintf(q{SELECT queue.alter_relay('r', '{"workers": %d}')}, 1 + int(rand(6)))) if $round % 3 == 0;
}
query(q{SELECT queue.alter_relay('r', '{"workers": 4}')});
all_in_order('workers ended and changed', 1);
ok($node->poll_query_until('postgres', "SELECT published = $sent AND workers = 4 FROM queue.relays"),
	'what workers have published that are no more is counted');

# What is asked of the relay is asked of all its workers.
ends_soon(
	'paused',
	q{SELECT queue.pause_relay('r')},
	q{count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'queue relay'});
is(query('SELECT state, workers FROM queue.relays'), 'paused|0', 'and shown so');
send_some(100);
ends_soon('resumed', q{SELECT queue.resume_relay('r')}, q{workers = 4 FROM queue.relays});
ends_soon(
	'fewer',
	q{SELECT queue.alter_relay('r', '{"workers": 2}')},
	q{count(*) = 2 FROM pg_stat_activity WHERE backend_type = 'queue relay'});
all_in_order('paused and resumed', 1);

# A worker that is killed restarts the server, which was to be.
my ($victim) = workers('r');
send_some(500);
kill 'KILL', $victim;
$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $victim");
all_in_order('killed', 1);

# In a queue that is ordered no more, they stop.
query(q{SELECT queue.alter('q', ordered => false)});
send_some(10);
wait_until(
	$node,
	q{(SELECT last_error LIKE 'a relay of queue "q" cannot have 2 workers%' FROM queue.relays)},
	'not ordered any more');
is(query(q{SELECT count(*) FROM queues.q}), '10', 'and nothing goes');
query(q{SELECT queue.alter('q', ordered => true)});
all_in_order('ordered again', 1);

# What a role has of workers is limited as what it has of relays.
query(
	q{
ALTER SYSTEM SET queue.max_relays_per_role = 3;
SELECT pg_reload_conf();
CREATE ROLE somebody LOGIN;
GRANT SELECT, DELETE ON queues.q TO somebody;});
ok($node->poll_query_until('postgres', q{SELECT current_setting('queue.max_relays_per_role') = '3'}),
	'a limit');
my $error;
$node->psql(
	'postgres',
	q{SET ROLE somebody; SELECT queue.create_relay('s', 'q', options => '{"procedure": "public.take", "workers": 4}')},
	stderr => \$error);
like($error, qr/cannot have more than 3 relays/, 'no more workers than relays');
query(
	q{SET ROLE somebody; SELECT queue.create_relay('s', 'q', options => '{"procedure": "public.take", "workers": 2}')}
);
$node->psql(
	'postgres',
	q{SET ROLE somebody; SELECT queue.alter_relay('s', '{"workers": 4}')},
	stderr => \$error);
like($error, qr/cannot have more than 3 relays/, 'nor later');
query(q{SELECT queue.alter_relay('r', '{"workers": 16}')});
wait_until(
	$node,
	q{(SELECT workers = 10 AND last_error LIKE 'no slot is free%' FROM queue.relays WHERE name = 'r')},
	'as many as there are slots for');
query(q{SELECT queue.drop_relay('s')});
wait_until($node, q{(SELECT workers = 12 FROM queue.relays WHERE name = 'r')},
	'and more when there are some');
ends_soon(
	'dropped',
	q{SELECT queue.drop_relay('r')},
	q{count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'queue relay'});
query(q{SELECT queue.create_relay('r', 'q', options => '{"procedure": "public.take"}')});
is(query(q{SELECT published FROM queue.relays}), '0', 'another of its name counts anew');
query(q{SELECT queue.drop_relay('r')});

#
# Through a sink with a connection, to a queue of another database
#
$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', q{CREATE EXTENSION queue; SELECT queue.create('arrivals')});
query(
	qq{
TRUNCATE got;
SELECT queue.create('p', ordered => true, max_attempts => 2, backoff => '10 ms');
CREATE SERVER other FOREIGN DATA WRAPPER queue_postgres OPTIONS (host '$host', port '$port', dbname 'other');
CREATE USER MAPPING FOR CURRENT_USER SERVER other OPTIONS (user '$user');
CREATE FUNCTION transform(m queue.message) RETURNS queue.message LANGUAGE plpgsql AS \$\$
BEGIN
	m.headers := pg_catalog.jsonb_build_object('n', m.payload->'n');
	RETURN CASE WHEN m.payload ? 'refuse' THEN NULL ELSE m END;
END \$\$;
SELECT queue.create_relay('t', 'p', 'other', '{"queue": "arrivals", "workers": 4, "batch": 20, "transform": "public.transform"}');}
);
$sent = 0;
for my $round (1 .. 8)
{
	my @pids = workers('t');

	send_some(250, 'p');
	query("SELECT pg_terminate_backend($pids[rand @pids])") if @pids;
}
ok($node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM queues.p'), 'over a connection: all go');
is( $node->safe_psql(
		'other', q{
SELECT count(*), count(DISTINCT payload->'n'), bool_and(headers->'n' = payload->'n'), count(*) FILTER (WHERE payload ? 'refuse')
FROM queues.arrivals}),
	join('|', $sent - int($sent / 17), $sent - int($sent / 17), 't', 0),
	'each arrives once and transformed, but those that are dropped');
is( $node->safe_psql(
		'other', q{
SELECT count(*) FROM (SELECT (payload->>'n')::integer - lag((payload->>'n')::integer) OVER (PARTITION BY key ORDER BY id) AS step
FROM queues.arrivals WHERE key IS NOT NULL) s WHERE step < 0}),
	'0',
	'in order, key by key');
query(q{SELECT queue.alter_relay('t', '{"workers": 1, "confirm_timeout": 1}')});
ok( $node->poll_query_until(
		'postgres', q{SELECT workers = 1 AND state = 'idle' AND last_error IS NULL FROM queue.relays}),
	'one worker');
$node->safe_psql('other', q{SELECT queue.purge('arrivals')});

#
# Hostile functions
#
sub transform_with
{
	my ($body) = @_;

	query(
		"CREATE OR REPLACE FUNCTION public.transform(m queue.message) RETURNS queue.message LANGUAGE plpgsql AS \$f\$
BEGIN
	IF m.payload ? 'bad' THEN
		$body
	END IF;
	RETURN m;
END \$f\$");
	return;
}

# Send a message the function does its worst with, and one behind it: that one
# arrives, from the same process, and the first is a dead letter.
my $n = 0;

sub refused
{
	my ($what, $error) = @_;
	my ($pid) = workers('t');

	$n++;
	query("SELECT queue.send('p', '{\"bad\": $n}', 'a'), queue.send('p', '{\"good\": $n}', 'b')");
	wait_until(
		$node,
		"(SELECT error ~ '$error' AND payload = '{\"bad\": $n}' FROM queue.dead_letters ORDER BY id DESC LIMIT 1)",
		"$what: refused");
	ok( $node->poll_query_until(
			'other',
			"SELECT count(*) = 1 FROM queues.arrivals WHERE payload = '{\"good\": $n}' AND key = 'b'"),
		"$what: another goes on");
	is_deeply([ workers('t') ], [$pid], "$what: the worker too");
	return;
}

transform_with(q{LOOP END LOOP;});
refused('it never ends', '^canceling statement due to statement timeout$');

my ($pid) = workers('t');
query(q{CREATE TABLE locked (); SELECT queue.alter_relay('t', '{"confirm_timeout": 60}')});
ok(wait_for { my @now = workers('t'); @now == 1 && $now[0] != $pid }, 'another worker');
query(qq{ALTER ROLE "$user" SET statement_timeout = '300 ms'});
ok(renew_worker('t'), 'a timeout of the role');
transform_with(q{PERFORM pg_catalog.pg_sleep(3600);});
refused('it sleeps', '^canceling statement due to statement timeout$');
my $session = $node->background_psql('postgres', on_error_stop => 0);
$session->query_safe('BEGIN; LOCK TABLE locked');
transform_with(q{PERFORM FROM public.locked;});
refused('it waits for a lock', '^canceling statement due to statement timeout$');
$session->query_safe('COMMIT');
$session->quit;
query(qq{ALTER ROLE "$user" RESET statement_timeout});
ok(renew_worker('t'), 'and none');

transform_with(q{m.payload := pg_catalog.to_jsonb(pg_catalog.repeat('x', 150000000));});
refused('what it returns is huge', '^message is too large for a relay$');
transform_with(q{m.key := pg_catalog.repeat('x', 1073741823);});
refused('what it makes is larger', '^requested length too large$');
transform_with(q{m := public.transform(m);});
refused('it calls itself', '^stack depth limit exceeded$');
transform_with(q{DROP FUNCTION public.transform;});
refused('it drops itself', 'read-only transaction');
transform_with(q{PERFORM 1 / 0;});
refused('it divides by zero', '^division by zero$');
transform_with(q{EXECUTE 'SELECT * FROM public.gone';});
refused('its table is gone', '^relation "public.gone" does not exist$');
transform_with(
	q{PERFORM pg_catalog.pg_cancel_backend(pg_catalog.pg_backend_pid()); PERFORM pg_catalog.pg_sleep(10);});
refused('it cancels itself', '^canceling statement due to user request$');

# What others have made in the search_path of a role does not count.
query(
	qq{
CREATE SCHEMA evil;
CREATE FUNCTION evil.lower(text) RETURNS text LANGUAGE sql AS \$\$SELECT 'evil'\$\$;
ALTER ROLE "$user" SET search_path = evil, pg_catalog;});
ok(renew_worker('t'), 'a search_path of the role');
transform_with(q{m.payload := to_jsonb(lower('GOOD')); m.key := 'path';});
query(q{SELECT queue.send('p', '{"bad": 0}')});
ok($node->poll_query_until('other', q{SELECT payload = '"good"' FROM queues.arrivals WHERE key = 'path'}),
	'the search_path is fixed');
query(qq{ALTER ROLE "$user" RESET search_path});

# It swallows its cancel: whoever ends the worker ends it.
transform_with(
	q{LOOP BEGIN PERFORM pg_catalog.pg_sleep(3600); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP;});
my $busy = q{count(*) = 1 FROM pg_stat_activity
	WHERE backend_type = 'queue relay' AND query = 'transform public.transform(queue.message)' AND state = 'active'};
query(q{SELECT queue.send('p', '{"bad": 0}')});
wait_until($node, $busy, 'it does not let itself be cancelled');
ends_soon(
	'paused meanwhile',
	q{SELECT queue.pause_relay('t')},
	q{count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'queue relay'});
query(q{SELECT queue.resume_relay('t')});
wait_until($node, $busy, 'and again');
ends_soon(
	'dropped meanwhile',
	q{DROP FUNCTION transform CASCADE},
	q{count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'queue relay'});
is(query('SELECT count(*) FROM queue.relays'), '0', 'the relay is gone with its function');
is(query('SELECT count(*) FROM queues.p'), '1', 'and the message is there');

# A transform of large messages, of which not all fit in the memory for them
query(q{SELECT queue.purge('p')});
$node->safe_psql('other', q{SELECT queue.purge('arrivals')});
query(
	q{
CREATE FUNCTION transform(m queue.message) RETURNS queue.message LANGUAGE plpgsql AS $$
BEGIN
	m.payload := pg_catalog.to_jsonb(pg_catalog.repeat(m.payload->>'n', 8000000));
	RETURN m;
END $$;
SELECT queue.create_relay('t', 'p', 'other', '{"queue": "arrivals", "transform": "public.transform"}');
SELECT count(queue.send('p', jsonb_build_object('n', i % 10), 'k' || i % 3)) FROM generate_series(1, 40) i;});

# What a relay's only worker has of memory, in kB
sub memory
{
	my ($pid) = workers($_[0]);

	return 0 unless $pid && open(my $status, '<', "/proc/$pid/status");
	my ($kb) = map { /^RssAnon:\s+(\d+)/ } <$status>;
	return $kb // 0;
}
my $most = 0;
ok( wait_for
	{
		my $kb = memory('t');

		$most = $kb if $kb > $most;
		query('SELECT count(*) FROM queues.p') eq '0';
	},
	'messages that grow');
is($node->safe_psql('other', q{SELECT count(*), min(length(payload::text)) FROM queues.arrivals}),
	'40|8000002', 'all arrive');
cmp_ok($most, '<', 300_000, 'and are not in memory all at once');

# What a call has taken of memory is given back, whether it succeeds or fails.
query(
	q{
CREATE OR REPLACE FUNCTION transform(m queue.message) RETURNS queue.message LANGUAGE plpgsql AS $$
BEGIN
	m.payload := pg_catalog.to_jsonb(pg_catalog.repeat(m.payload->>'n', 100000));
	IF m.key IS NULL THEN
		RAISE EXCEPTION '%', m.payload;
	END IF;
	RETURN m;
END $$;
ALTER SYSTEM SET log_min_messages = fatal;
SELECT pg_reload_conf();
SELECT queue.alter_relay('t', '{"batch": 20}');});

sub send_small
{
	query(
		"SELECT count(queue.send('p', jsonb_build_object('n', i % 10), CASE WHEN i % 5 > 0 THEN 'k' || i % 7 END))
	FROM generate_series(1, $_[0]) i"
	);
	return $node->poll_query_until('postgres',
		q{SELECT ready = 0 AND leased = 0 AND deferred = 0 FROM queue.stats WHERE queue = 'p'});
}
ok(send_small(500), 'many calls');
my $little = memory('t');
ok(send_small(2000), 'and more');
cmp_ok(memory('t') - $little, '<', 30_000, 'take no more memory');
query(q{ALTER SYSTEM RESET log_min_messages; SELECT pg_reload_conf()});

# Who drops the database is not kept waiting by a function that does not end.
$node->safe_psql('postgres', 'CREATE DATABASE doomed');
$node->safe_psql(
	'doomed', qq{
CREATE EXTENSION queue;
SELECT queue.create('q');
CREATE SERVER other FOREIGN DATA WRAPPER queue_postgres OPTIONS (host '$host', port '$port', dbname 'other');
CREATE USER MAPPING FOR CURRENT_USER SERVER other OPTIONS (user '$user');
CREATE FUNCTION transform(m queue.message) RETURNS queue.message LANGUAGE plpgsql AS \$\$
BEGIN
	LOOP
		BEGIN
			PERFORM pg_catalog.pg_sleep(3600);
		EXCEPTION WHEN OTHERS OR query_canceled THEN NULL;
		END;
	END LOOP;
END \$\$;
SELECT queue.create_relay('d', 'q', 'other', '{"queue": "arrivals", "transform": "public.transform"}');
SELECT queue.send('q', '1');});
wait_until($node, $busy, 'it does not end');
ends_soon(
	'its database dropped',
	'DROP DATABASE doomed',
	q{count(*) = 0 FROM pg_stat_activity WHERE datname = 'doomed'});

# What the page has as examples
$node->safe_psql('other', q{SELECT queue.purge('arrivals')});
query(
	join(
		'',
		q{
SELECT queue.create('orders');
SELECT queue.create_relay('to_rabbit', 'orders', 'other', '{"queue": "arrivals"}');},
		Page::examples('docs/relay.md'),
		q{SELECT queue.send('orders', '{"kind": "internal"}', 'alice');
SELECT queue.send('orders', '{"kind": "placed", "card": "4111", "total": 42.50}', 'alice', '{"old": true}');}
	));
ok( $node->poll_query_until(
		'postgres',
		q{SELECT workers = 4 AND published = 1 AND dropped = 1 FROM queue.relays WHERE name = 'to_rabbit'}),
	'the examples of the page: four workers, one message dropped');
is( $node->safe_psql('other', 'SELECT key, payload, headers FROM queues.arrivals'),
	'customer/alice|{"kind": "placed", "total": 42.50}|{"kind": "placed"}',
	'the examples of the page: and one renamed, redacted and routed');

$node->stop;
done_testing();
