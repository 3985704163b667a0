# A server that behaves as none should: what a real one will not do, for tests.
#
# It is a process of its own that takes one connection after the other and gives
# each to the function of the mode that is set at that moment.

package FakeServer;

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use PostgreSQL::Test::Utils;

my @servers;

# modes: name => function of a connection.
sub new
{
	my ($class, %modes) = @_;
	my $socket = IO::Socket::INET->new(Listen => 10, LocalAddr => '127.0.0.1', Proto => 'tcp') or die $!;
	my $self = bless {
		port => $socket->sockport,
		mode => PostgreSQL::Test::Utils::tempdir() . '/mode',
		log => PostgreSQL::Test::Utils::tempdir() . '/log',
	}, $class;

	$self->mode('');
	append_to_file($self->{log}, '');
	$self->{pid} = fork() // die $!;
	if ($self->{pid})
	{
		push @servers, $self;
		return $self;
	}

	# Nothing of the test's own is to happen at this process's end.
	local $SIG{PIPE} = 'IGNORE';
	local $SIG{__DIE__} = 'DEFAULT';
	while (my $client = $socket->accept)
	{
		my $function = $modes{ slurp_file($self->{mode}) };
		my $connection = bless { socket => $client, buffer => '', log => $self->{log} },
		  'FakeServer::Connection';

		$connection->log('connected');
		eval { $function->($connection) if $function; };
		$client->close;
	}
	require POSIX;
	POSIX::_exit(0);
}

sub port { return $_[0]->{port}; }

# What connections are given to from now on.
sub mode
{
	my ($self, $mode) = @_;

	unlink("$self->{mode}.new");
	append_to_file("$self->{mode}.new", $mode);
	rename("$self->{mode}.new", $self->{mode}) or die $!;
	return;
}

# What connections have logged, and from here on log anew.
sub take_log
{
	my ($self) = @_;
	my @lines = split(/\n/, slurp_file($self->{log}));

	truncate($self->{log}, 0) or die $!;
	return @lines;
}

END
{
	local $?;

	for my $server (@servers)
	{
		kill('KILL', $server->{pid});
		waitpid($server->{pid}, 0);
	}
}

package FakeServer::Connection;

use PostgreSQL::Test::Utils;

sub log
{
	my ($self, $line) = @_;
	append_to_file($self->{log}, "$line\n");
	return;
}

# Exactly so many bytes; dies at the end.
sub read
{
	my ($self, $length) = @_;

	while (length($self->{buffer}) < $length)
	{
		sysread($self->{socket}, $self->{buffer}, 65536, length($self->{buffer})) or die "end\n";
	}
	return substr($self->{buffer}, 0, $length, '');
}

# Dies when the other side is gone.
sub write
{
	my ($self, $data) = @_;

	while (length($data) > 0)
	{
		my $n = syswrite($self->{socket}, $data) // die "end\n";
		substr($data, 0, $n, '');
	}
	return;
}

# Read and forget, until the other side hangs up.
sub wait_for_end
{
	my ($self) = @_;
	$self->read(1) while 1;
	return;
}

#
# AMQP 0-9-1
#

sub frame
{
	my ($self, $type, $channel, $payload) = @_;
	$self->write(pack('CnN', $type, $channel, length($payload)) . $payload . "\xCE");
	return;
}

