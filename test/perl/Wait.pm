# Waiting on conditions: never for a time.

package Wait;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

our @EXPORT = qw(wait_for wait_until wait_backing_off wait_until_published);

# Wait until a block returns something true, and return that; undef if it never
# does.  An error in it is nothing yet.
sub wait_for(&)
{
	my ($function) = @_;

	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		my $result = eval { $function->() };

		return $result if $result;
		sleep(0.1);
	}
	return undef;
}

# Test that a condition, in SQL, comes to hold on a server.
sub wait_until
{
	my ($node, $condition, $test) = @_;

	return ok($node->poll_query_until('postgres', "SELECT $condition"), $test);
}

# Where there is one relay, of the queue events: that it backs off, for a reason
# that a pattern describes.
sub wait_backing_off
{
	my ($node, $pattern, $test) = @_;

	return wait_until($node,
		"(SELECT state = 'backing off' AND last_error ~ '$pattern' FROM queue.relays)", $test);
}

# That it has published all there is, or it is dead.
sub wait_until_published
{
	my ($node, $test) = @_;

	return wait_until($node,
		'(SELECT count(*) = 0 FROM queues.events) AND (SELECT deferred = 0 FROM queue.stats)', $test)
	  || diag($node->safe_psql('postgres', 'SELECT state, last_error FROM queue.relays'));
}

1;
