# A relay to an HTTP server: what every sink has to stand, what it requests, and what
# becomes of each answer.

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256);
use FakeServer;
use HTTPServer;
use IO::Socket::INET;
use JSON::PP;
use MIME::Base64 qw(decode_base64 encode_base64);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Sink;
use Test::More;
use Time::HiRes qw(time);
use Wait;

my $library = `pg_config --pkglibdir`;
my $json = JSON::PP->new->utf8->canonical->allow_nonref;
my $token = 'token-0815';

# What a message's header "do" wants the server to do
sub answer
{
	my ($request) = @_;
	my $do = $request->{headers}->{'x-do'} // '';

	return { status => 422, body => "no such thing:\n\xff\x1b and more" } if $do eq '422';
	return { status => 500, body => 'broken' } if $do eq '500' || $request->{mode} eq 'broken';
	return { drop => 1 } if $do eq 'drop';
	return { status => $1, headers => ['Retry-After: 2'] } if $request->{mode} =~ /^wait (\d+)$/;
	return { status => $1 } if $request->{mode} =~ /^status (\d+)$/;
	return { status => $1, headers => ["Location: $2"] } if $do =~ /^(3\d\d) (.*)$/;
	return { status => 404, body => $request->{headers}->{authorization} } if $do eq 'echo';
	return { delay => 0.01 * rand } if $request->{mode} eq 'random';
	return { delay => 3600 } if $do eq 'stall' || $request->{mode} eq 'stall';
	return {};
}

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
		error => qr/^server answered 422: no such thing: \? and more$|^server answered 422: no such thing: .* and more$/
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

# What the relay says is wrong.
sub wait_for_error
{
	my ($pattern, $test) = @_;
	wait_until($node, "(SELECT last_error ~ '$pattern' FROM queue.relays)", $test)
	  or diag(sql('SELECT state, last_error FROM queue.relays'));
	return;
}

sub wait_until_published
{
	my ($test) = @_;
	wait_until($node, '(SELECT count(*) = 0 FROM queues.events) AND (SELECT deferred = 0 FROM queue.stats)',
		$test)
	  or diag(sql('SELECT state, last_error FROM queue.relays'));
	return;
}

# Options of the relay as they are from now on
sub set_relay
{
	my ($options) = @_;

	sql(qq{SELECT queue.drop_relay('r')}) if sql('SELECT count(*) FROM queue.relays') > 0;
	sql(q{SELECT queue.create_relay('r', 'events', 'web', $options$} . $json->encode($options) . q{$options$)});
	return;
}

sub dead
{
	my $dead = sql('SELECT error FROM queue.dead_letters ORDER BY id');

	sql('DELETE FROM queue.dead_letters');
	return $dead;
}

$suite->run;
$server->take;

#
# What is requested
#
my $port = $server->port;
my @secrets = map { join('', map { chr($_ % 256) } $_ .. $_ + 31) } 1, 100;
my $secrets = join(' ', map { 'whsec_' . encode_base64($_, '') } @secrets);

sql(qq{
CREATE SERVER web FOREIGN DATA WRAPPER queue_http OPTIONS (url 'http://127.0.0.1:$port/base/', allow_private 'true');
CREATE USER MAPPING FOR CURRENT_USER SERVER web OPTIONS (username 'u', password 'p\u{e4}ss');});
set_relay({ path => '/o/{key}/x?h={header:h}', headers => "X-A: a{header:h}b\nX-Empty: {header:none}", method => 'PUT' });
my @ids = split(
	/\n/,
	sql(q{
SELECT queue.send('events', '{"a": "ü"}', E'../a?b#c%/\r\n ü', '{"h": "&x=y z+", "content-type": "application/vnd.x+json"}');
SELECT queue.send('events', '1', 'k', '{"h": true}');
INSERT INTO queues.events (key, headers) VALUES ('nothing', '{"h": 1.50}') RETURNING id;}));
wait_until_published('all is requested');
my %requests = map { $_->{target} => $_ } $server->take;
my @targets = (
	'/base/o/..%2Fa%3Fb%23c%25%2F%0D%0A%20%C3%BC/x?h=%26x%3Dy%20z%2B',
	'/base/o/k/x?h=true',
	'/base/o/nothing/x?h=1.50');
