# A relay to files: each message is a line of JSON that is on disk when it is
# confirmed, whatever it has in it and whatever fails in between.

use strict;
use warnings;

use File::Path qw(make_path);
use JSON::PP;
use MIME::Base64 ();
use Page         ();
use POSIX        qw(mkfifo);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Sink;
use Test::More;
use Wait qw(wait_for);

my $json = JSON::PP->new->utf8->allow_nonref;
my $scratch = PostgreSQL::Test::Utils::tempdir();

# A disk that is as a file says: "down", fsync() fails; "slow"; or "once", it
# fails for one file being written and then not any more, as that of Linux does.
my $disk = "$scratch/disk";
append_to_file("$scratch/disk.c", <<'C');
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int fsync(int fd)
{
	static int (*real) (int);
	const char *disk = getenv("TEST_DISK"), *files = getenv("TEST_FILES");
	char		link[64], path[4096] = "", state = 0;
	int			f;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	if (disk && files && readlink(link, path, sizeof(path) - 1) > 0 &&
		strncmp(path, files, strlen(files)) == 0 && (f = open(disk, O_RDONLY)) >= 0)
	{
		if (read(f, &state, 1) != 1)
			state = 0;
		close(f);
	}
	if (state == 's')
		usleep(20000);
	if (state == 'd' || (state == 'o' && strstr(path, ".part") && unlink(disk) == 0))
	{
		errno = EIO;
		return -1;
	}
	if (!real)
		real = (int (*) (int)) dlsym(RTLD_NEXT, "fsync");
	return real(fd);
}
C
system_or_bail('cc', '-shared', '-fPIC', '-o', "$scratch/disk.so", "$scratch/disk.c", '-ldl');
$ENV{LD_PRELOAD} = join(' ', grep { $_ } $ENV{LD_PRELOAD}, "$scratch/disk.so");
$ENV{TEST_DISK} = $disk;
$ENV{TEST_FILES} = $scratch;

sub be
{
	my ($state) = @_;

	append_to_file("$disk.new", $state);
	rename("$disk.new", $disk) or die $!;
	return;
}

# Files of a directory that are complete, in order, and all lines of one or more.
sub files { my ($dir) = @_; return sort(glob("$dir/*.ndjson")); }

sub messages
{
	return map {
		my $content = slurp_file($_);

		die "$_ does not end with a line's end" if $content ne '' && $content !~ /\n\z/;
		map { $json->decode($_) } split(/\n/, $content)
	} @_;
}

#
# What every sink has to stand
#
my %read;

# What has come since the last time.  Files are known by their numbers, as they
# change their names; lines can be cut off again that were never confirmed.
sub arrived
{
	my ($dir) = @_;
	my @messages;

	for my $file (files($dir), glob("$dir/*.part"))
	{
		open(my $in, '<', $file) or next;
		my ($number, $size) = (stat($in))[ 1, 7 ];
		my $from = $read{$number} // 0;

		$from = $size if $from > $size;
		seek($in, $from, 0);
		while (my $line = <$in>)
		{
			last if $line !~ /\n\z/;
			$from += length($line);

			# As it is in the line, to see that it is JSON.
			my ($payload) = $line =~ /"payload": (.*)\}$/;
			my $message = $json->decode($line);

			push @messages,
			  {
				%$message,
				payload => $payload,
				body => defined($message->{body}) ? MIME::Base64::decode($message->{body}) : undef
			  };
		}
		$read{$number} = $from;
		close($in);
	}
	return @messages;
}

make_path("$scratch/suite/postgres", "$scratch/suite/doomed");
my $suite = Sink->new(
	name => 'file',
	server => 'files',
	options => { rotate_size => '4kB' },
	create => sub {
		return qq{
DO \$\$BEGIN
	EXECUTE format('CREATE SERVER files FOREIGN DATA WRAPPER queue_file OPTIONS (directory %L)',
		'$scratch/suite/' || current_database());
END\$\$;};
	},
	state => \&be,
	arrived => sub { return arrived("$scratch/suite/postgres"); },
	conveys => [qw(id key payload body headers content_type)],
	ordered => 1,
	down => qr/^could not fsync .*: Input\/output error$/,
	cannot => { frozen => 'nobody can be called away from a disk that hangs' });
$suite->run;
$suite->node->stop;
unlink($disk);

#
# What only this one has
#

# Small segments of WAL: the size of files is going to be limited.
my $node = queue_node(
	'main',
	extra => ['--wal-segsize=1'],
	conf => "restart_after_crash = on\nmax_worker_processes = 32");

