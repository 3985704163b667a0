# A relay to an HTTP server: what every sink has to stand, what it requests, and what
# becomes of each answer.

use strict;
use warnings;

use Certificate ();
use Digest::SHA qw(hmac_sha256);
use FakeServer;
use HTTPServer;
use HungLookup ();
use IO::Socket::INET;
use JSON::PP;
use MIME::Base64 qw(decode_base64 encode_base64);
use Page         ();
use POSIX        ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Proxy;
use QueueNode;
use Sink;
use Test::More;
use Time::HiRes qw(time);
use Wait;

my $json = JSON::PP->new->utf8->canonical->allow_nonref;
my $token = 'token-0815';

# What a message's header "do" wants the server to do
sub answer
{
	my ($request) = @_;
	my $do = $request->{headers}->{'x-do'} // '';

	return { status => 422, body => "no such thing:\n\xff\x1b and more" } if $do eq '422';
	return { status => 404 } if $do eq '404';
	return { status => 500, body => 'broken' } if $do eq '500' || $request->{mode} eq 'broken';
	return { drop => 1 } if $do eq 'drop';
	return { status => $1, headers => ["Retry-After: $2"] }
	  if $request->{mode} =~ /^wait (\d+) (.*)$/;
	return { status => $1 } if $request->{mode} =~ /^status (\d+)$/;
	return { status => $1, headers => ["Location: $2"] } if $do =~ /^(3\d\d) (.*)$/;
	return { status => 404, body => 'x' x $1 . $request->{headers}->{authorization} }
	  if $do =~ /^echo (\d+)$/;
	return { again => 0.01 } if $do =~ /^hold (\d)$/ && $request->{mode} !~ /^let go.* $1/;
	return { delay => 0.01 * rand } if $request->{mode} eq 'random';
	return { delay => 3600 } if $do eq 'stall' || $request->{mode} eq 'stall';
	return {};
}

# What is on the internet, of which the tests have nothing: an address that is
# public, and leads here; names of it, the second of which comes to be one of ours
# when there is a file; and one that is looked up for ever
my $public = '192.31.196.1';
my $tls_port = PostgreSQL::Test::Cluster::get_free_port();
my $internet = PostgreSQL::Test::Utils::tempdir();
append_to_file(
	"$internet/internet.c", q{
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
int
getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **result)
{
	int			(*next) (const char *, const char *, const struct addrinfo *, struct addrinfo **);

	next = (int (*) (const char *, const char *, const struct addrinfo *, struct addrinfo **))
		dlsym(RTLD_NEXT, "getaddrinfo");
	if (name && strcmp(name, "rebound.example.com") == 0)
		name = access(REBOUND, F_OK) == 0 ? "127.0.0.1" : PUBLIC;
	if (name && strcmp(name, "hooks.example.com") == 0)
		name = PUBLIC;
	return next(name, service, hints, result);
}
int
connect(int fd, const struct sockaddr *address, socklen_t length)
{
	int			(*next) (int, const struct sockaddr *, socklen_t);
	struct sockaddr_in in;

	next = (int (*) (int, const struct sockaddr *, socklen_t)) dlsym(RTLD_NEXT, "connect");
	if (address->sa_family != AF_INET)
		return next(fd, address, length);
	memcpy(&in, address, sizeof(in));
	if (in.sin_addr.s_addr != inet_addr(PUBLIC))
		return next(fd, address, length);
	in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (in.sin_port == htons(443))
		in.sin_port = htons(TLS_PORT);
	return next(fd, (struct sockaddr *) &in, sizeof(in));
}
});
system_or_bail('cc', '-shared', '-fPIC', "-DREBOUND=\"$internet/rebound\"",
	"-DPUBLIC=\"$public\"",
	"-DTLS_PORT=$tls_port", '-o', "$internet/internet.so", "$internet/internet.c", '-ldl');
$ENV{LD_PRELOAD} = "$internet/internet.so";
HungLookup::hang();
my $slow = HungLookup::name();

# Of the environment, nothing is to be used.
$ENV{http_proxy} = $ENV{ALL_PROXY} = 'http://127.0.0.1:1/';

my $server = HTTPServer->new(\&answer);
my $elsewhere = HTTPServer->new(\&answer);

$server->start;
$elsewhere->start;

my $suite = Sink->new(
	name => 'http',
	port => $server->port,
	create => sub {
		my $port = $_[0]->port;

		return qq{
CREATE SERVER proxied FOREIGN DATA WRAPPER queue_http
	OPTIONS (url 'http://127.0.0.1:$port/suite', allow_private 'true');
CREATE USER MAPPING FOR CURRENT_USER SERVER proxied OPTIONS (token '$token');};
	},
	server => 'proxied',
	options => {
		headers => "X-Key: {key}\nX-Do: {header:do}",
		idempotency_header => 'Idempotency-Key'
	},
	arrived => \&arrived,
	conveys => [qw(id key payload body content_type)],
	refused => {
		headers => { do => '422' },
		error => qr/^server answered 422: no such thing: \?.* and more$/
	},
	down => qr/^could not connect: Connection refused$/,
	kill => sub { $server->stop },
	start => sub { $server->start },
	secrets => [$token]);
my $node = $suite->node;

