# A relay to RabbitMQ: what every sink has to stand, what it publishes, what becomes
# of what the broker does not take, and that nobody waits when it is out of memory.

use strict;
use warnings;

use JSON::PP;
use Page ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use RabbitMQ;
use Sink;
use Test::More;
use Wait;

RabbitMQ::require_or_skip();

my $broker = RabbitMQ->new(tls => 1, config => "max_message_size = 1000000\n");
my $password = $broker->password;

$broker->start;
{
	my $client = $broker->connect;

	$client->declare_exchange('events', 'topic');
	$client->declare_queue('all');
	$client->bind_queue('all', 'events', 'order.#');
	$client->declare_queue('full', 'x-max-length' => 1, 'x-overflow' => 'reject-publish');
	$client->bind_queue('full', 'events', 'full');
	$client->declare_exchange('shop', 'topic');
	$client->declare_queue('placed');
	$client->bind_queue('placed', 'shop', 'orders.placed');
	$client->declare_queue('suite');
	$client->bind_queue('suite', 'events', 'suite');
	$client->close;
}

my $suite = Sink->new(
	name => 'amqp',
	port => $broker->port,
	create => sub {
		my $port = $_[0]->port;

		return qq{
CREATE SERVER proxied FOREIGN DATA WRAPPER queue_amqp OPTIONS (host '127.0.0.1', port '$port');
CREATE USER MAPPING FOR CURRENT_USER SERVER proxied OPTIONS (username 'relay', password '$password');};
	},
	server => 'proxied',
	options => { exchange => 'events', routing_key => '{header:kind}' },
	headers => { kind => 'suite' },
	arrived => \&arrived,
	conveys => [qw(id key payload body headers content_type)],
	refused => {
		headers => { kind => 'nowhere' },
		error => qr/^broker returned the message: 312 NO_ROUTE \(exchange "events", routing key "nowhere"\)$/
	},
	down => qr/^could not connect: Connection refused$/,
	kill => sub { $broker->stop('KILL') },
	start => sub { $broker->start },
	secrets => [$password]);
my $node = $suite->node;

# What there is in the suite's queue, as the suite wants it.
sub arrived
{
	my $client = $broker->connect;
	my @messages = $client->drain('suite');

	$client->close;
	for my $message (@messages)
	{
		my $json = $message->{content_type} eq 'application/json';

		$message->{id} = $message->{message_id};
		$message->{key} = delete $message->{headers}->{'x-key'};
		$message->{payload} = delete $message->{body} if $json;
	}
	return @messages;
}

$suite->run;

# What is published
my ($port, $tls_port, $ca_file) = ($broker->port, $broker->tls_port, $broker->ca_file);
$node->safe_psql(
	'postgres', qq{
CREATE SERVER rabbit FOREIGN DATA WRAPPER queue_amqp OPTIONS (host '127.0.0.1', port '$port');
CREATE USER MAPPING FOR CURRENT_USER SERVER rabbit OPTIONS (username 'relay', password '$password');
SELECT queue.create_relay('r', 'events', 'rabbit',
	'{"exchange": "events", "routing_key": "{header:kind}", "batch": 200}');});
my @ids = split(
	/\n/,
	$node->safe_psql(
		'postgres', q{
SELECT queue.send('events', '{"a": [1, "ü", null]}', 'k',
	'{"kind": "order.new", "int": 42, "big": 1e30, "float": 1.5, "yes": true, "none": null, "list": [1, {"x": "y"}]}');
SELECT queue.send_bytes('events', '\x00ff', headers => '{"kind": "order.bytes"}');}));
wait_until_published($node, 'all is published');
my $client = $broker->connect;
my @got = $client->drain('all');
is(scalar(@got), 2, 'two messages came');
like(delete $got[0]->{timestamp}, qr/^\d+$/, 'with a time');
delete $got[0]->{headers}->{big};
is_deeply(
	$got[0],
	{
		exchange => 'events',
		routing_key => 'order.new',
		body => "{\"a\": [1, \"\xc3\xbc\", null]}",
		content_type => 'application/json',
		delivery_mode => 2,
		message_id => "events/$ids[0]",
		headers => {
			'kind' => 'order.new',
			int => 42,
			float => 1.5,
			yes => 1,
			none => undef,
			list => [ 1, { x => 'y' } ],
			'x-key' => 'k'
		}
	},
	'a jsonb payload, its properties and headers');
