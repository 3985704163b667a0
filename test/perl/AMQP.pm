# A small AMQP 0-9-1 client, enough to see what a test's relay has published.

package AMQP;

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use PostgreSQL::Test::Utils;

# Encoding of arguments
sub _short { return pack('C/a', $_[0]); }
sub _long { return pack('N/a', $_[0]); }

# Connect to a broker of this machine, log in and open a channel.
sub connect
{
	my ($class, %options) = @_;
	my $socket = IO::Socket::INET->new(
		PeerAddr => '127.0.0.1',
		PeerPort => $options{port},
		Timeout => 5) or die "cannot connect: $@";
	my $self = bless { socket => $socket, buffer => '' }, $class;

	$self->{socket}->print("AMQP\0\0\x09\x01");
	$self->_expect(10, 10);
	$self->_send(0, 10, 11,
		_long('') . _short('PLAIN') . _long("\0$options{user}\0$options{password}") . _short('en_US'));
	$self->_expect(10, 30);
	$self->_send(0, 10, 31, pack('nNn', 10, 131072, 0));
	$self->_send(0, 10, 40, _short($options{vhost} || '/') . _short('') . "\0");
	$self->_expect(10, 41);
	$self->_send(1, 20, 10, _short(''));
	$self->_expect(20, 11);
	return $self;
}

sub close
{
	my ($self) = @_;
	$self->{socket}->close;
	return;
}

sub _send
{
	my ($self, $channel, $class, $method, $arguments) = @_;
	my $payload = pack('nn', $class, $method) . $arguments;

	$self->{socket}->print(pack('CnN', 1, $channel, length($payload)) . $payload . "\xCE");
	$self->{socket}->flush;
	return;
}

# The next frame, as type and payload; dies when none comes in time.
sub _frame
{
	my ($self, $timeout) = @_;

	for (;;)
	{
		if (length($self->{buffer}) >= 7)
		{
			my ($type, $channel, $size) = unpack('CnN', $self->{buffer});

			if (length($self->{buffer}) >= $size + 8)
			{
				my $frame = substr($self->{buffer}, 0, $size + 8, '');
				next if $type == 8;
				return ($type, substr($frame, 7, $size));
			}
		}
		IO::Select->new($self->{socket})->can_read($timeout || $PostgreSQL::Test::Utils::timeout_default)
		  or die "nothing comes from the broker\n";
		sysread($self->{socket}, $self->{buffer}, 65536, length($self->{buffer}))
		  or die "the broker has closed the connection\n";
	}
}

# Wait for a method; returns its arguments.
sub _expect
{
	my ($self, $class, $method) = @_;
	my ($type, $payload) = $self->_frame;
	my ($got_class, $got_method) = unpack('nn', $payload);

	die "expected method $class.$method, got $got_class.$got_method: " . substr($payload, 4)
	  if $type != 1 || $got_class != $class || $got_method != $method;
	return substr($payload, 4);
}

sub declare_exchange
{
	my ($self, $name, $kind) = @_;
	$self->_send(1, 40, 10, "\0\0" . _short($name) . _short($kind) . "\x02" . _long(''));
	$self->_expect(40, 11);
	return;
}

# A durable queue; arguments as name => text, or name => number.
sub declare_queue
{
	my ($self, $name, %arguments) = @_;
	my $table = join(
		'',
		map {
			_short($_)
			  . ($arguments{$_} =~ /^\d+$/ ? 'l' . pack('q>', $arguments{$_}) : 'S' . _long($arguments{$_}))
		} sort keys %arguments);

	$self->_send(1, 50, 10, "\0\0" . _short($name) . "\x02" . _long($table));
	$self->_expect(50, 11);
	return;
}

sub bind_queue
{
	my ($self, $queue, $exchange, $routing_key) = @_;
	$self->_send(1, 50, 20,
		"\0\0" . _short($queue) . _short($exchange) . _short($routing_key) . "\0" . _long(''));
	$self->_expect(50, 21);
	return;
}

# The next message of a queue, or undef.
sub get
{
	my ($self, $queue) = @_;

	$self->_send(1, 60, 70, "\0\0" . _short($queue) . "\x01");
	my ($type, $payload) = $self->_frame;
	my ($class, $method) = unpack('nn', $payload);
	die "unexpected answer to basic.get" if $class != 60;
	return undef if $method == 72;

	my ($exchange, $routing_key) = unpack('x4 x8 x C/a C/a', $payload);
	my (undef, $header) = $self->_frame;
	my ($size, $flags) = unpack('x4 Q> n', $header);
	my %message = (exchange => $exchange, routing_key => $routing_key, body => '');

	$self->_properties(\%message, $flags, substr($header, 14));
	while (length($message{body}) < $size)
	{
		my (undef, $body) = $self->_frame;
		$message{body} .= $body;
	}
	return \%message;
}

# All there is in a queue now.
sub drain
{
	my ($self, $queue) = @_;
	my @messages;

	while (my $message = $self->get($queue))
	{
		push @messages, $message;
	}
	return @messages;
}

# Fill in the properties a content header has.
sub _properties
{
	my ($self, $message, $flags, $data) = @_;
	my @names = (
		[ content_type => 'C/a' ],
		[ content_encoding => 'C/a' ],
		[ headers => 'table' ],
		[ delivery_mode => 'C' ],
		[ priority => 'C' ],
		[ correlation_id => 'C/a' ],
		[ reply_to => 'C/a' ],
		[ expiration => 'C/a' ],
		[ message_id => 'C/a' ],
		[ timestamp => 'Q>' ]);

	for my $i (0 .. $#names)
	{
		my ($name, $format) = @{ $names[$i] };

		next if !($flags & (1 << (15 - $i)));
		if ($format eq 'table')
		{
			($message->{$name}, $data) = _table($data);
			next;
		}
		($message->{$name}, $data) = unpack("$format a*", $data);
	}
	return;
}

# Decode a table; returns it and the data behind it.
sub _table
{
	my ($data) = @_;
	my ($content, $rest) = unpack('N/a a*', $data);
	my %table;

	while (length($content) > 0)
	{
		(my $name, $content) = unpack('C/a a*', $content);
		($table{$name}, $content) = _value($content);
	}
	return (\%table, $rest);
}

sub _array
{
	my ($data) = @_;
	my ($content, $rest) = unpack('N/a a*', $data);
	my @array;

	while (length($content) > 0)
	{
		(my $value, $content) = _value($content);
		push @array, $value;
	}
	return (\@array, $rest);
}

sub _value
{
	my ($data) = @_;
	my %formats = (S => 'N/a', l => 'q>', d => 'd>', t => 'C', I => 'l>');
	my ($kind, $rest) = unpack('a a*', $data);

	return (undef, $rest) if $kind eq 'V';
	return _table($rest) if $kind eq 'F';
	return _array($rest) if $kind eq 'A';
	die "unknown kind of field: $kind" if !$formats{$kind};
	return unpack("$formats{$kind} a*", $rest);
}

1;
