# What holds for the source and no compiler checks.

use strict;
use warnings;

use Test::More;

# Min and Max evaluate an argument twice: no call may be one.  Macros and
# those without effects aside.
my $harmless = qr/\b(?:Min|Max|sizeof|lengthof|INT64CONST|Timestamp\w+|[A-Z][A-Z0-9_]*)\s*\(/;
my $nested = qr/(?<nested>\((?:[^()]++|(?&nested))*\))/;
my @found;
my @files = map { glob("$_/*.[ch]") } 'src', 'src/*', 'src/*/*';

foreach my $file (@files)
{
	open(my $in, '<', $file) or die "could not open $file: $!";
	my $source = do { local $/; <$in> };
	close $in;
	while ($source =~ /\b(Min|Max)\s*(?=$nested)/g)
	{
		my ($macro, $arguments) = ($1, $+{nested});
		my $calls = $arguments =~ s/$harmless/(/gr;
		push @found, "$file: $macro$arguments" if $calls =~ /\w\s*\(/;
	}
}
cmp_ok(scalar(@files), '>', 20, 'the source is here');
is(join("\n", @found), '', 'no calls in Min and Max');

done_testing();
