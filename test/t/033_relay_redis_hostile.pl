# A relay to a Redis that lies, floods, or breaks off: the worker lives, is interrupted
# at once, has no more memory than before, and nothing is refused.

use strict;
use warnings;

use FakeServer;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Redis;
use Test::More;
use Wait;

# Log in, and read the first message.
sub message
{
	my ($connection) = @_;

	for (;;)
	{
		my @words = Redis::fake_command($connection);

		return @words if $words[0] eq 'XADD';
		$connection->write("+OK\r\n");
	}
}

# To answer it by that, again and again, or once.
sub endless
{
	my ($data) = @_;
	return sub { message($_[0]); $_[0]->log('flood'); $_[0]->write($data) while 1; };
}

sub once
{
	my ($data) = @_;
	return sub { message($_[0]); $_[0]->write($data); $_[0]->wait_for_end; };
}

my $unexpected = 'the server sent something unexpected';
my $more = 'the server sends more than was asked for';
my @cases = (
	[ garbage => once("\xFF\xFE\0garbage\r\n"), $unexpected ],
	[ http => once("HTTP/1.1 400 Bad Request\r\n\r\n"), $unexpected ],
	[ array => once("*1\r\n\$1\r\nx\r\n"), $unexpected ],
	[ empty_array => once("*0\r\n"), $unexpected ],
	[ no_array => once("*-1\r\n"), $unexpected ],
	[ huge_array => once("*2147483647\r\n"), $unexpected ],
	[ nested => endless("*1\r\n" x 1000), $unexpected ],
	[ no_arrays => endless("*-1\r\n" x 1000), $unexpected ],
	[ huge_bulk => endless("\$2000000000\r\n" . 'x' x 100_000), $more ],
	[ absurd_bulk => endless("\$9223372036854775807\r\n" . 'x' x 100_000), $more ],
	[ negative_bulk => once("\$-2\r\n"), $unexpected ],
	[ no_number => once(":12x\r\n"), $unexpected ],
	[ number => once(":12\r\n"), $unexpected ],
	[ nothing => once("\$-1\r\n"), $unexpected ],
	[ another_answer => once("+OK\r\n"), $unexpected ],
	[ half_an_id => once("+1-\r\n"), $unexpected ],
	[ no_id => once("+1-1 \r\n"), $unexpected ],
	[ push_message => once(">2\r\n+a\r\n+b\r\n"), $unexpected ],
	[ map => once("%1\r\n+a\r\n+b\r\n"), $unexpected ],
	[ double => once(",1.5\r\n"), $unexpected ],
	[ boolean => once("#t\r\n"), $unexpected ],
	[ endless_line => endless('+' . 'x' x 100_000), $more ],
	[ endless_error => endless('-ERR ' . 'x' x 100_000), $more ],
	[ half => sub { message($_[0]); $_[0]->write("\$15\r\n1-") }, 'connection closed by the broker' ],
	[ one_too_many => once("\$3\r\n1-1\r\n\$3\r\n1-2\r\n"), $unexpected ],
	[ replies => endless("+1-1\r\n" x 10_000), $unexpected ],
	[
		flood_at_login =>
		  sub { Redis::fake_command($_[0]); $_[0]->log('flood'); $_[0]->write('x' x 100_000) while 1; },
		$unexpected
	],
	[ moved_nowhere => once("-MOVED x\r\n"), 'MOVED x: the server is one of a cluster' ],
	[
		unknown => once("-ERR unknown command 'XADD', with args beginning with: 'secret'\r\n"),
		'the server does not know command XADD'
	],
	[
		echo =>
		  sub { Redis::fake_command($_[0]); $_[0]->write("-ERR what is hush-0815\r\n"); $_[0]->wait_for_end; }
		,
		'the server refuses user name and password'
	],
	[
		echo_clipped => sub {
			Redis::fake_command($_[0]);
			$_[0]->write('-ERR ' . 'x' x 500 . "hush-0815\r\n");
			$_[0]->wait_for_end;
		},
		'the server refuses user name and password'
	],
	[
		a_user_called_monkey => sub {
			my @words = message($_[0]);
			$_[0]->write("-NOPERM User monkey has no permissions to run the 'xadd' command\r\n");
			$_[0]->wait_for_end;
		},
		'NOPERM User monkey has no permissions to run '
	],
	[
		number_for_pong => sub {
			Redis::fake_command($_[0]);
			$_[0]->write("+OK\r\n");
			Redis::fake_command($_[0]);
			$_[0]->write(":1\r\n");
			$_[0]->wait_for_end;
		},
		$unexpected
	]);
