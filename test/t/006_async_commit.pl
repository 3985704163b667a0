# Asynchronous commit: a crash may take back what was seen, and what is left
# must be one past of many, not a mixture.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Test::More;

my $node = queue_node(
	'primary',
	conf => q{
synchronous_commit = off
wal_writer_delay = 10s
queue.segment_size = '1MB'
});
$node->safe_psql(
	'postgres', q{
SELECT queue.create('q', lease => '1 hour', backoff => '0 s');
CREATE TABLE sent (id bigint PRIMARY KEY, round int);
CREATE TABLE acked (id bigint PRIMARY KEY, round int);
CREATE FUNCTION step(round int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO sent SELECT queue.send('q', to_jsonb(repeat('x', 500))), round;
	IF random() < 0.1 THEN
		INSERT INTO sent SELECT queue.send_batch('q', array(SELECT to_jsonb(i) FROM generate_series(1, 10) i)), round;
	END IF;
	WITH m AS (SELECT id, queue.ack(receipt) FROM queue.receive('q', 3))
	INSERT INTO acked SELECT id, round FROM m;
	PERFORM queue.nack(receipt) FROM queue.receive('q', 1) WHERE random() < 0.1;
END $$;
});
my $dir = $node->basedir;
append_to_file("$dir/step.sql", "SELECT step(:round);\n");

for my $round (1 .. 5)
{
	my $before = $node->safe_psql('postgres', 'SELECT count(*) FROM acked');
	my $load = IPC::Run::start(
		[
			'pgbench', '-n', '-h', $node->host, '-p', $node->port,
			'-c', '3', '-T', '600', '-D', "round=$round",
			'-f', "$dir/step.sql", 'postgres'
		],
		'<',
		\undef,
		'>',
		\my $out,
		'2>',
		\my $err);
	$node->poll_query_until('postgres', "SELECT count(*) > $before + 3000 FROM acked")
	  or die 'the load does not get on';

	crash($node);
	$load->finish;

	is( $node->safe_psql(
			'postgres', q{
SELECT count(*) FROM sent FULL JOIN (
	SELECT id FROM acked UNION ALL SELECT id FROM queues.q UNION ALL SELECT id FROM queue.deferred
) m USING (id)
WHERE sent IS NULL OR m IS NULL}),
		'0',
		"round $round: each message sent is in the queue or acknowledged, and no other is");
	is( $node->safe_psql(
			'postgres', q{
SELECT count(*) FROM (
	SELECT id FROM acked UNION ALL SELECT id FROM queues.q UNION ALL SELECT id FROM queue.deferred) m
GROUP BY id HAVING count(*) > 1}),
		'',
		"round $round: and is so once");
	my $ready =
	  $node->safe_psql('postgres', 'SELECT count(*) FROM sent WHERE id NOT IN (SELECT id FROM acked)');
	my @ids = drain($node, 'q');
	is(scalar(@ids), $ready, "round $round: all of them are received");
	$node->safe_psql('postgres', 'INSERT INTO acked SELECT unnest(ARRAY[' . join(',', @ids) . "]), $round")
	  if @ids;
}
is( $node->safe_psql(
		'postgres',
		'SELECT count(*) FROM sent FULL JOIN acked USING (id) WHERE sent IS NULL OR acked IS NULL'),
	'0',
	'in the end each message was acknowledged once');

# A message that others see and the crash forgets: the WAL writer sleeps, so its
# commit is in memory only.  The first id after a restart is the one that needs
# a reservation, which must not be forgotten with it.
my @seen;
for (1 .. 3)
{
	my $id = $node->safe_psql('postgres', q{SELECT queue.send('q', '"seen"')});
	push @seen, $id if $node->safe_psql('postgres', q{SELECT payload FROM queue.peek('q')}) eq '"seen"';
	crash($node);
	is($node->safe_psql('postgres', q{SELECT count(*) FROM queues.q}),
		'0', "what was seen as $id is forgotten");
	is(scalar(drain($node, 'q')), 0, 'and is not received');
}
is(scalar(@seen), 3, 'messages were seen before they were safe');
is("@seen", join(' ', sort { $a <=> $b } @seen), 'ids never go back');
isnt($seen[0], $seen[1], 'and none is used again, though its message was forgotten');
isnt($seen[1], $seen[2], 'not even the next time');

$node->stop;
done_testing();
