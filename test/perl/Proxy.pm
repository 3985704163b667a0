# A TCP proxy before a server, that does to its connections what networks and
# dying servers do, for tests.
#
# It is a process of its own; what it is told is in effect when the call returns.
# In the modes
#
#	open	it forwards;
#	slow	it forwards some bytes at a time, about 25 kB a second;
#	frozen	it takes connections, and reads and writes nothing;
#	mute	it forwards what clients say, and no answer;
#	closed	connections are refused, and those there were are closed.

package Proxy;

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use POSIX ();
use PostgreSQL::Test::Cluster;
use Socket;
use Time::HiRes qw(time);

# What a slow connection forwards in either direction, and how often
my $slow_bytes = 128;
my $slow_interval = 0.005;

# What is read at once.  The sockets' buffers are small, so that a frozen proxy
# soon has its clients wait to write.
my $piece = 64 * 1024;
my $buffer_size = 128 * 1024;

my @proxies;

# Options: server, the port of this machine to forward to.
sub new
{
	my ($class, %options) = @_;
	my $self = bless {
		port => PostgreSQL::Test::Cluster::get_free_port(),
		server => $options{server}
	}, $class;

	socketpair($self->{control}, my $control, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or die $!;
	$self->{pid} = fork() // die $!;
	if ($self->{pid})
	{
		close($control);
		push @proxies, $self;
		$self->_ask('mode open');
		return $self;
	}

	# Nothing of the test's own is to happen at this process's end.
	local $SIG{PIPE} = 'IGNORE';
	local $SIG{__DIE__} = 'DEFAULT';
	close($self->{control});
	$self->{control} = $control;
	eval { $self->_serve; };
	print STDERR "proxy: $@" if $@;
	POSIX::_exit(0);
}

sub port { return $_[0]->{port}; }

sub mode
{
	my ($self, $mode) = @_;
	$self->_ask("mode $mode");
	return;
}

# Close all connections; or do so once, in the middle of whatever it is, when so
# many more bytes have come from clients.
sub cut
{
	my ($self, $bytes) = @_;
	$self->_ask('cut ' . ($bytes // 0));
	return;
}

# Close all connections, and be open: before anybody connects anew.
sub cut_and_open
{
	my ($self) = @_;
	$self->_ask('cut_and_open');
	return;
}

# How often connections were closed so, or by their number the ones there are.
sub cuts { return $_[0]->_ask('cuts'); }
sub connections { return $_[0]->_ask('connections'); }

sub _ask
{
	my ($self, $command) = @_;
	my $answer = '';

	syswrite($self->{control}, "$command\n") // die "the proxy is gone: $!";
	while ($answer !~ /\n$/)
	{
		sysread($self->{control}, $answer, 100, length($answer)) or die 'the proxy is gone';
	}
	chomp($answer);
	die "the proxy cannot $command: $answer" if $answer !~ /^\d+$/;
	return $answer;
}

END
{
	local $?;

	for my $proxy (@proxies)
	{
		kill('KILL', $proxy->{pid});
		waitpid($proxy->{pid}, 0);
	}
}

#
# The process
#

sub _serve
{
	my ($self) = @_;

	$self->{mode} = 'closed';
	$self->{links} = [];
	$self->{cuts} = 0;
	for (;;)
	{
		my $readers = IO::Select->new($self->{control});
		my $writers = IO::Select->new;

		if ($self->{mode} ne 'frozen')
		{
			$readers->add($self->{listener}) if $self->{listener};
			for my $link (@{ $self->{links} })
			{
				for my $way (@{ $link->{ways} })
				{
					$readers->add($way->{from}) if !$way->{end} && $way->{data} eq '';
					$writers->add($way->{to}) if $way->{data} ne '' && $self->{mode} ne 'slow';
				}
			}
		}
		my $timeout = $self->{mode} eq 'slow' && @{ $self->{links} } ? $slow_interval : undef;
		my ($readable, $writable) = IO::Select->select($readers, $writers, undef, $timeout);
		my %ready = map { $_ => 1 } @{ $readable // [] }, @{ $writable // [] };

		if ($ready{ $self->{control} })
		{
			sysread($self->{control}, my $commands, 100) or return;
			for my $command (split(/\n/, $commands))
			{
				my $answer = eval { $self->_obey(split(/ /, $command)); } // $@;

				chomp($answer);
				syswrite($self->{control}, "$answer\n");
			}
			next;
		}
		$self->_accept if $self->{listener} && $ready{ $self->{listener} };
		$self->_forward(\%ready);
	}
}

sub _obey
{
	my ($self, $command, $argument) = @_;

	return $self->{cuts} if $command eq 'cuts';
	return scalar(@{ $self->{links} }) if $command eq 'connections';
	if ($command eq 'cut')
	{
		$self->{cut_after} = $argument || undef;
		$self->_cut if !$argument;
		return 0;
	}
	if ($command eq 'cut_and_open')
	{
		$self->_cut;
		$argument = 'open';
	}
	$self->{mode} = $argument;
	if ($argument eq 'closed')
	{
		$self->_close($_) for @{ $self->{links} };
		$self->{links} = [];
		close($self->{listener}) if $self->{listener};
		$self->{listener} = undef;
	}
	elsif (!$self->{listener})
	{
		$self->{listener} = IO::Socket::INET->new(
			Listen => 50,
			LocalAddr => '127.0.0.1',
			LocalPort => $self->{port},
			ReuseAddr => 1) or die "listen: $@";
		$self->{listener}->setsockopt(SOL_SOCKET, SO_RCVBUF, $buffer_size);
	}
	return 0;
}

sub _accept
{
	my ($self) = @_;
	my $client = $self->{listener}->accept or return;
	my $server = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->{server});

	# One that is down cannot be reached.
	if (!$server)
	{
		close($client);
		return;
	}
	$_->blocking(0) for $client, $server;
	push @{ $self->{links} },
	  {
		ways => [
			{ from => $client, to => $server, data => '', end => 0, up => 1 },
			{ from => $server, to => $client, data => '', end => 0 }
		]
	  };
	return;
}

sub _close
{
	my ($self, $link) = @_;
	close($_->{from}) for @{ $link->{ways} };
	return;
}

sub _cut
{
	my ($self) = @_;

	$self->{cuts}++;
	$self->{cut_after} = undef;
	$self->_close($_) for @{ $self->{links} };
	$self->{links} = [];
	return;
}

# Pass on what there is; a link is closed when one of its ends is.
sub _forward
{
	my ($self, $ready) = @_;
	my $slow = $self->{mode} eq 'slow';
	my $tick = $slow && time >= ($self->{next_tick} // 0);

	$self->{next_tick} = time + $slow_interval if $tick;
	for my $link (@{ $self->{links} })
	{
		for my $way (@{ $link->{ways} })
		{
			if ($ready->{ $way->{from} } && $way->{data} eq '' && !$way->{end})
			{
				my $n = sysread($way->{from}, $way->{data}, $piece);

				$way->{end} = 1 if defined($n) ? $n == 0 : !$!{EAGAIN};
			}
			$way->{data} = '' if $self->{mode} eq 'mute' && !$way->{up};
			next if $way->{data} eq '' || ($slow && !$tick);

			my $length = $slow ? $slow_bytes : length($way->{data});
			$length = $self->{cut_after}
			  if $way->{up} && $self->{cut_after} && $self->{cut_after} < $length;
			my $n = syswrite($way->{to}, $way->{data}, $length);
			if (!defined($n))
			{
				next if $!{EAGAIN};
				$link->{dead} = 1;
				next;
			}
			substr($way->{data}, 0, $n, '');
			next if !$way->{up} || !$self->{cut_after};
			$self->{cut_after} -= $n;
			if ($self->{cut_after} <= 0)
			{
				$self->_cut;
				return;
			}
		}
		$link->{dead} = 1 if grep { $_->{end} && $_->{data} eq '' } @{ $link->{ways} };
		$self->_close($link) if $link->{dead};
	}
	$self->{links} = [ grep { !$_->{dead} } @{ $self->{links} } ];
	return;
}

1;
