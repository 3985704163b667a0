# A relay to Redis: what every sink has to stand, what arrives in streams, lists and
# channels, and what becomes of what Redis does not take.

use strict;
use warnings;

use JSON::PP;
use MIME::Base64;
use Page;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Redis;
use Sink;
use Test::More;
use Wait;

Redis::require_or_skip();

my $redis = Redis->new(tls => 1);
my $password = $redis->password;

$redis->start;
$redis->command('SET', 'wrong', 'a string');

my $last_id = '-';
my $suite = Sink->new(
	name => 'redis',
	port => $redis->port,
	create => sub {
		my $port = $_[0]->port;

		return qq{
CREATE SERVER proxied FOREIGN DATA WRAPPER queue_redis OPTIONS (host '127.0.0.1', port '$port');
CREATE USER MAPPING FOR CURRENT_USER SERVER proxied OPTIONS (username 'relay', password '$password');};
	},
	server => 'proxied',
	options => { target => '{header:kind}' },
	headers => { kind => 'suite' },
	arrived => \&arrived,
	conveys => [qw(id key payload body headers content_type)],
	refused => {
		headers => { kind => 'wrong' },
		error => qr/^WRONGTYPE Operation against a key holding the wrong kind of value$/
	},
	down => qr/^could not connect: Connection refused$/,
	kill => sub { $redis->stop('KILL') },
	start => sub { $redis->start },
	secrets => [$password]);
my $node = $suite->node;

# What an entry of a stream says, as the suite wants it.
sub entry
{
	my (%field) = @{ $_[0] };
	my %entry = (id => $field{'message-id'}, key => $field{key}, content_type => $field{'content-type'});

	$entry{ $entry{content_type} eq 'application/json' ? 'payload' : 'body' } = $field{payload};
	for my $name (map { /^header:(.*)/s ? $1 : () } keys %field)
	{
		my $value = $field{"header:$name"};

		$entry{headers}->{$name} = $value =~ /^[\[{]/ ? decode_json($value) : $value;
	}
	return \%entry;
}

# What there is in the suite's stream since the last call.
sub arrived
{
	my $entries = $redis->command('XRANGE', 'suite', $last_id, '+');

	$last_id = '(' . $entries->[-1]->[0] if @$entries;
	return map { entry($_->[1]) } @$entries;
}

# Change options of the relay, and send something, which a worker with the options
# before must not get.
sub relay_and_send
{
	my ($options, $send) = @_;

	$node->safe_psql('postgres', q{SELECT queue.pause_relay('r')});
	$node->poll_query_until('postgres',
		q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'queue relay' AND datname = 'postgres'}
	) or die 'the relay does not end';
	$node->safe_psql('postgres',
		"SELECT queue.alter_relay('r', '$options'); SELECT queue.resume_relay('r'); $send");
	return;
}

$suite->run;

# What is in a stream, as redis-cli shows it
my ($port, $tls_port, $ca_file) = ($redis->port, $redis->tls_port, $redis->ca_file);
$node->safe_psql(
	'postgres', qq{
CREATE SERVER redis FOREIGN DATA WRAPPER queue_redis OPTIONS (host '127.0.0.1', port '$port');
CREATE USER MAPPING FOR CURRENT_USER SERVER redis OPTIONS (username 'relay', password '$password');
SELECT queue.create_relay('r', 'events', 'redis', '{"batch": 200}');});
my @ids = split(
	/\n/,
	$node->safe_psql(
		'postgres', q{
SELECT queue.send('events', '{"a": [1, "ü", null]}', 'k', '{"kind": "new", "int": 42, "yes": true, "none": null, "list": [1, {"x": "y"}]}');
SELECT queue.send_bytes('events', '\x00ff0d0a', headers => '{"content-type": "application/x-protobuf"}');}));
wait_until_published($node, 'all is published');
my $shown = $redis->cli('XRANGE', 'events', '-', '+');
$shown =~ s/^\s*(?:\d+\)\s*)+//mg;
$shown =~ s/^"\d+-\d+"$/ID/mg;
is( $shown, qq(ID
"payload"
"{\\"a\\": [1, \\"\\xc3\\xbc\\", null]}"
"message-id"
"events/$ids[0]"
"content-type"
"application/json"
"key"
"k"
"header:int"
"42"
"header:yes"
"true"
"header:kind"
"new"
"header:list"
"[1, {\\"x\\": \\"y\\"}]"
"header:none"
"null"
ID
"payload"
"\\x00\\xff\\r\\n"
"message-id"
"events/$ids[1]"
"content-type"
"application/x-protobuf"), 'a payload and bytes, as redis-cli shows them');

