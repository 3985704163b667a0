# An HTTP server of the tests, for many connections at a time, that does as it is told.
#
# It is a process of its own.  It keeps what was requested in a file, and answers by
# a function of each request, which returns a hash:
#
#	status		200 by default
#	headers		an array of lines
#	body		text
#	delay		seconds until it answers
#	again		seconds until the function is asked again, in the mode of then
#	drop		true: it closes the connection instead
#
# A request is a hash: at (the time), method, target, headers (a hash, names in lower case), body,
# mode (what mode() was called with last), open: how many were under way, and keys: the
# headers x-key of the others that were.

package HTTPServer;

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use JSON::PP;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(time);

my @servers;
my $json = JSON::PP->new->latin1->canonical;

sub new
{
	my ($class, $answer) = @_;
	my $directory = PostgreSQL::Test::Utils::tempdir();
	my $self = bless {
		port => PostgreSQL::Test::Cluster::get_free_port(),
		answer => $answer,
		log => "$directory/log",
		mode => "$directory/mode",
		read => 0
	}, $class;

	append_to_file($self->{log}, '');
	$self->mode('');
	push @servers, $self;
	return $self;
}

sub port { return $_[0]->{port}; }

# What requests are answered by from now on.
sub mode
{
	my ($self, $mode) = @_;

	unlink("$self->{mode}.new");
	append_to_file("$self->{mode}.new", $mode);
	rename("$self->{mode}.new", $self->{mode}) or die $!;
	return;
}

sub start
{
	my ($self) = @_;
	my $listener = IO::Socket::INET->new(
		Listen => 100,
		LocalAddr => '127.0.0.1',
		LocalPort => $self->{port},
		ReuseAddr => 1) or die "listen: $@";

	$self->{pid} = fork() // die $!;
	return if $self->{pid};

	# Nothing of the test's own is to happen at this process's end.
	local $SIG{PIPE} = 'IGNORE';
	local $SIG{__DIE__} = 'DEFAULT';
	$self->{listener} = $listener;
	eval { $self->_serve; };
	print STDERR "HTTP server: $@" if $@;
	POSIX::_exit(0);
}

# With no warning.
sub stop
{
	my ($self) = @_;

	return if !$self->{pid};
	kill('KILL', $self->{pid});
	waitpid($self->{pid}, 0);
	$self->{pid} = undef;
	return;
}

# What was requested since the last call.
sub take
{
	my ($self) = @_;
	my $all = slurp_file($self->{log}, $self->{read});
	my @requests;

	# The last line may be half there.
	while ($all =~ /\G(.*)\n/gc)
	{
		push @requests, $json->decode($1);
		$self->{read} += length($1) + 1;
	}
	return @requests;
}

END
{
	local $?;

	$_->stop for @servers;
}

#
# The process
#

sub _serve
{
	my ($self) = @_;

	open($self->{out}, '>>', $self->{log}) or die $!;
	$self->{out}->autoflush;
	$self->{clients} = {};
	for (;;)
	{
		my @clients = values %{ $self->{clients} };
		my $readers = IO::Select->new($self->{listener}, map { $_->{socket} } @clients);
		my $writers = IO::Select->new(map { $_->{socket} } grep { $_->{out} ne '' } @clients);
		my ($due) = sort { $a <=> $b } map { $_->{due} // () } @clients;
		my $timeout = defined($due) ? ($due > time ? $due - time : 0) : undef;
		my ($readable, $writable) = IO::Select->select($readers, $writers, undef, $timeout);

		for my $socket (@{ $readable // [] })
		{
			if ($socket == $self->{listener})
			{
				my $client = $socket->accept or next;

				$client->blocking(0);
				$self->{clients}->{$client} = { socket => $client, in => '', out => '' };
				next;
			}
			$self->_read($self->{clients}->{$socket});
		}
		for my $client (values %{ $self->{clients} })
		{
			if (defined($client->{due}) && $client->{due} <= time)
			{
				$client->{answer}->{again} ? $self->_decide($client) : $self->_answer($client);
			}
			$self->_write($client);
		}
	}
}

sub _close
{
	my ($self, $client) = @_;

	delete $self->{clients}->{ $client->{socket} };
	close($client->{socket});
	return;
}

sub _read
{
	my ($self, $client) = @_;
	my $n = sysread($client->{socket}, $client->{in}, 1024 * 1024, length($client->{in}));

	if (!$n)
	{
		$self->_close($client) if defined($n) || !$!{EAGAIN};
		return;
	}
	return if $client->{request} || $client->{in} !~ /\r\n\r\n/;
	my ($head) = $client->{in} =~ /^(.*?\r\n\r\n)/s;
	my ($length) = $head =~ /^content-length: (\d+)/im;

	return if length($client->{in}) < length($head) + ($length // 0);
	my ($first, @lines) = split(/\r\n/, $head);
	my ($method, $target) = split(/ /, $first);
	my %headers = map { /^([^:]+): *(.*)$/ ? (lc($1) => $2) : () } @lines;
	my @others = map { $_->{request} // () } values %{ $self->{clients} };
	my $request = {
		at => time,
		method => $method,
		target => $target,
		headers => \%headers,
		body => substr($client->{in}, length($head), $length // 0),
		open => 1 + @others,
		keys => [ map { $_->{headers}->{'x-key'} // () } @others ]
	};

	substr($client->{in}, 0, length($head) + ($length // 0), '');
	$client->{request} = $request;
	$self->_decide($client);
	syswrite($self->{out}, $json->encode($request) . "\n");
	return;
}

# What a request is answered, and when.
sub _decide
{
	my ($self, $client) = @_;
	my $request = $client->{request};

	$request->{mode} = slurp_file($self->{mode});
	$client->{answer} = $self->{answer}->($request);
	$client->{due} = time + ($client->{answer}->{again} // $client->{answer}->{delay} // 0);
	return;
}

sub _answer
{
	my ($self, $client) = @_;
	my $answer = $client->{answer};
	my $body = $answer->{body} // '';
	my $status = $answer->{status} // 200;

	$client->{request} = $client->{due} = undef;
	return $self->_close($client) if $answer->{drop};
	$client->{out} = join("\r\n",
		"HTTP/1.1 $status Whatever",
		@{ $answer->{headers} // [] },
		'Content-Length: ' . length($body),
		'', $body);
	return;
}

sub _write
{
	my ($self, $client) = @_;

	return if $client->{out} eq '';
	my $n = syswrite($client->{socket}, $client->{out});
	return $self->_close($client) if !defined($n) && !$!{EAGAIN};
	substr($client->{out}, 0, $n // 0, '');
	return;
}

1;