sub method
{
	my ($self, $channel, $class, $method, $arguments) = @_;
	$self->frame(1, $channel, pack('nn', $class, $method) . ($arguments // ''));
	return;
}

sub read_frame
{
	my ($self) = @_;

	for (;;)
	{
		my ($type, $channel, $size) = unpack('CnN', $self->read(7));
		my $payload = $self->read($size);

		$self->read(1);
		return ($type, $payload) if $type != 8;
	}
}

# Up to connection.tune.
sub amqp_start
{
	my ($self, $frame_max) = @_;

	$self->read(8);
	$self->method(0, 10, 10, "\0\x09" . pack('N', 0) . pack('N/a', 'PLAIN') . pack('N/a', 'en_US'));
	$self->read_frame;
	$self->method(0, 10, 30, pack('nNn', 10, $frame_max // 131072, 0));
	return;
}

# All the way in.
sub amqp_open
{
	my ($self, %options) = @_;

	$self->amqp_start($options{frame_max});
	$self->read_frame;    # tune-ok
	$self->read_frame;    # open
	$self->method(0, 10, 41, "\0");
	$self->read_frame;
	$self->method(1, 20, 11, pack('N', 0));
	$self->read_frame;
	$self->method(1, 85, 11);
	return;
}

# The next message published: its body and routing key.
sub amqp_message
{
	my ($self) = @_;

	for (;;)
	{
		my ($type, $payload) = $self->read_frame;
		my ($class, $method) = unpack('nn', $payload);

		die "end\n" if $type == 1 && $class == 10;
		next if $type != 1 || $class != 60 || $method != 40;
		my (undef, $routing_key) = unpack('x6 C/a C/a', $payload);
		my (undef, $header) = $self->read_frame;
		my $size = unpack('x4 Q>', $header);
		my $body = '';
		while (length($body) < $size)
		{
			my (undef, $part) = $self->read_frame;
			$body .= $part;
		}
		return ($body, $header, $routing_key);
	}
}

sub amqp_ack
{
	my ($self, $tag) = @_;
	$self->method(1, 60, 80, pack('Q>C', $tag, 0));
	return;
}

#
# Kafka
#

# Wait for a request; the number that its answer is to have, what it asks for,
# and in which version.
sub kafka_request
{
	my ($self) = @_;
	my $data = $self->read(unpack('N', $self->read(4)));
	my ($api, $version, $request) = unpack('nnN', $data);

	$self->{last_request} = $data;
	return wantarray ? ($request, $api, $version) : $request;
}

# All of it
sub last_request { return $_[0]->{last_request}; }

sub kafka_answer
{
	my ($self, $request, $answer) = @_;
	$self->write(pack('N/a', pack('N', $request) . $answer));
	return;
}

# What a broker answers that is the only one of its cluster, and has one topic
# with one partition.
my %kafka_names = (
	0 => 'produce',
	3 => 'metadata',
	17 => 'handshake',
	18 => 'versions',
	22 => 'producer_id',
	36 => 'login');
my %kafka_versions = (
	0 => [ 3, 7 ],
	1 => [ 4, 11 ],
	3 => [ 0, 4 ],
	17 => [ 0, 1 ],
	18 => [ 0, 3 ],
	22 => [ 0, 1 ],
	36 => [ 0, 1 ]);

sub kafka_versions
{
	my ($self, $version) = @_;
	my @apis = map { pack('nnn', $_, @{ $kafka_versions{$_} }) } sort { $a <=> $b } keys %kafka_versions;

	return pack('nN', 0, scalar(@apis)) . join('', @apis) . ($version > 0 ? pack('N', 0) : '')
	  if $version < 3;
	return pack('nC', 0, @apis + 1) . join('', map { "$_\0" } @apis) . pack('NC', 0, 0);
}

# Options: cluster, an id; brokers, what there is besides the one.
sub kafka_metadata
{
	my ($self, %options) = @_;
	my @brokers =
	  (pack('N n/a N n', 1, '127.0.0.1', $self->{socket}->sockport, 0xFFFF), @{ $options{brokers} // [] });
	my $cluster = defined($options{cluster}) ? pack('n/a', $options{cluster}) : pack('n', 0xFFFF);

	return
		pack('NN', 0, scalar(@brokers))
	  . join('', @brokers)
	  . $cluster
	  . pack('NN nn/aC N nNN NN NN', 1, 1, 0, 'typed', 0, 1, 0, 0, 1, 1, 1, 1, 1);
}

# Answer everything as such a broker does, but for what there are functions for,
# by name: of the connection and the number of the request.  It logs what it is
# asked for.
sub kafka_serve
{
	my ($self, %instead) = @_;
	my %answers = (
		produce => sub { pack('N n/a N NnQ>Q>Q> N', 1, 'typed', 1, 0, 0, 0, -1, 0, 0) },
		metadata => sub { $self->kafka_metadata(cluster => 'fake') },
		handshake => sub { pack('nN (n/a)*', 0, 2, 'PLAIN', 'SCRAM-SHA-256') },
		versions => sub { $self->kafka_versions($_[0]) },
		producer_id => sub { pack('NnQ>n', 0, 0, 1, 0) },
		login => sub { pack('nnN', 0, 0xFFFF, 0) . ($_[0] > 0 ? pack('Q>', 0) : '') });

	for (;;)
	{
		my ($request, $api, $version) = $self->kafka_request;
		my $name = $kafka_names{$api} or die "end\n";

		# What publishes ends its head by how many are to acknowledge it.
		$self->log($name);
		$self->log('acks ' . (unpack('x8 n/a x2 s>', $self->last_request))[1]) if $name eq 'produce';
		if ($instead{$name})
		{
			$instead{$name}->($self, $request);
			next;
		}
		$self->kafka_answer($request, $answers{$name}->($version));
	}
	return;
}

#
# PostgreSQL's protocol
#

sub message
{
	my ($self, $type, $payload) = @_;
	$self->write($type . pack('N', 4 + length($payload)) . $payload);
	return;
}

# A message of the client's: its type and what is in it.
sub read_message
{
	my ($self) = @_;
	my ($type, $length) = unpack('a N', $self->read(5));

	return ($type, $self->read($length - 4));
}

# Log in anybody with any password; requests for TLS are refused.
sub pg_start
{
	my ($self) = @_;

	for (;;)
	{
		my ($length, $code) = unpack('NN', $self->read(8));

		$self->read($length - 8);
		last if $code == 196608;
		$self->write('N');
	}
	$self->message('R', pack('N', 3));
	$self->read_message;
	$self->message('R', pack('N', 0));
	$self->message('S', "client_encoding\0UTF8\0");
	$self->message('Z', 'I');
	return;
}

# And have the session set up.
sub pg_open
{
	my ($self) = @_;

	$self->pg_start;
	$self->read_message;
	$self->message('T', pack('n', 1) . "x\0" . pack('NnNnNn', 0, 0, 25, -1 & 0xFFFF, 0xFFFFFFFF, 0));
	$self->message('D', pack('nN', 1, 0xFFFFFFFF));
	$self->message('C', "SELECT 1\0");
	$self->message('Z', 'I');
	return;
}

# Wait for a batch: parse, bind, describe, execute, sync.  What is in it.
sub pg_batch
{
	my ($self) = @_;
	my $all = '';

	for (;;)
	{
		my ($type, $payload) = $self->read_message;

		die "end\n" if $type eq 'X';
		return $all if $type eq 'S';
		$all .= $payload;
	}
}

# Accept it.
sub pg_accept
{
	my ($self) = @_;

	$self->message('1', '');
	$self->message('2', '');
	$self->message('T', pack('n', 1) . "x\0" . pack('NnNnNn', 0, 0, 23, 4, 0xFFFFFFFF, 0));
	$self->message('D', pack('nN', 1, 1) . '1');
	$self->message('C', "SELECT 1\0");
	$self->message('Z', 'I');
	return;
}

# Refuse it.
sub pg_error
{
	my ($self, $sqlstate, $message) = @_;

	$self->message('E', "SERROR\0VERROR\0C$sqlstate\0M$message\0\0");
	$self->message('Z', 'I');
	return;
}

1;
