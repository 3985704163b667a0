# Waiting on conditions: never for a time.

package Wait;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

our @EXPORT = qw(wait_for wait_until);

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

1;