is($got[1]->{body}, "\x00\xff", 'a body of bytes');
is($got[1]->{content_type}, 'application/octet-stream', 'its type');
is($got[1]->{message_id}, "events/$ids[1]", 'its id');

# What the broker does not take; the queue that is full is full beforehand, as
# a confirmation lost with the channel would have the message sent again.
$node->safe_psql('postgres', q{SELECT queue.send('events', '6', NULL, '{"kind": "full"}')});
wait_until_published($node, 'a queue is full');
$node->safe_psql(
	'postgres', q{
SELECT queue.send('events', '1', 'a', '{"kind": "nowhere"}');
SELECT queue.send('events', '2', 'a', '{"kind": "order.a"}');
SELECT queue.send('events', '3', 'b', '{"kind": "order.b"}');
SELECT queue.send('events', '4', NULL, '{"kind": "nowhere"}');
SELECT queue.send('events', '5', 'b');
SELECT queue.send('events', '7', NULL, '{"kind": "full"}');
SELECT queue.send('events', '10', 'd', jsonb_build_object('kind', 'order.d', repeat('n', 300), 1));
SELECT queue.send('events', '11', 'd', jsonb_build_object('kind', repeat('order.d', 100)));
SELECT queue.send('events', '12', 'd', jsonb_build_object('kind', 'order.d', 'h', repeat('x', 200000)));
SELECT queue.send('events', '13', 'd', '{"kind": "order.d"}');});
wait_until_published($node, 'all is published or dead');

# This one makes the broker close the channel.
$node->safe_psql(
	'postgres', q{
SELECT queue.send('events', to_jsonb(repeat('x', 1200000)), 'c', '{"kind": "order.large"}');
SELECT queue.send('events', '15', 'c', '{"kind": "order.c"}');});
wait_until_published($node, 'and the rest, whatever the broker does about it');
is( $node->safe_psql(
		'postgres', q{
SELECT CASE WHEN length(payload::text) < 10 THEN payload END, attempts, reason, error
FROM queue.dead_letters ORDER BY id}
	),
	qq(1|2|max_attempts|broker returned the message: 312 NO_ROUTE (exchange "events", routing key "nowhere")
4|2|max_attempts|broker returned the message: 312 NO_ROUTE (exchange "events", routing key "nowhere")
5|2|max_attempts|message has no header "kind" for the routing key
7|2|max_attempts|broker refused the message (basic.nack)
10|2|max_attempts|name of a header has more than 255 bytes
11|2|max_attempts|routing key has more than 255 bytes
12|2|max_attempts|headers are too large for a frame of the broker
|2|max_attempts|broker closed the channel: 406 PRECONDITION_FAILED - )
	  . 'message size 1200002 is larger than configured max size 1000000',
	'with the words of the broker, or ours');
@got = $client->drain('all');
is(join(' ', sort { $a <=> $b } map { $_->{body} } @got),
	'2 3 13 15', 'and the rest arrives, held back by nobody else');
is(scalar($client->drain('full')), 1, 'what the full queue took is there');

# A follower waits for the one of its key before it, which is refused late.
$node->safe_psql(
	'postgres', q{
SELECT queue.alter('events', max_attempts => 1000);
SELECT queue.send('events', '1', 'z', '{"kind": "late"}');
SELECT queue.send('events', '2', 'z', '{"kind": "order.z"}');
SELECT queue.send('events', '3', 'y', '{"kind": "order.y"}');});
my $failed = $node->safe_psql('postgres', 'SELECT failed FROM queue.relays');
wait_until($node, "(SELECT failed >= $failed + 3 FROM queue.relays)", 'a message is refused again and again');
is(join(' ', map { $_->{body} } $client->drain('all')), '3', 'other keys go on');
$client->bind_queue('all', 'events', 'late');
wait_until_published($node, 'until there is a way for it');
is(join(' ', map { $_->{body} } $client->drain('all')), '1 2', 'and its followers come after it');
$node->safe_psql('postgres', q{SELECT queue.alter('events', max_attempts => 2)});

# Stopped in good order, with several messages of a key on their way
my $messages = 6000;
my $before = $node->safe_psql('postgres', 'SELECT published FROM queue.relays');
$node->safe_psql(
	'postgres', qq{
SELECT queue.alter_relay('r', '{"strict_order": false}');
SELECT count(*) FROM queue.send_batch('events',
	(SELECT array_agg(to_jsonb(i)) FROM generate_series(1, $messages) i),
	(SELECT array_agg('k' || i % 10) FROM generate_series(1, $messages) i),
	(SELECT array_agg('{"kind": "order.x"}'::jsonb) FROM generate_series(1, $messages) i))});
