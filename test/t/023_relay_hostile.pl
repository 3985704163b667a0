# Relays to servers that lie, flood, or break at one message: the worker lives,
# is interrupted at once, and nothing is refused but what is at fault.

use strict;
use warnings;

use FakeServer;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Test::More;
use Wait;

# The body of a message that breaks a broker
my $poison = '"poison"';

# Confirm everything but poison; at that do something else.
sub confirm_but
{
	my ($connection, $otherwise) = @_;
	my $tag = 0;

	$connection->amqp_open;
	for (;;)
	{
		my ($body, $header, $routing_key) = $connection->amqp_message;

		$tag++;
		$connection->log("got $body");
		$connection->log("routing key $routing_key header " . unpack('H*', $header));
		return $otherwise->($tag) if $body eq $poison;
		$connection->amqp_ack($tag);
	}
}

my $broker = FakeServer->new(
	small_frames => sub {
		$_[0]->amqp_start(64);
		$_[0]->wait_for_end;
	},
	long_frame => sub {
		$_[0]->amqp_open;
		$_[0]->write(pack('CnN', 1, 1, 0xFFFFFFF0) . 'x' x 100_000);
		$_[0]->wait_for_end;
	},
	no_frame_end => sub {
		$_[0]->amqp_open;
		$_[0]->write(pack('CnN', 8, 0, 0) . 'x');
		$_[0]->wait_for_end;
	},
	short_string => sub {
		$_[0]->amqp_open;
		$_[0]->method(1, 60, 50, pack('n', 312) . "\xFFshort");
		$_[0]->wait_for_end;
	},
	long_table => sub {
		$_[0]->amqp_open;
		$_[0]->method(1, 60, 50, pack('n', 312) . "\0\0\0");
		$_[0]->frame(2, 1, pack('nnQ>n', 60, 0, 0, 1 << 13) . pack('N', 0x7FFFFFFF));
		$_[0]->wait_for_end;
	},
	other_channel => sub {
		$_[0]->amqp_open;
		$_[0]->method(77, 60, 80, pack('Q>C', 1, 0));
		$_[0]->wait_for_end;
	},
	unknown_method => sub {
		$_[0]->amqp_open;
		$_[0]->method(1, 60, 60, 'x' x 1000);
		$_[0]->wait_for_end;
	},
	unknown_tag => sub {
		$_[0]->amqp_open;
		$_[0]->method(1, 60, 80, pack('Q>C', 281474976710655, 1));
		$_[0]->wait_for_end;
	},
	body_out_of_turn => sub {
		$_[0]->amqp_open;
		$_[0]->frame(3, 1, 'x' x 1000);
		$_[0]->wait_for_end;
	},
	body_too_long => sub {
		$_[0]->amqp_open;
		$_[0]->method(1, 60, 50, pack('n', 312) . "\0\0\0");
		$_[0]->frame(2, 1, pack('nnQ>n', 60, 0, 10, 0));
		$_[0]->frame(3, 1, 'x' x 11);
		$_[0]->wait_for_end;
	},
	flood => sub {
		$_[0]->amqp_open;
		$_[0]->log('flood');
		$_[0]->write((pack('CnN', 8, 0, 0) . "\xCE") x 10_000) while 1;
	},
	flood_at_start => sub {
		$_[0]->read(8);
		$_[0]->log('flood');
		$_[0]->write((pack('CnN', 8, 0, 0) . "\xCE") x 10_000) while 1;
	},
	words => sub {
		my ($connection) = @_;
		$connection->amqp_open;
		my $tag = 0;
		while (my ($body, $header) = $connection->amqp_message)
		{
			$connection->method(1, 60, 50,
					pack('n', 312)
				  . pack('C/a', "\xE2\x82\xAC" x 50 . "\xFF\xE2\x82\n\x1B[31m")
				  . pack('C/a', "\xE2\x82\xAC" x 85)
				  . pack('C/a', "\xE2\x82\xAC" x 84 . "\xE2\x82"));
			$connection->frame(2, 1, $header);
			$connection->frame(3, 1, $body);
			$connection->amqp_ack(++$tag);
		}
	},
	blocked_words => sub {
		$_[0]->amqp_open;
		$_[0]->method(0, 10, 60, pack('C/a', "low\0on\xC3"));
		$_[0]->wait_for_end;
	},
	poison_reset => sub {
		my ($connection) = @_;
		confirm_but($connection, sub { });
	},
	poison_silent => sub {
		my ($connection) = @_;
		confirm_but($connection, sub { $connection->wait_for_end });
	},
	confirms_nothing => sub {
		$_[0]->amqp_open;
		$_[0]->wait_for_end;
	},
	takes_nothing => sub {
		$_[0]->amqp_open;
		$_[0]->amqp_message;
	},
	good => sub {
		my ($connection) = @_;
		confirm_but($connection, sub { $connection->amqp_ack($_[0]); });
	});

