# A private Redis server, for tests, and a client that reads every byte.
#
# It listens on loopback only, has its own ports and directory, writes what it was
# told to disk before it says so, and runs as whoever runs the test.

package Redis;

use strict;
use warnings;

use Certificate ();
use File::Path  qw(make_path);
use File::Spec;
use IO::Socket::INET;
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Wait;

my @servers;

# Skip the whole test where there is no server to test with, unless the
# environment says that there must be.
sub require_or_skip
{
	return if system('command -v redis-server >/dev/null && command -v redis-cli >/dev/null') == 0;
	die 'redis-server is missing' if $ENV{QUEUE_REQUIRE_REDIS};
	Test::More::plan(skip_all => 'redis-server is not installed');
}

# Options: tls => 1 for a TLS listener beside the plain one, with a
# certificate for "localhost" signed by an authority of our own; cluster => 1 for
# a node of a cluster; config for more lines of redis.conf.
sub new
{
	my ($class, %options) = @_;
	my $dir = File::Spec->rel2abs(PostgreSQL::Test::Utils::tempdir());
	my $self = bless {
		dir => $dir,
		port => PostgreSQL::Test::Cluster::get_free_port(),
		password => 'mellon-4711',
	}, $class;

	make_path("$dir/data");
	my $config = <<"CONFIG";
bind 127.0.0.1
port $self->{port}
dir $dir/data
logfile $dir/log
save ""
appendonly yes
appendfsync always
daemonize no
user default off
user admin on >$self->{password} ~* &* +\@all
user relay on >$self->{password} ~* &* +\@write +\@read +\@connection +publish +wait +cluster|nodes
CONFIG
	$config .= $self->_listen_tls if $options{tls};
	$config .= "tls-cluster yes\ntls-replication yes\n" if $options{tls} && $options{cluster};
	if ($options{cluster})
	{
		$self->{bus_port} = PostgreSQL::Test::Cluster::get_free_port();
		$config .= "cluster-enabled yes\ncluster-port $self->{bus_port}\ncluster-node-timeout 2000\n";
		$config .= "masterauth $self->{password}\nmasteruser admin\n";
	}
	$config .= $options{config} if $options{config};
	PostgreSQL::Test::Utils::append_to_file("$dir/redis.conf", $config);
	return $self;
}

sub port { return $_[0]->{port}; }
sub tls_port { return $_[0]->{tls_port}; }
sub password { return $_[0]->{password}; }
sub ca_file { return "$_[0]->{dir}/ca.crt"; }
sub pid { return $_[0]->{server}->{KIDS}->[0]->{PID}; }
sub log { return PostgreSQL::Test::Utils::slurp_file("$_[0]->{dir}/log"); }

# A listener with a certificate for localhost; returns configuration.
sub _listen_tls
{
	my ($self) = @_;
	my $dir = $self->{dir};

	$self->{tls_port} = PostgreSQL::Test::Cluster::get_free_port();
	Certificate::make($dir);
	return <<"CONFIG";
tls-port $self->{tls_port}
tls-ca-cert-file $dir/ca.crt
tls-cert-file $dir/server.crt
tls-key-file $dir/server.key
tls-auth-clients no
CONFIG
}

# Start the server, and wait until it takes commands.
sub start
{
	my ($self) = @_;

	push @servers, $self if !grep { $_ == $self } @servers;
	$self->{server} =
	  IPC::Run::start([ 'redis-server', "$self->{dir}/redis.conf" ], '<', \undef, '>&', "$self->{dir}/out");
	(wait_for { $self->command('PING') eq 'PONG' })
	  or die 'Redis does not start: ' . $self->log;
	return;
}

# Stop the server: in good order, or as a power failure would ('KILL').
sub stop
{
	my ($self, $signal) = @_;

	$self->{server}->signal($signal || 'TERM');
	eval { $self->{server}->finish };
	delete $self->{server};
	delete $self->{client};
	return;
}

# Send the server a signal.
sub signal { my ($self, $signal) = @_; $self->{server}->signal($signal); return; }

