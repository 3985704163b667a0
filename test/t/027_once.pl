# What was accepted, and what was begun, is known after a crash, a restart, a
# promotion and a restore, also where its role does not exist; and is removed
# when its time is over, or with its role.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Test::More;

my $node = queue_node('primary', allows_streaming => 1);
my $dir = $node->basedir;

$node->safe_psql(
	'postgres', q{
CREATE ROLE billing;
CREATE ROLE leaver;
CREATE DATABASE shop});
$node->safe_psql(
	'shop', q{
CREATE EXTENSION queue;
SET ROLE billing;
SELECT queue.inbox_accept('mail', 'committed');
SELECT accepted FROM queue.inbox_advance('mail', 'customer', 3);
SELECT status FROM queue.idempotency_begin('orders', 'done', 'digest');
SELECT queue.idempotency_complete('orders', 'done', '{"order": 1}');
SELECT status FROM queue.idempotency_begin('orders', 'begun', 'digest');
BEGIN;
SELECT queue.inbox_accept('mail', 'prepared, committed');
SELECT accepted FROM queue.inbox_advance('mail', 'prepared', 2);
SELECT status FROM queue.idempotency_begin('orders', 'prepared');
SELECT queue.idempotency_complete('orders', 'prepared', '2');
PREPARE TRANSACTION 'to be committed';
BEGIN;
SELECT queue.inbox_accept('mail', 'prepared, rolled back');
SELECT accepted FROM queue.inbox_advance('mail', 'customer', 4);
SELECT queue.idempotency_complete('orders', 'begun', '3');
PREPARE TRANSACTION 'to be rolled back';
});

# One that is open when the server dies has accepted nothing.
my $open = $node->background_psql('shop');
$open->query_safe(q{SET ROLE billing; BEGIN; SELECT queue.inbox_accept('mail', 'open')});
crash($node);
$open->quit;

# What one accepts at a risk is safe once another, who takes none, has been told.
$node->safe_psql('shop', q{ALTER SYSTEM SET wal_writer_delay = '10s'; SELECT pg_reload_conf(); CHECKPOINT});
foreach my $call (
	[ q{inbox_accept('mail', 'risk')}, 't', 'f' ],
	[ q{inbox_advance('mail', 'risk', 7)}, '(t,0,6)', '(f,7,0)' ],
	[ q{idempotency_begin('orders', 'risk')}, '(started,)', '(completed,7)' ])
{
	my ($function, $first, $second) = @$call;
	my $told = "SET ROLE billing; SELECT queue.$function";

	is( $node->safe_psql(
			'shop',
			"SET ROLE billing; SET synchronous_commit = off; SELECT queue.$function;"
			  . (
				$function =~ /begin/
				? q{DO $$BEGIN PERFORM queue.idempotency_complete('orders', 'risk', '7'); END$$}
				: '')),
		$first,
		"$function: at a risk");
	is($node->safe_psql('shop', $told), $second, "$function: told");
	crash($node);
	is($node->safe_psql('shop', $told), $second, "$function: and it holds");
}
$node->safe_psql(
	'shop', q{
ALTER SYSTEM RESET wal_writer_delay;
SELECT pg_reload_conf();
DELETE FROM queue.inbox WHERE message_id = 'risk';
DELETE FROM queue.inbox_version WHERE entity = 'risk';
DELETE FROM queue.idempotency WHERE key = 'risk'});