my $node = queue_node('source');
my $port = $broker->port;
$node->safe_psql(
	'postgres', qq{
SELECT queue.create('events', max_attempts => 2, backoff => '10 ms');
CREATE SERVER fake FOREIGN DATA WRAPPER queue_amqp OPTIONS (host '127.0.0.1', port '$port');
SELECT queue.create_relay('r', 'events', 'fake', '{"routing_key": "x"}');});

# Let the relay connect to another kind of broker.
sub meet
{
	my ($mode, $relay, $server) = @_;

	$node->safe_psql('postgres', qq{SELECT queue.pause_relay('} . ($relay // 'r') . q{')});
	$node->poll_query_until('postgres',
		q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'queue relay'})
	  or die 'the relay does not end';
	($server // $broker)->mode($mode);
	($server // $broker)->take_log;
	$node->safe_psql('postgres', qq{SELECT queue.resume_relay('} . ($relay // 'r') . q{')});
	return;
}

# What breaks the rules is trouble of the connection, whatever it is.
$node->safe_psql('postgres', q{SELECT queue.send('events', '1')});
for my $case (
	[ small_frames => 'the broker wants frames of at most 64 bytes' ],
	[ long_frame => 'the broker sent a frame of 4294967280 bytes' ],
	[ no_frame_end => 'the broker sent something unexpected' ],
	[ short_string => 'the broker sent something unexpected' ],
	[ long_table => 'the broker sent something unexpected' ],
	[ other_channel => 'the broker sent something unexpected' ],
	[ unknown_method => 'the broker sent something unexpected' ],
	[ unknown_tag => 'the broker confirmed message 281474976710655' ],
	[ body_out_of_turn => 'the broker sent a frame out of turn' ],
	[ body_too_long => 'the broker sent a frame out of turn' ])
{
	my ($mode, $error) = @$case;

	meet($mode);
	wait_until($node, "(SELECT last_error LIKE '$error%' FROM queue.relays)", "$mode: a connection error");
}

# A flood is answered by nothing, and keeps no interrupt waiting.
for my $mode ('flood', 'flood_at_start')
{
	meet($mode);
	$node->poll_query_until('postgres',
		q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'queue relay'});
	ok( wait_for
		{
			grep { $_ eq 'flood' } $broker->take_log
		},
		"$mode: the flood has come");
	$node->safe_psql('postgres', q{SELECT queue.pause_relay('r')});
	wait_until(
		$node,
		q{(SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'queue relay')},
		"$mode: interrupted");
}

# A broker that never confirms, or drops every message, makes nobody dead.
$node->safe_psql('postgres', q{SELECT queue.alter_relay('r', '{"confirm_timeout": 1}')});
meet('confirms_nothing');
wait_until(
	$node,
	q{(SELECT state = 'backing off' AND last_error = 'no confirmation within 1 s' FROM queue.relays)},
	'no confirmation is a lost connection');
meet('takes_nothing');
wait_until(
	$node,
	q{(SELECT last_error LIKE 'connection closed by the broker%' OR last_error LIKE 'could not %' FROM queue.relays)},
	'one that hangs up at every message');
