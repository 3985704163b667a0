# A transaction of more subtransactions than there are places to look at again:
# the cursor stops at the first it cannot note, and forgets none.

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
	is(scalar(drain($node, 'q')), 0, "$end: the cursor has stopped");
	$session->query_safe($end);
	if ($end =~ /PREPARE/)
	{
		is(scalar(drain($node, 'q')), 0, "$end: and waits for it to be decided");
		$node->safe_psql('postgres', q{COMMIT PREPARED 'many'});
	}
	is(scalar(drain($node, 'q')), $end eq 'ROLLBACK' ? 1 : 2001, "$end: then everything is received");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM queues.q'), '0', "$end: and nothing is left");
	$session->quit;
}

$node->stop;
done_testing();