# Run redis-cli; what it says, as for a terminal.
sub cli
{
	my ($self, @arguments) = @_;
	local $ENV{REDISCLI_AUTH} = $self->{password};
	my ($out, $err) = PostgreSQL::Test::Utils::run_command(
		[ 'redis-cli', '-p', $self->{port}, '--user', 'admin', '--no-raw', @arguments ]);

	die "redis-cli: $err" if $err =~ /Could not connect/;
	return $out;
}

# Run a command, as the administrator; its answer, an array by reference.
# Dies of an error.
sub command
{
	my ($self, @words) = @_;
	my $client = $self->{client};

	if (!$client || !$client->{socket}->connected)
	{
		$client = $self->connect;
		$self->{client} = $client;
	}
	my $reply = eval { $client->command(@words) };
	if (my $error = $@)
	{
		delete $self->{client} if $error !~ /^redis: /;
		die $error;
	}
	return $reply;
}

# A client of its own, logged in as the administrator.
sub connect
{
	my ($self) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->{port})
	  or die "cannot connect to Redis: $!";
	my $client = bless { socket => $socket, buffer => '' }, 'Redis::Client';

	$client->command('AUTH', 'admin', $self->{password});
	return $client;
}

# Make a cluster of these nodes.
sub make_cluster
{
	my (@nodes) = @_;
	my $out = $nodes[0]->cli('--cluster', 'create', (map { "127.0.0.1:$_->{port}" } @nodes), '--cluster-yes');

	for my $node (@nodes)
	{
		(wait_for { $node->command('CLUSTER', 'INFO') =~ /cluster_state:ok/ })
		  or die "the cluster does not come up: $out";
	}
	return;
}

#
# A server of FakeServer's that speaks the protocol
#

# Read a command: its words.
sub fake_command
{
	my ($connection) = @_;
	my $line = '';

	$line .= $connection->read(1) while $line !~ /\r\n$/;
	my ($n) = $line =~ /^\*(\d+)/ or die "not a command: $line";
	my @words;
	for (1 .. $n)
	{
		my $length = '';

		$length .= $connection->read(1) while $length !~ /\r\n$/;
		push @words, $connection->read(substr($length, 1) + 0);
		$connection->read(2);
	}
	return @words;
}

# Answer commands, logging each: by their names, a text or a function of the words;
# any other with OK.
sub fake
{
	my ($connection, %answers) = @_;

	for (;;)
	{
		my @words = fake_command($connection);
		my $answer = $answers{ $words[0] } // "+OK\r\n";

		$connection->log($words[0]);
		$connection->write(ref($answer) ? $answer->(@words) : $answer);
	}
}

# However the test ends, nothing of it goes on.
END
{
	local $?;

	for my $server (@servers)
	{
		eval { $server->stop('KILL') } if $server->{server};
	}
}

package Redis::Client;

sub send
{
	my ($self, @words) = @_;
	my $data = '*' . @words . "\r\n" . join('', map { '$' . length($_) . "\r\n$_\r\n" } @words);

	while (length($data) > 0)
	{
		my $n = syswrite($self->{socket}, $data) // die "Redis is gone: $!";
		substr($data, 0, $n, '');
	}
	return;
}

sub command
{
	my ($self, @words) = @_;

	$self->send(@words);
	return $self->reply;
}

sub _more
{
	my ($self) = @_;
	sysread($self->{socket}, $self->{buffer}, 65536, length($self->{buffer})) or die 'Redis is gone';
	return;
}

# The next reply
sub reply
{
	my ($self) = @_;

	$self->_more while $self->{buffer} !~ /\r\n/;
	$self->{buffer} =~ s/^(.)([^\r]*)\r\n//s or die 'not a reply';
	my ($type, $value) = ($1, $2);

	die "redis: $value\n" if $type eq '-';
	return $value if $type eq '+' || $type eq ':';
	return undef if $value == -1;
	return [ map { $self->reply } 1 .. $value ] if $type eq '*';
	$self->_more while length($self->{buffer}) < $value + 2;
	my $text = substr($self->{buffer}, 0, $value, '');
	substr($self->{buffer}, 0, 2, '');
	return $text;
}

1;