my %modes = map { $_->[0] => $_->[1] } @cases;
my $server = FakeServer->new(
	%modes,
	words => sub {
		for (;;)
		{
			message($_[0]);
			$_[0]->write("-WRONGTYPE \xE2\x82\xAC\xFF\x1B[31m" . "\xE2\x82\xAC" x 300 . "\r\n");
		}
	},
	two_parts => sub {
		for (;;)
		{
			message($_[0]);
			$_[0]->write('-WRONGTYPE ' . 'x' x 1000);
			select(undef, undef, undef, 0.2);
			$_[0]->write("y\r\n");
		}
	},
	silent => sub { message($_[0]); $_[0]->wait_for_end; },
	hangs_up => sub { message($_[0]); },
	good => sub {
		for (;;)
		{
			my @words = message($_[0]);
			$_[0]->log("got $words[4]");
			$_[0]->write("\$3\r\n1-1\r\n");
		}
	});

my $node = queue_node('source');
my $port = $server->port;
$node->safe_psql(
	'postgres', qq{
SELECT queue.create('events', max_attempts => 2, backoff => '10 ms');
CREATE SERVER fake FOREIGN DATA WRAPPER queue_redis OPTIONS (host '127.0.0.1', port '$port');
CREATE USER MAPPING FOR CURRENT_USER SERVER fake OPTIONS (password 'hush-0815');
SELECT queue.create_relay('r', 'events', 'fake', '{"target": "{header:to}"}');
SELECT queue.send('events', '1', headers => '{"to": "s"}');});

# Let the relay connect to another kind of server.
sub meet
{
	my ($mode) = @_;

	$node->safe_psql('postgres', q{SELECT queue.pause_relay('r')});
	$node->poll_query_until('postgres',
		q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'queue relay'})
	  or die 'the relay does not end';
	$server->mode($mode);
	$server->take_log;
	return $node->safe_psql('postgres', q{SELECT queue.resume_relay('r'); SELECT clock_timestamp()});
}

for my $case (@cases)
{
	my ($mode, undef, $error) = @$case;

	# Where something comes too early, it may be the message's confirmation.
	my $confirms = $mode eq 'one_too_many' || $mode eq 'replies';

	my ($since) = meet($mode) =~ /(\d.*)/;
	wait_until(
		$node,
		qq{(SELECT last_error LIKE '$error%' AND last_error_at > '$since' FROM queue.relays)},
		"$mode: a connection error");
	is($node->safe_psql('postgres', 'SELECT failed FROM queue.relays'), '0', "$mode: and not the message's")
	  if $mode eq 'a_user_called_monkey';
	$node->safe_psql('postgres', q{SELECT queue.send('events', '1', headers => '{"to": "s"}')}) if $confirms;
}
is($node->safe_psql('postgres', 'SELECT count(*) FROM queue.dead_letters'), '0', 'nothing is dead');

# Whatever comes, again and again: the worker is the same size.
meet('huge_bulk');
$node->poll_query_until('postgres', q{SELECT state = 'backing off' FROM queue.relays});
my $pid =
  $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'queue relay'});
my ($kb) = slurp_file("/proc/$pid/status") =~ /VmRSS:\s+(\d+)/;
cmp_ok($kb, '<', 60_000, 'a worker that was promised 2 GB has not got them');

# Who waits is interrupted at once.
for my $mode (qw(silent flood_at_login))
{
	meet($mode);
	$node->poll_query_until('postgres',
		q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'queue relay'});
	$node->safe_psql('postgres', q{SELECT queue.pause_relay('r')});
	wait_until(
		$node,
		q{(SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'queue relay')},
		"$mode: interrupted");
}

$node->safe_psql('postgres', q{SELECT queue.alter_relay('r', '{"confirm_timeout": 1}')});
meet('silent');
wait_until(
	$node,
	q{(SELECT last_error = 'no confirmation within 1 s' FROM queue.relays)},
	'no confirmation is a lost connection');
meet('hangs_up');
wait_until($node, q{(SELECT last_error = 'connection closed by the broker' FROM queue.relays)}, 'so is this');
is($node->safe_psql('postgres', 'SELECT count(*) FROM queue.dead_letters'), '0', 'nothing is dead');
meet('good');
wait_until($node, '(SELECT count(*) = 0 FROM queues.events)', 'a good one takes it');
wait_until($node, '(SELECT last_error IS NULL FROM queue.relays)', 'past trouble is past');

meet('words');
$node->safe_psql('postgres', q{SELECT queue.send('events', '2', headers => '{"to": "s"}')});
wait_until($node, '(SELECT count(*) = 1 FROM queue.dead_letters)', 'a message is refused with strange words');
my $words = $node->safe_psql('postgres', 'SELECT error FROM queue.dead_letters');
like($words, qr/^WRONGTYPE \xE2\x82\xAC\? \[31m(\xE2\x82\xAC)+$/, 'cleaned and clipped');
ok(utf8::decode($words), 'between two characters');
meet('two_parts');
$node->safe_psql('postgres', q{SELECT queue.send('events', '3', headers => '{"to": "s"}')});
wait_until(
	$node,
	q{(SELECT count(*) = 1 FROM queue.dead_letters WHERE payload = '3' AND error LIKE 'WRONGTYPE xxx%')},
	'so is one with many words that come in two parts');
unlike(
	server_words($node),
	qr/hush-0815|PANIC|TRAP:|terminated by signal/,
	'no secret in the log, and nothing crashed');
$node->stop;
done_testing();
