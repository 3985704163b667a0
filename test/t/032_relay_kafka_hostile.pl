# A relay to a Kafka that lies, floods or says nothing: the worker lives, answers
# at once, has no more memory than before, and tells no secrets.

use strict;
use warnings;

use FakeServer;
use HungLookup;
use Kafka;
use IO::Socket::INET;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Socket qw(IPPROTO_TCP pack_sockaddr_in inet_aton);
use Test::More;
use Time::HiRes qw(time);
use Wait;

my $password = 'mellon-4712';

# An answer as it should be, with something else in its place.
sub instead
{
	my ($name, $answer) = @_;

	return sub {
		my ($connection) = @_;

		$connection->kafka_serve(
			$name => sub {
				my (undef, $request) = @_;

				$connection->kafka_answer($request, ref($answer) ? $answer->($connection) : $answer);
			});
	};
}

# A frame begins with its length and the number of the request it answers: what
# is instead of it.
sub instead_raw
{
	my ($name, $function) = @_;

	return sub {
		my ($connection) = @_;
		$connection->kafka_serve($name => sub { $function->($connection, $_[1]); });
	};
}

sub endless
{
	my ($connection, $request) = @_;

	$connection->write(pack('NN', 99_000_000, $request));
	$connection->write("\xFF" x 65536) while 1;
	return;
}

my $huge = 0x7FFFFFFF;

# A result of publishing
sub produced
{
	my ($error) = @_;
	return pack('N n/a N NnQ>Q>Q> N', 1, 'typed', 1, 0, $error, 0, -1, 0, 0);
}

# Before it is logged in to: what it does, and how it is said to fail
my @strangers = (
	garbage => sub { $_[0]->write("HTTP/1.1 400 Bad Request\r\n\r\n"); $_[0]->wait_for_end; },
	'absurd length' => sub { $_[0]->write(pack('N', $huge) . 'x' x 1000); $_[0]->wait_for_end; },
	'negative length' => sub { $_[0]->write(pack('N', 0xFFFFFFFF) . 'x' x 1000); $_[0]->wait_for_end; },
	'half a frame' => sub {
		my ($connection) = @_;
		my $request = $connection->kafka_request;

		$connection->write(pack('NN', 1000, $request) . "\0\0");
		$connection->wait_for_end;
	},
	'absurd count' => sub {
		my ($connection) = @_;
		my $request = $connection->kafka_request;

		$connection->write(pack('NNnN', 10, $request, 0, $huge));
		$connection->wait_for_end;
	},
	endless => sub { endless($_[0], scalar($_[0]->kafka_request)); },
	'hangs up' => sub { },
	'says nothing' => sub { $_[0]->wait_for_end; });

# When versions are agreed on
my @metadata = (
	'metadata: garbage' => instead(metadata => pack('NN', 0, 5) . "\x01" x 300),
	'metadata: negative count of brokers' => instead(metadata => pack('NN', 0, 0xFFFFFFFF) . 'x' x 300),
	'metadata: absurd count of brokers' => instead(metadata => pack('NN', 0, $huge)),
	'metadata: negative length of a name' => instead(metadata => pack('NNNnN', 0, 1, 1, 0x8000, 0)),
	'metadata: absurd count of topics' =>
	  instead(metadata => sub { substr($_[0]->kafka_metadata, 0, -42) . pack('N', $huge); }),
	'metadata: endless' => instead_raw(metadata => \&endless),
	'producer id: garbage' => instead(producer_id => "\xFF" x 10));

# When a message was published
my @publishing = (
	'publishing: garbage' => instead(produce => "\xFF" x 300),
	'publishing: none' => instead(produce => ''),
	'publishing: absurd count' => instead(produce => pack('N n/a N', $huge, 'typed', $huge)),
	'publishing: an unheard-of error' => instead(produce => produced(12345)),
	'publishing: another request' =>
	  instead_raw(produce => sub { $_[0]->kafka_answer($_[1] + 77, produced(0)); }),
	'publishing: endless' => instead_raw(produce => \&endless),
	'publishing: hangs up' => instead_raw(produce => sub { die "end\n" }),
	'publishing: says nothing' => instead_raw(produce => sub { }));

# When it is logged in to
sub login
{
	my ($error, $message, $bytes) = @_;
	return pack('n n/a N/a', $error, $message, $bytes);
}

my %logins = (
	'login: tells the password' => instead(login => login(58, "no \e[31m$password is no password", '')),
	'login: garbage' => instead(login => "\xFF" x 300),
	'login: absurd length' => instead(login => pack('nnN', 0, 0xFFFF, $huge)),
	'login: endless' => instead_raw(login => \&endless));
