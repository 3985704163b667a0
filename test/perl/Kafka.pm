# A private Apache Kafka cluster, for tests.
#
# It is one node or three, each broker and controller (KRaft) in a Java virtual
# machine of its own, listening on loopback only, with its data in the test's
# directory.  What is in it is read with kcat, or with Kafka's own programs.

package Kafka;

use strict;
use warnings;

use Certificate ();
use File::Path  qw(make_path remove_tree);
use File::Spec;
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Wait;
use version;

my $cluster_id = 'cXVldWUtdGVzdC1jbHVzdA';
my $jars = $ENV{QUEUE_KAFKA};
my @java = ('java', '-Xmx256m', '-Xshare:auto', '-XX:TieredStopAtLevel=1', '-XX:+UseSerialGC');
my @clusters;

# Skip the whole test where there is no Kafka to test with.
sub require_or_skip
{
	return if $jars && -d $jars;
	Test::More::plan(skip_all => 'Apache Kafka cannot be had (QUEUE_KAFKA names no directory)');
}

# Options: nodes, 1 or 3; secure => 1 for listeners that ask for a login, with TLS
# and without, and an authorizer; config for more lines of its properties.
sub new
{
	my ($class, %options) = @_;
	my $dir = File::Spec->rel2abs(PostgreSQL::Test::Utils::tempdir());
	my $count = delete $options{nodes} // 1;
	my $self = bless {
		dir => $dir,
		%options,
		count => $count,
		user => 'shop',
		password => 'mellon-4712',
		offsets => {}
	}, $class;

	for my $n (1 .. $self->{count})
	{
		push @{ $self->{nodes} },
		  { map { $_ => PostgreSQL::Test::Cluster::get_free_port() } qw(port proxied controller sasl tls) };
	}
	Certificate::make($self->{dir}) if $options{secure};
	push @clusters, $self;
	return $self;
}

sub port { return $_[0]->{nodes}->[0]->{port}; }
sub proxied_port { return $_[0]->{nodes}->[0]->{proxied}; }
sub sasl_port { return $_[0]->{nodes}->[0]->{sasl}; }
sub tls_port { return $_[0]->{nodes}->[0]->{tls}; }
sub user { return $_[0]->{user}; }
sub password { return $_[0]->{password}; }
sub ca_file { return "$_[0]->{dir}/ca.crt"; }

sub brokers
{
	return join(',', map { "127.0.0.1:$_->{port}" } @{ $_[0]->{nodes} });
}

# Tell clients of proxied_port() to come by another port.  Before start().
sub advertise
{
	my ($self, $port) = @_;
	$self->{advertised} = $port;
	return;
}