# What was requested and not refused, as the suite wants it
sub arrived
{
	my @messages;

	for my $request ($server->take)
	{
		my %headers = %{ $request->{headers} };
		my %message = (
			id => $headers{'idempotency-key'},
			key => $headers{'x-key'},
			content_type => $headers{'content-type'});

		next if ($headers{'x-do'} // '') eq '422';
		$message{ $message{content_type} eq 'application/json' ? 'payload' : 'body' } = $request->{body};
		push @messages, \%message;
	}
	return @messages;
}

sub sql { return $node->safe_psql('postgres', $_[0]); }

# Whatever is under way is given up, and begins anew.
sub restart_relay
{
	sql(q{SELECT queue.pause_relay('r')});
	wait_until(
		$node,
		q{(SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'queue relay')},
		'another worker');
	sql(q{SELECT queue.resume_relay('r')});
	return;
}

# What the relay says is wrong.
sub wait_for_error
{
	my ($pattern, $test) = @_;
	wait_until($node, "(SELECT last_error ~ '$pattern' FROM queue.relays)", $test)
	  or diag(sql('SELECT state, last_error FROM queue.relays'));
	return;
}

# Options of the relay as they are from now on
sub set_relay
{
	my ($options) = @_;

	sql(qq{SELECT queue.drop_relay('r')}) if sql('SELECT count(*) FROM queue.relays') > 0;
	sql(    q{SELECT queue.create_relay('r', 'events', 'web', $options$}
		  . $json->encode($options)
		  . q{$options$)});
	return;
}

# The signature of Standard Webhooks
sub signature
{
	my ($secret, $name, $time, $body) = @_;
	return 'v1,' . encode_base64(hmac_sha256("$name.$time.$body", $secret), '');
}

sub dead
{
	my $dead = sql('SELECT error FROM queue.dead_letters ORDER BY id');

	sql('DELETE FROM queue.dead_letters');
	return $dead;
}

$suite->run;
$server->take;

is( signature(
		decode_base64('MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'), 'msg_p5jXN8AQM9LWM0D4loKWxJek',
		1614265330, '{"test": 2432232314}'),
	'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
	'a signature as others have published it');

#
# What is requested
#
my $port = $server->port;
my @secrets = map {
	join('', map { chr($_ % 256) } $_ .. $_ + 31)
} 1, 100;
my $secrets = join(' ', map { 'whsec_' . encode_base64($_, '') } @secrets);

sql(qq{
CREATE SERVER web FOREIGN DATA WRAPPER queue_http OPTIONS (url 'http://127.0.0.1:$port/base/', allow_private 'true');
CREATE USER MAPPING FOR CURRENT_USER SERVER web OPTIONS (username 'u', password 'p\xc3\xa4ss');});
set_relay(
	{
		path => '/o/{key}/x?h={header:h}',
		headers => "X-A: a{header:h}b\nX-Empty: {header:none}\nUser-Agent: ours",
		method => 'PUT'
	});
my @ids = split(
	/\n/,
	sql(q{
SELECT queue.send('events', '{"a": "ü"}', E'...a?b#c%/\r\n ü//..x', '{"h": "&x=y z+", "content-type": "application/vnd.x+json"}');
SELECT queue.send('events', '1', 'k', '{"h": true}');
INSERT INTO queues.events (key, headers) VALUES ('nothing', '{"h": 1.50}') RETURNING id;}));
wait_until_published($node, 'all is requested');
my %requests = map { $_->{target} => $_ } $server->take;
my @targets = (
	'/base/o/...a%3Fb%23c%25%2F%0D%0A%20%C3%BC%2F%2F..x/x?h=%26x%3Dy%20z%2B',
	'/base/o/k/x?h=true', '/base/o/nothing/x?h=1.50');
is_deeply([ sort keys %requests ], [ sort @targets ], 'what is filled in stays in its place');
is($requests{ $targets[0] }->{method}, 'PUT', 'the method');
is($requests{ $targets[0] }->{body}, "{\"a\": \"\xc3\xbc\"}", 'the body');
my %headers = %{ $requests{ $targets[0] }->{headers} };
is($headers{'content-type'}, 'application/vnd.x+json', 'the content type');
is($headers{'x-a'}, 'a&x=y z+b', 'a header');
is($headers{'x-empty'}, undef, 'and none of what the message lacks');
is($headers{'user-agent'}, 'ours', 'who we are');
is($headers{authorization}, 'Basic ' . encode_base64("u:p\xc3\xa4ss", ''), 'name and password');
is(join(' ', grep { /expect|cookie|proxy|webhook|ce-/ } sort keys %headers),
	'', 'and nothing that nobody asked for');
is($requests{ $targets[2] }->{headers}->{'content-type'}, undef, 'no content type of nothing');
is($requests{ $targets[2] }->{headers}->{'content-length'}, 0, 'and no content');

set_relay({ path => '?x={key}' });
sql(q{SELECT queue.send('events', '1', 'a&b')});
wait_until_published($node, 'a query');
is(join(' ', map { $_->{target} } $server->take), '/base/?x=a%26b', 'has the path of the URL before it');

# What cannot be put in a URL or a header
set_relay({ path => '/o/{key}/x?h={header:h}', headers => 'X-A: a{header:h}b' });
sql(q{
SELECT queue.send('events', '1', '..', '{"h": 1}');
SELECT queue.send('events', '2', '.', '{"h": 1}');
SELECT queue.send('events', '3', '', '{"h": 1}');
SELECT queue.send('events', '3', '../x', '{"h": 1}');
SELECT queue.send('events', '3', 'x/..', '{"h": 1}');
SELECT queue.send('events', '3', 'x\..\y', '{"h": 1}');
SELECT queue.send('events', '4', 'k', '{"h": ""}');
SELECT queue.send('events', '5', 'k', '{"h": "a\r\nX-Evil: 1"}');
SELECT queue.send('events', '6', 'k');
SELECT queue.send('events', '7', NULL, '{"h": 1}');
SELECT queue.send('events', '8', 'k', jsonb_build_object('h', repeat('x', 9000)));});
wait_until_published($node, 'what cannot be requested');
is( dead(), q{a segment of the path would be "." or ".."
a segment of the path would be "." or ".."
key or header for the path is empty
a segment of the path would be "." or ".."
a segment of the path would be "." or ".."
a segment of the path would be "." or ".."
key or header for the path is empty
header "X-A" of the request would have control characters
message has no header "h" for the path
message has no key for the path
path has more than 8000 bytes}, 'is refused');
is(scalar($server->take), 0, 'and not requested');

# Signatures, and CloudEvents
sql(qq{ALTER USER MAPPING FOR CURRENT_USER SERVER web OPTIONS (DROP username, DROP password, ADD signing_secret '$secrets')}
);
set_relay(
	{ cloudevents => 'binary', ce_type => 'shop."{header:t}"', idempotency_header => 'Idempotency-Key' });
my $id = sql(q{SELECT queue.send('events', '{"a":  "ü"}', 'k', '{"t": "ä %"}')});
wait_until_published($node, 'a signed message');
my ($request) = $server->take;
%headers = %{ $request->{headers} };
is($request->{target}, '/base/', 'without a path the URL is the whole');
is($headers{'webhook-id'}, "events/$id", 'webhook-id');
cmp_ok(abs($headers{'webhook-timestamp'} - time), '<', 60, 'webhook-timestamp');
is( $headers{'webhook-signature'},
	join(' ', map { signature($_, "events/$id", $headers{'webhook-timestamp'}, $request->{body}) } @secrets),
	'webhook-signature');
is($headers{'user-agent'}, 'queue', 'who we are');
is($headers{'idempotency-key'}, "events/$id", 'the idempotency key');
is($headers{'ce-id'}, "events/$id", 'CloudEvents, binary: id');
is($headers{'ce-type'}, 'shop.%22%C3%A4%20%25%22', 'type, escaped');
is($headers{'ce-source'}, '/events', 'source');
is($headers{'ce-specversion'}, '1.0', 'version');
is($headers{'ce-partitionkey'}, 'k', 'key');
like($headers{'ce-time'}, qr/^\d{4}-\d\d-\d\dT[\d:.]+\+00:00$/, 'time');
is($headers{'content-type'}, 'application/json', 'content type');
set_relay({ cloudevents => 'structured', ce_type => 'shop.{header:t}' });
$id = sql(q{SELECT queue.send('events', '{"a": 1}', 'k', '{"t": "ä"}')});
wait_until_published($node, 'CloudEvents, structured');
($request) = $server->take;
is($request->{headers}->{'content-type'}, 'application/cloudevents+json', 'content type');
is(join(' ', grep { /^ce-/ } keys %{ $request->{headers} }), '', 'no headers');
my $event = $json->decode($request->{body});
is_deeply([ @$event{qw(id type data)} ], [ "events/$id", "shop.\x{e4}", { a => 1 } ], 'one object');
sql(q{
INSERT INTO queues.events (payload, headers, enqueued_at) VALUES ('1', '{"t": "a"}', 'infinity'),
	('2', '{"t": "b"}', '10000-01-01'), ('3', '{"t": "c"}', '0044-03-15 BC');
SELECT queue.send('events', '4', NULL, jsonb_build_object('t', U&'\FDD0')), queue.send('events', '5', NULL, jsonb_build_object('t', U&'\+01FFFE'));}
);
wait_until_published($node, 'what the specification has no words for');
is( join(' ', sort map { my $e = $json->decode($_->{body}); $e->{type} . ($e->{time} // '') } $server->take),
	'shop.a shop.b shop.c',
	'times that are none are left out');
is(dead(), join("\n", ('CloudEvents attribute "type" has control characters') x 2), 'type is needed');

#
# What becomes of answers
#

# DROP DATABASE is answered soon, whatever a relay there is about: it is as said, at
# a server of that URL and mode.
sub drop_database
{
	my ($url, $mode, $condition) = @_;

	$server->mode($mode);
	sql('CREATE DATABASE doomed');
	$node->safe_psql(
		'doomed', qq{
CREATE EXTENSION queue;
SELECT queue.create('events');
CREATE SERVER web FOREIGN DATA WRAPPER queue_http OPTIONS (url '$url', allow_private 'true');
CREATE USER MAPPING FOR CURRENT_USER SERVER web;
SELECT queue.create_relay('r', 'events', 'web'), queue.send('events', '{"n": 1}');});
	ok($node->poll_query_until('doomed', "SELECT $condition FROM queue.relays"),
		"a relay of which $condition");
	my $start = time;
	sql('DROP DATABASE doomed');
	cmp_ok(time - $start, '<', 6, 'does not keep DROP DATABASE waiting');
	$server->mode('');
	return;
}

sub send_all
{
	my (@do) = @_;
	my $n = 0;

	sql(join("\n", map { $n++; "SELECT queue.send('events', '{\"n\": $n}', NULL, '{\"do\": \"$_\"}');" } @do)
	);
	return;
}

sub bodies
{
	return join(' ', sort { $a <=> $b } map { $json->decode($_->{body})->{n} } @_);
}

# Wait for dead letters, while there are others to tell whose fault it is.
sub wait_until_dead
{
	my ($n, $test) = @_;
	my $ok = wait_for
	{
		sql(q{SELECT queue.send('events', '{"n": 0}') WHERE NOT EXISTS (SELECT FROM queues.events WHERE payload = '{"n": 0}')}
		);
		sql('SELECT count(*) FROM queue.dead_letters') >= $n;
	};

	ok($ok, $test) or diag(sql('SELECT state, last_error FROM queue.relays'));
	wait_until_published($node, 'and all is over');
	return;
}

# A message that has the server fail is set aside, and the others get through.
set_relay({ headers => 'X-Do: {header:do}' });
send_all('ok', '500', 'ok', 'drop', 'ok', '404', 'ok');
wait_until_dead(3, 'two that break the server');
like(
	join("\n", sort split(/\n/, dead())),
	qr/^(connection closed by the server|no answer: Empty reply from server)
server answered 404
server answered 500: broken$/,
	'are dead letters');
my @got = grep { ($_->{headers}->{'x-do'} // '') eq 'ok' } $server->take;
is(bodies(@got), '1 3 5 7', 'and nobody else, nor does another come twice');

# A server that fails at all of them makes no dead letters.
$server->mode('broken');
send_all(('ok') x 5);
wait_for_error('^server answered 500: broken$', 'a server that is broken');
my $before = 0;
ok((wait_for { ($before += scalar($server->take)) > 8 }), 'is tried again and again');
is(sql('SELECT count(*) FROM queue.dead_letters'), '0', 'at nobody\'s cost');
for my $status (401, 302, 503)
{
	$server->mode("status $status");

	# Another worker tries at once.
	sql(q{SELECT queue.pause_relay('r'); SELECT queue.resume_relay('r')});
	wait_for_error("^server answered $status", "$status is the server's trouble");
}
$server->mode('');
sql(q{SELECT queue.pause_relay('r'); SELECT queue.resume_relay('r')});
wait_until_published($node, 'when it works they arrive');
is(dead(), '', 'all of them');
$server->take;

# It asks to wait.
for my $status (429, 503)
{
	$server->mode("wait $status 2");
	send_all('ok');
	wait_for_error("^waiting for 2 s: server answered $status", "$status with Retry-After");
	my $start = time;
	$server->mode('');
	wait_until_published($node, 'is waited for');
	cmp_ok(time - $start, '>', 1, 'so long');
	is(scalar($server->take), 2, 'without a request between');
}
is(dead(), '', 'and not held against anyone');

# It asks for what nobody can wait for.
for my $case (
	[ '-5', '^server answered' ],
	[ 'Mon, 01 Jan 2001 00:00:00 GMT', '^server answered' ],
	[ 'soon', '^server answered' ],
	[ '9' x 30, '^(waiting for 900 s: )?server answered' ],
	[ '9223372036854775807', '^waiting for 900 s: server answered' ],
	[ 'Fri, 31 Dec 9999 23:59:59 GMT', '^waiting for 900 s: server answered' ])
{
	my ($after, $error) = @$case;

	$server->mode("wait 503 $after");
	send_all('ok') if $after eq '-5';
	restart_relay();
	wait_for_error("$error 503\$", "Retry-After: $after");
}
$server->mode('');
$server->take;
drop_database("http://127.0.0.1:$port/", 'wait 503 900', q{last_error ~ '^waiting for 900 s'});
restart_relay();
wait_until_published($node, 'who asks for it is answered meanwhile');
$server->take;

# What counts as success, and what is to be tried again, is up to the relay.
set_relay({ headers => 'X-Do: {header:do}', success => '2xx, 422', retry => '503' });
send_all('422', '500');
wait_until_published($node, 'success and retry by option');
is(dead(), 'server answered 500: broken', 'are heeded');
$server->take;

# A server repeats our secret.
sql('ALTER USER MAPPING FOR CURRENT_USER SERVER web OPTIONS (DROP signing_secret)');
set_relay({ headers => 'X-Do: {header:do}' });
for my $case (
	[ "ADD token '$token'", 'Bearer **********' ],
	[ "DROP token, ADD username 'u', ADD password 'p\xc3\xa4ss'", 'Basic ************' ],
	[ q{DROP username, DROP password, ADD authorization 'Our secret'}, '**********' ],
	[ "DROP authorization, ADD token '$token'", 'Bearer **********' ])
{
	my ($options, $shown) = @$case;

	# All of it, and what fits of it in what is kept of an answer
	sql("ALTER USER MAPPING FOR CURRENT_USER SERVER web OPTIONS ($options)");
	for my $before (0, 290)
	{
		send_all("echo $before");
		wait_until_published($node, 'a server that repeats what it was told');
		is( dead(),
			'server answered 404: ' . substr('x' x $before . $shown, 0, 299),
			"does not make it known, with $before bytes before it: $shown");
	}
}
$server->take;

# No answer in time, which is of no matter to the others
set_relay({ headers => 'X-Do: {header:do}', timeout => 300, confirm_timeout => 400 });
send_all('stall', 'ok', 'ok');
wait_until(
	$node,
	q{(SELECT in_flight = 1 AND lag_messages = 1 FROM queue.relays)},
	'a message that has no answer holds up no others');
set_relay({ headers => 'X-Do: {header:do}', timeout => 1 });
wait_until_dead(1, 'a message that has no answer');
is(dead(), 'no answer within 1 s', 'is a dead letter');
my @requests = $server->take;
is(bodies(grep { ($_->{headers}->{'x-do'} // '') eq 'ok' } @requests), '2 3', 'and no other is')
  or diag($json->encode(\@requests));

# A worker ends, as its relay has been changed, with a message confirmed that waits to
# be deleted with another one: it is not requested again.  Who would end the worker
# without that is stopped.
set_relay({ headers => 'X-Do: {header:do}' });
wait_until($node, q{(SELECT state = 'idle' FROM queue.relays)}, 'the relay waits for messages');
my $worker = sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'queue relay'});
my $stop = $node->background_psql('postgres');
my $stopped = q{FROM pg_locks WHERE locktype = 'advisory' AND NOT granted};
$stop->query_safe(
	q{SELECT pg_advisory_lock(hashtext('maintenance'), pid) FROM pg_stat_activity WHERE backend_type = 'queue maintenance'}
);
sql(q{BEGIN; PREPARE TRANSACTION 'hurry'});
sql(q{ROLLBACK PREPARED 'hurry'});
wait_until($node, "(SELECT count(*) = 1 $stopped)", 'the maintenance worker is stopped');
send_all('hold 1', 'hold 2');
wait_until($node, '(SELECT in_flight = 2 FROM queue.relays)', 'two messages have no answer yet');
$stop->query_safe("SELECT pg_advisory_lock(hashtext('relay-claims'), $worker)");
$server->mode('let go 1');
my $confirmed = wait_for
{
	return 0 if sql("SELECT count(*) $stopped") ne '2';
	return 1 if sql('SELECT in_flight FROM queue.relays') eq '1';

	# It claims for another reason.
	$stop->query_safe("SELECT pg_advisory_unlock(hashtext('relay-claims'), $worker)");
	$stop->query_safe("SELECT pg_advisory_lock(hashtext('relay-claims'), $worker)");
	return 0;
};
ok($confirmed, 'one is confirmed, and the relay claims others');
sql(q{SELECT queue.alter_relay('r', '{"concurrency": 2}')});
$stop->query_safe("SELECT pg_advisory_unlock(hashtext('relay-claims'), $worker)");
wait_until($node, "NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $worker)", 'the worker ends');
$stop->quit;
$server->mode('let go 1 2');
wait_until_published($node, 'the next one goes on');
is(scalar(grep { $_->{headers}->{'x-do'} eq 'hold 1' } $server->take), 1, 'with what was not confirmed');
$server->mode('');

# Order per key, with several requests at a time
$server->mode('random');
for my $concurrency (1, 10)
{
	set_relay({ concurrency => $concurrency, headers => 'X-Key: {key}' });
	sql(q{SELECT count(queue.send('events', jsonb_build_object('n', i), 'k' || i / 4 % 20)) FROM generate_series(1, 400) i}
	);
	wait_until_published($node, "concurrency $concurrency: all is requested");
	@got = $server->take;
	is(scalar(@got), 400, 'once');
	my (%last, $disorder);
	for my $got (@got)
	{
		my $n = $json->decode($got->{body})->{n};
		my $key = $got->{headers}->{'x-key'};

		$disorder++ if $n < ($last{$key} // 0) || grep { $_ eq $key } @{ $got->{keys} };
		$last{$key} = $n;
	}
	is($disorder, undef, 'in the order of each key');
	my ($most) = sort { $b <=> $a } map { $_->{open} } @got;
	is($most, $concurrency, "with $concurrency requests at a time");
}
$server->mode('');

#
# Redirects
#
my $other = $elsewhere->port;

# What the other server was asked; messages say where they go on to
set_relay({ headers => 'X-Do: {header:do}', follow_redirects => 1, retry => '5xx' });
for my $do ("308 http://127.0.0.1:$other/there", "302 http://127.0.0.1:$other/more?x=1")
{
	send_all($do);
	wait_until_published($node, 'a redirect');
}
is(dead(), "server answered 308\nserver answered 302", 'a second one is not followed');
@got = $elsewhere->take;
is( join(' ', sort map { "$_->{method} $_->{target} $_->{body}" } @got),
	join(' ', sort map { ("POST $_ {\"n\": 1}") x 2 } '/there', '/more?x=1'),
	'the first one is');
is(join(' ', map { $_->{headers}->{authorization} // () } @got), '', 'without what we log in by');
$server->take;
send_all('307 /there');
wait_until_published($node, 'a redirect to the same server');
is(dead(), 'server answered 307', 'once');
is( join(' ', map { "$_->{target} $_->{headers}->{authorization}" } $server->take),
	join(' ', ("/base/ Bearer $token", "/there Bearer $token") x 2),
	'has it');
send_all(
	'303 /there',
	'307 file:///etc/passwd',
	'307 gopher://127.0.0.1/x',
	'307 ftp://127.0.0.1/x',
	"307 http://u:p\@127.0.0.1:$other/x",
	"307 http://u\@127.0.0.1:$port/x");
wait_until_published($node, 'redirects to what is no server of HTTP');
is( join("\n", sort split(/\n/, dead())),
	join("\n", 'server answered 303', ('server answered 307') x 5),
	'or that would have us log in, are not followed');
is(scalar($elsewhere->take), 0, 'none of them');
set_relay({ headers => 'X-Do: {header:do}', retry => '5xx' });
send_all("307 http://127.0.0.1:$other/there");
wait_until_published($node, 'without the option');
is(dead(), 'server answered 307', 'none is followed');
is(scalar($elsewhere->take), 0, 'none at all');

#
# Addresses that are not public
#
my $cases = PostgreSQL::Test::Utils::tempdir() . '/address';
my $include = $ENV{PG_CONFIG} ? `$ENV{PG_CONFIG} --includedir-server` : `pg_config --includedir-server`;
my %addresses = (
	private => [
		qw(0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.127.255.255 127.0.0.1 127.255.0.1 169.254.169.254
		  172.16.0.1 172.31.255.255 192.0.0.8 192.0.2.1 192.168.1.1 198.18.0.1 198.19.255.255 198.51.100.1
		  203.0.113.9 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255
		  :: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:10.1.2.3 ::ffff:0:127.0.0.1 64:ff9b::127.0.0.1
		  64:ff9b::a9fe:a9fe 64:ff9b:1::1.1.1.1 100::1 2001::1 2001:db8::1 2002:7f00:1::1 2002:c0a8:101::1
		  3fff::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1 fec0::1 ff02::1)
	],
	public => [
		qw(1.1.1.1 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.1.1.1 128.0.0.1 169.253.1.1
		  172.15.0.1 172.32.0.1 192.0.1.1 192.167.1.1 192.169.1.1 198.17.0.1 198.20.0.1 223.255.255.255
		  ::ffff:1.1.1.1 64:ff9b::1.1.1.1 2001:200::1 2606:4700:4700::1111 2002:101:101::1 2a00::1)
	]);

append_to_file(
	"$cases.c", q{
#include "sinks/http/address.c"
#include <arpa/inet.h>
int
main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
	{
		struct sockaddr_in in = {.sin_family = AF_INET};
		struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
		bool		is6 = strchr(argv[i], ':') != NULL;

		if (inet_pton(is6 ? AF_INET6 : AF_INET, argv[i],
					  is6 ? (void *) &in6.sin6_addr : (void *) &in.sin_addr) != 1)
			return 1;
		puts(address_is_public(is6 ? (struct sockaddr *) &in6 : (struct sockaddr *) &in) ?
			 "public" : "private");
	}
	return 0;
}
});
chomp($include);
system_or_bail('cc', '-Isrc', "-I$include", '-o', $cases, "$cases.c");
for my $is ('private', 'public')
{
	my @all = @{ $addresses{$is} };
	my @said = split(/\n/, `$cases @all`);

	is(join(' ', map { $all[$_] } grep { ($said[$_] // '') ne $is } 0 .. $#all), '',
		"addresses that are $is");
}

# However they are written, and whatever name leads to them
$server->take;
sql(q{ALTER SERVER web OPTIONS (DROP allow_private); SELECT queue.send('events', '{"n": 1}')});
for my $case (
	[ '127.0.0.1', '127.0.0.1' ],
	[ 'localhost', '(127.0.0.1|::1)' ],
	[ '2130706433', '127.0.0.1' ],
	[ '0x7f.1', '127.0.0.1' ],
	[ '0177.0.0.1', '127.0.0.1' ],
	[ '127%2e0.0.1', '127.0.0.1' ],
	[ '[::ffff:7f00:1]', '::ffff:127.0.0.1' ],
	[ '[fe80::1%25lo]', 'fe80::1' ],
	[ '[64:ff9b::7f00:1]', '64:ff9b::7f00:1' ],
	[ '[::]', '::' ],
	[ '[::ffff:127.0.0.1]', '::ffff:127.0.0.1' ],
	[ '[::1]', '::1' ],
	[ '0', '0.0.0.0' ])
{
	my ($host, $address) = @$case;

	sql(qq{ALTER SERVER web OPTIONS (SET url 'http://$host:$port/')});
	restart_relay();
	wait_for_error("^address $address is not a public one, and the server has not option \"allow_private\"",
		"$host is private");
}
is(scalar($server->take), 0, 'none of them was connected to');

# A server that is public sends us on to one that is not; or to another that is.
sql(qq{ALTER SERVER web OPTIONS (SET url 'http://$public:$port/')});
set_relay({ headers => 'X-Do: {header:do}', follow_redirects => 2, retry => '5xx' });
wait_until_published($node, 'a public address');
send_all("307 http://127.0.0.1:$other/evil", "307 http://$public:$other/good");
wait_until_dead(2, 'redirects');
is( join("\n", sort split(/\n/, dead())),
	'address 127.0.0.1 is not a public one, and the server has not option "allow_private"
server answered 307',
	'are only followed to public addresses');
is( join(' ', sort map { $_->{target} } $elsewhere->take),
	join(' ', ('/good') x 4),
	'and nobody else heard of them');

# A name that is another address by now
sql(qq{ALTER SERVER web OPTIONS (SET url 'http://rebound.example.com:$port/')});
restart_relay();
send_all('ok');
wait_until_published($node, 'a name of a public address');
$server->take;
append_to_file("$internet/rebound", '');
restart_relay();
send_all('ok');
wait_for_error('^address 127.0.0.1 is not a public one', 'that is private by now');
is(scalar($server->take), 0, 'is not connected to');

# A name that is looked up for ever keeps nobody waiting.
set_relay({});
sql(qq{ALTER SERVER web OPTIONS (SET url 'http://$slow/'); SELECT queue.pause_relay('r'); SELECT queue.resume_relay('r')}
);
wait_until($node, '(SELECT in_flight = 1 FROM queue.relays)', 'a name is looked up');
my $start = time;
sql(q{SELECT queue.pause_relay('r')});
wait_until(
	$node,
	q{(SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'queue relay')},
	'and not waited for');
cmp_ok(time - $start, '<', 6, 'by who pauses the relay');
drop_database("http://$slow/", '', 'in_flight = 1');
sql(q{SELECT queue.resume_relay('r')});
wait_for_error('^could not connect: timeout expired$', 'nor by the relay');

# A proxy of the environment is none of ours: the server was started with one.
sql(qq{ALTER SERVER web OPTIONS (SET url 'http://127.0.0.1:$port/', ADD allow_private 'true')});
wait_until_published($node, 'allowed, it arrives');
is(dead(), '', 'undamaged');
$server->take;

#
# Servers that behave as none should
#
my $head = "HTTP/1.1 200 OK\r\n";
my $fake = FakeServer->new(
	garbage => sub { $_[0]->read(100); $_[0]->write("\x00\xff" x 1000); $_[0]->wait_for_end; },
	old => sub { $_[0]->read(100); $_[0]->write('yes'); },
	headers =>
	  sub { $_[0]->read(100); $_[0]->write($head); $_[0]->write('X: ' . 'x' x 1000 . "\r\n") while 1; },
	header => sub { $_[0]->read(100); $_[0]->write($head . 'X: '); $_[0]->write('x' x 1000) while 1; },
	informs => sub { $_[0]->read(100); $_[0]->write("HTTP/1.1 100 Continue\r\n\r\n" x 10) while 1; },
	chunks => sub {
		$_[0]->read(100);
		$_[0]->write("${head}Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFF\r\n");
		$_[0]->wait_for_end;
	},
	half => sub { $_[0]->read(100); $_[0]->write("${head}Content-Length: 100\r\n\r\nhalf"); },
	negative =>
	  sub { $_[0]->read(100); $_[0]->write("${head}Content-Length: -1\r\n\r\n"); $_[0]->wait_for_end; },
	drips => sub {
		$_[0]->read(100);
		for my $c (split(//, $head x 1000)) { $_[0]->write($c); select(undef, undef, undef, 0.1); }
	},
	body => sub { $_[0]->read(100); $_[0]->write("$head\r\n"); $_[0]->write('x' x 1000) while 1; });
my $fake_port = $fake->port;

sql(qq{ALTER SERVER web OPTIONS (SET url 'http://127.0.0.1:$fake_port/')});
set_relay({ timeout => 2, concurrency => 1 });
my $files;
for my $case (
	[ garbage => 'no answer: Received HTTP/0.9 when not allowed' ],
	[ old => 'no answer: Received HTTP/0.9 when not allowed' ],
	[ headers => 'too many headers|no answer' ],
	[ header => 'too many headers|no answer' ],
	[ informs => 'too many headers|no answer' ],
	[ chunks => 'no answer' ],
	[ half => 'no answer: (transfer closed|end of response)' ],
	[ negative => 'no answer' ],
	[ drips => 'no answer within 2 s' ])
{
	my ($mode, $error) = @$case;

	$fake->mode($mode);
	sql(q{SELECT queue.pause_relay('r'); SELECT queue.resume_relay('r')});
	sql(q{SELECT queue.send('events', '{"n": 1}')}) if $mode eq 'garbage';
	wait_for_error($error, "a server of $mode");
}
is(sql('SELECT count(*) FROM queues.events'), 1, 'none has taken the message');
$fake->mode('body');
sql(q{SELECT queue.pause_relay('r'); SELECT queue.resume_relay('r')});
wait_until_published($node, 'one whose answer has no end has');
is(dead(), '', 'nothing is dead');

#
# TLS and HTTP/2, by nginx
#
my $nginx = '/usr/sbin/nginx';
my $goaway_port = PostgreSQL::Test::Cluster::get_free_port();
my $dir = PostgreSQL::Test::Utils::tempdir();
Certificate::make($dir, 'hooks.example.com');
append_to_file(
	"$dir/nginx.conf", qq{
daemon off;
master_process off;
pid $dir/pid;
error_log $dir/error.log;
events { worker_connections 200; }
http {
	access_log $dir/access.log;
	client_body_temp_path $dir/body;
	proxy_temp_path $dir/proxy;
	fastcgi_temp_path $dir/fastcgi;
	uwsgi_temp_path $dir/uwsgi;
	scgi_temp_path $dir/scgi;
	log_format protocol '\$server_protocol \$connection';
	access_log $dir/protocol.log protocol;
	server {
		listen 127.0.0.1:$tls_port ssl http2;
		ssl_certificate $dir/server.crt;
		ssl_certificate_key $dir/server.key;
		location / { proxy_pass http://127.0.0.1:$port; }
	}
	server {
		listen 127.0.0.1:$goaway_port ssl http2;
		ssl_certificate $dir/server.crt;
		ssl_certificate_key $dir/server.key;
		keepalive_requests 20;
		location / { proxy_pass http://127.0.0.1:$port; }
	}
}
});
my $nginx_pid = fork() // die $!;
if (!$nginx_pid)
{
	exec($nginx, '-p', $dir, '-c', "$dir/nginx.conf", '-e', "$dir/start.log") or POSIX::_exit(1);
}
ok((wait_for { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $tls_port) }), 'nginx is up');
$server->take;

# Requests by so many keys to a URL; what nginx has seen of them
sub request_by
{
	my ($url, $options, $test) = @_;

	truncate("$dir/protocol.log", 0) or die $!;
	sql(qq{ALTER SERVER web OPTIONS (SET url '$url'); $options;
SELECT count(queue.send('events', jsonb_build_object('n', i), 'k' || i)) FROM generate_series(1, 200) i});
	wait_until_published($node, $test);
	is(scalar($server->take), 200, "$test: once");
	my %protocols;
	my %connections;
	for my $line (split(/\n/, slurp_file("$dir/protocol.log")))
	{
		my ($protocol, $connection) = split(/ /, $line);

		$protocols{$protocol}++;
		$connections{$connection}++;
	}
	return (join(' ', keys %protocols), scalar(keys %connections));
}

set_relay({ headers => 'X-Do: {header:do}' });
sql(qq{ALTER SERVER web OPTIONS (SET url 'https://localhost:$tls_port/'); SELECT queue.send('events', '{"n": 1}')}
);
wait_for_error('^could not connect: .*certificate', 'a certificate nobody vouches for');
sql(qq{ALTER SERVER web OPTIONS (ADD sslrootcert '$dir/ca.crt', SET url 'https://127.0.0.1:$tls_port/')});
wait_for_error('^could not connect: .*(alternative|subject|certificate)', 'a certificate of another host');
is(scalar($server->take), 0, 'nothing is requested meanwhile');
sql(qq{ALTER SERVER web OPTIONS (SET url 'https://localhost:$tls_port/')});
wait_until_published($node, 'with the right one it is');
$server->take;
is_deeply(
	[ request_by("https://localhost:$tls_port/", '', 'TLS') ],
	[ 'HTTP/2.0', 1 ],
	'all on one connection, by HTTP/2');

# A server ends connections again and again, and says of some requests that it has not
# begun with them.
my $logged = -s $node->logfile;
my ($protocol, $connections) = request_by("https://localhost:$goaway_port/", '', 'GOAWAY');
is($protocol, 'HTTP/2.0', 'by HTTP/2');
cmp_ok($connections, '>=', 10, 'on many connections');
unlike(slurp_file($node->logfile, $logged), qr/cannot publish/, 'is no trouble');

# A connection is reset with requests under way: it is the relay that tries again,
# and at the latest when it happens again, that is trouble.  Sent by anyone else they
# would be waited for.  (For a reset the proxy has to have something unread.)
my $proxy = Proxy->new(server => $tls_port);
my $broken = q{(SELECT last_error ~ '^(connection closed by the server|no answer)' FROM queue.relays)};
set_relay({ headers => 'X-Do: {header:do}', concurrency => 20, timeout => 300, confirm_timeout => 400 });
sql(sprintf(q{ALTER SERVER web OPTIONS (SET url 'https://localhost:%d/')}, $proxy->port));
send_all('ok');
wait_until_published($node, 'a connection that stays');
$server->take;
$server->mode('stall');
send_all(('ok') x 8);
$start = time;

for my $n (8, 9)
{
	my $requested = 0;

	ok((wait_for { ($requested += scalar($server->take)) >= $n || sql("SELECT $broken") eq 't' }),
		"$n requests");
	$proxy->mode('frozen');
	send_all('ok');
	wait_until($node, "(SELECT in_flight = $n + 1 FROM queue.relays) OR $broken", 'and another');
	$proxy->cut_and_open;
}
wait_until($node, $broken, 'the connection breaks twice');
cmp_ok(time - $start, '<', 60, 'and what went by it is not waited for');
$server->mode('');
$proxy->cut;
wait_until_published($node, 'it is over');
$server->take;
is(dead(), '', 'and nobody has to do with it');
set_relay({ headers => 'X-Do: {header:do}' });
sql(qq{ALTER SERVER web OPTIONS (SET url 'https://localhost:$tls_port/')});

# The example of the documentation, read back behind nginx
sql('SELECT queue.create(\'orders\')');
sql($_) for Page::examples('docs/sinks/http.md');
sql(qq{ALTER SERVER hooks OPTIONS (ADD sslrootcert '$dir/ca.crt')});
$id = sql(q{SELECT queue.send('orders', '{"total": 10}', 'o 1')});
wait_until($node, '(SELECT count(*) = 0 FROM queues.orders)', 'the example of the documentation');
($request) = $server->take;
%headers = %{ $request->{headers} };
is("$request->{method} $request->{target} $request->{body}", 'PUT /v1/orders/o%201 {"total": 10}', 'arrives');
is($headers{authorization}, 'Bearer secret', 'with what it logs in by');
is("$headers{'idempotency-key'} $headers{'webhook-id'}", "orders/$id orders/$id", 'its name');
is( $headers{'webhook-signature'},
	signature(
		decode_base64('MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYqr'), "orders/$id",
		$headers{'webhook-timestamp'}, $request->{body}),
	'and signature');
sql(q{SELECT queue.drop_relay('orders_to_web'); DROP SERVER hooks CASCADE; SELECT queue.drop('orders')});

($protocol, $connections) =
  request_by("https://localhost:$tls_port/", q{ALTER SERVER web OPTIONS (ADD http_version '1.1')},
	'HTTP/1.1');
is($protocol, 'HTTP/1.1', 'by option');
cmp_ok($connections, '<=', 8, 'with connections that are used again');
request_by("https://127.0.0.1:$tls_port/", q{ALTER SERVER web OPTIONS (ADD sslmode 'verify-ca')},
	'verify-ca');
kill('TERM', $nginx_pid);
waitpid($nginx_pid, 0);
is(dead(), '', 'none is dead');

my $log = server_words($node);
unlike($log, qr/PANIC|TRAP:|terminated by signal (?!9:)/, 'nothing crashed');
unlike($log, qr/\Q$token\E/, 'no secret in the log');
$node->stop;
done_testing();