my $hung_up = 0;
ok( wait_for
	{
		($hung_up += grep { $_ eq 'connected' } $broker->take_log) >= 5
	},
	'it is tried again and again');
is($node->safe_psql('postgres', 'SELECT count(*) FROM queue.dead_letters'), '0', 'nothing is dead');
meet('good');
wait_until($node, '(SELECT count(*) = 0 FROM queues.events)', 'a good one takes it');
wait_until($node, '(SELECT last_error IS NULL FROM queue.relays)', 'past trouble is past');

# One message that breaks the connection, or is never confirmed, among others:
# it is found, and the others are not published over and over.
for my $mode ('poison_reset', 'poison_silent')
{
	meet($mode);
	$node->safe_psql(
		'postgres', qq{
SELECT queue.send('events', CASE WHEN i = 50 THEN '$poison' ELSE to_jsonb(i) END) FROM generate_series(1, 100) i}
	);
	wait_until(
		$node,
		'(SELECT count(*) = 0 FROM queues.events) AND (SELECT deferred = 0 FROM queue.stats)',
		"$mode: all is through or dead");
	is($node->safe_psql('postgres', 'SELECT payload, attempts, reason FROM queue.dead_letters'),
		"$poison|2|max_attempts", "$mode: the one at fault is dead");
	my %times;
	$times{$_}++ for grep { /^got \d/ } $broker->take_log;
	is(scalar(keys %times), 99, "$mode: all others arrived");
	my ($most) = sort { $b <=> $a } values %times;
	cmp_ok($most, '<=', 3, "$mode: at most three times");
	$node->safe_psql('postgres', 'DELETE FROM queue.dead_letters');
}

# The same with a key: followers wait for it and come after it.
meet('poison_reset');
$node->safe_psql(
	'postgres', qq{
SELECT queue.send('events', '$poison', 'k');
SELECT queue.send('events', '1', 'k');
SELECT queue.send('events', '2', 'other');
SELECT queue.send('events', '3');});
wait_until($node, '(SELECT count(*) = 0 FROM queues.events)', 'with a key: all is through or dead');
is($node->safe_psql('postgres', 'SELECT payload, key, attempts FROM queue.dead_letters'),
	"$poison|k|2", 'with a key: the one at fault is dead');
$node->safe_psql('postgres', 'DELETE FROM queue.dead_letters');

# What cannot be encoded as it is
meet('good');
$node->safe_psql(
	'postgres', q{
SELECT queue.send('events', '1', headers => '{"n": 1e400, "m": -1e309, "f": 1.5}');
SELECT queue.send('events', '2', headers => jsonb_build_object('n', to_jsonb(array_fill(1e131071::numeric, array[9000]))));
SELECT queue.send('events', '3', headers => ('{"n": ' || repeat('[', 1000) || repeat(']', 1000) || '}')::jsonb);
SELECT queue.send('events', to_jsonb(array_fill(1e131071::numeric, array[9000])));
SELECT queue.send('events', to_jsonb(repeat(E'\x01', 25000000)));
INSERT INTO queues.events (payload, body) VALUES ('5', '\x05');
SELECT queue.send('events', '6');});
wait_until(
	$node,
	'(SELECT count(*) = 0 FROM queues.events) AND (SELECT deferred = 0 FROM queue.stats)',
	'all is through or dead');
is( $node->safe_psql(
		'postgres',
		q{SELECT CASE WHEN pg_column_size(payload) < 100 THEN payload END, attempts, error FROM queue.dead_letters WHERE error NOT LIKE '%for a relay' ORDER BY id}
	),
	q{2|2|headers are too large for a frame of the broker
3|2|headers are nested more than 100 deep
5|2|message has both a payload and a body},
	'what cannot be encoded');
is( $node->safe_psql(
		'postgres',
		q{SELECT count(*) FROM queue.dead_letters WHERE error = 'message is too large for a relay'}),
	'2',
	'or is too large as text');
