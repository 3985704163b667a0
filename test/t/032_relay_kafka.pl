# A relay to Apache Kafka: what every sink has to stand, what arrives and where,
# logins and TLS, and what becomes of what the brokers do not take.

use strict;
use warnings;

use JSON::PP;
use Kafka;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Sink;
use Test::More;
use Wait;

Kafka::require_or_skip();

my $kafka = Kafka->new(secure => 1);
my $password = $kafka->password;
my $json = JSON::PP->new->utf8->allow_nonref;

my $suite = Sink->new(
	name => 'kafka',
	port => $kafka->proxied_port,
	create => sub {
		my $port = $_[0]->port;

		return qq{
CREATE SERVER proxied FOREIGN DATA WRAPPER queue_kafka OPTIONS (brokers '127.0.0.1:$port');
CREATE USER MAPPING FOR CURRENT_USER SERVER proxied;};
	},
	server => 'proxied',
	options => { topic => '{header:kind}' },
	headers => { kind => 'suite' },
	arrived => \&arrived,
	conveys => [qw(id key payload body headers content_type)],
	refused => { headers => { kind => 'nowhere' }, error => qr/^(Local|Broker): Unknown topic/ },
	down => qr/Connection refused/,
	kill => sub { $kafka->stop('KILL') },
	start => sub { $kafka->start });
my $node = $suite->node;

$kafka->advertise($suite->port);
$kafka->start;
$kafka->create_topics(suite => []);

# What there is in the suite's topic, as the suite wants it.
sub arrived
{
	my @messages = $kafka->take('suite');

	for my $message (@messages)
	{
		my $headers = $message->{headers};

		$message->{id} = delete $headers->{'message-id'};
		$message->{content_type} = delete $headers->{'content-type'};
		$message->{ $message->{content_type} eq 'application/json' ? 'payload' : 'body' } =
		  delete $message->{value};
		$headers->{$_} = $json->decode($headers->{$_}) for grep { $headers->{$_} =~ /^\{/ } keys %$headers;
	}
	return @messages;
}

$suite->run;

$node->stop;
$kafka->stop;
done_testing();
