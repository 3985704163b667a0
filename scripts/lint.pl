# What scripts/lint checks by reading the source: lines, macros, and the law of
# the house.  It prints what is wrong, and has status 1 if anything is.
#
#	lint.pl lines FILE ...
#	lint.pl macros FILE ...
#	lint.pl house OBJECTS		of files compiled to OBJECTS/src/...
#	lint.pl symbols OBJECTS
#	lint.pl typedefs LIST DIRECTORY FILE ...
#
# It runs where the checkout is.

use strict;
use warnings;

use File::Basename qw(basename);
use File::Find;
use List::Util qw(min);

my $width = 110;
my $tab = 4;
my $most_lines = 1000;

# A literal that long may go beyond the margin: a message is looked for whole.
my $long_literal = 40;

# Which files a folder's may include, as patterns of paths below src in which
# "*" stands for a name and "**" for a path.  The first row that fits a file is
# its law.  None of it allows for circles.
my @law = (
	[ 'queue.c', '**' ],
	[ '*', '*' ],
	[ 'engine/*', '*', 'engine/*' ],
	[ 'sql/*', '*', 'engine/*', 'sql/*', 'relay/relay.h', 'relay/configuration.h' ],
	[ 'workers/*', '*', 'engine/*', 'workers/*', 'relay/relay.h', 'relay/configuration.h' ],
	[ 'relay/*', '*', 'engine/*', 'relay/*', 'sinks/*', 'sinks/options/*' ],
	[ 'sinks/sql*.c', '*', 'engine/*', 'relay/*', 'sinks/*', 'sinks/options/*' ],
	[ 'sinks/**', 'compat.h', 'message.h', 'relay/sink.h', 'sinks/**' ]);

# Circles that must be: their rooms in alphabetical order, and why.
my %circles_that_must_be = ();

# Typedefs of PostgreSQL that some file of ours has another use for.
my @ambiguous = qw(WORD numeric text);

my $wrong = 0;

sub complain
{
	print "        @_\n";
	$wrong = 1;
	return;
}

sub slurp
{
	my ($file) = @_;
	open(my $in, '<', $file) or die "could not open $file: $!";
	local $/;
	my $content = <$in>;
	close $in;
	return $content // '';
}