$node->poll_query_until('postgres', "SELECT published > $before OR lag_messages = 0 FROM queue.relays");
$broker->stop('TERM');
wait_backing_off($node, '.', 'strict_order false: the broker is gone');
$broker->start;
wait_until_published($node, 'strict_order false: everything is published');
$client = $broker->connect;
@got = map { $_->{body} } $client->drain('all');
my %seen;
$seen{$_}++ for @got;
is(scalar(keys %seen), $messages, 'strict_order false: nothing is lost');
cmp_ok(scalar(@got) - $messages, '<=', 200, 'strict_order false: at most what was in flight comes twice');
my (%last, $disorder);

for my $n (@got)
{
	my $key = $n % 10;

	next if $seen{$n} == 0;
	$seen{$n} = 0;
	$disorder++ if $n < ($last{$key} // 0);
	$last{$key} = $n;
}
is($disorder, undef, 'strict_order false: in order for each key');
$node->safe_psql('postgres', q{SELECT queue.alter_relay('r', '{"strict_order": null}')});

# Out of memory, the broker reads nothing any more.
$node->safe_psql('postgres', 'CREATE DATABASE unrelated');
$broker->control('set_vm_memory_high_watermark', 'absolute', '1');
$node->safe_psql(
	'postgres', qq{
SELECT count(*) FROM queue.send_batch('events',
	(SELECT array_agg(to_jsonb(repeat('x', 50000))) FROM generate_series(1, 500) i), NULL,
	(SELECT array_agg('{"kind": "order.x"}'::jsonb) FROM generate_series(1, 500) i))});
wait_until(
	$node,
	q{(SELECT last_error = 'broker takes no messages for now: low on memory' FROM queue.relays)},
	'a broker that is out of memory');
$node->safe_psql('postgres', 'DROP DATABASE unrelated');
$node->safe_psql('postgres', q{SELECT queue.pause_relay('r')});
wait_until(
	$node,
	q{(SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'queue relay')},
	'keeps nobody waiting');
$node->safe_psql('postgres', q{SELECT queue.resume_relay('r')});
wait_until($node, '(SELECT in_flight > 0 FROM queue.relays)', 'the relay tries again');
$broker->control('set_vm_memory_high_watermark', '0.9');
wait_until_published($node, 'and goes on when there is memory');
$client = $broker->connect;
cmp_ok(scalar($client->drain('all')), '>=', 500, 'all arrived');
is( $node->safe_psql(
		'postgres',
		'SELECT count(*) FROM queue.dead_letters WHERE died_at > now() - interval '
		  . "'1 min'"
		  . q{ AND payload::text LIKE '"xxx%' AND error NOT LIKE '%max size%'}),
	'0',
	'and none is dead');

# Troubles of the connection
my $dead = $node->safe_psql('postgres', 'SELECT count(*) FROM queue.dead_letters');
$node->safe_psql(
	'postgres', q{
SELECT queue.alter_relay('r', '{"exchange": "no_such_exchange"}');
SELECT queue.send('events', '1', NULL, '{"kind": "order.x"}');});
wait_backing_off(
	$node,
	q{404 NOT_FOUND - no exchange ''no_such_exchange'' in vhost ''/''},
	'an unknown exchange');
$node->safe_psql(
	'postgres', q{
SELECT queue.alter_relay('r', '{"exchange": "events"}');
ALTER SERVER rabbit OPTIONS (ADD vhost 'nowhere');
SELECT queue.send('events', '2', NULL, '{"kind": "order.x"}');});
wait_backing_off($node, '530 NOT_ALLOWED - vhost nowhere not found', 'an unknown virtual host');
$node->safe_psql(
	'postgres', q{
ALTER SERVER rabbit OPTIONS (DROP vhost);
ALTER USER MAPPING FOR CURRENT_USER SERVER rabbit OPTIONS (SET password 'wrong-0815');
SELECT queue.send('events', '3', NULL, '{"kind": "order.x"}');});
wait_backing_off($node, '403 ACCESS_REFUSED', 'a wrong password');

# TLS
$node->safe_psql(
	'postgres', qq{
ALTER USER MAPPING FOR CURRENT_USER SERVER rabbit OPTIONS (SET password '$password');
ALTER SERVER rabbit OPTIONS (SET port '$tls_port', SET host 'localhost', ADD sslmode 'verify-full');});
wait_backing_off($node, 'TLS handshake failed: certificate verify failed',
	'a certificate nobody vouches for');
$node->safe_psql('postgres',
	qq{ALTER SERVER rabbit OPTIONS (ADD sslrootcert '$ca_file', SET host '127.0.0.1')});
wait_backing_off(
	$node,
	'TLS handshake failed: certificate verify failed: IP address mismatch',
	'a certificate of another host');
is($node->safe_psql('postgres', 'SELECT count(*) FROM queues.events'), '3', 'nothing is published meanwhile');
$node->safe_psql('postgres', q{ALTER SERVER rabbit OPTIONS (SET host 'localhost')});
wait_until_published($node, 'with the right one it is');
for my $sslmode ('verify-ca', 'require')
{
	$node->safe_psql(
		'postgres', qq{
ALTER SERVER rabbit OPTIONS (SET host '127.0.0.1', SET sslmode '$sslmode');
SELECT count(queue.send('events', to_jsonb(repeat('x', 50000)), NULL, '{"kind": "order.x"}')) FROM generate_series(1, 100);}
	);
	wait_until_published($node, "$sslmode does not ask for the host's name");
}
$node->safe_psql(
	'postgres', qq{
ALTER SERVER rabbit OPTIONS (SET port '$port', SET sslmode 'require');
SELECT queue.send('events', '4', NULL, '{"kind": "order.x"}')});
wait_backing_off($node, 'TLS handshake failed', 'TLS where there is none');
$node->safe_psql('postgres', qq{ALTER SERVER rabbit OPTIONS (SET port '$port', SET sslmode 'disable')});
wait_until_published($node, 'and none is used if none is asked for');
is(scalar($client->drain('all')), 204, 'all arrived');
is($node->safe_psql('postgres', 'SELECT count(*) FROM queue.dead_letters'),
	$dead, 'and no trouble was an attempt');

# A key as the routing key, by the default exchange
$node->safe_psql(
	'postgres', q{
SELECT queue.alter_relay('r', '{"exchange": null, "routing_key": "{key}"}');
SELECT queue.send('events', '"by key"', 'all');});
wait_until_published($node, 'the default exchange');
is(join(' ', map { $_->{body} } $client->drain('all')), '"by key"', 'routes by the name of a queue');

# The content type that a message says it has, and CloudEvents
$node->safe_psql('postgres',
	q{SELECT queue.send_bytes('events', '\x00', 'all', '{"content-type": "application/avro", "a": 1}')});
wait_until_published($node, 'a content type of its own');
@got = $client->drain('all');
is($got[0]->{content_type}, 'application/avro', 'is what it has');
is_deeply($got[0]->{headers}, { 'x-key' => 'all', a => 1 }, 'and no header as well');

sub send_events
{
	my ($mode, $test) = @_;

	$node->safe_psql(
		'postgres', qq{
SELECT queue.alter_relay('r', '{"cloudevents": "$mode", "ce_type": "shop.{header:t}",
	"ce_subject": "{header:s}", "ce_source": "//shop/{key}?{header:s}"}');});

	# The time is read in the transaction: no relay has them yet.
	my (undef, undef, @sent) = split(
		/[|\n]/,
		$node->safe_psql(
			'postgres', q{
BEGIN;
SELECT queue.send('events', '{"ä": 1}', 'all', '{"t": "new", "s": "a/ü?"}');
SELECT queue.send_bytes('events', '\x00ff', 'all',
	'{"t": "raw", "s": "s", "cloudEvents_id": "mine", "content-type": "application/json"}');
SELECT id, to_char(enqueued_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US') FROM queues.events ORDER BY id;
COMMIT;}));
	wait_until_published($node, $test);
	return @sent;
}

# PostgreSQL has microseconds without zeros at the end.
sub event_time { return $_[0] =~ s/\.?0+$//r . '+00:00'; }

my @sent = send_events('binary', 'CloudEvents: binary');
@got = $client->drain('all');
is($got[0]->{body}, "{\"\xc3\xa4\": 1}", 'the body is as ever');
is_deeply(
	$got[0]->{headers},
	{
		t => 'new',
		s => "a/\xc3\xbc?",
		'x-key' => 'all',
		cloudEvents_specversion => '1.0',
		cloudEvents_id => "events/$sent[0]",
		cloudEvents_source => '//shop/all?a%2F%C3%BC%3F',
		cloudEvents_type => 'shop.new',
		cloudEvents_subject => "a/\xc3\xbc?",
		cloudEvents_time => event_time($sent[1]),
		cloudEvents_partitionkey => 'all'
	},
	'the attributes are headers');
is($got[1]->{headers}->{cloudEvents_id},
	"events/$sent[2]", 'and what a message calls so is not in their place');
is($got[1]->{content_type}, 'application/json', 'the content type is of the body');

@sent = send_events('structured', 'CloudEvents: structured');
@got = $client->drain('all');
is($got[0]->{content_type}, 'application/cloudevents+json', 'they have a content type of their own');
is_deeply($got[0]->{headers}, { t => 'new', s => "a/\xc3\xbc?", 'x-key' => 'all' }, 'no headers');
is_deeply(
	JSON::PP->new->utf8->decode($got[0]->{body}),
	{
		specversion => '1.0',
		id => "events/$sent[0]",
		source => '//shop/all?a%2F%C3%BC%3F',
		type => 'shop.new',
		subject => "a/\x{fc}?",
		time => event_time($sent[1]),
		partitionkey => 'all',
		datacontenttype => 'application/json',
		data => { "\x{e4}" => 1 }
	},
	'and are one object with the payload');
my $event = JSON::PP->new->utf8->decode($got[1]->{body});
is($event->{data_base64}, 'AP8=', 'bytes are in base64, whatever they are said to be');
is($event->{datacontenttype}, 'application/json', 'and said to be that');
is($event->{data}, undef, 'and nothing else');

# What cannot be an event; without options the source is the queue
$node->safe_psql(
	'postgres', q{
DELETE FROM queue.dead_letters;
SELECT queue.alter('events', max_attempts => 1);
SELECT queue.alter_relay('r', '{"ce_source": null, "ce_subject": null}');
SELECT queue.send('events', '1', 'all', '{"t": "a\nb"}');
SELECT queue.send('events', '2', 'all');
SELECT queue.send('events', '3', 'all', '{"t": "t", "content-type": "text/html\r\nX: y"}');
SELECT queue.send('events', '4', 'all', '{"t": "t", "content-type": "text/plain; charset=utf-8"}');});
wait_until_published($node, 'some are no events');
is( $node->safe_psql('postgres', q{SELECT payload, error FROM queue.dead_letters ORDER BY id}),
	q{1|CloudEvents attribute "type" has control characters
2|message has no header "t" for the CloudEvents attribute "type"
3|header "content-type" is not a content type}, 'and are refused');
@got = $client->drain('all');
is(scalar(@got), 1, 'no other');
$event = JSON::PP->new->utf8->decode($got[0]->{body});
is_deeply(
	[ @$event{qw(source type datacontenttype data_base64 subject)} ],
	[ '/events', 'shop.t', 'text/plain; charset=utf-8', 'NA==', undef ],
	'a payload that is said not to be JSON is bytes');

# What the page has as an example
$node->safe_psql('postgres', q{SELECT queue.drop_relay('r'); DROP SERVER rabbit CASCADE});
$node->safe_psql(
	'postgres',
	join(
		'',
		Page::examples(
			'docs/sinks/amqp.md',
			"host 'rabbit.example.com', port '5671', sslmode 'verify-full'" =>
			  "host 'localhost', port '$tls_port', sslmode 'verify-full', sslrootcert '$ca_file'",
			"username 'shop', password 'secret'" => "username 'relay', password '$password'")));
wait_until($node, '(SELECT count(*) = 0 FROM queues.orders)', 'the example of the page: it is published');
@got = $client->drain('placed');
is(scalar(@got), 1, 'the example of the page: it arrives');
like($got[0]->{message_id}, qr{^orders/\d+$}, 'the example of the page: it has an id');
is_deeply(
	{ map { $_ => $got[0]->{$_} } qw(routing_key body content_type headers) },
	{
		routing_key => 'orders.placed',
		body => '{"order": 1}',
		content_type => 'application/json',
		headers => { kind => 'placed', 'x-key' => 'alice' }
	},
	'the example of the page: as the page says');

my $log = server_words($node);
unlike($log, qr/\Q$password\E|wrong-0815/, 'no password in the log');
unlike($node->safe_psql('postgres', 'SELECT * FROM queue.relays'),
	qr/\Q$password\E|wrong-0815/, 'nor in the view');

$client->close;
$node->stop;
$broker->stop;
done_testing();
