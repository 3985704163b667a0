# The programs and settings of docs/clients.md run as they are printed, and what
# it says of pooling, waiting and auditing is so.  A driver that this machine
# has not, and cannot get, is skipped.

use strict;
use warnings;

use IO::Socket::INET;
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Test::More;
use Wait;

my $page = slurp_file('docs/clients.md');
my $dir = PostgreSQL::Test::Utils::tempdir();

# What npm and go bring is kept for the next run, if there is a place for it.
my $cache = $ENV{XDG_CACHE_HOME} // $dir;
local %ENV = (
	%ENV,
	GOCACHE => "$cache/go-build",
	GOMODCACHE => "$cache/go-mod",
	GOFLAGS => '-modcacherw',
	npm_config_cache => "$cache/npm");

my ($libraries) = PostgreSQL::Test::Utils::run_command([ 'pg_config', '--pkglibdir' ]);
my $pgaudit = -e "$libraries/pgaudit.so";
my $node = queue_node(
	'main', conf => qq{
listen_addresses = '127.0.0.1'
max_worker_processes = 16
log_min_duration_statement = -1
log_statement = 'none'
});
$node->append_conf('postgresql.conf',
	"shared_preload_libraries = 'queue, pg_stat_statements" . ($pgaudit ? ', pgaudit' : '') . "'");
$node->restart;
$node->safe_psql('postgres', 'CREATE DATABASE shop');
$node->safe_psql(
	'shop', q{
CREATE EXTENSION queue;
SELECT queue.create('orders');
CREATE ROLE packer LOGIN;
GRANT SELECT, INSERT, DELETE ON queues.orders TO packer;});

my $port = $node->port;
my $user = $node->safe_psql('shop', 'SELECT current_user');
my %direct = (PGHOST => '127.0.0.1', PGPORT => $port, PGDATABASE => 'shop', PGUSER => $user);

# The page's only block in a language.
sub block
{
	my ($language) = @_;
	my @blocks = $page =~ /^```\Q$language\E\n(.*?)^```$/gms;

	is(scalar @blocks, 1, "one example in $language");
	return $blocks[0];
}

sub run
{
	my (@command) = @_;
	my ($out, $err) = ('', '');
	my $ok = eval {
		IPC::Run::run(\@command, '<', \undef, '>', \$out, '2>', \$err,
			IPC::Run::timeout(2 * $PostgreSQL::Test::Utils::timeout_default));
	};

	$err .= $@ if $@;
	return ($ok, $out, $err);
}

sub found
{
	my ($program) = @_;
	return grep { -x "$_/$program" } split(/:/, $ENV{PATH});
}