# C without its comments, the lines kept.
sub without_comments
{
	my ($source) = @_;
	$source =~ s{("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)+')|(/\*.*?\*/)}{ $1 // $2 =~ tr/\n//cdr }gse;
	return $source;
}

sub files_of
{
	my ($directory, $pattern) = @_;
	my @found;
	find({ no_chdir => 1, wanted => sub { push @found, $_ if -f && /$pattern/; } }, $directory);
	return sort @found;
}

# The room of a file: X.c and X.h are one.
sub room
{
	my ($file) = @_;
	return $file =~ s/\.[cho]$//r;
}

#
# Lines
#

sub too_wide
{
	my ($line) = @_;
	1 while $line =~ s/\t/' ' x ($tab - length($`) % $tab)/e;
	return length($line) > $width;
}

sub check_lines
{
	foreach my $file (@_)
	{
		my $source = slurp($file);
		my $c = $file =~ /\.[ch]$/;
		my $n = 0;

		utf8::decode($source);
		complain("$file: the last line has no end") if $source ne '' && $source !~ /\n\z/;
		foreach my $line (split(/\n/, $source))
		{
			$n++;
			complain("$file:$n: blanks at the end") if $line =~ /\s$/;
			complain("$file:$n: indented by blanks") if $c && $line =~ /^\t* {$tab}/;

			# What is printed again in expected stays as it is.
			next if $file =~ m{^sql/|\.spec$} || $line =~ /(["']|\bqq?[({]).{$long_literal,}/;
			complain("$file:$n: more than $width columns") if too_wide($line);
		}
		complain("$file: $n lines, and $most_lines are the most") if $n > $most_lines;
	}
	return;
}

#
# Macros
#

# Min and Max evaluate an argument twice: no call may be one, macros and those
# without effects aside.  And what differs between versions of PostgreSQL is in
# compat.h.
sub check_macros
{
	my $harmless = qr/\b(?:Min|Max|sizeof|lengthof|INT64CONST|Timestamp\w+|[A-Z][A-Z0-9_]*)\s*\(/;
	my $nested = qr/(?<nested>\((?:[^()]++|(?&nested))*\))/;

	foreach my $file (@_)
	{
		my $source = without_comments(slurp($file));

		while ($source =~ /\b(Min|Max)\s*(?=$nested)/g)
		{
			my ($macro, $arguments, $line) = ($1, $+{nested}, 1 + ($` =~ tr/\n//));
			my $calls = $arguments =~ s/$harmless/(/gr;

			complain("$file:$line: a call in $macro$arguments") if $calls =~ /\w\s*\(/;
		}
		while ($file ne 'src/compat.h' && $source =~ /\b(?:PG_VERSION_NUM|PG_MAJORVERSION\w*)\b/g)
		{
			complain(
				"$file:" . (1 + ($` =~ tr/\n//)) . ': what differs between versions belongs in compat.h');
		}
	}
	return;
}

#
# The law of the house
#

sub fits
{
	my ($file, $pattern) = @_;
	my %part = ('**' => '.*', '*' => '[^/]*');

	$pattern = join('', map { $part{$_} // quotemeta } split(/(\*+)/, $pattern));
	return $file =~ /^$pattern$/;
}

# Names that an object file defines, and those that it needs.
sub symbols
{
	my ($file, @options) = @_;
	my (%defined, %needed);

	open(my $nm, '-|', 'nm', @options, $file) or die "could not run nm: $!";
	while (<$nm>)
	{
		my ($type, $name) = /(\w) (\S+)$/ or next;

		$name =~ s/@.*//;
		if    ($type eq 'U') { $needed{$name} = 1 }
		elsif ($type =~ /[A-TV-Z]/) { $defined{$name} = 1 }
	}
	close $nm or die "nm failed for $file";
	return (\%defined, \%needed);
}

# Rooms that use each other, by Tarjan's algorithm: each a list.
sub circles
{
	my ($uses) = @_;
	my ($n, @stack, %number, %low, %on_stack, @found, $visit) = (0);

	$visit = sub {
		my ($room) = @_;

		$number{$room} = $low{$room} = $n++;
		push @stack, $room;
		$on_stack{$room} = 1;
		foreach my $other (sort keys %{ $uses->{$room} })
		{
			if (!defined $number{$other})
			{
				$visit->($other);
				$low{$room} = min($low{$room}, $low{$other});
			}
			elsif ($on_stack{$other})
			{
				$low{$room} = min($low{$room}, $number{$other});
			}
		}
		return if $low{$room} != $number{$room};

		my @circle;
		do
		{
			push @circle, pop @stack;
			$on_stack{ $circle[-1] } = 0;
		} while ($circle[-1] ne $room);
		push @found, [ sort @circle ] if @circle > 1;
	};
	foreach my $room (sort keys %$uses)
	{
		$visit->($room) if !defined $number{$room};
	}
	return @found;
}

sub check_house
{
	my ($objects) = @_;
	my (%uses, %home, %needed);

	foreach my $file (map { s{^src/}{}r } files_of('src', qr/\.[ch]$/))
	{
		my ($law) = grep { fits($file, $_->[0]) } @law;
		my $source = without_comments(slurp("src/$file"));

		complain("src/$file: no law for this folder") if !$law;
		$uses{ room($file) } //= {};
		while ($source =~ /^#include "([^"]+)"/gm)
		{
			my $included = $1;

			next if !-e "src/$included";
			complain("src/$file must not include $included")
			  if $law && !grep { fits($included, $_) } @{$law}[ 1 .. $#$law ];
			$uses{ room($file) }{ room($included) } //= 'includes it' if room($file) ne room($included);
		}
	}

	# Who calls whom, whatever header says so.
	foreach my $file (files_of("$objects/src", qr/\.o$/))
	{
		my $room = room($file =~ s{^\Q$objects\E/src/}{}r);
		my ($defined, $needs) = symbols($file);

		# Each library of a sink has a function of this name.
		delete $defined->{queue_sink};
		$home{$_} = $room foreach keys %$defined;
		$needed{$room} = $needs;
	}
	foreach my $room (sort keys %needed)
	{
		foreach my $name (grep { defined $home{$_} && $home{$_} ne $room } sort keys %{ $needed{$room} })
		{
			$uses{$room}{ $home{$name} } //= '';
			$uses{$room}{ $home{$name} } =~ s/^(?:includes it)?$/$name/;
		}
	}

	foreach my $circle (circles(\%uses))
	{
		next if $circles_that_must_be{"@$circle"};
		complain('a circle of ' . scalar(@$circle) . " files: @$circle");
		foreach my $room (@$circle)
		{
			my @others = grep { exists $uses{$room}{$_} } @$circle;
			complain("    $room uses " . join(', ', map { "$_ ($uses{$room}{$_})" } @others));
		}
	}
	return;
}

#
# Exported symbols
#

sub check_symbols
{
	my ($objects) = @_;
	my $sql = join("\n", map { slurp($_) } glob('queue--*.sql'));
	my %expected = map { $_ => 1 } 'Pg_magic_func', '_PG_init',
	  map { ($_, "pg_finfo_$_") } $sql =~ /'MODULE_PATHNAME', '(\w+)'/g;
	my %marked;

	# What is marked for workers and for the libraries of sinks, and who needs it.
	foreach my $file (files_of('src', qr/\.[ch]$/))
	{
		my $source = without_comments(slurp($file));
		$marked{$1} = $file while $source =~ /^extern PGDLLEXPORT\b[^;]*?\b(\w+)\s*(?:\(|\[|;)/gm;
		$expected{$1} = 1 while $source =~ /\bbgw_function_name,\s*"(\w+)"/g;
	}

	my ($exported) = symbols("$objects/queue.so", '-D', '--defined-only');
	foreach my $library (glob("$objects/queue_*.so"))
	{
		my ($of_library) = symbols($library, '-D', '--defined-only');
		my (undef, $needs) = symbols($library, '-D', '--undefined-only');

		complain(basename($library) . " exports $_")
		  foreach grep { !/^(?:Pg_magic_func|queue_sink)$/ } sort keys %$of_library;
		$expected{$_} = 1 foreach grep { $marked{$_} } keys %$needs;
	}
	foreach my $name (sort keys %$exported)
	{
		complain("queue.so exports $name"
			  . ($marked{$name} ? ", marked in $marked{$name}, and nobody needs it" : ''))
		  if !$expected{$name};
	}
	foreach my $name (sort keys %expected)
	{
		complain("queue.so does not export $name") if !$exported->{$name};
	}
	return;
}

#
# Typedefs, for the layout of C
#

# Those of PostgreSQL, in LIST, and ours.  A name that a file uses for
# something else is none there, so there is a list for each kind of file:
# DIRECTORY/N.typedefs, for the files in DIRECTORY/N.files.
sub make_typedefs
{
	my ($list, $directory, @files) = @_;
	my %typedefs = map { $_ => 1 } split(/\n/, slurp($list));
	my $braces = qr/(?<braces>\{(?:[^{}]++|(?&braces))*\})/;
	my (%source, %of_kind);

	foreach my $file (@files)
	{
		my $source = $source{$file} = without_comments(slurp($file));

		$typedefs{$1} = 1 while $source =~ /\b([a-z]\w*_t)\b/g;
		while ($source =~ /^typedef\b((?:[^;{}]|$braces)*);/gm)
		{
			my $type = $1 =~ s/$braces//gr;

			$typedefs{$1} = 1
			  if $type =~ /\(\s*\*\s*(\w+)\s*\)/ || $type =~ /(\w+)\s*(?:\[[^]]*\]|\([^()]*\))?\s*$/;
		}
	}
	foreach my $file (@files)
	{
		my @others =
		  grep { $source{$file} =~ /\w[ \t]+\**$_\s*(?:\[[^]]*\]\s*)?[;=,)]|#define\s+$_\b/ } @ambiguous;
		push @{ $of_kind{"@others"} }, $file;
	}

	my $n = 0;
	foreach my $kind (sort keys %of_kind)
	{
		my %not = map { $_ => 1 } split(/ /, $kind);
		$n++;
		open(my $out, '>', "$directory/$n.typedefs") or die "could not write to $directory: $!";
		print $out map { "$_\n" } grep { !$not{$_} } sort keys %typedefs;
		close $out;
		open($out, '>', "$directory/$n.files") or die "could not write to $directory: $!";
		print $out map { "$_\n" } @{ $of_kind{$kind} };
		close $out;
	}
	return;
}

my %commands = (
	lines => \&check_lines,
	macros => \&check_macros,
	house => \&check_house,
	symbols => \&check_symbols,
	typedefs => \&make_typedefs);
my $command = $commands{ shift(@ARGV) // '' } or die "see the head of $0";
$command->(@ARGV);
exit $wrong;
