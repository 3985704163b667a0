# Relays to servers of Redis whose answers are damaged at random: nothing crashes or
# grows, and no message leaves the queue that nobody has confirmed.
#
# QUEUE_REDIS_FUZZ is the seconds it takes, the number of relays, and the seed.

use strict;
use warnings;

use FakeServer;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Redis;
use Test::More;
use Time::HiRes qw(time usleep);
use Wait;

my ($seconds, $relays, $seed) = split(/ /, $ENV{QUEUE_REDIS_FUZZ} // '6 3 4711');
note("QUEUE_REDIS_FUZZ='$seconds $relays $seed'");

my @answers = (
	"+OK\r\n",
	"-ERR x\r\n",
	"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n",
	"-OOM command not allowed\r\n",
	"-MOVED 3300 127.0.0.1:1\r\n",
	"-ASK 3300 127.0.0.1:1\r\n",
	"-LOADING Redis is loading\r\n",
	"-NOPERM No permissions to access a key\r\n",
	":1\r\n",
	"\$-1\r\n",
	"*2\r\n:1\r\n:2\r\n",
	">2\r\n+a\r\n+b\r\n",
	"%1\r\n+a\r\n:1\r\n",
	"=7\r\ntxt:abc\r\n",
	",1.5\r\n",
	"_\r\n",
	"(123456789012345678901234567890\r\n");
my @absurd = (
	0, '', '-', '-2', '+1', 2**31 - 1,
	2**32, '9223372036854775807', '-9223372036854775808', '18446744073709551616', '9' x 40);

sub pick { return $_[ rand(@_) ]; }

# Damage an answer.
sub mutate
{
	my ($data) = @_;

	for (1 .. 1 + rand(3))
	{
		my $at = int(rand(length($data) + 1));
		my $how = int(rand(7));

		substr($data, $at, 1, chr(rand(256))) if $how == 0 && $at < length($data);
		substr($data, $at, 0, chr(rand(256))) if $how == 1;
		substr($data, $at, rand(8), '') if $how == 2 && $at < length($data);
		substr($data, $at, 0, substr($data, $at, 20)) if $how == 3;
		substr($data, $at, 0, pick(@answers)) if $how == 4;
		substr($data, $at) = '' if $how == 5;
		if ($how == 6)
		{
			my $number = pick(@absurd);
			$data =~ s/\d+/$number/;
		}
	}
	return $data;
}

my $connection_number = 0;

# Confirm messages, and now and then something goes wrong.
sub damaged
{
	my ($connection) = @_;
	my $n = 0;

	srand($seed + 1000 * $connection_number++);
	for (;;)
	{
		my @words = Redis::fake_command($connection);
		my $answer = "+OK\r\n";

		if ($words[0] eq 'XADD')
		{
			$n++;
			$answer = rand() < 0.5 ? "+1-$n\r\n" : '$' . length("1-$n") . "\r\n1-$n\r\n";
			$answer = pick(@answers) if rand() < 0.1;
		}
		$answer = mutate($answer) if rand() < ($words[0] eq 'XADD' ? 0.2 : 0.02);
		$connection->log(unpack('H*', $answer));
		$connection->write($answer);
	}
}

my $node = queue_node('source', conf => "max_worker_processes = 40\nrestart_after_crash = off");
my @servers;
for my $i (1 .. $relays)
{
	$connection_number = 1_000_000 * $i;
	my $server = FakeServer->new(
		damaged => \&damaged,
		good => sub { Redis::fake($_[0], XADD => "+1-1\r\n") });
	my $port = $server->port;

	$server->mode('damaged');
	push @servers, $server;
	$node->safe_psql(
		'postgres', qq{
SELECT queue.create('q$i', max_attempts => 1000, backoff => '10 ms', backoff_max => '100 ms');
SELECT count(queue.send('q$i', to_jsonb(n), 'k' || n % 50)) FROM generate_series(1, 20000) n;
CREATE SERVER fake$i FOREIGN DATA WRAPPER queue_redis OPTIONS (host '127.0.0.1', port '$port');
CREATE USER MAPPING FOR CURRENT_USER SERVER fake$i OPTIONS (password 'hush-0815');
SELECT queue.create_relay('r$i', 'q$i', 'fake$i', '{"batch": 20, "confirm_timeout": 1}');});
}

my $pids =
  q{SELECT string_agg(pid::text, ' ' ORDER BY pid) FROM pg_stat_activity WHERE backend_type = 'queue relay'};
my $end = time + $seconds;
my %size;
while (time < $end)
{
	for my $pid (split(/ /, $node->safe_psql('postgres', $pids)))
	{
		my ($kb) = eval { slurp_file("/proc/$pid/status") =~ /RssAnon:\s+(\d+)/ } or next;
		$size{$pid} //= $kb;
		$size{grown} = $kb - $size{$pid} if $kb - $size{$pid} > ($size{grown} // 0);
	}
	usleep(200_000);
}
cmp_ok($size{grown} // 0, '<', 10_000, 'no worker grows');

my ($connections, $gone, $positive) = (0, 0, 0);
$node->safe_psql('postgres', qq{SELECT queue.pause_relay('r$_')}) for 1 .. $relays;
$node->poll_query_until('postgres',
	q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'queue relay'});
for my $i (1 .. $relays)
{
	my $said = join("\n", $servers[ $i - 1 ]->take_log);

	$connections += () = $said =~ /^connected$/mg;
	$said =~ s/^connected$//mg;
	$said =~ s/\n//g;
	$said = pack('H*', $said);
	my $confirmed = () = $said =~ /\d-\d+/g;
	my $left = $node->safe_psql('postgres', "SELECT count(*) FROM queues.q$i");
	my $dead = $node->safe_psql('postgres', "SELECT count(*) FROM queue.dead_letters WHERE queue = 'q$i'");

	cmp_ok(20000 - $left - $dead, '<=', $confirmed, "q$i: what is gone was confirmed");
	is($dead, '0', "q$i: nothing is dead");
	$gone     += 20000 - $left;
	$positive += $confirmed;
	$servers[ $i - 1 ]->mode('good');
}
note("$connections connections, $gone messages confirmed of $positive at most");
cmp_ok($gone, '>', 0, 'some were');
$node->safe_psql('postgres', qq{SELECT queue.resume_relay('r$_')}) for 1 .. $relays;
wait_until($node, '(SELECT sum(published) > 0 FROM queue.relays)', 'a good server is published to');
unlike(
	server_words($node),
	qr/hush-0815|ERROR:|PANIC|TRAP:|terminated by signal/,
	'no secret in the log, and nothing crashed');
$node->stop;
done_testing();