my %scram = (
	'SCRAM: garbage' => instead(login => login(0, '', "\0\xFF=,,,r=")),
	'SCRAM: absurd count of rounds' => sub {
		my ($connection) = @_;

		# The nonce that it has to begin with is in the request.
		$connection->kafka_serve(
			login => sub {
				my (undef, $request) = @_;
				my ($nonce) = $connection->last_request =~ /r=([^,]+)/;

				$connection->kafka_answer($request, login(0, '', "r=${nonce}x,s=c2FsdA==,i=999999999"));
			});
	},
	'SCRAM: many rounds' => sub {
		my ($connection) = @_;

		$connection->kafka_serve(
			login => sub {
				my (undef, $request) = @_;
				my ($nonce) = $connection->last_request =~ /r=([^,]+)/;

				$connection->kafka_answer($request, login(0, '', "r=${nonce}x,s=c2FsdA==,i=1000000"));
			});
	});

my $hostile = FakeServer->new(
	@strangers,
	@metadata,
	@publishing,
	%logins, %scram,
	good => sub { $_[0]->kafka_serve },
	'no id' => instead(metadata => sub { $_[0]->kafka_metadata }),
	'many brokers' => instead(
		metadata => sub {
			$_[0]->kafka_metadata(
				brokers => [ map { pack('N n/a N n', $_, "127.0.0.1", 1, 0xFFFF) } 2 .. 1000 ]);
		}));
my $port = $hostile->port;

HungLookup::hang();
my $node = queue_node('source', conf => 'restart_after_crash = off');

sub query { return $node->safe_psql('postgres', $_[0]); }

my $workers = q{pg_stat_activity WHERE backend_type = 'queue relay'};

# A relay, and what it says of the other side; then it is dropped, and its worker
# ends at once, whatever it is waiting for.
my $answer_within = 6;
my $longest = 0;

sub meet
{
	my ($mode, $server) = @_;

	$hostile->mode($mode);
	query(
		qq{SELECT queue.create_relay('r', 'events', '$server', '{"topic": "typed", "confirm_timeout": 2}');
SELECT queue.send('events', '1')});
	wait_until($node, q{(SELECT last_error <> 'connecting' FROM queue.relays)}, "$mode: the relay says so");
	my $error = query('SELECT last_error FROM queue.relays');
	my $pid = query("SELECT pid FROM $workers");
	my ($memory) = $pid ? slurp_file("/proc/$pid/status") =~ /^VmHWM:\s*(\d+) kB/m : 0;
	note("$error ($memory kB)");
	cmp_ok($memory, '<', 200_000, "$mode: in no more memory than it needs");
	is(query('SELECT count(*) FROM queues.events'), 1, "$mode: the message is still there");
	is(query('SELECT count(*) FROM queue.dead_letters'), 0, "$mode: and not to blame");
	my $start = time;
	query(q{SELECT queue.drop_relay('r'); SELECT queue.purge('events')});
	wait_until($node, "(SELECT count(*) = 0 FROM $workers)", "$mode: its worker ends");
	my $took = time - $start;
	cmp_ok($took, '<', $answer_within, "$mode: at once");
	note(sprintf('after %.1f s', $took));
	$longest = $took if $took > $longest;
	return $error;
}

# It works with one that does what it should, one whose cluster has no id, and one
# that has many others nobody can reach.
query(
	qq{
SELECT queue.create('events', max_attempts => 2, backoff => '10 ms');
CREATE SERVER hostile FOREIGN DATA WRAPPER queue_kafka OPTIONS (brokers '127.0.0.1:$port');
CREATE USER MAPPING FOR CURRENT_USER SERVER hostile;});
for my $mode ('good', 'no id', 'many brokers')
{
	$hostile->mode($mode);
	query(
		q{SELECT queue.create_relay('r', 'events', 'hostile', '{"topic": "typed"}');
SELECT queue.send('events', '1')});
	wait_until($node, '(SELECT count(*) = 0 FROM queues.events)', "$mode: a message is published");
	query(q{SELECT queue.drop_relay('r')});
	wait_until($node, "(SELECT count(*) = 0 FROM $workers)", "$mode: the worker ends");
}

# What it asks for by the relay's options
$hostile->mode('good');
for my $case (
	[ '{}', 'acks -1', 1 ],
	[ '{"idempotence": false}', 'acks -1', 0 ],
	[ '{"idempotence": false, "acks": "1"}', 'acks 1', 0 ])
{
	my ($options, $acks, $idempotent) = @$case;

	$hostile->take_log;
	query(
		qq{SELECT queue.create_relay('r', 'events', 'hostile', '{"topic": "typed"}'::jsonb || '$options');
SELECT queue.send('events', '1')});
	wait_until($node, '(SELECT count(*) = 0 FROM queues.events)', "$options: a message is published");
	query(q{SELECT queue.drop_relay('r')});
	wait_until($node, "(SELECT count(*) = 0 FROM $workers)", "$options: the worker ends");
	my @log = $hostile->take_log;
	is(join(' ', grep { /acks/ } @log), $acks, "$options: so many have to have it");
	is(scalar(grep { $_ eq 'producer_id' } @log), $idempotent, "$options: whether it is idempotent");
}