# What every copy of the database says.
sub check
{
	my ($server, $database, $how) = @_;
	my $known = $server->safe_psql(
		$database, q{
SET ROLE billing;
BEGIN;
SELECT message, queue.inbox_accept('mail', message)
	FROM unnest('{committed,"prepared, committed","prepared, rolled back",open}'::text[]) message;
SELECT entity, a.* FROM (VALUES ('customer', 3), ('customer', 5), ('prepared', 2)) v (entity, version),
	LATERAL queue.inbox_advance('mail', entity, version, gaps => 'refuse') a;
SELECT key, b.* FROM unnest('{done,begun,prepared}'::text[]) key,
	LATERAL queue.idempotency_begin('orders', key, 'digest') b;
SELECT status FROM queue.idempotency_begin('orders', 'done', 'other');
ROLLBACK});

	is($known, <<'END' =~ s/\n\z//r, $how);
committed|f
prepared, committed|f
prepared, rolled back|t
open|t
customer|f|3|0
customer|f|3|1
prepared|f|2|0
done|completed|{"order": 1}
begun|in progress|
prepared|completed|2
mismatch
END
	return;
}

my ($result, $stdout, $stderr) = $node->psql('shop',
	q{SET ROLE billing; SET lock_timeout = '10ms'; SELECT queue.inbox_accept('mail', 'prepared, committed')});
like($stderr, qr/canceling statement due to lock timeout/, 'a prepared transaction is waited for');
$node->safe_psql('shop', q{COMMIT PREPARED 'to be committed'});
$node->safe_psql('shop', q{ROLLBACK PREPARED 'to be rolled back'});
check($node, 'shop', 'after a crash');
$node->restart;
check($node, 'shop', 'after a restart');

# Promotion
$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
$standby->promote;
check($standby, 'shop', 'after a promotion');
$standby->stop;

# Dump and restore: here, and into a cluster that has no such roles
$node->safe_psql('postgres', 'CREATE DATABASE copy');
command_ok([ 'pg_dump', '-d', $node->connstr('shop'), '-f', "$dir/shop.sql" ], 'dump');
command_ok(
	[ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('copy'), '-f', "$dir/shop.sql" ],
	'restore');
check($node, 'copy', 'after a restore');

my $empty = PostgreSQL::Test::Cluster->new('empty');
$empty->init;
$empty->append_conf('postgresql.conf', "shared_preload_libraries = 'queue'");
$empty->start;
$empty->safe_psql('postgres', 'CREATE DATABASE copy');
command_ok(
	[
		'psql', '-X', '-q', '-1', '-v', 'ON_ERROR_STOP=1',
		'-d', $empty->connstr('copy'), '-f', "$dir/shop.sql"
	],
	'restore where the roles do not exist');
is($empty->safe_psql('copy', q{SELECT count(*) FROM queue.inbox; SELECT count(*) FROM queue.idempotency}),
	"2\n3", 'messages and requests are kept for when they do');
$empty->stop;

# Retention: the next worker does at once what is otherwise done once a minute.
$node->safe_psql(
	'shop', q{
SET ROLE leaver;
SELECT count(queue.inbox_advance('mail', n::text, 1)) FROM generate_series(1, 12000) n;
SELECT queue.inbox_accept('mail', 'left behind');
SET ROLE billing;
SELECT count(queue.inbox_accept('mail', 'old ' || n, ttl => '1 us')) FROM generate_series(1, 12000) n;
SELECT count(queue.inbox_advance('mail', 'old ' || n, 1, ttl => '1 us')) FROM generate_series(1, 10) n;
SELECT count(queue.idempotency_begin('orders', 'old ' || n, ttl => '1 us')) FROM generate_series(1, 10) n;
RESET ROLE;
DROP ROLE leaver;
});
my $pid = worker_pid($node, 'shop');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)") if $pid;
my $rows = q{SELECT (SELECT count(*) FROM queue.inbox), (SELECT count(*) FROM queue.inbox_version),
	(SELECT count(*) FROM queue.idempotency)};
ok($node->poll_query_until('shop', $rows, '3|2|3'),
	'what has expired is removed, and versions of roles that are gone')
  or diag $node->safe_psql('shop', $rows);
check($node, 'shop', 'and nothing else');

# The setting is how long a message is remembered that is accepted from then on.
is( $node->safe_psql(
		'shop', q{
SET queue.inbox_retention = '1h';
SELECT queue.inbox_accept('mail', 'an hour');
SELECT expires_at BETWEEN now() + '59 minutes' AND now() + '61 minutes'
	FROM queue.inbox WHERE message_id = 'an hour'}),
	"t\nt",
	'queue.inbox_retention');

$node->stop;
done_testing();
