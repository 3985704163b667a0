# A private RabbitMQ broker, for tests.
#
# It has its own Erlang port mapper, node name, ports and directory, so that it
# meets no other broker of this machine, and runs as whoever runs the test.

package RabbitMQ;

use strict;
use warnings;

use AMQP;
use Certificate ();
use File::Path  qw(make_path);
use File::Spec;
use IO::Socket::INET;
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Wait;

my $programs = '/usr/lib/rabbitmq/bin';
my $server = "$programs/rabbitmq-server";
my @brokers;

# Skip the whole test where there is no broker to test with, unless the
# environment says that there must be.
sub require_or_skip
{
	return if -x $server;
	die "$server is missing" if $ENV{QUEUE_REQUIRE_RABBITMQ};
	Test::More::plan(skip_all => "rabbitmq-server is not installed");
}

# Options: tls => 1 for a TLS listener beside the plain one, with a
# certificate for "localhost" signed by an authority of our own; config for
# more lines of rabbitmq.conf.
sub new
{
	my ($class, %options) = @_;
	my $dir = File::Spec->rel2abs(PostgreSQL::Test::Utils::tempdir());
	my $self = bless {
		dir => $dir,
		port => PostgreSQL::Test::Cluster::get_free_port(),
		tls_port => PostgreSQL::Test::Cluster::get_free_port(),
		dist_port => PostgreSQL::Test::Cluster::get_free_port(),
		epmd_port => PostgreSQL::Test::Cluster::get_free_port(),
		user => 'relay',
		password => 'mellon-4711',
	}, $class;

	make_path("$dir/data", "$dir/log");
	my $config = <<"CONFIG";
listeners.tcp.1 = 127.0.0.1:$self->{port}
default_user = $self->{user}
default_pass = $self->{password}
log.console = false
CONFIG
	$config .= $self->_listen_tls if $options{tls};
	$config .= $options{config} if $options{config};
	PostgreSQL::Test::Utils::append_to_file("$dir/rabbitmq.conf", $config);
	PostgreSQL::Test::Utils::append_to_file("$dir/enabled_plugins", "[].\n");
	return $self;
}

sub port { return $_[0]->{port}; }
sub tls_port { return $_[0]->{tls_port}; }
sub user { return $_[0]->{user}; }
sub password { return $_[0]->{password}; }
sub ca_file { return "$_[0]->{dir}/ca.crt"; }

# A listener with a certificate for localhost; returns configuration.
sub _listen_tls
{
	my ($self) = @_;
	my $dir = $self->{dir};

	Certificate::make($dir);
	return <<"CONFIG";
listeners.ssl.1 = 127.0.0.1:$self->{tls_port}
ssl_options.cacertfile = $dir/ca.crt
ssl_options.certfile = $dir/server.crt
ssl_options.keyfile = $dir/server.key
ssl_options.verify = verify_none
CONFIG
}

# The environment of the broker's programs.
sub _environment
{
	my ($self) = @_;
	my $dir = $self->{dir};

	return (
		HOME => $dir,
		ERL_EPMD_ADDRESS => '127.0.0.1',
		ERL_EPMD_PORT => $self->{epmd_port},
		RABBITMQ_NODENAME => "queue_test_$self->{port}\@localhost",
		RABBITMQ_DIST_PORT => $self->{dist_port},
		RABBITMQ_CONF_ENV_FILE => "$dir/no-environment",
		RABBITMQ_CONFIG_FILE => "$dir/rabbitmq.conf",
		RABBITMQ_ENABLED_PLUGINS_FILE => "$dir/enabled_plugins",
		RABBITMQ_MNESIA_BASE => "$dir/data",
		RABBITMQ_LOG_BASE => "$dir/log",
		RABBITMQ_PID_FILE => "$dir/pid",
		ERL_FLAGS => '-start_epmd false',
		RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS => '+S 2:2 +sbwt none');
}

# Start the broker, and wait until one can log in.
sub start
{
	my ($self) = @_;
	local %ENV = (%ENV, $self->_environment);

	if (!$self->{epmd})
	{
		$self->{epmd} = IPC::Run::start([ 'epmd', '-port', $self->{epmd_port}, '-address', '127.0.0.1' ],
			'<', \undef, '>&', "$self->{dir}/log/epmd");
		push @brokers, $self;
		(wait_for { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->{epmd_port}) })
		  or die 'epmd does not start';
	}
	unlink("$self->{dir}/pid");
	$self->{server} = IPC::Run::start([$server], '<', \undef, '>&', "$self->{dir}/log/server");

	my $client = (wait_for { $self->connect })
	  or die "RabbitMQ does not start: " . PostgreSQL::Test::Utils::slurp_file("$self->{dir}/log/server");
	$client->close;
	return;
}

# The process the broker runs in.
sub pid
{
	my ($self) = @_;
	return PostgreSQL::Test::Utils::slurp_file("$self->{dir}/pid") + 0;
}

# Run rabbitmqctl.
sub control
{
	my ($self, @command) = @_;
	local %ENV = (%ENV, $self->_environment);

	PostgreSQL::Test::Utils::system_or_bail("$programs/rabbitmqctl", @command);
	return;
}

# Stop the broker: in good order, or as a power failure would ('KILL').
sub stop
{
	my ($self, $signal) = @_;
	my $pid = $self->pid;

	kill($signal || 'TERM', $pid) or die "cannot stop RabbitMQ: $!";
	(wait_for { $self->{server}->reap_nb; !kill(0, $pid) }) or die 'RabbitMQ does not stop';
	eval { $self->{server}->finish };
	delete $self->{server};
	return;
}

# A client that is logged in.
sub connect
{
	my ($self) = @_;
	return AMQP->connect(port => $self->{port}, user => $self->{user}, password => $self->{password});
}

# The broker's own log.
sub log
{
	my ($self) = @_;
	return join('', map { PostgreSQL::Test::Utils::slurp_file($_) } glob("$self->{dir}/log/*"));
}

# However the test ends, nothing of it goes on.
END
{
	local $?;

	for my $broker (@brokers)
	{
		eval { $broker->stop('KILL') } if $broker->{server};
		eval { $broker->{epmd}->kill_kill };
	}
}

1;