sub sql { my ($query, $database) = @_; return $node->safe_psql($database // 'postgres', $query); }

sub wait_until
{
	my ($condition, $test) = @_;
	return ok($node->poll_query_until('postgres', "SELECT $condition"), $test);
}

sub wait_for_error
{
	my ($name, $pattern, $test) = @_;
	return wait_until(
		"(SELECT state = 'backing off' AND last_error ~ '$pattern' FROM queue.relays WHERE name = '$name')",
		$test);
}

sub wait_through
{
	my ($queue, $test) = @_;
	return wait_until("NOT EXISTS (SELECT FROM queues.$queue)", $test);
}

# A queue with a relay to a directory of its own.
sub create
{
	my ($name, $options) = @_;
	my $dir = "$scratch/$name";

	mkdir($dir) or die "could not create $dir: $!";
	sql(qq{
SELECT queue.create('$name', max_attempts => 2, backoff => '10 ms');
CREATE SERVER $name FOREIGN DATA WRAPPER queue_file OPTIONS (directory '$dir');
SELECT queue.create_relay('$name', '$name', '$name', '$options');});
	return $dir;
}

# What else there is in a directory
sub others
{
	my ($dir) = @_;
	return join(' ', map { s/.*\///r } grep { !/\.ndjson$/ } glob("$dir/*"));
}

#
# Every kind of message
#
my $dir = create('plain', '{}');
sql(q{
SELECT queue.send('plain', '{"a": [1, "ü\n\u2028", null, 1.50], "b": {"c": "\"\\\\"}}', E'k\n\t"\x01', '{"h": {"x": 1.5}}');
SELECT queue.send_bytes('plain', '\x00ff0a');
SELECT queue.send_bytes('plain', '', NULL, '{"content-type": "application/avro", "v": 1}');
SELECT queue.send('plain', 'null');
SELECT queue.send('plain', '1e400');
INSERT INTO queues.plain (payload, priority) VALUES ('"p"', -3);
INSERT INTO queues.plain (payload, body) VALUES ('{}', '\x00');
INSERT INTO queues.plain (key) VALUES ('nothing');});
wait_through('plain', 'messages are published');
is(others($dir), 'plain.part', 'the file that is being written');
my @got = sort { $a->{id} <=> $b->{id} } messages("$dir/plain.part");
is(scalar(@got), 7, 'a line for each, but the one refused');
like($got[0]->{enqueued_at}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00$/, 'the time, in UTC');
delete @{$_}{qw(id enqueued_at)} for @got;
is_deeply(
	\@got,
	[
		{
			key => "k\n\t\"\x01",
			headers => { h => { x => 1.5 } },
			content_type => 'application/json',
			payload => { a => [ 1, "\x{fc}\n\x{2028}", undef, 1.5 ], b => { c => "\"\\" } }
		},
		{ content_type => 'application/octet-stream', body => 'AP8K' },
		{ content_type => 'application/avro', headers => { v => 1 }, body => '' },
		{ content_type => 'application/json', payload => undef },
		{ content_type => 'application/json', payload => $json->decode('1' . '0' x 400) },
		{ content_type => 'application/json', payload => 'p', priority => -3 },
		{ key => 'nothing' }
	],
	'and all that they have');
like(slurp_file("$dir/plain.part"), qr/"payload": 10{400}\}/, 'a number keeps its digits');
is( sql(q{SELECT error FROM queue.dead_letters}),
	'message has both a payload and a body',
	'that is refused for its own sake');
is((stat("$dir/plain.part"))[2] & 07777, 0640, 'others do not read it');

# Each character of ASCII, and one that is not, wherever it stands in a string.
my @strings = map {
	my $character = $_;
	map { 'x' x $_ . $character . "\x{fc}" x ($_ % 9) } 0 .. 17
} map { chr } 1 .. 0x7F, 0xA0;
for my $string (@strings)
{
	my $literal = $json->encode($string) =~ s/'/''/gr;

	append_to_file("$scratch/strings.sql", "SELECT queue.send('strings', '$literal');\n");
}
$dir = create('strings', '{}');
$node->command_ok(
	[
		'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-1', '-d', $node->connstr('postgres'),
		'-f', "$scratch/strings.sql"
	],
	'strings are sent');
wait_through('strings', 'and published');
is_deeply([ map { $_->{payload} } sort { $a->{id} <=> $b->{id} } messages("$dir/strings.part") ],
	\@strings, 'as they were');

# The end of a relay completes its file.
$dir = "$scratch/plain";
sql(q{SELECT queue.drop_relay('plain')});
wait_until(q{NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'queue relay plain')},
	'the relay ends');
is(others($dir), '', 'no part is left');
is(scalar(messages(files($dir))), 7, 'the file is complete');

#
# Rotation
#
$dir = create('sized', '{"rotate_size": "1kB", "name": "of size"}');
sql(q{SELECT queue.send('sized', jsonb_build_object('n', i, 'fill', repeat('x', i % 300)), 'k') FROM generate_series(1, 200) i;
SELECT queue.send('sized', jsonb_build_object('n', 201, 'fill', repeat('x', 3000)))});
wait_through('sized', 'messages are published');
my @files = files($dir);
cmp_ok(scalar(@files), '>', 20, 'many files');
is(scalar(grep { -s $_ > 1024 } @files), 1, 'none is larger than it may be, but by one message');
is(scalar(grep { !m{/of size-\d{8}T\d{6}\.\d{6}Z\.ndjson$} } @files),
	0, 'called by the time they were completed');
is_deeply(
	[ map { $_->{payload}->{n} } messages(@files, "$dir/of size.part") ],
	[ 1 .. 201 ],
	'all is there, in order');

$dir = create('aged', '{"rotate_age": "1 s"}');
sql(q{SELECT queue.send('aged', '1')});
wait_for { scalar(() = files($dir)) };
is_deeply([ map { $_->{payload} } messages(files($dir)) ], [1], 'a file is completed when its time has come');
ok((wait_for { -e "$dir/aged.part" }), 'the next one has begun');
is(slurp_file("$dir/aged.part"), '', 'and is empty');

#
# What a crash has left
#
$dir = create('torn', '{}');
sql(q{SELECT queue.pause_relay('torn')});
wait_until(q{NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'queue relay torn')},
	'the relay is paused');
is(others($dir), '', 'an empty file is taken away');
for my $case (
	[ qq({"n": 1}\n{"n": 2}\n{"n":), 2, 'a line without its end' ],
	[ qq({"n": 1}\n{"n": 2}), 1, 'a line without the end of a line' ],
	[ qq({"n": 1}\n{"n\0\0\0\0\n{"n": 3}\n), 1, 'zeros within' ],
	[ "\0" x 100_000, 0, 'zeros only' ],
	[ qq({"n": 1}), 0, 'no whole line' ],
	[ qq({"n": 1}\n) . '{"n": "' . 'x' x 1_000_000, 1, 'a long line without its end' ],
	[ qq({"n": 1}\n), 1, 'nothing that is incomplete' ])
{
	my ($content, $lines, $what) = @$case;

	unlink(files($dir));
	append_to_file("$dir/torn.part", $content);
	sql(q{SELECT queue.resume_relay('torn'); SELECT queue.send('torn', '{"n": 0}')});
	wait_through('torn', "$what: the relay goes on");
	my @n = map { $_->{n} } messages(files($dir));
	is_deeply(\@n, [ 1 .. $lines ], "$what: whole lines are kept");
	is_deeply([ map { $_->{payload}->{n} } messages("$dir/torn.part") ],
		[0], "$what: the file is not added to");
	sql(q{SELECT queue.pause_relay('torn')});
	wait_until(q{NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'queue relay torn')},
		"$what: paused");
}

# A server killed amid it all.
$dir = create('crashed', '{"rotate_size": "64kB"}');
for my $round (1 .. 4)
{
	sql(qq{SELECT queue.send('crashed', jsonb_build_object('n', $round * 10000 + i, 'fill', repeat('x', i % 500)), 'k' || i % 7)
		FROM generate_series(1, 2000) i});
	$node->poll_query_until('postgres', q{SELECT published > 0 FROM queue.relays WHERE name = 'crashed'});
	if ($round % 2)
	{
		crash($node);
	}
	else
	{
		my $pid = sql(q{SELECT pid FROM pg_stat_activity WHERE application_name = 'queue relay crashed'});

		# The worker alone: the server restarts itself.
		kill('KILL', $pid) if $pid;
		$node->poll_query_until('postgres', 'SELECT true');
	}
}
wait_through('crashed', 'all is published in the end');
my (%n, %order);
my $disorder = 0;
for my $message (messages(files($dir), "$dir/crashed.part"))
{
	my $n = $message->{payload}->{n};

	next if $n{$n}++;
	$disorder++ if $n < ($order{ $message->{key} } // 0);
	$order{ $message->{key} } = $n;
}
is(scalar(keys %n), 8000, 'nothing is lost');
is($disorder, 0, 'in order for each key');
is(sql(q{SELECT count(*) FROM queue.dead_letters WHERE queue = 'crashed'}), '0', 'no message is blamed');

#
# A disk that fails
#
$dir = create('synced', '{}');
sql(q{SELECT queue.send('synced', '1')});
wait_through('synced', 'the disk works');
be('once');
sql(q{SELECT queue.send('synced', '2')});
wait_through('synced', 'fsync() fails, once');
ok(!-e $disk, 'it did');
is_deeply([ map { $_->{payload} } messages(files($dir)) ], [1], 'the file has what was on disk before');
is_deeply([ map { $_->{payload} } messages("$dir/synced.part") ], [2], 'the message is in a new one');
like(
	slurp_file($node->logfile),
	qr/cannot publish: could not fsync file ".*synced\.part": Input\/output error/,
	'the log says why');
is(sql(q{SELECT published, failed FROM queue.relays WHERE name = 'synced'}), '2|0', 'no message is blamed');

# No space: what a process may write is limited, to more than the WAL takes.
SKIP:
{
	skip 'no prlimit', 6 if system('prlimit --version >/dev/null 2>&1') != 0;

	$dir = create('filled', '{"rotate_size": "1GB"}');
	wait_until(q{(SELECT state = 'idle' FROM queue.relays WHERE name = 'filled')}, 'the relay is there');
	my $pid = sql(q{SELECT pid FROM pg_stat_activity WHERE application_name = 'queue relay filled'});
	system_or_bail('prlimit', "--pid=$pid", '--fsize=' . 4 * 1024 * 1024 . ':');
	sql(q{SELECT queue.send('filled', jsonb_build_object('n', i, 'fill', repeat('x', 100000))) FROM generate_series(1, 60) i}
	);
	wait_through('filled', 'what finds no space goes to a new file');
	my @files = (files($dir), "$dir/filled.part");
	cmp_ok(scalar(@files), '>=', 2, 'there are some');
	is_deeply([ map { $_->{payload}->{n} } messages(@files) ], [ 1 .. 60 ],
		'each message is there, and once');
	sql(q{SELECT queue.send('filled', jsonb_build_object('n', 101, 'fill', repeat('x', 5000000)))});
	wait_for_error(
		'filled',
		'could not write to file ".*/filled.part": File too large',
		'one that never fits is waited with');
	system_or_bail('prlimit', "--pid=$pid", '--fsize=unlimited:');
	wait_through('filled', 'and published when there is space');
	is(sql(q{SELECT failed FROM queue.relays WHERE name = 'filled'}), '0', 'no message is blamed');
}

#
# A directory that others change
#
$dir = create('changed', '{}');
wait_until(q{(SELECT state = 'idle' FROM queue.relays WHERE name = 'changed')}, 'the relay is there');
unlink("$dir/changed.part") or die $!;
sql(q{SELECT queue.send('changed', '1')});
wait_through('changed', 'a file that was removed is not believed in');
is_deeply([ map { $_->{payload} } messages(files($dir), "$dir/changed.part") ],
	[1], 'the message is in another');

rename($dir, "$dir.away") or die $!;
sql(q{SELECT queue.pause_relay('changed')});
wait_until(q{NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'queue relay changed')},
	'paused');
sql(q{SELECT queue.resume_relay('changed'); SELECT queue.send('changed', '2')});
wait_for_error(
	'changed',
	'could not open directory ".*/changed": No such file or directory',
	'there is no directory');
append_to_file($dir, 'x');
wait_for_error('changed', 'could not open directory ".*/changed": Not a directory', 'or something else');
unlink($dir);
rename("$dir.away", $dir) or die $!;
wait_through('changed', 'the directory is back');
is(join(' ', map { $_->{payload} } messages(files($dir), "$dir/changed.part")), '1 2', 'and has all');

# What is no file of ours
for my $case (
	[ 'fifo', sub { mkfifo($_[0], 0600) }, 'is not a regular file' ],
	[ 'link', sub { symlink("$scratch/nowhere", $_[0]) }, 'symbolic links' ],
	[ 'directory', sub { mkdir($_[0]) }, 'Is a directory' ])
{
	my ($name, $make, $error) = @$case;

	make_path("$scratch/odd_$name");
	$make->("$scratch/odd_$name/odd.part") or die $!;
	sql(qq{
SELECT queue.create('odd_$name');
CREATE SERVER odd_$name FOREIGN DATA WRAPPER queue_file OPTIONS (directory '$scratch/odd_$name');
SELECT queue.create_relay('odd_$name', 'odd_$name', 'odd_$name', '{"name": "odd"}');});
	wait_for_error("odd_$name", $error, "$name: not touched");
	is(others("$scratch/odd_$name"), 'odd.part', "$name: it is still there");
	sql(qq{SELECT queue.drop_relay('odd_$name')});
}
ok(!-e "$scratch/nowhere", 'nothing behind a link');

# Two of one name
sql(q{
SELECT queue.create('second');
SELECT queue.create_relay('second', 'second', 'changed', '{"name": "changed"}');});
wait_for_error('second', 'file ".*/changed.part" is in use', 'a name is for one relay');
sql(q{SELECT queue.send('second', '3')});
sql(q{SELECT queue.alter_relay('second', '{"name": "other"}')});
wait_through('second', 'with another name it works');
is(join(' ', map { $_->{payload} } messages("$dir/changed.part")), '2', 'the other has written on');

# A queue that no file can be called like
sql(qq{
SELECT queue.create('a/b');
SELECT queue.create_relay('slash', 'a/b', 'changed');
SELECT queue.send('a/b', '4');});
wait_for_error('slash', 'no file can be called like queue "a/b"', 'a name that leads elsewhere');
sql(q{SELECT queue.alter_relay('slash', '{"name": "a b"}')});
wait_until(q{NOT EXISTS (SELECT FROM queues."a/b")}, 'with a name of its own it works');

# Whose server it is decides, at each connection.
sql(q{
CREATE ROLE plain LOGIN;
CREATE ROLE writer LOGIN;
GRANT pg_write_server_files TO writer;
GRANT USAGE ON FOREIGN DATA WRAPPER queue_file TO writer;
SELECT queue.pause_relay('slash');
ALTER SERVER changed OWNER TO writer;
REVOKE pg_write_server_files FROM writer;
SELECT queue.resume_relay('slash');});
wait_for_error(
	'slash',
	'the owner of server "changed" is not permitted to have it write files',
	'not without the right');
sql(q{GRANT pg_write_server_files TO writer});
wait_until(q{(SELECT state = 'idle' FROM queue.relays WHERE name = 'slash')}, 'with it');

# Other encodings
$node->safe_psql('postgres',
	q{CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0});
$node->safe_psql('postgres',
	q{CREATE DATABASE bytes ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0});
for my $database ('latin', 'bytes')
{
	mkdir("$scratch/$database");
	sql(qq{
SET client_encoding = 'UTF8';
CREATE EXTENSION queue;
SELECT queue.create('q', max_attempts => 1);
CREATE SERVER q FOREIGN DATA WRAPPER queue_file OPTIONS (directory '$scratch/$database');
SELECT queue.create_relay('q', 'q', 'q');
SELECT queue.send('q', '"\xc3\xa4"', '\xc3\xb6');}, $database);
	sql(q{SELECT queue.send('q', '1', E'\xe4')}, $database) if $database eq 'bytes';
	ok($node->poll_query_until($database, 'SELECT NOT EXISTS (SELECT FROM queues.q)'),
		"$database: published");
	is_deeply(
		[ map { [ $_->{key}, $_->{payload} ] } messages("$scratch/$database/q.part") ],
		[ [ "\x{f6}", "\x{e4}" ] ],
		"$database: in UTF-8");
}
like(
	sql('SELECT error FROM queue.dead_letters', 'bytes'),
	qr/invalid byte sequence/,
	'what is no text is refused');

# What the page has as an example
mkdir("$scratch/page") or die $!;
$node->safe_psql('postgres', 'CREATE DATABASE page');
$node->safe_psql(
	'page',
	join('',
		'CREATE EXTENSION queue;',
		Page::examples('docs/sinks/file.md', "'/srv/archive'" => "'$scratch/page'")));
ok($node->poll_query_until('page', 'SELECT NOT EXISTS (SELECT FROM queues.orders)'),
	'the example of the page: it is published');
sql(q{SELECT queue.pause_relay('orders_to_files')}, 'page');
ok(wait_for { my @complete = files("$scratch/page"); @complete == 1 },
	'the example of the page: the file is complete');
my ($line, @more) = messages(files("$scratch/page"));
like(delete $line->{id}, qr/^\d+$/, 'the example of the page: its id');
like(delete $line->{enqueued_at}, qr/^\d{4}-\d\d-\d\dT/, 'and its time');
is_deeply(
	[ $line, @more ],
	[
		{
			key => 'alice',
			headers => { kind => 'placed' },
			content_type => 'application/json',
			payload => { order => 1 }
		}
	],
	'the example of the page: a line as the page says');

$node->stop;
done_testing();
