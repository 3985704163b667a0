# A relay to Apache Kafka: what every sink has to stand, what arrives and where,
# logins and TLS, and what becomes of what the brokers do not take.

use strict;
use warnings;

use JSON::PP;
use Kafka;
use Page  ();
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Sink;
use Test::More;
use Wait;

Kafka::require_or_skip();

my $kafka = Kafka->new(secure => 1);
my $password = $kafka->password;
my $json = JSON::PP->new->utf8->allow_nonref;

my $suite = Sink->new(
	name => 'kafka',
	port => $kafka->proxied_port,
	create => sub {
		my $port = $_[0]->port;

		# Four messages arrive without an answer to any, in a request each if need be.
		return qq{
CREATE SERVER proxied FOREIGN DATA WRAPPER queue_kafka
	OPTIONS (brokers '127.0.0.1:$port', properties 'max.in.flight.requests.per.connection=5');
CREATE USER MAPPING FOR CURRENT_USER SERVER proxied;};
	},
	server => 'proxied',
	options => { topic => '{header:kind}' },
	headers => { kind => 'suite' },
	arrived => \&arrived,
	conveys => [qw(id key payload body headers content_type)],
	refused => { headers => { kind => 'nowhere' }, error => qr/^(Local|Broker): Unknown topic/ },
	down => qr/Connection refused/,
	kill => sub { $kafka->stop('KILL') },
	start => sub { $kafka->start });
my $node = $suite->node;

$kafka->advertise($suite->port);
$kafka->start;
$kafka->create_topics(suite => []);