is_deeply([ sort keys %requests ], [ sort @targets ], 'what is filled in stays in its place');
is($requests{ $targets[0] }->{method}, 'PUT', 'the method');
is($requests{ $targets[0] }->{body}, "{\"a\": \"\xc3\xbc\"}", 'the body');
my %headers = %{ $requests{ $targets[0] }->{headers} };
is($headers{'content-type'}, 'application/vnd.x+json', 'the content type');
is($headers{'x-a'}, 'a&x=y z+b', 'a header');
is($headers{'x-empty'}, undef, 'and none of what the message lacks');
is($headers{authorization}, 'Basic ' . encode_base64("u:p\xc3\xa4ss", ''), 'name and password');
is(join(' ', grep { /expect|cookie|proxy|webhook|ce-/ } sort keys %headers), '', 'and nothing that nobody asked for');
is($requests{ $targets[2] }->{headers}->{'content-type'}, undef, 'no content type of nothing');
is($requests{ $targets[2] }->{headers}->{'content-length'}, 0, 'and no content');

# What cannot be put in a URL or a header
sql(q{
SELECT queue.send('events', '1', '..', '{"h": 1}');
SELECT queue.send('events', '2', '.', '{"h": 1}');
SELECT queue.send('events', '3', '', '{"h": 1}');
SELECT queue.send('events', '4', 'k', '{"h": ""}');
SELECT queue.send('events', '5', 'k', '{"h": "a\r\nX-Evil: 1"}');
SELECT queue.send('events', '6', 'k');
SELECT queue.send('events', '7', NULL, '{"h": 1}');
SELECT queue.send('events', '8', 'k', jsonb_build_object('h', repeat('x', 9000)));});
wait_until_published('what cannot be requested');
is(dead(), q{a segment of the path would be "." or ".."
a segment of the path would be "." or ".."
key or header for the path is empty
key or header for the path is empty
header "X-A" of the request would have control characters
message has no header "h" for the path
message has no key for the path
path has more than 8000 bytes}, 'is refused');
is(scalar($server->take), 0, 'and not requested');

# Signatures, and CloudEvents
sql(qq{ALTER USER MAPPING FOR CURRENT_USER SERVER web OPTIONS (DROP username, DROP password, ADD signing_secret '$secrets')});
set_relay({ cloudevents => 'binary', ce_type => 'shop."{header:t}"', idempotency_header => 'Idempotency-Key' });
my $id = sql(q{SELECT queue.send('events', '{"a":  "ü"}', 'k', '{"t": "ä %"}')});
wait_until_published('a signed message');
my ($request) = $server->take;
%headers = %{ $request->{headers} };
is($request->{target}, '/base/', 'without a path the URL is the whole');
is($headers{'webhook-id'}, "events/$id", 'webhook-id');
cmp_ok(abs($headers{'webhook-timestamp'} - time), '<', 60, 'webhook-timestamp');
is( $headers{'webhook-signature'},
	join(' ',
		map { 'v1,' . encode_base64(hmac_sha256("events/$id.$headers{'webhook-timestamp'}.$request->{body}", $_), '') }
		  @secrets),
	'webhook-signature');
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
wait_until_published('CloudEvents, structured');
($request) = $server->take;
is($request->{headers}->{'content-type'}, 'application/cloudevents+json', 'content type');
is(join(' ', grep { /^ce-/ } keys %{ $request->{headers} }), '', 'no headers');
my $event = $json->decode($request->{body});
is_deeply([ @$event{qw(id type data)} ], [ "events/$id", "shop.\x{e4}", { a => 1 } ], 'one object');

#
# What becomes of answers
#
sub send_all
{
	my (@do) = @_;
	my $n = 0;

	sql(join(
			"\n",
			map { $n++; "SELECT queue.send('events', '{\"n\": $n}', NULL, '{\"do\": \"$_\"}');" } @do));
	return;
}

sub bodies
{
	return join(' ', sort { $a <=> $b } map { $json->decode($_->{body})->{n} } @_);
}