my @sent = $broker->take_log;
is(join(' ', grep { /^got/ } @sent), 'got 1 got 6', 'the rest arrives');
my ($header) = grep { /^routing key/ } @sent;
like($header, qr/016e53000001913130303030/, 'a number no double holds is text');
like($header, qr/01666[4]3ff8000000000000/, 'another is a double');
$node->safe_psql('postgres', 'DELETE FROM queue.dead_letters');

# A pipe is no file of certificates, and who may not know is told nothing.
my $pipe = PostgreSQL::Test::Utils::tempdir() . '/pipe';
require POSIX;
POSIX::mkfifo($pipe, 0600) or die $!;
for my $file ($pipe, '/dev/zero', '/nowhere/at/all', '/etc/passwd')
{
	$node->safe_psql(
		'postgres', qq{
ALTER SERVER fake OPTIONS (ADD sslmode 'verify-ca', ADD sslrootcert '$file');
SELECT queue.send('events', '1');});
	wait_until(
		$node,
		q{(SELECT state = 'backing off' AND last_error = 'could not read the certificates of option "sslrootcert"' FROM queue.relays)},
		"sslrootcert $file");
	$node->safe_psql('postgres', 'ALTER SERVER fake OPTIONS (DROP sslmode, DROP sslrootcert)');
	wait_until($node, '(SELECT count(*) = 0 FROM queues.events)', 'and without it');
}

# In a database of another encoding what leaves is UTF-8.
$node->safe_psql('postgres',
	q{CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0});
$node->safe_psql('postgres', q{SELECT queue.pause_relay('r')});
$broker->take_log;
$node->safe_psql(
	'latin', qq{
SET client_encoding = 'UTF8';
CREATE EXTENSION queue;
SELECT queue.create('grün');
CREATE SERVER fake FOREIGN DATA WRAPPER queue_amqp OPTIONS (host '127.0.0.1', port '$port');
SELECT queue.create_relay('r', 'grün', 'fake', '{"routing_key": "ö{key}{header:ß}"}');
SELECT queue.send('grün', '"ä"', 'é', '{"ß": "ñ"}');});
ok($node->poll_query_until('latin', 'SELECT published = 1 FROM queue.relays'),
	'published from a LATIN1 database');
@sent = $broker->take_log;
ok((grep { $_ eq qq(got "\xC3\xA4") } @sent), 'the payload in UTF-8');
($header) = grep { /^routing key/ } @sent;
like($header, qr/^routing key \xC3\xB6\xC3\xA9\xC3\xB1 /, 'the routing key');
for my $part ("\x02\xC3\x9FS\0\0\0\x02\xC3\xB1", "\x05x-keyS\0\0\0\x02\xC3\xA9", "gr\xC3\xBCn/1")
{
	isnt(index($header, unpack('H*', $part)), -1, 'a header, the key, the id');
}
$node->safe_psql('latin', q{SELECT queue.drop_relay('r')});

# Texts that are no texts
meet('words');
$node->safe_psql('postgres', q{SELECT queue.send('events', '1')});
wait_until($node, '(SELECT count(*) = 1 FROM queue.dead_letters)',
	'a message is returned with strange words');
my $words = $node->safe_psql('postgres', 'SELECT error FROM queue.dead_letters');
like($words,
	qr/^broker returned the message: 312 (\xE2\x82\xAC){50}\? *\?\?? *\[31m \(exchange "(\xE2\x82\xAC)+/,
	'cleaned');
ok(utf8::decode(my $copy = $words), 'and clipped between two characters');
unlike($words, qr/[\x00-\x1F]/, 'without control characters');
meet('blocked_words');
wait_until(
	$node,
	q{(SELECT last_error = 'broker takes no messages for now: low on?' FROM queue.relays)},
	'also those of a blocked connection');
my $dump = $node->basedir . '/dump.sql';
command_ok([ 'pg_dump', '-d', $node->connstr('postgres'), '-f', $dump ], 'a dump');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('restored'), '-f', $dump ],
	'restores');