# What there is in the suite's topic, as the suite wants it.
sub arrived
{
	my @messages = $kafka->take('suite');

	for my $message (@messages)
	{
		my $headers = $message->{headers};

		$message->{id} = delete $headers->{'message-id'};
		$message->{content_type} = delete $headers->{'content-type'};
		$message->{ $message->{content_type} eq 'application/json' ? 'payload' : 'body' } =
		  delete $message->{value};
		$headers->{$_} = $json->decode($headers->{$_}) for grep { $headers->{$_} =~ /^\{/ } keys %$headers;
	}
	return @messages;
}

$suite->run;

sub query { return $node->safe_psql('postgres', $_[0]); }
sub alter { return query("SELECT queue.alter_relay('r', '$_[0]')"); }

# What arrives, and where
my $port = $kafka->port;

$kafka->create_topics(
	keyed => [ '--partitions', '7' ],
	java => [ '--partitions', '7' ],
	typed => [],
	small => [ '--config', 'max.message.bytes=1000' ],
	compacted => [ '--config', 'cleanup.policy=compact' ],
	closed => [],
	orders => []);
query(
	qq{
CREATE SERVER kafka FOREIGN DATA WRAPPER queue_kafka
	OPTIONS (brokers '127.0.0.1:$port', properties 'linger.ms=2 client.id=shop');
CREATE USER MAPPING FOR CURRENT_USER SERVER kafka;
SELECT queue.create_relay('r', 'events', 'kafka', '{"topic": "{header:topic}", "batch": 200}');});
my @ids = map { query($_) } (
	q{SELECT queue.send('events', '{"a": [1, "ü", null]}', 'k', '{"topic": "typed", "int": 42, "big": 1e3, "yes": true,
	"none": null, "list": [1, {"x": "y"}], "message-id": "mine", "content-type": "application/x-json"}')},
	q{SELECT queue.send_bytes('events', (SELECT string_agg(decode(lpad(to_hex(i), 2, '0'), 'hex'), '' ORDER BY i)
	FROM generate_series(0, 255) i), headers => '{"topic": "typed"}')});
wait_until_published($node, 'all is published');
my @got = $kafka->take('typed');
is(scalar(@got), 2, 'two messages came');
my $now = query('SELECT floor(extract(epoch FROM now()) * 1000)');
cmp_ok(abs($now - $_->{timestamp}), '<', 60_000, 'with the time they were sent') for @got;
is($got[0]->{value}, "{\"a\": [1, \"\xc3\xbc\", null]}", 'a jsonb payload');
is($got[0]->{key}, 'k', 'its key');
is_deeply(
	$got[0]->{headers},
	{
		topic => 'typed',
		int => '42',
		big => '1000',
		yes => 'true',
		none => 'NULL',
		list => '[1, {"x": "y"}]',
		'message-id' => "events/$ids[0]",
		'content-type' => 'application/x-json'
	},
	'and its headers');
is($got[1]->{value}, join('', map { chr } 0 .. 255), 'bytes, as they are');
is($got[1]->{key}, undef, 'no key');
is($got[1]->{headers}->{'content-type'}, 'application/octet-stream', 'their type');

# Partitions are those that Kafka's own producer would have chosen, for keys of all
# lengths and of bytes that Java has as negative.
my @keys = ('', (map { 'k' x $_ } 1 .. 40), (map { "\xc3\xbc" x $_ . 'k' x ($_ % 3) } 1 .. 12), 'k' x 5000);
my $keys = join(', ', map { "'$_'" } @keys);
query(
	qq{
SELECT queue.alter_relay('r', '{"topic": "keyed", "compression": "zstd"}');
SELECT count(queue.send('events', '1', key)) FROM unnest(ARRAY[$keys]) key;});
$kafka->produce('java', map { "$_\tx\n" } @keys);
wait_until_published($node, 'keys are published');
my %partition = map { $_->{key} => $_->{partition} } $kafka->take('keyed', 7);
my %expected = map { $_->{key} => $_->{partition} } $kafka->take('java', 7);
is(scalar(keys %expected), scalar(@keys), 'the other producer has them all');
is_deeply(\%partition, \%expected, 'the partition of a key is that of a producer in Java');

# Without idempotence all arrives as well, in the order of keys.
for my $acks ('all', '1')
{
	alter(qq({"topic": "typed", "idempotence": false, "acks": "$acks"}));
	query(q{SELECT count(queue.send('events', to_jsonb(i), 'k' || i % 50)) FROM generate_series(1, 500) i});
	wait_until_published($node, "no idempotence, acks $acks: published");
	my (%last, @disorder);
	@got = $kafka->take('typed');
	for my $message (@got)
	{
		push @disorder, $message->{value} if $message->{value} < ($last{ $message->{key} } // 0);
		$last{ $message->{key} } = $message->{value};
	}
	is( join(' ', sort { $a <=> $b } map { $_->{value} } @got),
		join(' ', 1 .. 500),
		"no idempotence, acks $acks: each once");
	is(join(' ', @disorder), '', "no idempotence, acks $acks: in order");
}
alter('{"idempotence": null, "acks": null}');

# Whatever the compression, Kafka's own consumer reads it.
for my $compression (qw(gzip snappy lz4 zstd none))
{
	alter(qq({"topic": "typed", "compression": "$compression", "key": "{header:kind}"}));
	query(
		qq{SELECT count(queue.send('events', to_jsonb('$compression ' || repeat('x', 1000)), 'k$compression',
	'{"kind": "$compression"}')) FROM generate_series(1, 20) i});
	wait_until_published($node, "$compression: published");
}
my $read = $kafka->consume('typed');
is( () =
	  $read =~
	  /Partition:0.*\tkind:$_,message-id:events\/\d+,content-type:application\/json\t$_\t"$_ x{1000}"$/mg,
	20,
	"$_: all is read by Kafka's own consumer") for qw(gzip snappy lz4 zstd none);
$kafka->take('typed');

# Tombstones, by option only
for my $tombstone ('false', 'true')
{
	alter(qq({"key": null, "tombstone": $tombstone}));
	query(
		q{SELECT queue.send('events', 'null', 'a'); SELECT queue.send_bytes('events', '', 'b');
SELECT queue.send('events', '0', 'c')});
	wait_until_published($node, "tombstone $tombstone: published");
	@got = sort { $a->{key} cmp $b->{key} } $kafka->take('typed');
	is_deeply(
		[ map { $_->{value} } @got ],
		$tombstone eq 'true' ? [ undef, undef, '0' ] : [ 'null', '', '0' ],
		"tombstone $tombstone: what is none");
	is( $got[0]->{headers}->{'content-type'},
		$tombstone eq 'true' ? undef : 'application/json',
		"tombstone $tombstone: it has no content type");
}
alter('{"tombstone": null}');

# The wire format of schema registries
alter('{"format": "confluent"}');
query(
	q{SELECT queue.send_bytes('events', '\x0a00ff', 'a', '{"schema-id": 258}');
SELECT queue.send_bytes('events', '\x01', 'a', '{"schema-id": "2147483647"}');
SELECT queue.send('events', '1', 'b'); SELECT queue.send('events', '2', 'c', '{"schema-id": -1}')});
wait_until_published($node, 'confluent: published or dead');
@got = $kafka->take('typed');
is( join(' ', map { unpack('H*', $_->{value}) } @got),
	'00000001020a00ff 007fffffff01',
	'confluent: the id of the schema comes first');
is($got[0]->{headers}->{'schema-id'}, undef, 'confluent: and is no header');
is( query('SELECT error FROM queue.dead_letters ORDER BY id'),
	qq(message has no header "schema-id" for the wire format\nheader "schema-id" is not an integer from 0 to 2147483647),
	'confluent: who has none is dead');
query('DELETE FROM queue.dead_letters');
alter('{"format": null}');

# CloudEvents
alter('{"cloudevents": "binary", "ce_type": "shop.{header:kind}"}');
query(q{SELECT queue.send('events', '{"n": 1}', 'a', '{"kind": "order"}')});
wait_until_published($node, 'CloudEvents, binary: published');
($got[0]) = $kafka->take('typed');
like(
	delete $got[0]->{headers}->{ce_time},
	qr/^\d{4}-\d\d-\d\dT[\d:.]+Z$|\+00:00$/,
	'CloudEvents, binary: time');
is(delete $got[0]->{headers}->{ce_id}, delete $got[0]->{headers}->{'message-id'}, 'CloudEvents, binary: id');
is_deeply(
	$got[0]->{headers},
	{
		kind => 'order',
		ce_specversion => '1.0',
		ce_type => 'shop.order',
		ce_source => '/events',
		ce_partitionkey => 'a',
		'content-type' => 'application/json'
	},
	'CloudEvents, binary: attributes are headers');
is($got[0]->{value}, '{"n": 1}', 'CloudEvents, binary: the body is as it is');
alter('{"cloudevents": "structured"}');
query(q{SELECT queue.send('events', '{"n": 2}', 'a', '{"kind": "order"}')});
wait_until_published($node, 'CloudEvents, structured: published');
($got[0]) = $kafka->take('typed');
is($got[0]->{headers}->{'content-type'}, 'application/cloudevents+json', 'CloudEvents, structured: type');
is_deeply($json->decode($got[0]->{value})->{data}, { n => 2 },
	'CloudEvents, structured: the body has it all');
alter('{"cloudevents": null, "ce_type": null}');

# What the broker does not take is dead, in its words; who was in a batch with it
# is not.
alter('{"topic": "{header:topic}"}');
query(
	q{
SELECT count(queue.send('events', to_jsonb(i), 'k' || i, '{"topic": "small"}')) FROM generate_series(1, 20) i;
SELECT queue.send('events', to_jsonb(repeat('x', 2000)), 'large', '{"topic": "small"}');
SELECT count(queue.send('events', to_jsonb(i), 'k' || i, '{"topic": "small"}')) FROM generate_series(21, 40) i;
SELECT count(queue.send('events', to_jsonb(i), 'k' || i, '{"topic": "compacted"}')) FROM generate_series(1, 20) i;
SELECT queue.send('events', '"keyless"', NULL, '{"topic": "compacted"}');
SELECT queue.send('events', '"unknown"', 'k1', '{"topic": "nowhere"}');
SELECT queue.send('events', '"invalid"', 'k2', '{"topic": "no/topic"}');
SELECT queue.send('events', '"empty"', 'k3', '{"topic": ""}');
SELECT queue.send('events', '"none"', 'k4');});
wait_until_published($node, 'all is published or dead');
is( query(
		q{SELECT CASE WHEN length(payload::text) < 20 THEN payload END, attempts, error
FROM queue.dead_letters ORDER BY id}),
	q(|2|Broker: Message size too large
"keyless"|2|Broker: Broker failed to validate record
"unknown"|2|Local: Unknown topic
"invalid"|2|Local: Unknown topic
"empty"|2|topic is empty
"none"|2|message has no header "topic" for the topic),
	'dead letters have the words of the broker, or ours');
is( join(' ', sort { $a <=> $b } map { $_->{value} } $kafka->take('small')),
	join(' ', 1 .. 40),
	'the others of their batch arrive, once');
is(scalar($kafka->take('compacted')), 20, 'and those of the other topic');
query('DELETE FROM queue.dead_letters');

# What is wrong with a topic is wrong with each message by itself: none waits for
# others to be found out.
my $start = time;
query(
	q{SELECT count(queue.send('events', to_jsonb(i), 'k' || i, jsonb_build_object('topic', 'nowhere' || i)))
FROM generate_series(1, 100) i});
wait_until_published($node, 'many topics that are unknown: all are dead');
cmp_ok(time - $start, '<', 60, 'many topics that are unknown: at the same time');
is(query('SELECT count(*), min(attempts), max(attempts) FROM queue.dead_letters'),
	'100|2|2', 'many topics that are unknown: after as many attempts as there are to be');
query('DELETE FROM queue.dead_letters');

# Transactions: a batch is seen as a whole, or not at all.
alter('{"topic": "typed", "transactional": true, "batch": 100}');
query(q{SELECT count(queue.send('events', to_jsonb(i), 'k' || i % 3)) FROM generate_series(1, 300) i});
wait_until_published($node, 'transactions: published');
@got = $kafka->take('typed');
is(scalar(@got), 300, 'transactions: all arrives once');
alter('{"topic": "{header:topic}"}');
query(
	q{
SELECT queue.send_batch('events', (SELECT array_agg(to_jsonb(i)) FROM generate_series(1, 20) i),
	(SELECT array_agg('k' || i) FROM generate_series(1, 20) i),
	(SELECT array_agg(jsonb_build_object('topic', CASE i WHEN 10 THEN 'nowhere' ELSE 'typed' END))
		FROM generate_series(1, 20) i));});
wait_until_published($node, 'transactions: published or dead');
is( query('SELECT payload, error FROM queue.dead_letters'),
	'10|Local: Unknown topic',
	'transactions: one of them is dead');
query('DELETE FROM queue.dead_letters');
is( join(' ',
		sort { $a <=> $b }
		map { $_->{value} } $kafka->take('typed', 1, '-X', 'isolation.level=read_committed')),
	join(' ', grep { $_ != 10 } 1 .. 20),
	'transactions: what is committed is seen once');
alter('{"topic": "typed", "transactional": null}');

# Logins, TLS and rights
my ($sasl, $tls, $ca_file) = ($kafka->sasl_port, $kafka->tls_port, $kafka->ca_file);
my $acls = 'org.apache.kafka.tools.AclCommand';

$kafka->run_program(
	$acls, '--bootstrap-server', $kafka->brokers, '--add',
	'--allow-principal', 'User:shop', '--producer', '--topic',
	'typed');
query(
	qq{
ALTER SERVER kafka OPTIONS (SET brokers '127.0.0.1:$sasl');
SELECT queue.send('events', '"login"', 'k');});
wait_backing_off($node, '.', 'no login where there must be one');
query(
	qq{ALTER USER MAPPING FOR CURRENT_USER SERVER kafka OPTIONS (ADD username 'shop', ADD password 'wrong-0816')}
);
wait_backing_off($node, 'Authentication failed', "PLAIN: a wrong password");
query(qq{ALTER USER MAPPING FOR CURRENT_USER SERVER kafka OPTIONS (SET password '$password')});
wait_until_published($node, 'PLAIN: the right one');
for my $mechanism ('SCRAM-SHA-256', 'SCRAM-SHA-512')
{
	my $add = $mechanism =~ /256/ ? 'ADD' : 'SET';

	query(
		qq{
ALTER SERVER kafka OPTIONS ($add sasl_mechanism '$mechanism');
ALTER USER MAPPING FOR CURRENT_USER SERVER kafka OPTIONS (SET password 'wrong-0816');
SELECT queue.send('events', '"login"', 'k');});
	wait_backing_off($node, 'uthentication failed', "$mechanism: a wrong password");
	query(qq{ALTER USER MAPPING FOR CURRENT_USER SERVER kafka OPTIONS (SET password '$password')});

	# Before, it repeats a nonce as only older brokers take it.
	if ($kafka->library_version >= 2.006001)
	{
		wait_until_published($node, "$mechanism: the right one");
	}
	else
	{
		my $now = query('SELECT clock_timestamp()');

		wait_until(
			$node,
			"(SELECT last_error ~ 'uthentication failed' AND last_error_at > '$now' FROM queue.relays)",
			"$mechanism: a librdkafka before 2.6.1 cannot log in");
		note(query('SELECT last_error FROM queue.relays'));
	}
}
query(q{ALTER SERVER kafka OPTIONS (SET sasl_mechanism 'PLAIN')});
wait_until_published($node, 'PLAIN again');
query(
	qq{
ALTER SERVER kafka OPTIONS (SET brokers 'localhost:$tls', ADD sslmode 'verify-full');
SELECT queue.send('events', '"login"', 'k');});
wait_backing_off($node, 'certificate', 'a certificate nobody vouches for');
query(qq{ALTER SERVER kafka OPTIONS (ADD sslrootcert '$ca_file')});
wait_until_published($node, 'TLS: with one that is vouched for');
my $pipe = PostgreSQL::Test::Utils::tempdir() . '/pipe';
POSIX::mkfifo($pipe, 0600) or die $!;
for my $file ($pipe, $node->data_dir . '/PG_VERSION')
{
	query(
		qq{
ALTER SERVER kafka OPTIONS (SET sslrootcert '$file');
SELECT queue.send('events', '"login"', 'k');});
	wait_backing_off(
		$node,
		'^could not read the certificates of option "sslrootcert"$',
		"TLS: what is no certificate, of which nothing is told");
}
query(qq{ALTER SERVER kafka OPTIONS (SET sslrootcert '$ca_file')});
wait_until_published($node, 'TLS: and with one again');
query(
	qq{
ALTER SERVER kafka OPTIONS (SET brokers '127.0.0.1:$tls');
SELECT queue.send('events', '"login"', 'k');});
wait_backing_off($node, '.', 'a certificate of another host');
for my $sslmode ('verify-ca', 'require')
{
	query(
		qq{
ALTER SERVER kafka OPTIONS (SET sslmode '$sslmode');
SELECT queue.send('events', '"login"', 'k');});
	wait_until_published($node, "$sslmode does not ask for the host's name");
}
query(
	qq{
ALTER SERVER kafka OPTIONS (SET brokers '127.0.0.1:$sasl', SET sslmode 'disable');
SELECT queue.alter_relay('r', '{"topic": "{header:topic}"}');
SELECT queue.send('events', '"forbidden"', 'k', '{"topic": "closed"}');
SELECT queue.send('events', '"permitted"', 'k', '{"topic": "typed"}');});
wait_until_published($node, 'a topic that is closed to us');
is( query('SELECT payload, error FROM queue.dead_letters'),
	'"forbidden"|Broker: Topic authorization failed',
	'is an error of the message that names it');
query(
	q{
DELETE FROM queue.dead_letters;
SELECT queue.alter_relay('r', '{"topic": "closed"}');
SELECT queue.send('events', '"waits"', 'k');});
wait_backing_off($node, 'Topic authorization failed', 'and one of the relay that names it');
alter('{"transactional": true}');
wait_backing_off(
	$node,
	'Transactional Id authorization failed',
	'transactional: rights to that are needed as well');
$kafka->run_program(
	$acls, '--bootstrap-server', $kafka->brokers, '--add',
	'--allow-principal', 'User:shop', '--producer', '--topic',
	'typed', '--transactional-id', '*');

# When it is known, only the transaction itself comes to be told.
$kafka->run_program(
	$acls, '--bootstrap-server', $kafka->brokers, '--add',
	'--allow-principal', 'User:shop', '--operation', 'Describe',
	'--topic', 'closed');
wait_backing_off($node, 'Topic authorization failed', 'transactional: and to the topic of the relay');
alter('{"topic": "typed"}');
wait_until_published($node, 'which has cost nobody an attempt');
alter('{"topic": "{header:topic}"}');
query(
	q{
SELECT queue.send_batch('events', (SELECT array_agg(to_jsonb('t' || i)) FROM generate_series(1, 20) i),
	(SELECT array_agg('k' || i) FROM generate_series(1, 20) i),
	(SELECT array_agg(jsonb_build_object('topic', CASE i WHEN 10 THEN 'closed' ELSE 'typed' END))
		FROM generate_series(1, 20) i));});
wait_until_published($node, 'transactional: a topic that is closed to us');
is( query('SELECT payload, error FROM queue.dead_letters'),
	'"t10"|Broker: Topic authorization failed',
	'transactional: is an error of the message that names it');
query('DELETE FROM queue.dead_letters');
alter('{"transactional": null}');
is(query('SELECT count(*) FROM queue.dead_letters'), '0', 'nothing is dead');
@got = $kafka->take('typed', 1, '-X', 'isolation.level=read_committed');
is(scalar(grep { $_->{value} eq '"login"' } @got), 9, 'all arrived');
is( join(' ', sort { $a <=> $b } map { $_->{value} =~ /^"t(\d+)"/ } @got),
	join(' ', grep { $_ != 10 } 1 .. 20),
	'transactional: what went with it arrived once');
query(q{SELECT queue.drop_relay('r')});

# The example of the page
query('CREATE DATABASE page');
$node->safe_psql('page', 'CREATE EXTENSION queue');
$kafka->run_program(
	$acls, '--bootstrap-server', $kafka->brokers, '--add',
	'--allow-principal', 'User:shop', '--producer', '--topic',
	'orders');
my ($example) = Page::examples(
	'docs/sinks/kafka.md',
	"'kafka1.example.com:9093,kafka2.example.com:9093', sslmode" =>
	  "'localhost:$tls', sslrootcert '$ca_file', sslmode",
	"'secret'" => "'$password'");
$node->safe_psql('page', $example);
$node->safe_psql('page', q{SELECT queue.send('orders', '{"order": 17}', 'customer 9', '{"kind": "new"}')});
wait_for { $node->safe_psql('page', 'SELECT count(*) FROM queues.orders') == 0 };
@got = $kafka->take('orders');
is(scalar(@got), 1, 'the example of the page: a message arrives');
delete $got[0]->{$_} for qw(partition offset timestamp);
is_deeply(
	$got[0],
	{
		key => 'customer 9',
		value => '{"order": 17}',
		headers => { kind => 'new', 'message-id' => 'orders/1', 'content-type' => 'application/json' }
	},
	'the example of the page: as the page says');
$node->safe_psql('page', q{SELECT queue.drop_relay('to_kafka')});

my $log = server_words($node);
unlike($log, qr/\Q$password\E|wrong-0816/, 'no password in the log');
$kafka->stop;

$node->stop;
done_testing();
