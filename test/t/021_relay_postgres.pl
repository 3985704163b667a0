# A relay to a queue of another server: what every sink has to stand, and what is
# particular to this one.

use strict;
use warnings;

use Certificate ();
use Page        ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Sink;
use Test::More;
use Wait;

my $target = queue_node('target');
my $password = 'mellon-4711';

# Over TCP, where the other server asks for passwords; ours are by socket.
$target->append_conf('postgresql.conf',
	"listen_addresses = '127.0.0.1'\npassword_encryption = 'scram-sha-256'");
$target->safe_psql(
	'postgres', qq{
CREATE ROLE relay LOGIN PASSWORD '$password';
CREATE ROLE trusted LOGIN;
SELECT queue.create('arrivals');
GRANT INSERT ON queues.arrivals TO relay, trusted;
CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0;});
$target->safe_psql(
	'latin', q{
CREATE EXTENSION queue;
SELECT queue.create('arrivals');
GRANT INSERT ON queues.arrivals TO relay;
SELECT queue.create('narrow');
GRANT INSERT ON queues.narrow TO relay;});
unlink($target->data_dir . '/pg_hba.conf');
$target->append_conf('pg_hba.conf', <<'HBA');
local all all trust
host all trusted 127.0.0.1/32 trust
host all all 127.0.0.1/32 scram-sha-256
HBA
$target->restart;

# Through the suite messages go to a database of another encoding, which cannot have
# them all.
my $suite = Sink->new(
	name => 'postgres',
	port => $target->port,
	create => sub {
		my $port = $_[0]->port;

		return qq{
CREATE SERVER proxied FOREIGN DATA WRAPPER queue_postgres OPTIONS (host '127.0.0.1', port '$port', dbname 'latin');
CREATE USER MAPPING FOR CURRENT_USER SERVER proxied OPTIONS (user 'relay', password '$password');};
	},
	server => 'proxied',
	options => { queue => 'narrow' },
	arrived => sub { return Sink::take_rows($target, 'latin', 'queues.narrow', 'id'); },
	conveys => [qw(key payload body headers)],
	once => 1,
	ordered => 1,
	refused => {
		payload => { bad => "\x{20ac}" },
		error =>
		  qr/^character with byte sequence 0xe2 0x82 0xac in encoding "UTF8" has no equivalent in encoding "LATIN1"$/
	},
	down => qr/Connection refused/,
	kill => sub { $target->stop('immediate') },
	start => sub { $target->start },
	secrets => [$password]);
my $source = $suite->node;

# What the relay says is wrong.
sub wait_for_error
{
	my ($name, $pattern, $test) = @_;
	wait_until($source,
		"(SELECT state = 'backing off' AND last_error ~ '$pattern' FROM queue.relays WHERE name = '$name')",
		$test);
	return;
}

$suite->run;

$source->safe_psql('postgres', q{SELECT queue.create('orders', max_attempts => 2, backoff => '10 ms')});
my $port = $target->port;
$source->safe_psql(
	'postgres', qq{
CREATE SERVER target FOREIGN DATA WRAPPER queue_postgres
	OPTIONS (host '127.0.0.1', port '$port', dbname 'postgres');
CREATE USER MAPPING FOR CURRENT_USER SERVER target OPTIONS (user 'relay', password '$password');
SELECT queue.create_relay('r', 'orders', 'target', '{"queue": "arrivals", "batch": 50}');});