is($node->safe_psql('restored', 'SELECT error FROM queue.dead_letters'), $words, 'with these words');
is( $node->safe_psql(
		'restored', q{
SELECT count(*) = 1 FROM queue.relay_definition r JOIN pg_type t ON t.oid = r.anchor
WHERE r.name = 'r' AND r.server = 'fake'}
	),
	't',
	'and with the relay');
ok( $node->poll_query_until(
		'restored', q{
SELECT count(*) = 2 FROM pg_depend WHERE classid = 'pg_type'::regclass AND objid = 'queues."$r"'::regtype
	AND refclassid IN ('pg_foreign_server'::regclass, 'pg_class'::regclass)}),
	'which depends on its server again');
my ($ret, $out, $err) = $node->psql('restored', 'DROP SERVER fake');
like($err, qr/other objects depend on it/, 'so that this cannot be dropped');
$node->safe_psql('restored', q{SELECT queue.drop_relay('r')});
$node->safe_psql('postgres',
	q{SELECT queue.drop_relay('r'); SELECT queue.purge('events'); DELETE FROM queue.dead_letters});

#
# PostgreSQL
#

my $columns = pack('n', 1) . "x\0" . pack('NnNnNn', 0, 0, 23, 4, 0xFFFFFFFF, 0);
my $server = FakeServer->new(
	copy_out => sub {
		$_[0]->pg_open;
		$_[0]->pg_batch;
		$_[0]->message('1', '');
		$_[0]->message('2', '');
		$_[0]->message('H', pack('Cnn', 0, 1, 0));
		$_[0]->wait_for_end;
	},
	copy_in => sub {
		$_[0]->pg_open;
		$_[0]->pg_batch;
		$_[0]->message('1', '');
		$_[0]->message('2', '');
		$_[0]->message('G', pack('Cnn', 0, 1, 0));
		$_[0]->wait_for_end;
	},
	copy_at_start => sub {
		$_[0]->pg_start;
		$_[0]->read_message;
		$_[0]->message('H', pack('Cnn', 0, 1, 0));
		$_[0]->wait_for_end;
	},
	endless_rows => sub {
		$_[0]->pg_open;
		$_[0]->pg_batch;
		$_[0]->message('1', '');
		$_[0]->message('2', '');
		$_[0]->message('T', $columns);
		my $row = 'D' . pack('N', 4 + 2 + 4 + 1000) . pack('nN', 1, 1000) . 'x' x 1000;
		$_[0]->log('flood');
		$_[0]->write($row x 100) while 1;
	},
	huge_row => sub {
		$_[0]->pg_open;
		$_[0]->pg_batch;
		$_[0]->message('1', '');
		$_[0]->message('2', '');
		$_[0]->message('T', $columns);
		$_[0]->write('D' . pack('N', 1_000_000_000) . pack('nN', 1, 999_000_000));
		$_[0]->write('x' x 100_000) while 1;
	},
	notices => sub {
		$_[0]->pg_open;
		my $notice = "SNOTICE\0C00000\0Mwhat else\0\0";
		$_[0]->log('flood');
		$_[0]->write(('N' . pack('N', 4 + length($notice)) . $notice) x 1000) while 1;
	},
	no_rows => sub {
		$_[0]->pg_open;
		$_[0]->pg_batch;
		$_[0]->message('1', '');
		$_[0]->message('2', '');
		$_[0]->message('n', '');
		$_[0]->message('C', "DELETE 0\0");
		$_[0]->message('Z', 'I');
		$_[0]->wait_for_end;
	},
	words => sub {
		$_[0]->pg_open;
		for (;;)
		{
			$_[0]->pg_batch;
			$_[0]->pg_error('22023', "no good: \xE2\x82\xAC\xFF\n\xE2\x82" . "\xE2\x82\xAC" x 1000);
		}
	},
	poison => sub {
		$_[0]->pg_open;
		for (;;)
		{
			my $batch = $_[0]->pg_batch;

			last if index($batch, $poison) >= 0;
			$_[0]->pg_accept;
		}
		$_[0]->pg_error('XX000', 'it breaks');
	},
	internal_error => sub {
		$_[0]->pg_open;
		$_[0]->pg_batch;
		$_[0]->pg_error('XX000', 'something broke');
		$_[0]->wait_for_end;
	},
	bare_sqlstate => sub {
		$_[0]->pg_open;
		$_[0]->pg_batch;
		$_[0]->message('E', "SERROR\0\0");
		$_[0]->message('Z', 'I');
		$_[0]->wait_for_end;
	});
