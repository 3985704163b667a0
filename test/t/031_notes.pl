# Places to look at again: a transaction takes one, however many savepoints it
# has; and when all are taken the cursor stops and forgets none.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Test::More;

my $node = queue_node('primary', conf => 'queue.sweep_interval = 3600');
$node->safe_psql(
	'postgres', q{
SELECT queue.create('q', lease => '1 hour');
CREATE FUNCTION send_many(n int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. n LOOP
		BEGIN
			PERFORM queue.send('q', to_jsonb(i));
			IF i % 3 = 0 THEN
				RAISE division_by_zero;
			END IF;
		EXCEPTION WHEN division_by_zero THEN
			NULL;
		END;
	END LOOP;
END $$;
});

foreach my $end ('COMMIT', 'ROLLBACK', "PREPARE TRANSACTION 'many'")
{
	my $session = $node->background_psql('postgres');

	$session->query_safe('BEGIN; SELECT send_many(3000)');
	$node->safe_psql('postgres', q{SELECT queue.send('q', '"other"')});
	is(scalar(drain($node, 'q')), 1, "$end: others' messages are received meanwhile");
	$session->query_safe($end);
	if ($end =~ /PREPARE/)
	{
		is(scalar(drain($node, 'q')), 0, "$end: and its own not before it is decided");
		$node->safe_psql('postgres', q{COMMIT PREPARED 'many'});
	}
	is(scalar(drain($node, 'q')), $end eq 'ROLLBACK' ? 0 : 2000, "$end: then they are, too");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM queues.q'), '0', "$end: and nothing is left");
	$session->quit;
}

# Rows locked by two transactions name neither, and take a place each.
$node->safe_psql('postgres',
	q{SELECT queue.send_batch('q', array(SELECT to_jsonb(i) FROM generate_series(1, 600) i))});
my @lockers = map { $node->background_psql('postgres') } 1 .. 2;
$_->query_safe('BEGIN; SELECT count(*) FROM (SELECT FROM queues.q FOR SHARE) l') foreach @lockers;
$node->safe_psql('postgres', q{SELECT queue.send('q', '"behind"')});
is(scalar(drain($node, 'q')), 0, 'no places left: the cursor has stopped');
$_->query_safe('ROLLBACK') foreach @lockers;
my $received = 0;

while ($received < 601)
{
	my $more = $node->safe_psql('postgres',
		q{SELECT count(queue.ack(receipt)) FROM queue.receive('q', 1000, wait => '1 minute')});
	last if $more == 0;
	$received += $more;
}
is($received, 601, 'all are received when the rows are unlocked');
$_->quit foreach @lockers;

$node->stop;
done_testing();
