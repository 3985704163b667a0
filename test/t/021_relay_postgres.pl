# A relay to a queue of another server: each message arrives once, in order for
# its key, while workers are killed and the other server restarts.

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Test::More;
use Wait;

my $source = queue_node('source');
my $target = queue_node('target');
my $password = 'mellon-4711';

# Over TCP, where the other server asks for passwords; ours are by socket.
$target->append_conf('postgresql.conf', "listen_addresses = '127.0.0.1'\npassword_encryption = 'scram-sha-256'");
$target->safe_psql('postgres', qq{
CREATE ROLE relay LOGIN PASSWORD '$password';
CREATE ROLE trusted LOGIN;
SELECT queue.create('arrivals');
GRANT INSERT ON queues.arrivals TO relay, trusted;
CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0;});
$target->safe_psql('latin', q{
CREATE EXTENSION queue;
SELECT queue.create('arrivals');
GRANT INSERT ON queues.arrivals TO relay;});
unlink($target->data_dir . '/pg_hba.conf');
$target->append_conf('pg_hba.conf', <<'HBA');
local all all trust
host all trusted 127.0.0.1/32 trust
host all all 127.0.0.1/32 scram-sha-256
HBA
$target->restart;

# What the relay says is wrong.
sub wait_for_error
{
	my ($name, $pattern, $test) = @_;
	wait_until($source, "(SELECT state = 'backing off' AND last_error ~ '$pattern' FROM queue.relays WHERE name = '$name')",
		$test);
	return;
}

$source->safe_psql('postgres', q{SELECT queue.create('orders', max_attempts => 2, backoff => '10 ms')});
my $port = $target->port;
$source->safe_psql('postgres', qq{
CREATE SERVER target FOREIGN DATA WRAPPER queue_postgres
	OPTIONS (host '127.0.0.1', port '$port', dbname 'postgres');
CREATE USER MAPPING FOR CURRENT_USER SERVER target OPTIONS (user 'relay', password '$password');
SELECT queue.create_relay('r', 'orders', 'target', '{"queue": "arrivals", "batch": 50}');});

# Every kind of message
$source->safe_psql('postgres', q{
SELECT queue.send('orders', '{"a": [1, "ü", null]}', 'k', '{"h": {"x": 1.5}}');
SELECT queue.send_bytes('orders', '\x00ff');
SELECT queue.send('orders', 'null');});
wait_until($source, '(SELECT published = 3 FROM queue.relays)', 'messages are published');
is( $target->safe_psql('postgres', 'SELECT key, payload, body, headers FROM queues.arrivals ORDER BY id'),
	qq(k|{"a": [1, "ü", null]}||{"h": {"x": 1.5}}\n||\\x00ff|\n|null||), 'and arrive as they were sent');
drain($target, 'arrivals');

# Send while the worker, the other server and our own are killed in turn.
my $rounds = 8;
my $messages = 1500;
for my $round (1 .. $rounds)
{
	$source->safe_psql('postgres', qq{
SELECT queue.send('orders', jsonb_build_object('n', $round * 10000 + i), 'k' || i % 11)
FROM generate_series(1, $messages) i});

	# While some of it is on its way
	$source->poll_query_until('postgres', 'SELECT published > 0 FROM queue.relays');
	if ($round == 3)
	{
		$target->stop('immediate');
		$source->safe_psql('postgres',
			q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'queue relay r'});
		$target->start;
	}
	elsif ($round == 5)
	{
		crash($source);
	}
	elsif ($round % 2)
	{
		$target->restart;
	}
	else
	{
		$source->safe_psql('postgres',
			q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'queue relay r'});
		$target->safe_psql('postgres',
			q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'relay'});
	}
}
wait_until($source, '(SELECT count(*) = 0 FROM queues.orders)', 'all is published in the end');
is( $target->safe_psql('postgres', q{
SELECT count(*), count(DISTINCT payload) FROM queues.arrivals}),
	($rounds * $messages) . '|' . ($rounds * $messages), 'each message arrived, and once');
is( $target->safe_psql('postgres', q{
SELECT count(*) FROM (SELECT (payload->'n')::int < lag((payload->'n')::int) OVER (PARTITION BY key ORDER BY id) AS before
	FROM queues.arrivals) x WHERE before}),
	'0', 'in order for each key');