# A command that may need the network: its driver is skipped if it fails.
sub get
{
	my ($directory, @command) = @_;
	my ($ok, $out, $err) = run('env', '-C', $directory, @command);

	return '' if $ok;
	my ($why) = ($err || $out) =~ /(\S[^\n]*)\n*\z/;
	return "@command: " . ($why // 'failed');
}

# How each driver is had and its program run; why says what is missing.
my %drivers;

sub prepare_psycopg
{
	my $why = get($dir, '/usr/bin/python3', '-c', 'import psycopg');

	return (why => $why) if $why;
	append_to_file("$dir/orders.py", block('python'));
	return (command => [ '/usr/bin/python3', "$dir/orders.py" ]);
}

sub prepare_node
{
	return (why => 'npm is not installed') unless found('npm') && found('node');
	mkdir("$dir/node");
	append_to_file("$dir/node/orders.js", block('js'));
	my $why = get("$dir/node", qw(npm install --no-save --no-audit --no-fund --loglevel=error pg@8));
	return $why ? (why => $why) : (command => [ 'node', "$dir/node/orders.js" ]);
}

sub prepare_jdbc
{
	my $jar = '/usr/share/java/postgresql.jar';

	return (why => 'the driver is not installed (Debian: libpostgresql-jdbc-java)') unless -e $jar;
	return (why => 'there is no javac') unless found('javac');
	append_to_file("$dir/Orders.java", block('java'));
	command_ok([ 'javac', '-d', $dir, "$dir/Orders.java" ], 'the program compiles');
	return (command => [ 'java', '-cp', "$dir:$jar", 'Orders' ]);
}

sub prepare_pgx
{
	return (why => 'go is not installed') unless found('go');
	mkdir("$dir/go");
	append_to_file("$dir/go/main.go", block('go'));
	my $why = get("$dir/go", qw(go mod init example))
	  || get("$dir/go", qw(go get github.com/jackc/pgx/v5@v5.7.5));
	return (why => $why) if $why;
	command_ok([ 'env', '-C', "$dir/go", qw(go build -o orders .) ], 'the program compiles');
	return (command => ["$dir/go/orders"]);
}

my @names = ('psycopg', 'node', 'jdbc', 'pgx');
my %prepare =
  (psycopg => \&prepare_psycopg, node => \&prepare_node, jdbc => \&prepare_jdbc, pgx => \&prepare_pgx);
$drivers{$_} = { $prepare{$_}->() } for @names;

# Run each program with an environment, and see that its message came and went.
sub run_programs
{
	my ($how, %environment) = @_;
	local %ENV = (%ENV, %environment);
	my $number = 0;

	foreach my $name (@names)
	{
		my $driver = $drivers{$name};

		$number++;
	  SKIP:
		{
			skip("$name: $driver->{why}", 2) if $driver->{why};
			my ($ok, $out, $err) = run(@{ $driver->{command} });
			is($out, "order $number\n", "$name, $how") or diag($err);
			is($node->safe_psql('shop', 'SELECT count(*) FROM queues.orders'), '0', 'and nothing is left');
			$node->safe_psql('shop', q{SELECT queue.purge('orders')}) unless $ok;
		}
	}
	return;
}

run_programs(
	'directly', %direct,
	DATABASE_URL => "postgres://$user\@127.0.0.1:$port/shop",
	JDBC_URL => "jdbc:postgresql://127.0.0.1:$port/shop?user=$user");

# A connection that is looked after does not take a message for nobody.
my $role = block('sql');
$node->safe_psql('shop', $role);
my $waiting =
  q{SELECT count(*) = %d FROM pg_stat_activity WHERE wait_event_type = 'Extension' AND query LIKE '%%wait =>%%'
	AND pid <> pg_backend_pid()};
my $victim = $node->background_psql('shop', extra_params => [ '-U', 'packer' ]);
$victim->query_until(qr/start/, "\\echo start\nSELECT queue.pop('orders', wait => '10 minutes');\n");
ok($node->poll_query_until('shop', sprintf($waiting, 1)), 'a receiver waits');
$victim->{run}->kill_kill;
ok($node->poll_query_until('shop', sprintf($waiting, 0)), 'and ends soon after its client was killed');
$node->safe_psql('shop', q{SELECT queue.send('orders', '5')});
is(join(',', drain($node, 'orders', 'shop')) ne '', 1, 'what is sent then goes to another');

# The same through PgBouncer, with its statements not prepared
SKIP:
{
	skip('pgbouncer is not installed', 15) unless -x '/usr/sbin/pgbouncer';
	my $pooler_port = PostgreSQL::Test::Cluster::get_free_port();
	my $ini = block('ini');

	# All that is not as printed is where things are.
	$ini =~ s/port=5432/port=$port/g;
	$ini =~ s/listen_port = 6432/listen_port = $pooler_port\nunix_socket_dir =/;
	$ini =~ s/= userlist\.txt/= $dir\/userlist.txt/;
	append_to_file("$dir/pgbouncer.ini", $ini);
	append_to_file("$dir/userlist.txt", qq("$user" ""\n"packer" ""\n));
	my $log = '';
	my $pooler = IPC::Run::start([ '/usr/sbin/pgbouncer', "$dir/pgbouncer.ini" ], '<', \undef, '>&', \$log);
	my $up = wait_for
	{
		$pooler->pump_nb;
		return IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $pooler_port);
	};
	ok($up, 'the pooler runs') or diag($log);
	close($up) if $up;

	run_programs(
		'through PgBouncer', %direct,
		PGPORT => $pooler_port,
		DATABASE_URL => "postgres://$user\@127.0.0.1:$pooler_port/shop?default_query_exec_mode=exec",
		JDBC_URL => "jdbc:postgresql://127.0.0.1:$pooler_port/shop?user=$user&prepareThreshold=0");

	# More waiters than the others' pool has connections: those get through.
	my @waiters;
	for (1 .. 25)
	{
		my $out = '';
		push @waiters,
		  {
			run => IPC::Run::start(
				[
					'psql', '-XAt', '-h', '127.0.0.1', '-p', $pooler_port, '-U', $user, '-d', 'shop_wait',
					'-c', q{SELECT queue.ack(receipt) FROM queue.receive('orders', wait => '3 minutes')}
				],
				'<',
				\undef,
				'>',
				\$out),
			out => \$out
		  };
	}
	ok($node->poll_query_until('shop', sprintf($waiting, 25)), 'more waiters than the other pool is large');
	my @through = ('psql', '-XAt', '-h', '127.0.0.1', '-p', $pooler_port, '-U', $user, '-d', 'shop', '-c');
	my ($ok, $out, $err) =
	  run(@through, q{SELECT count(*) FROM queue.send_batch('orders', array_fill('1'::jsonb, ARRAY[25]))});
	is($out, "25\n", 'who sends gets through') or diag($err);
	$_->{run}->finish for @waiters;
	is(join('', map { ${ $_->{out} } } @waiters), "t\n" x 25, 'and each waiter has one');

	# A receipt belongs to no session.
	($ok, my $receipt) = run(@through, q{SELECT queue.send('orders', '1')});
	($ok, $receipt) = run(@through, q{SELECT receipt FROM queue.receive('orders')});
	chomp($receipt);
	is($node->safe_psql('shop', "SELECT queue.ack($receipt)"), 't', 'another connection may acknowledge');

	$pooler->signal('QUIT');
	$pooler->finish;
}