for my $mode (grep { !ref } @strangers, @metadata, @publishing)
{
  SKIP:
	{
		# They sort as many, and read what is not there.
		skip('librdkafka 2.8.0 and 2.14.2 crash at a negative count of brokers', 1)
		  if $mode =~ /negative count/ && Kafka->library_version >= 2.001;
		meet($mode, 'hostile');
	}
}

# What it says of a login
query(
	qq{
ALTER USER MAPPING FOR CURRENT_USER SERVER hostile OPTIONS (ADD username 'relay', ADD password '$password')});
like(meet($_, 'hostile'), qr/./, "$_: there are words for it") for sort keys %logins;
query(q{ALTER SERVER hostile OPTIONS (ADD sasl_mechanism 'SCRAM-SHA-512')});
meet($_, 'hostile') for sort keys %scram;

# An address that does not answer: what waits to be taken there is as much as may.
my $full = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1', Proto => 'tcp') or die $!;
my $full_port = $full->sockport;
my @waiting;
for (1 .. 20)
{
	my $socket = IO::Socket::INET->new(Proto => 'tcp', Blocking => 0) or die $!;

	connect($socket, pack_sockaddr_in($full_port, inet_aton('127.0.0.1')));
	push @waiting, $socket;
}
my $slow = HungLookup::name();
query(
	qq{
CREATE SERVER silent FOREIGN DATA WRAPPER queue_kafka OPTIONS (brokers '127.0.0.1:$full_port');
CREATE USER MAPPING FOR CURRENT_USER SERVER silent;
CREATE SERVER slow FOREIGN DATA WRAPPER queue_kafka OPTIONS (brokers '$slow:9092');
CREATE USER MAPPING FOR CURRENT_USER SERVER slow;});
meet('an address that does not answer', 'silent');
meet('a look-up that does not end', 'slow');

# While it is being connected to: whoever asks something of the relay has it.
for my $server ('silent', 'slow')
{
	for my $statement (
		q{SELECT queue.pause_relay('r')},
		q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'queue relay'},
		q{DROP DATABASE doomed WITH (FORCE)})
	{
		my $database = $statement =~ /DROP/ ? 'doomed' : 'postgres';

		if ($database eq 'doomed')
		{
			query('CREATE DATABASE doomed');
			$node->safe_psql(
				'doomed', qq{
CREATE EXTENSION queue;
SELECT queue.create('events');
CREATE SERVER silent FOREIGN DATA WRAPPER queue_kafka OPTIONS (brokers '127.0.0.1:$full_port');
CREATE USER MAPPING FOR CURRENT_USER SERVER silent;
CREATE SERVER slow FOREIGN DATA WRAPPER queue_kafka OPTIONS (brokers '$slow:9092');
CREATE USER MAPPING FOR CURRENT_USER SERVER slow;});
		}
		$node->safe_psql($database,
			qq{SELECT queue.create_relay('r', 'events', '$server', '{"topic": "typed"}')});
		$node->poll_query_until($database, q{SELECT last_error = 'connecting' FROM queue.relays});
		my $pid = query("SELECT pid FROM $workers AND datname = '$database'");
		my $start = time;
		query($statement);
		wait_until(
			$node,
			"(SELECT count(*) = 0 FROM $workers AND pid = $pid)",
			"$server, $statement: the worker ends");
		my $took = time - $start;
		cmp_ok($took, '<', $answer_within, "$server, $statement: at once");
		note(sprintf('after %.1f s', $took));
		$longest = $took if $took > $longest;
		query(q{SELECT queue.drop_relay('r')}) if $database eq 'postgres';
	}
}

# Look-ups that do not end are not added to without limit: the process ends with
# them.
query(q{SELECT queue.create_relay('r', 'events', 'slow', '{"topic": "typed"}')});
wait_until($node, "(SELECT count(*) = 1 FROM $workers)", 'a worker looks a name up');
my $pid = query("SELECT pid FROM $workers");
wait_until(
	$node,
	"(SELECT count(*) = 1 FROM $workers AND pid <> $pid)",
	'when look-ups do not end, another takes its place');
query(q{SELECT queue.drop_relay('r')});
wait_until($node, "(SELECT count(*) = 0 FROM $workers)", 'and ends');

note(sprintf('the longest was %.1f s', $longest));
my $log = server_words($node);
unlike($log, qr/TRAP|terminated by signal/, 'no worker crashes');
unlike($log, qr/\Q$password\E/, 'no password in the log');
like($log, qr{\*{11} is no password}, 'but what was said of it');
$node->stop;
done_testing();
