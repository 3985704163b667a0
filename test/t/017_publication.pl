# Logical replication beside queues: a publication of a schema of one's own
# never notices them, and one of all tables is in nobody's way.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Test::More;

my $publisher = queue_node(
	'publisher',
	allows_streaming => 'logical',
	conf => "queue.segment_size = '1MB'\nqueue.sweep_interval = '1s'");
my $subscriber = queue_node('subscriber', conf => 'max_logical_replication_workers = 4');

$publisher->safe_psql(
	'postgres', q{
CREATE SCHEMA shop;
CREATE TABLE shop.orders (number int PRIMARY KEY);
SELECT queue.create('mail', max_attempts => 1, backoff => '0');
CREATE PUBLICATION own FOR TABLES IN SCHEMA shop;
CREATE PUBLICATION everything FOR ALL TABLES});
$subscriber->safe_psql(
	'postgres', q{
CREATE SCHEMA shop;
CREATE TABLE shop.orders (number int PRIMARY KEY);
SELECT queue.create('mail');
SELECT queue.send('mail', '"own"')});
my $connstr = $publisher->connstr . ' dbname=postgres';
$subscriber->safe_psql('postgres', "CREATE SUBSCRIPTION s CONNECTION '$connstr' PUBLICATION own");
$subscriber->wait_for_subscription_sync($publisher, 's');

# Segments come and go, messages fail, are deferred and die, queues are dropped.
for my $round (1 .. 3)
{
	$publisher->safe_psql(
		'postgres', qq{
INSERT INTO shop.orders VALUES ($round);
SELECT count(*) FROM queue.send_batch('mail', ARRAY(SELECT to_jsonb(repeat('x', 1000)) FROM generate_series(1, 2500)));
SELECT count(queue.ack(receipt)) FROM queue.receive('mail', 2400);
SELECT count(queue.nack(receipt)) FROM queue.receive('mail', 50);
SELECT count(queue.ack(receipt)) FROM queue.receive('mail', 50);
SELECT queue.send('mail', '1', delay => '1 hour');
SELECT queue.create('other');
SELECT queue.send('other', '1', delay => '1 hour');
SELECT queue.drop('other');
SELECT queue.redrive('mail', 10);
SELECT queue.alter('mail', lease => '$round min');
DELETE FROM queue.dead_letters WHERE queue = 'mail';
SELECT queue.purge('mail')});
	$publisher->wait_for_catchup('s');
	is($subscriber->safe_psql('postgres', 'SELECT count(*) FROM shop.orders'), $round,
		"round $round arrives");
}
is( $publisher->safe_psql(
		'postgres', 'SELECT queue.send(\'mail\', \'1\') > 0; SELECT count(*) FROM queue.pop(\'mail\', 10)'),
	"t\n1",
	'queues work although there is a publication of all tables');
is( $publisher->safe_psql(
		'postgres', q{
DROP TABLE queues.mail CASCADE;
SELECT count(*) FROM queue.queue_definition;
DELETE FROM queue.deferred;
DELETE FROM queue.relay_definition;
DELETE FROM queue.inbox;
DELETE FROM queue.inbox_version;
DELETE FROM queue.idempotency}),
	'0',
	'and our own tables have keys');
is($subscriber->safe_psql('postgres', q{SELECT payload FROM queue.pop('mail', 10)}),
	'"own"', 'the queue there is its own');
unlike(slurp_file($subscriber->logfile), qr/ERROR|FATAL/, 'the subscriber was healthy all the time');
unlike(slurp_file($publisher->logfile), qr/queue maintenance.*ERROR/, 'and so was maintenance here');

$subscriber->safe_psql('postgres', 'DROP SUBSCRIPTION s');
$_->stop foreach $subscriber, $publisher;
done_testing();
