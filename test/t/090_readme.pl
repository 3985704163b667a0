# The README's examples run as they are printed, and its reference is true.

use strict;
use warnings;

use Page ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode ();
use Test::More;

my $readme = slurp_file('README.md');

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf(
	'postgresql.conf', qq(
shared_preload_libraries = 'queue'
max_worker_processes = 16
));
$node->start;
$node->safe_psql('postgres', "CREATE DATABASE $_") for ('shop', 'warehouse');

# The only thing that is not as printed is where the other database and the files are.
my ($host, $port) = ($node->host, $node->port);
my $archive = PostgreSQL::Test::Utils::tempdir();
my %script = (shop => '', warehouse => '');
my $blocks = 0;
foreach my $block (
	Page::examples(
		'README.md',
		"host 'warehouse.example.com', port '5432'" => "host '$host', port '$port'",
		"'/srv/archive'" => "'$archive'"))
{
	my $database = ($block =~ /^-- database (\w+)/) ? $1 : 'shop';

	$script{$database} .= $block;
	$blocks++;
}
cmp_ok($blocks, '>', 20, 'examples found');

foreach my $database ('warehouse', 'shop')
{
	my ($status, $stdout, $stderr) = $node->psql($database, $script{$database}, on_error_stop => 1);
	is($status, 0, "the examples for the database $database run");
	is($stderr, '', 'without a warning');
}

# What they leave behind says that each did what the text around it claims.
is($node->safe_psql('shop', 'SELECT number, customer FROM orders'),
	'1|alice', 'the order was committed, the other not');
is($node->safe_psql('shop', 'SELECT count(*) FROM parcels'), '4', 'pop and receive took what was sent');
is( $node->safe_psql(
		'shop', "SELECT ready, leased, deferred, dead, failed FROM queue.stats WHERE queue = 'orders'"),
	'1003|0|1|0|2',
	'nothing else is left of the orders');
is($node->safe_psql('shop', "SELECT leased FROM queue.stats WHERE queue = 'emails'"),
	'5', 'five e-mails are in flight');
is($node->safe_psql('shop', 'SELECT count(*) FROM queues.readings'),
	'1', 'a message is recognised by its content');
is( $node->safe_psql('shop', "SELECT payload FROM queues.orders ORDER BY id DESC LIMIT 1"),
	'{"order": 1010}',
	'a plain INSERT sends');
ok($node->poll_query_until('shop', q(SELECT customer = 'alice' AND event = '{"paid": 42.50}' FROM ledger)),
	'the procedure was called');
ok( $node->poll_query_until(
		'warehouse',
		q(SELECT string_agg(payload::text, ' ' ORDER BY id) FROM queues.arrivals WHERE key = 'alice'),
		'{"parcel": 1} {"parcel": 2} {"parcel": 3}'),
	'the messages went to the other database');
ok($node->poll_query_until('shop', 'SELECT NOT EXISTS (SELECT FROM queues.logins)'),
	'the message went to a file');
like(slurp_file("$archive/logins.part"), qr/^\{"id": .*"payload": \{"login": "alice"\}\}\n\z/, 'as a line');
ok($node->poll_query_until('shop', q(SELECT workers = 4 FROM queue.relays WHERE name = 'to_warehouse')),
	'four workers share a relay');
is($node->safe_psql('shop', 'SELECT count(*) FROM queue.relays'), '6', 'a dropped relay is gone');

is( $node->safe_psql('shop', 'SELECT contents FROM bills; SELECT * FROM bookings'),
	"{\"seat\": 7}\n{\"seat\": 3}\n5|carol",
	'what is to be done once was done');
is($node->safe_psql('shop', 'SELECT entity, version FROM queue.inbox_version'),
	'customer 7|4', 'and the newest version accepted');
is($node->safe_psql('shop', q(SELECT ready, leased FROM queue.stats WHERE queue = 'tickets')),
	'5|0', 'one of each durability was sent');

