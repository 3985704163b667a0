# A relay to a cluster that lies about itself: maps that make no sense or too much
# work, nodes that send messages to and fro, or to a host of their choice, and one that
# falls silent while the others go on.

use strict;
use warnings;

use FakeServer;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Redis;
use Test::More;
use Wait;

# A line of a map, and a map as it is sent
sub line
{
	my ($address, $slots, $flags) = @_;
	return join(' ', 'f' x 40, $address, $flags // 'master', '-', 0, 0, 1, 'connected', $slots) . "\n";
}

sub bulk { return '$' . length($_[0]) . "\r\n$_[0]\r\n"; }

my $n = 0;

sub added { $n++; return "+1-$n\r\n"; }

my $not_understood = "the server''s list of the cluster''s nodes cannot be understood";
my $unexpected = 'the server sent something unexpected';
my $one = '127.0.0.1:1@2';
my %maps = (
	twice => [ line($one, '0-16383 5'), $not_understood ],
	again_and_again => [ line($one, '0-16383 ' x 120_000), $not_understood ],
	by_two => [ line($one, '0-16383') . line('127.0.0.1:2@3', '7-8'), $not_understood ],
	no_slot_16384 => [ line($one, '0-16384'), $not_understood ],
	negative => [ line($one, '-1-16383'), $not_understood ],
	backwards => [ line($one, '16383-0'), $not_understood ],
	no_number => [ line($one, '0-x'), $not_understood ],
	huge_number => [ line($one, '0-99999999999999999999999'), $not_understood ],
	no_port => [ line('127.0.0.1', '0-16383'), $not_understood ],
	port_0 => [ line('127.0.0.1:0@1', '0-16383'), $not_understood ],
	port_70000 => [ line('127.0.0.1:70000@1', '0-16383'), $not_understood ],
	long_host => [ line('h' x 300 . ':1@1', '0-16383'), $not_understood ],
	long_name => [ line("$one," . 'h' x 300, '0-16383'), $not_understood ],
	replica => [ line($one, '0-16383', 'slave'), $not_understood ],
	many_nodes => [ join('', map { line("127.0.0.1:$_\@1", $_) } 1 .. 101), $not_understood ],
	nul => [ line($one, "0-9\0-16383"), 'no node of the cluster has slot 10' ],
	gap => [ line($one, '0-99 101-16383'), 'no node of the cluster has slot 100' ],
	nobody => [ '', 'no node of the cluster has slot 0' ],
	lines => [ "\n" x 100_000, 'no node of the cluster has slot 0' ],
	strange_host => [ line("a\x1b[31m\xff;|:1\@1", '0-16383'), 'could not look up host name' ]);
my %answers = (
	number => [ ":1\r\n", $unexpected ],
	array => [ "*1\r\n:1\r\n", $unexpected ],
	too_long => [ "\$2000000\r\n" . 'x' x 2_000_000 . "\r\n", 'the server sends more than was asked for' ],
	no_cluster => [ "-ERR This instance has cluster support disabled\r\n", 'ERR This instance has cluster' ],
	map { $_ => [ bulk($maps{$_}->[0]), $maps{$_}->[1] ] } keys %maps);

# Two that are a cluster, and one that is not of it.  Key 'b' is in
# slot 3300, of the first, and 'a' in 15495, of the second.
my $first_port_file = PostgreSQL::Test::Utils::tempdir() . '/port';
my $elsewhere = FakeServer->new;
my $second = FakeServer->new(
	node => sub { Redis::fake($_[0], XADD => \&added); },
	ping_pong => sub {
		my ($connection) = @_;
		my $first_port = slurp_file($first_port_file);

		Redis::fake($connection, XADD => "-MOVED 3300 127.0.0.1:$first_port\r\n");
	},
	no_asking => sub {
		Redis::fake(
			$_[0],
			ASKING => "-NOPERM this user has no permissions to run the 'asking' command\r\n",
			XADD => \&added);
	},
	frozen => sub { Redis::fake($_[0], XADD => ''); },
	payloads => sub {
		my ($connection) = @_;

		Redis::fake($connection, XADD => sub { $connection->log("payload $_[4]"); return added(); });
	});
my $second_port = $second->port;
my $elsewhere_port = $elsewhere->port;

# A node of the cluster, which answers XADD for key b like that
sub first
{
	my ($to_b) = @_;

	return sub {
		my ($connection) = @_;
		my $port = $connection->{socket}->sockport;
		my $map =
		  line("127.0.0.1:$port\@1,first", '0-8191') . line("127.0.0.1:$second_port\@1,second", '8192-16383');

		Redis::fake(
			$connection,
			CLUSTER => bulk($map),
			XADD => sub { return $_[1] eq 'b' && $to_b ? $to_b->($port) : added(); });
	};
}
my $first = FakeServer->new(
	(   map {
			my $answer = $answers{$_}->[0];
			($_ => sub { Redis::fake($_[0], CLUSTER => $answer); })
		} keys %answers),
	node => first(),
	moved_to_second => first(sub { return "-MOVED 3300 127.0.0.1:$second_port\r\n"; }),
	moved_by_name => first(sub { return "-MOVED 3300 second:$second_port\r\n"; }),
	asks_second => first(sub { return "-ASK 3300 127.0.0.1:$second_port\r\n"; }),
	moved_to_itself => first(sub { return "-MOVED 3300 127.0.0.1:$_[0]\r\n"; }),
	moved_elsewhere => first(sub { return "-MOVED 3300 127.0.0.1:$elsewhere_port\r\n"; }),
	asks_elsewhere => first(sub { return "-ASK 3300 127.0.0.1:$elsewhere_port\r\n"; }),
	moved_by_nonsense => first(sub { return "-MOVED 99999 127.0.0.1:$second_port\r\n"; }));
my $port = $first->port;
append_to_file($first_port_file, $port);

my $node = queue_node('source');
$node->safe_psql(
	'postgres', qq{
SELECT queue.create('events', max_attempts => 2, backoff => '10 ms');
CREATE SERVER fake FOREIGN DATA WRAPPER queue_redis OPTIONS (host '127.0.0.1', port '$port', cluster 'true');
CREATE USER MAPPING FOR CURRENT_USER SERVER fake OPTIONS (password 'hush-0815');
SELECT queue.create_relay('r', 'events', 'fake', '{"target": "{key}", "confirm_timeout": 2}');});

# Let the relay connect to nodes of other kinds.
sub meet
{
	my ($first_mode, $second_mode) = @_;

	$node->safe_psql('postgres', q{SELECT queue.pause_relay('r')});
	$node->poll_query_until('postgres',
		q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'queue relay'})
	  or die 'the relay does not end';
	$first->mode($first_mode);
	$second->mode($second_mode // 'node');
	$_->take_log for $first, $second;
	my $out = $node->safe_psql('postgres', q{SELECT queue.resume_relay('r'); SELECT clock_timestamp()});
	return $out =~ s/^\n*//r;
}

sub wait_for_error
{
	my ($error, $since, $test) = @_;
	wait_until($node,
		qq{(SELECT last_error LIKE '$error%' AND last_error_at > '$since' FROM queue.relays)}, $test);
	return;
}

sub send_b { return $node->safe_psql('postgres', q{SELECT queue.send('events', '1', 'b')}); }

# And have something for key b.
sub meet_b
{
	my $since = meet(@_);

	send_b();
	return $since;
}

for my $name (sort keys %answers)
{
	wait_for_error($answers{$name}->[1], meet($name), "map $name: told");
}

# Where keys are sent on to
meet('moved_to_second');
send_b();
wait_until_published($node, 'a slot that has moved');
is(scalar(grep { $_ eq 'CLUSTER' } $first->take_log), 1, 'is known without another map');
meet('moved_to_second', 'payloads');
$node->safe_psql('postgres', q{SELECT queue.send('events', to_jsonb(i), 'b') FROM generate_series(1, 3) i});
wait_until_published($node, 'three of a key that has moved');
is(scalar(grep { $_ eq 'XADD' } $first->take_log), 1, 'of which the first alone went to the other node');
is(join(' ', map { /^payload (.*)/ ? $1 : () } $second->take_log), '1 2 3', 'arrive in order');
meet('moved_by_name');
send_b();
wait_until_published($node, 'and by the name of its node');
is(scalar(grep { $_ eq 'CLUSTER' } $first->take_log), 1, 'as well');
meet('asks_second');
send_b();
wait_until_published($node, 'a key that has moved ahead');
is(scalar(grep { $_ eq 'ASKING' } $second->take_log), 1, 'with leave');

wait_for_error(
	'the nodes of the cluster do not agree on who has slot 3300',
	meet_b('moved_to_second', 'ping_pong'),
	'to and fro: told');
my @said = grep { $_ eq 'XADD' } $first->take_log;
cmp_ok(scalar(@said), '<=', 20, 'and not for long');
wait_for_error('the nodes of the cluster do not agree', meet_b('moved_to_itself'), 'to itself: told');
wait_for_error(
	'NOPERM this user has no permissions to run the ',
	meet_b('asks_second', 'no_asking'),
	'without leave to ask: told');
wait_for_error(
	"slot 3300 is now at 127.0.0.1:$elsewhere_port",
	meet_b('moved_elsewhere'),
	'to a stranger: told');
wait_for_error(
	"slot 3300 is now at 127.0.0.1:$elsewhere_port",
	meet_b('asks_elsewhere'),
	'to ask a stranger: told');
is(join(' ', $elsewhere->take_log), '', 'who gets neither a connection nor the password');
wait_for_error('the server names no node that has the key', meet_b('moved_by_nonsense'), 'to nobody: told');
meet('node');
wait_until_published($node, 'and published in the end');

# One that falls silent, while for the other there is always something to confirm
my $since = meet('node', 'frozen');
$node->safe_psql('postgres', q{SELECT queue.send('events', '1', 'a')});
my $told;
for (1 .. 100)
{
	send_b();
	$told = $node->safe_psql('postgres',
		qq{SELECT last_error LIKE 'the server at 127.0.0.1:$second_port does not answer%' FROM queue.relays});
	last if $told eq 't';
	select(undef, undef, undef, 0.1);
}
is($told, 't', 'a node that falls silent is given up');
meet('node');
wait_until_published($node, 'and when it speaks all is published');
is($node->safe_psql('postgres', 'SELECT count(*) FROM queue.dead_letters'), '0', 'nothing is dead');
unlike(
	server_words($node),
	qr/hush-0815|PANIC|TRAP:|terminated by signal/,
	'no secret in the log, and nothing crashed');
$node->stop;
done_testing();