# Other fields, and no more entries than are wanted
relay_and_send(
	'{"headers": "json", "payload_field": "data", "target": "other"}',
	q{SELECT queue.send('events', '1', headers => '{"a": {"b": 1}}')});
wait_until_published($node, 'in other fields');
my %field = @{ $redis->command('XRANGE', 'other', '-', '+')->[0]->[1] };
is($field{data}, '1', 'the payload in the field it is to have');
is($field{headers}, '{"a": {"b": 1}}', 'the headers in one');
relay_and_send(
	'{"headers": null, "payload_field": null, "target": "short", "maxlen": 100}',
	q{SELECT count(queue.send('events', to_jsonb(i))) FROM generate_series(1, 2000) i});
wait_until_published($node, 'a stream of limited length');
cmp_ok($redis->command('XLEN', 'short'), '<', 300, 'is kept short');
cmp_ok($redis->command('XLEN', 'short'), '>=', 100, 'and not shorter than wanted');

# CloudEvents
relay_and_send('{"target": "ce", "maxlen": null, "cloudevents": "binary", "ce_type": "t.{header:kind}"}',
	q{SELECT queue.send('events', '{"x": 1}', 'k', '{"kind": "new"}')});
wait_until_published($node, 'CloudEvents, binary');
%field = @{ $redis->command('XRANGE', 'ce', '-', '+')->[0]->[1] };
is($field{ce_type}, 't.new', 'have a type');
is($field{ce_source}, '/events', 'and a source');
is($field{payload}, '{"x": 1}', 'beside the payload');

# Lists and channels
relay_and_send(
	'{"target": "list", "cloudevents": null, "ce_type": null, "command": "rpush"}',
	q{SELECT queue.send('events', '1', 'k'); SELECT queue.send_bytes('events', '\x00fe', 'k'); SELECT queue.send('events', '3', 'k')}
);
wait_until_published($node, 'rpush');
is_deeply($redis->command('LRANGE', 'list', 0, -1), [ '1', "\x00\xfe", '3' ], 'at the end of a list');
relay_and_send('{"command": "lpush"}', q{SELECT queue.send('events', '0', 'k')});
wait_until_published($node, 'lpush');
is_deeply($redis->command('LINDEX', 'list', 0), '0', 'at its beginning');

my $subscriber = $redis->connect;
$subscriber->command('PSUBSCRIBE', '*');
relay_and_send(
	'{"command": "publish", "target": "ch.{key}"}',
	q{SELECT queue.send_bytes('events', '\x00ff0d0a', 'k')});
is_deeply($subscriber->reply, [ 'pmessage', '*', 'ch.k', "\x00\xff\r\n" ], 'a channel');
relay_and_send('{"envelope": true}', q{SELECT queue.send('events', '{"b": 1}', 'k', '{"h": "v"}')});
my $envelope = decode_json($subscriber->reply->[3]);
delete @$envelope{qw(id enqueued_at)};
is_deeply(
	$envelope,
	{ key => 'k', headers => { h => 'v' }, content_type => 'application/json', payload => { b => 1 } },
	'with all there is of the message');
relay_and_send('{"envelope": null, "cloudevents": "structured", "ce_type": "t"}',
	q{SELECT queue.send_bytes('events', '\x00ff', 'k')});
is( decode_json($subscriber->reply->[3])->{data_base64},
	encode_base64("\x00\xff", ''),
	'a CloudEvent of bytes');
undef $subscriber;
$node->safe_psql('postgres', q{SELECT queue.send('events', '1', 'k')});
wait_until_published($node, 'and nobody need listen');