$port = $server->port;
$node->safe_psql(
	'postgres', qq{
CREATE SERVER fakepg FOREIGN DATA WRAPPER queue_postgres OPTIONS (host '127.0.0.1', port '$port', sslmode 'disable');
CREATE USER MAPPING FOR CURRENT_USER SERVER fakepg OPTIONS (user 'x', password 'x');
SELECT queue.create_relay('p', 'events', 'fakepg', '{"queue": "x", "confirm_timeout": "2 s"}');
SELECT queue.send('events', '1');});
for my $case (
	[ copy_out => 'the other server gave an unexpected answer (PGRES_COPY_OUT)' ],
	[ copy_in => 'the other server gave an unexpected answer (PGRES_COPY_IN)' ],
	[ copy_at_start => 'the other server gave an unexpected answer (PGRES_COPY_OUT)' ],
	[ endless_rows => 'the other server sends more than was asked for' ],
	[ huge_row => 'the other server sends more than was asked for' ],
	[ notices => 'the other server sends more than was asked for' ],
	[ no_rows => 'the other server gave an unexpected answer (PGRES_COMMAND_OK)' ],
	[ internal_error => 'something broke' ])
{
	my ($mode, $error) = @$case;

	meet($mode, 'p', $server);
	wait_until(
		$node,
		qq{(SELECT state = 'backing off' AND last_error = '$error' FROM queue.relays)},
		"$mode: a connection error");
}
meet('bare_sqlstate', 'p', $server);
wait_until(
	$node,
	qq{(SELECT state = 'backing off' AND last_error <> '' AND last_error NOT LIKE 'something%' FROM queue.relays)},
	'an error without words has some');
is($node->safe_psql('postgres', 'SELECT count(*) FROM queue.dead_letters'), '0', 'nothing is dead');
meet('words', 'p', $server);
wait_until($node, '(SELECT count(*) = 1 FROM queue.dead_letters)', 'a message is refused with strange words');
$words = $node->safe_psql('postgres', 'SELECT error FROM queue.dead_letters');
like($words, qr/^no good: \xE2\x82\xAC\? \?+(\xE2\x82\xAC)+$/, 'cleaned');
ok(utf8::decode($copy = $words), 'and clipped between two characters');

# An internal error for one message is no block for the others.
$node->safe_psql(
	'postgres', qq{
DELETE FROM queue.dead_letters;
SELECT queue.alter('events', max_attempts => 2);});
meet('poison', 'p', $server);
$node->safe_psql(
	'postgres', qq{
SELECT queue.send('events', CASE WHEN i = 5 THEN '$poison' ELSE to_jsonb(i) END) FROM generate_series(1, 10) i;
SELECT queue.send('events', to_jsonb(array_fill(1e131071::numeric, array[9000])));
INSERT INTO queues.events (payload, body) VALUES ('5', '\\x05');});
wait_until(
	$node,
	'(SELECT count(*) = 0 FROM queues.events) AND (SELECT deferred = 0 FROM queue.stats)',
	'all is through or dead');
is( $node->safe_psql('postgres', 'SELECT attempts, reason, error FROM queue.dead_letters ORDER BY error'),
	q{2|max_attempts|it breaks
2|max_attempts|message has both a payload and a body
2|max_attempts|message is too large for a relay}, 'and those at fault say why');

is( $node->safe_psql(
		'postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'queue maintenance'
	AND backend_start < now() - interval '1 s' AND datname = 'postgres'}),
	'1',
	'nobody else has noticed');
ok(!$node->log_contains('terminated by signal'), 'nothing crashed');
$node->stop;
done_testing();