# A worker that dies when the other server has committed and it has not: hold
# both up, let the other go on, and kill the worker while it waits for us.
my $there = $target->background_psql('postgres');
$there->query_safe('BEGIN; LOCK TABLE queue.inbox IN EXCLUSIVE MODE');
$source->safe_psql('postgres', q{SELECT queue.send('orders', '"once"', 'k')});
ok( $target->poll_query_until(
		'postgres', q{
SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%relay_accept%'}),
	'a message is on its way');
my $here = $source->background_psql('postgres');
$here->query_safe('BEGIN; SELECT FROM queues.orders FOR UPDATE');
$there->query_safe('COMMIT');
$there->quit;
wait_until(
	$source, q{(SELECT count(*) = 1 FROM pg_stat_activity
	WHERE application_name = 'queue relay r' AND wait_event_type = 'Lock')},
	'it has arrived and waits to be deleted');
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
ok( $target->poll_query_until(
		'postgres', q{
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
	$source->safe_psql(
		'postgres', qq{
BEGIN; INSERT INTO known VALUES ($n); SELECT queue.send('orders', '$n'); COMMIT;});
	$target->poll_query_until('postgres', 'SELECT count(*) = 1 FROM queues.arrivals')
	  or die 'nothing arrives';
	crash($source);
	is($source->safe_psql('postgres', "SELECT count(*) FROM known WHERE n = $n"),
		'1', "what went with message $n is there after a crash");
}
wait_until($source, '(SELECT count(*) = 0 FROM queues.orders)', 'nothing is left');
is($target->safe_psql('postgres', 'SELECT payload FROM queues.arrivals'), '5', 'and nothing came twice');
$source->append_conf('postgresql.conf', 'synchronous_commit = on');
$source->reload;

# Troubles of the connection are shown, and are no attempts.
$source->safe_psql(
	'postgres', qq{
SELECT queue.drop_relay('r');
CREATE SERVER latin FOREIGN DATA WRAPPER queue_postgres OPTIONS (host '127.0.0.1', port '$port', dbname 'latin');
CREATE USER MAPPING FOR CURRENT_USER SERVER latin OPTIONS (user 'relay', password '$password');
SELECT queue.create_relay('l', 'orders', 'latin', '{"queue": "arrivals"}');});
$source->safe_psql(
	'postgres', q{
SELECT queue.alter_relay('l', '{"queue": "no_such_queue"}');
SELECT queue.send('orders', '6');});
wait_for_error('l', '^queue "no_such_queue" does not exist', 'an unknown queue');
$source->safe_psql(
	'postgres', q{
SELECT queue.alter_relay('l', '{"queue": "arrivals"}');
ALTER SERVER latin OPTIONS (SET dbname 'no_such_database');
SELECT queue.send('orders', '7');});
wait_for_error('l', 'database "no_such_database" does not exist', 'an unknown database');
$source->safe_psql(
	'postgres', q{
ALTER SERVER latin OPTIONS (SET dbname 'latin');
ALTER USER MAPPING FOR CURRENT_USER SERVER latin OPTIONS (SET password 'wrong-0815');
SELECT queue.send('orders', '8');});
wait_for_error('l', 'password authentication failed for user "relay"', 'a wrong password');
$source->safe_psql('postgres', q{ALTER SERVER latin OPTIONS (SET host 'no.such.host.invalid')});
wait_for_error('l', 'could not look up host name', 'an unknown host');
$source->safe_psql(
	'postgres', qq{
ALTER SERVER latin OPTIONS (SET host '127.0.0.1');
ALTER USER MAPPING FOR CURRENT_USER SERVER latin OPTIONS (SET password '$password');});
wait_until($source, '(SELECT count(*) = 0 FROM queues.orders)', 'all are over when the cause is');
is($source->safe_psql('postgres', 'SELECT count(*) FROM queue.dead_letters'), '0', 'with no attempt counted');

$source->safe_psql('postgres', q{SELECT queue.drop_relay('l')});

# Who is no superuser has to have a password that is asked for.
my $passfile = PostgreSQL::Test::Utils::tempdir() . '/pgpass';
append_to_file($passfile, "*:*:*:*:$password\n");
chmod(0600, $passfile);
$source->safe_psql(
	'postgres', qq{
CREATE ROLE owner LOGIN;
GRANT SELECT, DELETE ON queues.orders TO owner;
GRANT USAGE ON FOREIGN SERVER target TO owner;
CREATE USER MAPPING FOR owner SERVER target OPTIONS (user 'relay');});
{
	local $ENV{PGPASSFILE} = $passfile;
	local $ENV{PGPASSWORD} = $password;
	$source->restart;
}
$source->safe_psql('postgres',
	q{SET ROLE owner; SELECT queue.create_relay('o', 'orders', 'target', '{"queue": "arrivals"}')});
wait_for_error('o', 'password is required', 'no password in the mapping');
$source->safe_psql('postgres',
	q{ALTER USER MAPPING FOR owner SERVER target OPTIONS (SET user 'trusted', ADD password 'any')});
wait_for_error('o', 'password is required: the server', 'a password nobody asked for');
$source->safe_psql('postgres',
	qq{ALTER USER MAPPING FOR owner SERVER target OPTIONS (SET user 'relay', SET password '$password')});
wait_until($source, '(SELECT count(*) = 0 FROM queues.orders)', 'the right one');

# Unless a superuser has waived that, for this mapping and no other
drain($target, 'arrivals');
$source->safe_psql(
	'postgres', q{
ALTER USER MAPPING FOR owner SERVER target OPTIONS (SET user 'trusted', DROP password, ADD password_required 'false');
SELECT queue.send('orders', '9');});
wait_until($source, '(SELECT count(*) = 0 FROM queues.orders)', 'waived: it needs no password');
is($target->safe_psql('postgres', 'SELECT payload FROM queues.arrivals'), '9', 'waived: it arrives');
$source->safe_psql('postgres',
	q{ALTER USER MAPPING FOR owner SERVER target OPTIONS (ADD password 'any'); SELECT queue.send('orders', '10')}
);
wait_until($source, '(SELECT count(*) = 0 FROM queues.orders)', 'waived: nor has it to be asked for');
$source->safe_psql('postgres',
	q{ALTER USER MAPPING FOR owner SERVER target OPTIONS (SET password_required 'true')});
wait_for_error('o', 'password is required: the server', 'no more, while the relay is connected');
$source->safe_psql('postgres', q{SELECT queue.send('orders', '11')});
$source->safe_psql('postgres',
	q{ALTER USER MAPPING FOR owner SERVER target OPTIONS (DROP password, SET password_required 'false')});
wait_until($source, '(SELECT count(*) = 0 FROM queues.orders)', 'waived again');
$source->safe_psql('postgres',
	q{ALTER USER MAPPING FOR owner SERVER target OPTIONS (DROP password_required)});
wait_for_error('o', 'password is required: the user mapping', 'and not without the option');

# One who was a superuser when the relay was made
$source->safe_psql(
	'postgres', q{
ALTER ROLE owner SUPERUSER;
SELECT queue.send('orders', '12');});
wait_until($source, '(SELECT count(*) = 0 FROM queues.orders)', 'a superuser needs none');
$source->safe_psql(
	'postgres',
	q{ALTER ROLE owner NOSUPERUSER;
	SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'queue relay o'}
);
wait_for_error('o', 'password is required: the user mapping', 'and is none any more');
$source->safe_psql('postgres', q{DROP USER MAPPING FOR owner SERVER target});
$source->safe_psql('postgres', q{SELECT queue.send('orders', '13')});
wait_for_error('o', 'has no user mapping', 'nor has who has no mapping at all a way in');
is($source->safe_psql('postgres', 'SELECT count(*) FROM queues.orders'), '1', 'nothing went meanwhile');
drain($source, 'orders');
drain($target, 'arrivals');
$source->safe_psql('postgres', q{CREATE USER MAPPING FOR owner SERVER target OPTIONS (user 'relay')});

# A superuser's mapping without one gets nothing from the environment either.
$source->safe_psql(
	'postgres', q{
SELECT queue.drop_relay('o');
ALTER USER MAPPING FOR CURRENT_USER SERVER target OPTIONS (DROP password);
SELECT queue.create_relay('s', 'orders', 'target', '{"queue": "arrivals"}');});
wait_for_error('s', 'no password supplied', 'no password from the environment');

# What the page has as an example, with TLS
my $dir = PostgreSQL::Test::Utils::tempdir();
Certificate::make($dir);
$target->append_conf('postgresql.conf',
	"ssl = on\nssl_cert_file = '$dir/server.crt'\nssl_key_file = '$dir/server.key'");
unlink($target->data_dir . '/pg_hba.conf');
$target->append_conf('pg_hba.conf', "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n");
$target->restart;
$target->safe_psql('postgres', 'CREATE DATABASE warehouse');
$source->safe_psql('postgres', 'CREATE DATABASE page');
my ($there_sql, $here_sql) = Page::examples(
	'docs/sinks/postgres.md',
	"host 'warehouse.example.com', port '5432'" => "host 'localhost', port '$port'",
	'/etc/ssl/certs/ca-certificates.crt' => "$dir/ca.crt",
	"'secret'" => "'$password'");
$target->safe_psql('warehouse', "CREATE EXTENSION queue; $there_sql");
$source->safe_psql('page', "CREATE EXTENSION queue; $here_sql");
ok($target->poll_query_until('warehouse', 'SELECT count(*) = 1 FROM queues.arrivals'),
	'the example of the page: it arrives');
is( $target->safe_psql(
		'warehouse',
		'SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = \'courier\''),
	't',
	'the example of the page: by TLS');
is( $target->safe_psql('warehouse', 'SELECT key, payload, headers FROM queue.receive(\'arrivals\')'),
	'alice|{"parcel": 1}|{"trace": "4bf92f35"}',
	'the example of the page: as it was sent');
$source->safe_psql('page', q{ALTER SERVER warehouse OPTIONS (SET host '127.0.0.1')});
ok( $source->poll_query_until(
		'page', q{SELECT last_error ~ 'does not match host name "127.0.0.1"' FROM queue.relays}),
	'a certificate of another host');
$source->safe_psql('page', q{ALTER SERVER warehouse OPTIONS (SET host 'localhost', DROP sslrootcert)});
ok($source->poll_query_until('page', q{SELECT last_error ~ 'certificate' FROM queue.relays}),
	'a certificate nobody vouches for');

my $log = server_words($source);
unlike($log, qr/\Q$password\E|wrong-0815/, 'no password in the log');
unlike($source->safe_psql('postgres', 'SELECT * FROM queue.relays'),
	qr/\Q$password\E|wrong-0815/, 'nor in the view');

$source->stop;
$target->stop;
done_testing();