# A section of the README, and the rows of its first table.
sub rows
{
	my ($title) = @_;
	my ($section) = $readme =~ /^### \Q$title\E\n(.*?)^##/ms;

	return map {
		[ map { ($_ // '') =~ s/^\s+|\s+$//gr } (split /\s*\|\s*/)[ 1 .. 3 ] ]
	} grep { /^\| `/ } split /\n/, $section;
}

my %documented = map { $_->[0] =~ s/`//gr => $_->[1] } rows('Settings');
my %existing = map { split /\|/ } split /\n/,
  $node->safe_psql('shop', q(SELECT name, current_setting(name) FROM pg_settings WHERE name LIKE 'queue.%'));
$existing{'queue.inbox_retention'} =~ s/^10080min$/7d/;
$existing{'queue.sweep_interval'}  =~ s/^1min$/60s/;
$existing{'queue.straggler_age'}   =~ s/^1min$/60s/;
is_deeply(\%documented, \%existing, 'settings and their defaults');

foreach my $row (rows('Views'))
{
	my $view = $row->[0] =~ s/`//gr;
	my $columns = $row->[1] =~ s/`//gr;

	is( $node->safe_psql(
			'shop', "SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute
			WHERE attrelid = '$view'::regclass AND attnum > 0"),
		$columns,
		"columns of $view");
}

# Options of relays, as the code has them: an unknown one is answered with all there are.
my %places = (server => 'pg_foreign_server', 'user mapping' => 'pg_user_mapping', relay => undef);
my %kinds = map { $_ => {} } qw(amqp file http kafka postgres redis sql);

sub options_of
{
	my ($kind, $place) = @_;
	my $error;

	if ($places{$place})
	{
		return if $kind eq 'sql';
		$node->psql(
			'shop',
			"SELECT queue.${kind}_validator('{?=x}', '$places{$place}'::regclass)",
			stderr => \$error);
	}
	else
	{
		my %servers = (
			amqp => 'rabbit',
			file => 'archive',
			http => 'hooks',
			kafka => 'kafka',
			postgres => 'warehouse',
			redis => 'redis');
		my $server = $servers{$kind} ? "'$servers{$kind}'" : 'NULL';

		$node->psql(
			'shop',
			"SELECT queue.create_relay('unknown', 'orders', $server, '{\"?\": 1}')",
			stderr => \$error);
	}
	return if $error =~ /There are no valid options here/;
	$error =~ /invalid option "\?"\nHINT:  Valid options here are: (.*)\./ or die $error;
	return split(/, /, $1);
}
for my $kind (keys %kinds)
{
	$kinds{$kind} = {
		map {
			$_ => { map { $_ => 1 } options_of($kind, $_) }
		} keys %places
	};
}
is( $node->safe_psql(
		'shop',
		q(SELECT string_agg(substr(fdwname, 7), ' ' ORDER BY fdwname) FROM pg_foreign_data_wrapper WHERE fdwname LIKE 'queue\_%')
	),
	join(' ', sort grep { $_ ne 'sql' } keys %kinds),
	'these are all the kinds there are');

# Those of the tables of a page, by their place.
sub documented_options
{
	my ($page) = @_;
	my %found = map { $_ => {} } keys %places;
	my $place;

	for my $row (split(/\n/, slurp_file($page)))
	{
		if ($row =~ /^\| of (?:a|every) (server|user mapping|relay)\b/)
		{
			$place = $1;
		}
		elsif ($row !~ /^\|/)
		{
			$place = undef;
		}
		elsif ($place && $row =~ /^\| (`[^|]*) \|/)
		{
			$found{$place}->{$_} = 1 for map { s/`//gr } split(/, /, $1);
		}
	}
	return \%found;
}

# On the page of the sink, or where those of all are.
my $of_all = documented_options('docs/relay.md');
my %anywhere;
for my $kind (sort keys %kinds)
{
	my $page = documented_options("docs/sinks/$kind.md");

	for my $place (sort keys %places)
	{
		my $documented = $page->{$place};

		# The page refers to those of CloudEvents.
		$documented = { %$documented, map { $_ => 1 } grep { /^ce_/ } keys %{ $of_all->{$place} } }
		  if delete $documented->{"ce_\x{2026}"} // delete $documented->{"ce_\xe2\x80\xa6"};
		is_deeply(
			[ sort keys %$documented ],
			[ sort grep { $documented->{$_} || !$of_all->{$place}->{$_} } keys %{ $kinds{$kind}->{$place} } ],
			"docs/sinks/$kind.md: options of a $place");
		$anywhere{$place}->{$_} = 1 for keys %{ $kinds{$kind}->{$place} };
	}
}
for my $place (sort keys %places)
{
	is_deeply(
		[ sort keys %{ $of_all->{$place} } ],
		[ grep { $anywhere{$place}->{$_} } sort keys %{ $of_all->{$place} } ],
		"docs/relay.md: options of a $place");
}

# And in the README, which says of each whose it is.
my %readme_options;
for my $row (rows('Options of relays'))
{
	my ($names, $of) = @$row;
	my ($place) = $of =~ /(server|user mapping|relay)/;

	$place = 'relay' if $of =~ /relay/;
	my @of = $of =~ /`queue_(\w+)`/g;
	@of = keys %kinds if !@of && $place eq 'relay';
	@of = 'sql' if $of eq 'relay without a server';
	@of = grep { $_ ne 'sql' } @of if $of eq 'relay with a server';
	for my $kind (@of)
	{
		$readme_options{$kind}->{$place}->{$_} = 1 for map { s/`//gr } split(/, /, $names);
	}
}
for my $kind (sort keys %kinds)
{
	is_deeply($readme_options{$kind}->{$_} // {}, $kinds{$kind}->{$_}, "README: options of a $_, $kind")
	  for sort keys %places;
}

# Functions: the names, their arguments, and what those are by default.
my %signatures;
foreach my $row (rows('Functions'))
{
	while ($row->[0] =~ /(\w+)\(([^)]*)\)/g)
	{
		my ($name, $arguments) = ($1, $2);

		# The interval is what a person would write.
		$signatures{$name} = join ', ',
		  map { /^(\w+) ?(.*)$/; $2 eq '' ? $1 : "$1 " . $2 =~ s/'//gr } split /, /, $arguments;
	}
}
my %defaults = ('00:00:30' => '30 s', '00:00:01' => '1 s', '01:00:00' => '1 h', '00:05:00' => '5 min');
my %functions;
foreach my $line (
	split /\n/,
	$node->safe_psql(
		'shop', q(
		SELECT proname, pg_get_function_arguments(oid) FROM pg_proc
		WHERE pronamespace = 'queue'::regnamespace AND prorettype <> 'trigger'::regtype
		AND proname NOT IN ('start_workers', 'relay_accept', 'relay_list', 'lease_list', 'queue_stats',
			'maintenance_list', 'blocked_key_list', 'database_list') AND proname NOT LIKE '%\_validator')))
{
	my ($name, $arguments) = split /\|/, $line;

	$functions{$name} = join ', ', map {
		my ($argument) = /^(\w+)/;
		my ($default) = /DEFAULT '?([^']+?)'?(?:::\w+)?$/;
		(!defined $default || $default =~ /^(NULL|\{\})/)
		  ? $argument
		  : "$argument " . ($defaults{$default} // $default);
	} grep { !/^OUT / } split /, /, $arguments;
}
is_deeply(\%signatures, \%functions, 'functions, their arguments and defaults');

$node->stop;
done_testing();