# What Redis does not take for the message's own sake
relay_and_send(
	'{"command": null, "cloudevents": null, "ce_type": null, "target": "{header:to}"}',
	q{
SELECT queue.send('events', '1', 'a', '{"to": "wrong"}');
SELECT queue.send('events', '2', 'a', '{"to": "right"}');
SELECT queue.send('events', '3');});
wait_until_published($node, 'all is published or dead');
is( $node->safe_psql('postgres', 'SELECT payload, attempts, error FROM queue.dead_letters ORDER BY id'),
	'1|2|WRONGTYPE Operation against a key holding the wrong kind of value
3|2|message has no header "to" for the target', 'with the words of Redis, or ours');
is($redis->command('XLEN', 'right'), 1, 'and the one behind it of its key arrives');
$redis->command('ACL', 'SETUSER', 'relay', 'resetkeys', '~right*', '~events');
$node->safe_psql(
	'postgres', q{
SELECT queue.send('events', '4', 'a', '{"to": "secret"}');
SELECT queue.send('events', '5', 'a', '{"to": "right"}');});
wait_until_published($node, 'a stream this user may not have, named by the message');
like($node->safe_psql('postgres', q{SELECT error FROM queue.dead_letters WHERE payload = '4'}),
	qr/^NOPERM /, 'is the message\'s fault');

# Larger than the server takes
$redis->command('CONFIG', 'SET', 'proto-max-bulk-len', 1048576);
$node->safe_psql(
	'postgres', q{
SELECT queue.send('events', to_jsonb(repeat('x', 1200000)), 'b', '{"to": "right"}');
SELECT queue.send('events', '7', 'b', '{"to": "right"}');});
wait_until_published($node, 'one that is too large, and another');
is( $node->safe_psql(
		'postgres', q{SELECT count(*) FROM queue.dead_letters WHERE length(payload::text) > 1000000}),
	'1',
	'the large one is dead');
is($redis->command('XLEN', 'right'), 3, 'the other arrives');
$redis->command('CONFIG', 'SET', 'proto-max-bulk-len', 536870912);

# Troubles of the connection, of which no message is to blame
my $dead = $node->safe_psql('postgres', 'SELECT count(*) FROM queue.dead_letters');
$node->safe_psql('postgres', q{SELECT queue.alter_relay('r', '{"target": "other"}')});
for my $case (
	[
		'a stream this user may not have, of all messages', 'NOPERM ',
		[qw(ACL SETUSER relay resetkeys ~events)], [qw(ACL SETUSER relay ~*)]
	],
	[
		'a command this user may not use', 'NOPERM ',
		[qw(ACL SETUSER relay -xadd)], [qw(ACL SETUSER relay +xadd)]
	],
	[ 'out of memory', 'OOM ', [qw(CONFIG SET maxmemory 1)], [qw(CONFIG SET maxmemory 0)] ],
	[ 'a replica', 'READONLY ', [ 'REPLICAOF', '127.0.0.1', 1 ], [qw(REPLICAOF NO ONE)] ],
	[
		'too few replicas', 'NOREPLICAS ',
		[qw(CONFIG SET min-replicas-to-write 1)], [qw(CONFIG SET min-replicas-to-write 0)]
	])
{
	my ($test, $error, $break, $mend) = @$case;
	my $before = $redis->command('XLEN', 'other');

	$redis->command(@$break);
	$node->safe_psql('postgres',
		q{SELECT count(queue.send('events', to_jsonb(i), 'k' || i)) FROM generate_series(1, 5) i});
	wait_backing_off($node, "^$error", $test);
	$redis->command(@$mend);
	wait_until_published($node, "$test: past");
	is($redis->command('XLEN', 'other') - $before, 5, "$test: each arrives once");
}
$node->safe_psql(
	'postgres', qq{
ALTER USER MAPPING FOR CURRENT_USER SERVER redis OPTIONS (SET password 'wrong-0815');
SELECT queue.send('events', '1');});
wait_backing_off($node, '^WRONGPASS ', 'a wrong password');
$node->safe_psql('postgres',
	'ALTER USER MAPPING FOR CURRENT_USER SERVER redis OPTIONS (DROP password, DROP username)');
wait_backing_off($node, '^NOAUTH ', 'none');
$node->safe_psql(
	'postgres', qq{
ALTER USER MAPPING FOR CURRENT_USER SERVER redis OPTIONS (ADD username 'relay', ADD password '$password');
ALTER SERVER redis OPTIONS (ADD database '3')});
wait_until_published($node, 'with the right one it is published');
is($redis->command('SELECT', 3), 'OK', 'in another database');
is($redis->command('XLEN', 'other'), 1, 'which has it');
$redis->command('SELECT', 0);

# A user without a password, who is not the default user
$redis->command(qw(ACL SETUSER open on nopass ~* +xadd +ping));
$node->safe_psql(
	'postgres', q{
ALTER SERVER redis OPTIONS (DROP database);
ALTER USER MAPPING FOR CURRENT_USER SERVER redis OPTIONS (SET username 'open', DROP password);
SELECT queue.send('events', '1');});
wait_until_published($node, 'a user name alone is one');
$node->safe_psql('postgres',
	qq{ALTER USER MAPPING FOR CURRENT_USER SERVER redis OPTIONS (SET username 'relay', ADD password '$password')}
);

# TLS
$node->safe_psql(
	'postgres', qq{
ALTER SERVER redis OPTIONS (SET port '$tls_port', SET host 'localhost', ADD sslmode 'verify-full');
SELECT queue.send('events', '3');});
wait_backing_off($node, 'TLS handshake failed: certificate verify failed',
	'a certificate nobody vouches for');
$node->safe_psql('postgres',
	qq{ALTER SERVER redis OPTIONS (ADD sslrootcert '$ca_file', SET host '127.0.0.1')});
wait_backing_off(
	$node,
	'TLS handshake failed: certificate verify failed: IP address mismatch',
	'a certificate of another host');
is($node->safe_psql('postgres', 'SELECT count(*) FROM queues.events'), '1', 'nothing is published meanwhile');
$node->safe_psql('postgres', q{ALTER SERVER redis OPTIONS (SET host 'localhost')});
wait_until_published($node, 'with the right one it is');
$node->safe_psql('postgres',
	q{SELECT count(queue.send('events', to_jsonb(repeat('x', 50000)))) FROM generate_series(1, 100)});
wait_until_published($node, 'and much more');

# All is in UTF-8, whatever the database is in.
$node->safe_psql('postgres',
	q{CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0});
$node->safe_psql(
	'latin', qq{
SET client_encoding = 'UTF8';
CREATE EXTENSION queue;
SELECT queue.create('events');
CREATE SERVER redis FOREIGN DATA WRAPPER queue_redis OPTIONS (host '127.0.0.1', port '$port');
CREATE USER MAPPING FOR CURRENT_USER SERVER redis OPTIONS (username 'relay', password '$password');
SELECT queue.create_relay('r', 'events', 'redis', '{"target": "\xc3\xa4.{key}", "payload_field": "\xc3\xb6"}');
SELECT queue.send('events', '"\xc3\xbc"', '\xc3\x9f', '{"\xc3\xa9": "\xc3\xa8"}')});
(wait_for { $redis->command('XLEN', "\xc3\xa4.\xc3\x9f") }) or diag('nothing comes from LATIN1');
my %latin = @{ $redis->command('XRANGE', "\xc3\xa4.\xc3\x9f", '-', '+')->[0]->[1] };
delete @latin{qw(message-id content-type)};
is_deeply(
	\%latin,
	{ "\xc3\xb6" => "\"\xc3\xbc\"", key => "\xc3\x9f", "header:\xc3\xa9" => "\xc3\xa8" },
	'from a database in LATIN1');
$node->safe_psql('latin', q{SELECT queue.drop_relay('r')});

# The page's example, for the user it makes, as they are printed but for the server
my $page = 'docs/sinks/redis.md';
my ($example) = Page::examples($page, "host 'redis.example.com'" => "host '127.0.0.1', port '$port'");
my ($acl) = slurp_file($page) =~ /^```\n(ACL SETUSER .*)\n```$/m or die "no ACL in $page";
$redis->command(qw(ACL DELUSER relay));
$redis->command(split(/ /, $acl));
$node->safe_psql('postgres', 'CREATE DATABASE page');
$node->safe_psql('page', q{CREATE EXTENSION queue; SELECT queue.create('clicks')});
my ($status, $out, $err) = $node->psql('page', $example, on_error_stop => 1);
is("$status$err", '0', 'the example of the page runs');
$node->safe_psql('page',
	q{SELECT queue.send('clicks', jsonb_build_object('n', i), 'k', '{"shop": "berlin"}') FROM generate_series(1, 3) i}
);
ok($node->poll_query_until('page', 'SELECT count(*) = 0 FROM queues.clicks'),
	'and publishes as the user of the page');
like(
	$redis->cli('XRANGE', 'clicks.berlin', '-', '+'),
	qr/"\{\\"n\\": 1\}".*"message-id".*"clicks\/\d+".*"key".*"k".*"header:shop".*"berlin".*"\{\\"n\\": 2\}".*"\{\\"n\\": 3\}"/s,
	'which redis-cli reads');
$node->safe_psql('page', q{SELECT queue.drop_relay('to_redis')});

is($node->safe_psql('postgres', 'SELECT count(*) FROM queue.dead_letters'),
	$dead, 'no trouble was an attempt');
my $log = server_words($node);
unlike($log, qr/\Q$password\E|wrong-0815/, 'no password in the log');
unlike($log, qr/PANIC|TRAP:/, 'and nothing crashed');
$node->stop;
$redis->stop;
done_testing();
