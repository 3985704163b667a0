# Limits per queue hold for relays and for many receivers at once, let those who
# wait go on at once, and start anew with the server.

use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QueueNode;
use Test::More;
use Wait;

my $node = queue_node('primary', conf => 'max_connections = 40');

sub sql
{
	return $node->safe_psql('postgres', $_[0]);
}

# Run a statement in several sessions at a time.
sub together
{
	my ($n, $statement) = @_;
	my @sessions = map {
		IPC::Run::start(
			[ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-c', $statement ])
	} 1 .. $n;
	my $finished = grep { $_->finish } @sessions;

	is($finished, $n, "$n sessions have finished");
	return;
}

sql(q{
CREATE TABLE got (queue text, id bigint, leased bigint, at timestamptz DEFAULT clock_timestamp());
CREATE PROCEDURE take(m queue.message) LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.got (queue, id, leased)
	SELECT m.key, m.id, pg_catalog.count(*) FROM queue.leases l WHERE l.queue = m.key;
END $$;
CREATE PROCEDURE send(queue text, n integer) LANGUAGE sql AS $$
	SELECT count(*) FROM queue.send_batch(queue, array_fill('1'::jsonb, ARRAY[n]), array_fill(queue, ARRAY[n]));
$$;
-- Take messages until there are none, one by one: the others wait meanwhile.
CREATE PROCEDURE work(queue text, total integer) LANGUAGE plpgsql AS $$
DECLARE
	m record;
BEGIN
	WHILE (SELECT count(*) FROM got g WHERE g.queue = work.queue) < total LOOP
		SELECT * INTO m FROM queue.receive(queue, wait => '200 ms');
		COMMIT;
		CONTINUE WHEN m.id IS NULL;
		INSERT INTO got (queue, id, leased)
		SELECT work.queue, m.id, s.leased FROM queue.stats s WHERE s.queue = work.queue;
		COMMIT;
		PERFORM queue.ack(m.receipt);
		COMMIT;
	END LOOP;
END $$;
});

# A relay: what it has in hand is in flight.
sql(q{
SELECT queue.create('few', max_in_flight => 3);
CALL send('few', 300);
SELECT queue.create_relay('few', 'few', options => '{"procedure": "public.take", "batch": 100}');
});
wait_until($node, q{count(*) = 300 FROM got WHERE queue = 'few'}, 'a relay takes all');
is(sql(q{SELECT max(leased), count(DISTINCT id) FROM got WHERE queue = 'few'}),
	'3|300', 'and never has more than three');

# A rate holds for a relay as well.  It cannot be faster than the 45 that come after
# the burst of 5, at 20 a second.
sql(q{
SELECT queue.create('slow', rate => 50, rate_interval => '2.5 seconds', max_in_flight => 10);
CREATE TABLE began AS SELECT clock_timestamp() AS at;
SELECT queue.create_relay('slow', 'slow', options => '{"procedure": "public.take", "batch": 100}');
CALL send('slow', 50);
});
wait_until($node, q{count(*) = 50 FROM got WHERE queue = 'slow'}, 'a relay takes all');
is( sql(q{
SELECT max(g.at) - max(b.at) >= '2.2 s', count(DISTINCT id) FROM got g, began b WHERE queue = 'slow'}),
	't|50',
	'but no faster than the rate');

# What is altered holds for a relay that waits.
sql(q{SELECT queue.alter('slow', rate => 1, rate_interval => '1 hour')});
sql(q{CALL send('slow', 20)});
wait_until($node, q{count(*) = 51 FROM got WHERE queue = 'slow'}, 'one message in an hour');
wait_until($node, q{ready = 19 FROM queue.stats WHERE queue = 'slow'}, 'the others are there');
sql(q{SELECT queue.alter('slow', rate => 0)});
wait_until(
	$node,
	q{count(*) = 70 FROM got WHERE queue = 'slow'},
	'the relay goes on when there is no rate any more');

# Many receivers have one message at a time between them.
sql(q{
SELECT queue.create('one', max_in_flight => 1);
CALL send('one', 400);
TRUNCATE began;
INSERT INTO began VALUES (clock_timestamp());
});
together(4, q{CALL work('one', 400)});
is(sql(q{SELECT max(leased), count(DISTINCT id), count(*) FROM got WHERE queue = 'one'}),
	'1|400|400', 'four receivers have one message at a time between them');

# Many receivers at a rate: the 190 after the burst, at 100 a second.
sql(q{
SELECT queue.create('even', rate => 100, rate_interval => '1 second');
CALL send('even', 200);
TRUNCATE began;
INSERT INTO began VALUES (clock_timestamp());
});
together(6, q{CALL work('even', 200)});
is( sql(q{
SELECT max(g.at) - max(b.at) >= '1.85 s', count(DISTINCT id), count(*)
FROM got g, began b WHERE queue = 'even'}),
	't|200|200',
	'six receivers keep to the rate between them');

# As many receivers as can get in each other's way take all there is, one by one:
# to the very message what may be on lease, or goes at once.
sql(q{
CREATE PROCEDURE grab(queue text) LANGUAGE plpgsql AS $$
BEGIN
	LOOP
		PERFORM FROM queue.receive(queue, lease => '1 day');
		EXIT WHEN NOT FOUND;
		COMMIT;
	END LOOP;
END $$;
SELECT queue.create('places', max_in_flight => 2000);
SELECT queue.create('tokens', rate => 20000, rate_interval => '10 years');
CALL send('places', 3000);
CALL send('tokens', 3000);
});
together(8, q{CALL grab('places')});
together(8, q{CALL grab('tokens')});
is(sql(q{SELECT queue, leased FROM queue.stats WHERE queue IN ('places', 'tokens') ORDER BY queue}),
	"places|2000\ntokens|2000", 'eight receivers take all there is, and no more');

# After a crash nothing is in flight, and no token is taken.
sql(q{
SELECT queue.create('c', lease => '1 hour', max_in_flight => 2);
SELECT queue.create('d', lease => '1 hour', rate => 1, rate_interval => '1 hour');
CALL send('c', 5);
CALL send('d', 5);
});
my $receive = q{SELECT id FROM queue.receive('c', 9); SELECT id FROM queue.receive('d', 9);};
is(sql($receive), "1\n2\n1", 'as many as the limits allow');
is(sql($receive), '', 'and no more');
crash($node);
is(sql($receive), "1\n2\n1", 'as many after a crash');
is(sql($receive), '', 'and no more');

# An overdue lease makes room though no maintenance worker looks after it.
$node->append_conf('postgresql.conf', "max_worker_processes = 1\nmax_parallel_workers = 0");
$node->restart;
sql(q{
SELECT queue.create('o', lease => '100 ms', backoff => '0', max_in_flight => 1);
CALL send('o', 3);
SELECT id FROM queue.receive('o');
});
is(sql(q{SELECT id, attempts FROM queue.receive('o', wait => '60 s')}),
	'1|2', 'the receiver that waits at the limit takes an overdue lease over');
is( sql(q{
BEGIN;
SELECT id, attempts FROM queue.receive('o', wait => '60 s');
ROLLBACK;
SELECT leased FROM queue.stats WHERE queue = 'o';
SELECT id, attempts FROM queue.receive('o', 3, wait => '60 s');
SELECT leased FROM queue.stats WHERE queue = 'o';
}),
	"1|3\n0\n1|3\n1",
	'and again, after a rollback');

done_testing();