# A message that has the server fail is set aside, and the others get through.
set_relay({ headers => 'X-Do: {header:do}' });
send_all('ok', '500', 'ok', 'drop', 'ok', 'echo', 'ok');
wait_until_published('two that break the server');
is(join("\n", sort split(/\n/, dead())),
	"no answer: Empty reply from server\nserver answered 404\nserver answered 500: broken",
	'are dead letters');
my @got = grep { $_->{headers}->{'x-do'} eq 'ok' } $server->take;
is(bodies(@got), '1 3 5 7', 'and nobody else, nor does another come twice');

# A server that fails at all of them makes no dead letters.
$server->mode('broken');
send_all(('ok') x 5);
wait_for_error('^server answered 500: broken$', 'a server that is broken');
my $before = scalar($server->take);
ok((wait_for { ($before += scalar($server->take)) > 12 }), 'is tried again and again');
is(sql('SELECT count(*) FROM queue.dead_letters'), '0', 'at nobody\'s cost');
for my $mode ('status 401', 'status 302', 'status 503')
{
	my ($status) = $mode =~ /(\d+)/;

	$server->mode($mode);
	wait_for_error("^server answered $status", "$mode is the server's trouble");
}
$server->mode('');
wait_until_published('when it works they arrive');
is(dead(), '', 'all of them');
$server->take;

# It asks to wait.
for my $status (429, 503)
{
	$server->mode("wait $status");
	send_all('ok');
	wait_for_error("^waiting for 2 s: server answered $status", "$status with Retry-After");
	my $start = time;
	$server->mode('');
	wait_until_published('is waited for');
	cmp_ok(time - $start, '>', 1, 'so long');
	is(scalar($server->take), 2, 'without a request between');
}
is(dead(), '', 'and not held against anyone');

# What counts as success, and what is to be tried again, is up to the relay.
set_relay({ headers => 'X-Do: {header:do}', success => '2xx, 422', retry => '503' });
send_all('422', '500');
wait_until_published('success and retry by option');
is(dead(), 'server answered 500: broken', 'are heeded');
$server->take;

# A server repeats our secret.
sql(qq{ALTER USER MAPPING FOR CURRENT_USER SERVER web OPTIONS (DROP signing_secret, ADD token '$token')});
set_relay({ headers => 'X-Do: {header:do}' });
send_all('echo');
wait_until_published('a server that repeats what it was told');
is(dead(), 'server answered 404: Bearer **********', 'does not make it known');
$server->take;

# No answer in time
set_relay({ headers => 'X-Do: {header:do}', timeout => 1 });
send_all('stall', 'ok', 'ok');
wait_until_published('a message that has no answer');
is(dead(), 'no answer within 1 s', 'is a dead letter');
is(bodies(grep { $_->{headers}->{'x-do'} eq 'ok' } $server->take), '2 3', 'and no other is');

# Order per key, with several requests at a time
$server->mode('random');
for my $concurrency (1, 10)
{
	set_relay({ concurrency => $concurrency, headers => 'X-Key: {key}' });
	sql(q{SELECT count(queue.send('events', jsonb_build_object('n', i), 'k' || i % 20)) FROM generate_series(1, 400) i});
	wait_until_published("concurrency $concurrency: all is requested");
	@got = $server->take;
	is(scalar(@got), 400, 'once');
	my (%last, $disorder);
	for my $got (@got)
	{
		my $n = $json->decode($got->{body})->{n};

		$disorder++ if $n < ($last{ $got->{headers}->{'x-key'} } // 0);
		$last{ $got->{headers}->{'x-key'} } = $n;
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

set_relay({ headers => 'X-Do: {header:do}', follow_redirects => 1, retry => '5xx' });
send_all(
	'307 /there', "308 http://127.0.0.1:$other/there",
	"302 http://127.0.0.1:$other/more?x=1",
	'303 /there', '307 file:///etc/passwd', '307 gopher://127.0.0.1/x');
wait_until_published('redirects');
is(dead(), join("\n", 'server answered 303', ('server answered 307') x 2), 'what cannot be followed is refused');
@got = $elsewhere->take;

# Each of them answers with the same redirect again, so that is one hop too many.
is(sql(q{SELECT count(*) FROM queue.dead_letters}), 0, 'nothing else is dead');
is(join(' ', sort map { "$_->{method} $_->{target}" } @got), '', 'TODO');

done_testing();