# Write a node's properties; returns the file's name.
sub _configure
{
	my ($self, $n) = @_;
	my $node = $self->{nodes}->[ $n - 1 ];
	my $file = "$self->{dir}/node$n.properties";
	my $voters =
	  join(',', map { "$_\@127.0.0.1:$self->{nodes}->[$_ - 1]->{controller}" } 1 .. $self->{count});
	my %listeners = (PLAIN => $node->{port}, PROXIED => $node->{proxied});
	my %protocols = (PLAIN => 'PLAINTEXT', PROXIED => 'PLAINTEXT', CONTROLLER => 'PLAINTEXT');
	my $safe = $self->{count} > 1 ? 2 : 1;
	my $config = '';

	if ($self->{secure})
	{
		$listeners{SASL} = $node->{sasl};
		$listeners{TLS} = $node->{tls};
		$protocols{SASL} = 'SASL_PLAINTEXT';
		$protocols{TLS} = 'SASL_SSL';
		my $security = 'org.apache.kafka.common.security';
		my $plain = "$security.plain.PlainLoginModule required";

		for my $listener ('sasl', 'tls')
		{
			my $login = "listener.name.$listener";

			$config .= <<"CONFIG";
$login.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
$login.plain.sasl.jaas.config=$plain user_$self->{user}="$self->{password}";
$login.scram-sha-256.sasl.jaas.config=$security.scram.ScramLoginModule required;
$login.scram-sha-512.sasl.jaas.config=$security.scram.ScramLoginModule required;
CONFIG
		}
		$config .= <<"CONFIG";
ssl.keystore.type=PEM
ssl.keystore.location=$self->{dir}/server.pem
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
CONFIG
	}
	my %advertised = %listeners;
	my %hosts = (TLS => 'localhost');
	$advertised{PROXIED} = $self->{advertised} if $self->{advertised};
	my $listen = join(',', map { "$_://127.0.0.1:$listeners{$_}" } sort keys %listeners);
	my $advertise =
	  join(',', map { "$_://" . ($hosts{$_} // '127.0.0.1') . ":$advertised{$_}" } sort keys %advertised);
	my $map = join(',', map { "$_:$protocols{$_}" } sort keys %protocols);

	unlink($file);
	PostgreSQL::Test::Utils::append_to_file($file, <<"CONFIG" . $config . ($self->{config} // ''));
process.roles=broker,controller
node.id=$n
controller.quorum.voters=$voters
listeners=$listen,CONTROLLER://127.0.0.1:$node->{controller}
advertised.listeners=$advertise
listener.security.protocol.map=$map
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAIN
log.dirs=$self->{dir}/data$n
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
offsets.topic.num.partitions=1
offsets.topic.replication.factor=$self->{count}
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=$self->{count}
transaction.state.log.min.isr=$safe
min.insync.replicas=$safe
default.replication.factor=$self->{count}
num.network.threads=2
num.io.threads=2
broker.session.timeout.ms=6000
log.cleaner.dedupe.buffer.size=2097152
CONFIG
	return $file;
}

sub _java
{
	my ($self, @command) = @_;
	return (@java, '-cp', "$jars/*", @command);
}

# Start one node, for the first time or again.
sub start_node
{
	my ($self, $n) = @_;
	my $node = $self->{nodes}->[ $n - 1 ];
	my $file = $self->_configure($n);

	if (!-d "$self->{dir}/data$n")
	{
		my @users = map { ('--add-scram', "$_=[name=$self->{user},password=$self->{password}]") }
		  qw(SCRAM-SHA-256 SCRAM-SHA-512);

		$self->run_program('kafka.tools.StorageTool', 'format', '-t', $cluster_id, '-c', $file, @users);
	}
	$node->{server} = IPC::Run::start([ $self->_java('kafka.Kafka', $file) ],
		'<', \undef, '>>', "$self->{dir}/log$n", '2>&1');
	return;
}

# Start all that are not running, and wait until they serve.
sub start
{
	my ($self) = @_;

	for my $n (1 .. $self->{count})
	{
		$self->start_node($n) if !$self->{nodes}->[ $n - 1 ]->{server};
	}
	(wait_for { ($self->metadata =~ /^ (\d+) brokers:/m)[0] == $self->{count} })
	  or die 'Kafka does not start: ' . $self->log;
	return;
}

sub pid
{
	my ($self, $n) = @_;
	return $self->{nodes}->[ $n - 1 ]->{server}->{KIDS}->[0]->{PID};
}

# Stop a node: in good order, or as a power failure would ('KILL').
sub stop_node
{
	my ($self, $n, $signal) = @_;
	my $node = $self->{nodes}->[ $n - 1 ];

	kill($signal // 'TERM', $self->pid($n)) or die "cannot stop Kafka: $!";
	eval { $node->{server}->finish };
	delete $node->{server};
	return;
}

sub stop
{
	my ($self, $signal) = @_;

	for my $n (1 .. $self->{count})
	{
		$self->stop_node($n, $signal) if $self->{nodes}->[ $n - 1 ]->{server};
	}
	return;
}

# Run one of Kafka's programs; returns what it says.
sub run_program
{
	my ($self, @command) = @_;
	my ($out, $err) = ('', '');

	IPC::Run::run([ $self->_java(@command) ], '<', \undef, '>', \$out, '2>', \$err)
	  or die "@command: $out $err";
	return $out;
}

# Make topics: name => [arguments].  All at once, as each needs a virtual machine.
sub create_topics
{
	my ($self, %topics) = @_;
	my (@programs, $output);

	for my $name (sort keys %topics)
	{
		my @command = (
			'org.apache.kafka.tools.TopicCommand',
			'--bootstrap-server', $self->brokers, '--create', '--topic', $name, @{ $topics{$name} });

		push @programs, IPC::Run::start([ $self->_java(@command) ], '<', \undef, '>>', \$output, '2>&1');
	}
	for my $program (@programs)
	{
		$program->finish or die "cannot make topics: $output";
	}
	return;
}

# Run kcat; returns what it prints.
sub _kcat
{
	my ($self, @arguments) = @_;
	my ($out, $err) = ('', '');

	IPC::Run::run([ 'kcat', '-b', $self->brokers, @arguments ],
		'<', \undef, '>', \$out, '2>', \$err, IPC::Run::timeout(60))
	  or die "kcat @arguments: $err";
	return $out;
}

# The version of librdkafka, which kcat uses as the sink does: 2.006001 is 2.6.1.
sub library_version
{
	my $text = '';

	IPC::Run::run([ 'kcat', '-V' ], '>', \$text) or die 'kcat does not start';
	$text =~ /librdkafka (\d+\.\d+\.\d+)/ or die "kcat says $text";
	return version->parse("v$1")->numify;
}

# What kcat knows of the cluster.
sub metadata
{
	my ($self, @arguments) = @_;
	return $self->_kcat('-L', '-m', '2', @arguments);
}

# The node that leads the first partition of a topic.
sub leader
{
	my ($self, $topic) = @_;
	my ($leader) = $self->metadata('-t', $topic) =~ /partition 0, leader (-?\d+)/;

	return $leader;
}

# The messages of a topic that came since the last call, partition by partition:
# hashes with partition, offset, timestamp, key, value (both undef if NULL) and
# headers, a hash.  Options: those of kcat.
sub take
{
	my ($self, $topic, $partitions, @options) = @_;
	my @messages;

	for my $partition (0 .. ($partitions // 1) - 1)
	{
		my $from = $self->{offsets}->{"$topic/$partition"} // 0;
		my $out = $self->_kcat('-C', '-t', $topic, '-p', $partition, '-o', $from, '-e', '-q',
			'-X', 'fetch.wait.max.ms=10', '-f', '%o %T %K %S %h\n%k%s\n', @options);

		while ($out ne '')
		{
			$out =~ s/^(\d+) (-?\d+) (-?\d+) (-?\d+) (.*)\n// or die "kcat says $out";
			my ($offset, $timestamp, $key_length, $length, $headers) = ($1, $2, $3, $4, $5);
			my $key = substr($out, 0, $key_length < 0 ? 0 : $key_length, '');
			my $value = substr($out, 0, $length < 0 ? 0 : $length, '');

			$out =~ s/^\n// or die 'kcat ends in the middle';
			$self->{offsets}->{"$topic/$partition"} = $offset + 1;
			push @messages,
			  {
				partition => $partition,
				offset => $offset,
				timestamp => $timestamp,
				key => $key_length < 0 ? undef : $key,
				value => $length < 0 ? undef : $value,
				headers => { map { split(/=/, $_, 2) } split(/,(?=[\w-]+=)/, $headers) }
			  };
		}
	}
	return @messages;
}

# Have Kafka's own producer publish lines of key, tab and value.
sub produce
{
	my ($self, $topic, @lines) = @_;
	my $input = join('', @lines);
	my ($out, $err) = ('', '');

	IPC::Run::run(
		[
			$self->_java(
				'org.apache.kafka.tools.ConsoleProducer',
				'--bootstrap-server', $self->brokers, '--topic', $topic, '--property', 'parse.key=true')
		],
		'<',
		\$input,
		'>',
		\$out,
		'2>',
		\$err) or die "$out $err";
	return;
}

# What Kafka's own consumer prints of a topic, from its beginning to its end.
sub consume
{
	my ($self, $topic) = @_;
	my %print = map { ("print.$_" => 'true') } qw(partition offset timestamp headers key);

	return $self->run_program(
		'org.apache.kafka.tools.consumer.ConsoleConsumer', '--bootstrap-server',
		$self->brokers, '--topic',
		$topic, '--from-beginning',
		'--timeout-ms', '3000',
		map { ('--property', "$_=$print{$_}") } sort keys %print);
}

# What the nodes have said.
sub log
{
	my ($self) = @_;
	return join('', map { PostgreSQL::Test::Utils::slurp_file($_) } glob("$self->{dir}/log*"));
}

# However the test ends, nothing of it goes on.
END
{
	local $?;

	for my $cluster (@clusters)
	{
		$cluster->stop('KILL');
	}
}

1;