# What pg_stat_statements sees
$node->safe_psql('shop', 'CREATE EXTENSION pg_stat_statements');
$node->safe_psql('shop', 'SELECT pg_stat_statements_reset()');
$node->safe_psql('shop', q{SELECT queue.send('orders', '{"secret": 1}')}) for (1 .. 3);
drain($node, 'orders', 'shop');
is( $node->safe_psql(
		'shop', q{
SELECT calls, rows, wal_records > 0, query FROM pg_stat_statements WHERE query LIKE 'SELECT queue.send(%'}),
	'3|3|t|SELECT queue.send($1, $2)',
	'pg_stat_statements has the calls, and their WAL');
is( $node->safe_psql(
		'shop', q{SELECT count(*) FROM pg_stat_statements WHERE query ~* 'insert into|delete from'}),
	'0',
	'and nothing beneath them');

# What pgaudit sees
SKIP:
{
	skip('pgaudit is not installed', 4) unless $pgaudit;

	$node->safe_psql(
		'shop', q{
CREATE EXTENSION pgaudit;
CREATE ROLE auditor;
GRANT SELECT, INSERT, DELETE ON queues.orders TO auditor;
CREATE FUNCTION place() RETURNS bigint LANGUAGE plpgsql
	AS $$ BEGIN RETURN queue.send('orders', '7'); END $$;});
	my $audited = sub {
		my ($settings) = @_;
		my $offset = -s $node->logfile;

		$node->safe_psql(
			'shop', $settings . q{;
SELECT queue.send('orders', '6');
SELECT place();
SELECT queue.ack(receipt) FROM queue.receive('orders', 2);
INSERT INTO queues.orders (payload) VALUES ('8');
DELETE FROM queues.orders;});
		return join("\n",
			map { /AUDIT: (\w+),\d+,\d+,(\w+),(\w+),(\w*),([^,]*)/ ? "$2 $3 $5" : () }
			  split(/\n/, slurp_file($node->logfile, $offset)));
	};
	my $objects = $audited->(q{SET pgaudit.role = 'auditor'});
	my $session = $audited->(q{SET pgaudit.log = 'function'});
	is( $objects,
		"WRITE INSERT queues.orders\nWRITE DELETE queues.orders",
		'object logging has the statements that name the table');
	is( join("\n", sort { $a cmp $b } grep { $_ ne '' } split(/\n/, $session)),
		join("\n",
			sort map { "FUNCTION EXECUTE $_" }
			  qw(queue.send public.place queue.send queue.ack queue.receive)),
		'session logging has every call');
}

# Without their segments, as the README says
my ($pattern) = slurp_file('README.md') =~ /^(\\dt\+ .*)$/m;
like($node->safe_psql('shop', $pattern), qr/^queues\|orders\|/, 'a pattern that lists queues');
unlike($node->safe_psql('shop', $pattern), qr/\$/, 'and no segments');
like($node->safe_psql('shop', '\\dt+ queues.*'), qr/\$1/, 'of which there are some');

$node->stop;
done_testing();