# A worker that dies when the other server has committed and it has not: hold
# both up, let the other go on, and kill the worker while it waits for us.
drain($target, 'arrivals');
my $there = $target->background_psql('postgres');
$there->query_safe('BEGIN; LOCK TABLE queue.inbox IN EXCLUSIVE MODE');
$source->safe_psql('postgres', q{SELECT queue.send('orders', '"once"', 'k')});
ok( $target->poll_query_until('postgres', q{
SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%relay_accept%'}),
	'a message is on its way');
my $here = $source->background_psql('postgres');
$here->query_safe('BEGIN; SELECT FROM queues.orders FOR UPDATE');
$there->query_safe('COMMIT');
$there->quit;
wait_until($source, q{(SELECT count(*) = 1 FROM pg_stat_activity
	WHERE application_name = 'queue relay r' AND wait_event_type = 'Lock')}, 'it has arrived and waits to be deleted');
$source->safe_psql('postgres',
	q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'queue relay r'});
$here->query_safe('ROLLBACK');
$here->quit;
wait_until($source, '(SELECT count(*) = 0 FROM queues.orders)', 'another worker publishes it again');
is($target->safe_psql('postgres', 'SELECT count(*) FROM queues.arrivals'), '1', 'and it has arrived once');

# Two who send the same at the same time: the second waits for the first.
my $accept = q{
SELECT queue.relay_accept('elsewhere', 'arrivals', '{1}', '{2020-01-01}', ARRAY['"twice"'::jsonb],
	'{NULL}', '{NULL}', '{NULL}')};
my $first = $target->background_psql('postgres');
$first->query_safe('BEGIN');
is($first->query_safe($accept), '1', 'the first is accepted');
my $second = $target->background_psql('postgres');
$second->query_until(qr/start/, qq{\\echo start\n$accept;\n});
ok( $target->poll_query_until('postgres', q{
SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%relay_accept%'}),
	'the second waits');
$first->query_safe('COMMIT');
$first->quit;
$second->quit;
is($target->safe_psql('postgres', q{SELECT count(*) FROM queues.arrivals WHERE payload = '"twice"'}),
	'1', 'and is not');

# Asynchronous commits: what has arrived there is not forgotten here.
$source->append_conf('postgresql.conf', "synchronous_commit = off\nwal_writer_delay = 10s\nfsync = on");
$source->safe_psql('postgres', 'CREATE TABLE known (n int)');
$source->restart;
for my $n (1 .. 5)
{
	drain($target, 'arrivals');
	$source->safe_psql('postgres', qq{
BEGIN; INSERT INTO known VALUES ($n); SELECT queue.send('orders', '$n'); COMMIT;});
	$target->poll_query_until('postgres', 'SELECT count(*) = 1 FROM queues.arrivals') or die 'nothing arrives';
	crash($source);
	is($source->safe_psql('postgres', "SELECT count(*) FROM known WHERE n = $n"),
		'1', "what went with message $n is there after a crash");
}
wait_until($source, '(SELECT count(*) = 0 FROM queues.orders)', 'nothing is left');
is($target->safe_psql('postgres', 'SELECT payload FROM queues.arrivals'), '5', 'and nothing came twice');
$source->append_conf('postgresql.conf', 'synchronous_commit = on');
$source->reload;

# A message the other database cannot take
$source->safe_psql('postgres', qq{
SELECT queue.drop_relay('r');
CREATE SERVER latin FOREIGN DATA WRAPPER queue_postgres OPTIONS (host '127.0.0.1', port '$port', dbname 'latin');
CREATE USER MAPPING FOR CURRENT_USER SERVER latin OPTIONS (user 'relay', password '$password');
SELECT queue.create_relay('l', 'orders', 'latin', '{"queue": "arrivals"}');
SELECT queue.send('orders', '1', 'k');
SELECT queue.send('orders', '"€"', 'k');
SELECT queue.send('orders', '3', 'k');
SELECT queue.send('orders', '"€"');
SELECT queue.send('orders', '5');});
wait_until($source, '(SELECT count(*) = 0 FROM queues.orders) AND (SELECT count(*) = 2 FROM queue.dead_letters)',
	'what cannot be converted is dead');
is( $source->safe_psql('postgres', q{SELECT DISTINCT payload, attempts, reason, error FROM queue.dead_letters}),
	'"€"|2|max_attempts|character with byte sequence 0xe2 0x82 0xac in encoding "UTF8" has no equivalent in encoding "LATIN1"',
	'with the words of the other server');
is($target->safe_psql('latin', 'SELECT payload FROM queues.arrivals ORDER BY payload'), "1\n3\n5", 'the rest arrived');

# Troubles of the connection are shown, and are no attempts.
$source->safe_psql('postgres', q{
SELECT queue.alter_relay('l', '{"queue": "no_such_queue"}');
SELECT queue.send('orders', '6');});
wait_for_error('l', '^queue "no_such_queue" does not exist', 'an unknown queue');
$source->safe_psql('postgres', q{
SELECT queue.alter_relay('l', '{"queue": "arrivals"}');
ALTER SERVER latin OPTIONS (SET dbname 'no_such_database');
SELECT queue.send('orders', '7');});
wait_for_error('l', 'database "no_such_database" does not exist', 'an unknown database');
$source->safe_psql('postgres', q{
ALTER SERVER latin OPTIONS (SET dbname 'latin');
ALTER USER MAPPING FOR CURRENT_USER SERVER latin OPTIONS (SET password 'wrong-0815');
SELECT queue.send('orders', '8');});
wait_for_error('l', 'password authentication failed for user "relay"', 'a wrong password');
$source->safe_psql('postgres', q{ALTER SERVER latin OPTIONS (SET host 'no.such.host.invalid')});
wait_for_error('l', 'could not look up host name', 'an unknown host');
$source->safe_psql('postgres', qq{
ALTER SERVER latin OPTIONS (SET host '127.0.0.1');
ALTER USER MAPPING FOR CURRENT_USER SERVER latin OPTIONS (SET password '$password');});
wait_until($source, '(SELECT count(*) = 0 FROM queues.orders)', 'all are over when the cause is');
is($source->safe_psql('postgres', 'SELECT count(*) FROM queue.dead_letters'), '2', 'with no attempt counted');

# A server that takes connections and says nothing: nobody waits for us.
$source->safe_psql('postgres', 'CREATE DATABASE unrelated');
my $silent = IO::Socket::INET->new(Listen => 10, LocalAddr => '127.0.0.1', Proto => 'tcp') or die $!;
$source->safe_psql('postgres', 'ALTER SERVER latin OPTIONS (SET port ' . "'" . $silent->sockport . "')");
$source->safe_psql('postgres', q{SELECT queue.send('orders', '9')});
ok(IO::Select->new($silent)->can_read($PostgreSQL::Test::Utils::timeout_default), 'the relay connects');
$source->safe_psql('postgres', 'DROP DATABASE unrelated');
$source->safe_psql('postgres', q{SELECT queue.drop_relay('l')});
wait_until($source, q{(SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'queue relay')},
	'a relay that waits for an answer is interrupted');

# Who is no superuser has to have a password that is asked for.
my $passfile = PostgreSQL::Test::Utils::tempdir() . '/pgpass';
append_to_file($passfile, "*:*:*:*:$password\n");
chmod(0600, $passfile);
$source->safe_psql('postgres', qq{
CREATE ROLE owner LOGIN;
GRANT SELECT, DELETE ON queues.orders TO owner;
GRANT USAGE ON FOREIGN SERVER target TO owner;
CREATE USER MAPPING FOR owner SERVER target OPTIONS (user 'relay');});
{
	local $ENV{PGPASSFILE} = $passfile;
	local $ENV{PGPASSWORD} = $password;
	$source->restart;
}
$source->safe_psql('postgres', q{SET ROLE owner; SELECT queue.create_relay('o', 'orders', 'target', '{"queue": "arrivals"}')});
wait_for_error('o', 'password is required', 'no password in the mapping');
$source->safe_psql('postgres', q{ALTER USER MAPPING FOR owner SERVER target OPTIONS (SET user 'trusted', ADD password 'any')});
wait_for_error('o', 'password is required: the server', 'a password nobody asked for');
$source->safe_psql('postgres', qq{ALTER USER MAPPING FOR owner SERVER target OPTIONS (SET user 'relay', SET password '$password')});
wait_until($source, '(SELECT count(*) = 0 FROM queues.orders)', 'the right one');

# A superuser's mapping without one gets nothing from the environment either.
$source->safe_psql('postgres', q{
SELECT queue.drop_relay('o');
ALTER USER MAPPING FOR CURRENT_USER SERVER target OPTIONS (DROP password);
SELECT queue.create_relay('s', 'orders', 'target', '{"queue": "arrivals"}');});
wait_for_error('s', 'no password supplied', 'no password from the environment');

my $log = slurp_file($source->logfile);
$log =~ s/^.*LOG:  statement: (CREATE|ALTER) USER MAPPING.*$//mg;
$log =~ s/^.*LOG:  statement: [^\[]*?(?=^\d{4}-)//msg;
unlike($log, qr/\Q$password\E|wrong-0815/, 'no password in the log');
unlike(
	$source->safe_psql('postgres', 'SELECT * FROM queue.relays'),
	qr/\Q$password\E|wrong-0815/, 'nor in the view');

$source->stop;
$target->stop;
done_testing();
