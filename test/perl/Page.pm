# A page of the documentation, whose examples the tests run as they are printed.

package Page;

use strict;
use warnings;

use Carp qw(croak);
use PostgreSQL::Test::Utils;

# The SQL examples of a page, in their order.  What can not be as printed, as
# where a server is, is told by pairs of the text printed and the text wanted;
# all of it has to be there.
sub examples
{
	my ($page, %instead) = @_;
	my @examples = (slurp_file($page) =~ /^```sql\n(.*?)^```$/gms);

	foreach my $printed (keys %instead)
	{
		my $n = grep { s/\Q$printed\E/$instead{$printed}/g } @examples;

		croak "\"$printed\" is not in the examples of $page" if $n == 0;
	}
	croak "$page has no examples" unless @examples;
	return @examples;
}

1;
