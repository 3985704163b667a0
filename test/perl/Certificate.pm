# Certificates for localhost, of an authority of its own, for the servers of tests.

package Certificate;

use strict;
use warnings;

use PostgreSQL::Test::Utils;

# Make in a directory the authority's ca.crt, and server.key and server.crt of
# "localhost" and other names; and server.pem, the two of them in one.
sub make
{
	my ($dir, @names) = @_;
	my @new = qw(openssl req -new -newkey rsa:2048 -nodes);

	append_to_file("$dir/san", "subjectAltName=" . join(',', map { "DNS:$_" } 'localhost', @names) . "\n");
	system_or_bail(
		@new, '-x509', '-days', '2', '-subj', '/CN=test authority',
		'-keyout', "$dir/ca.key", '-out', "$dir/ca.crt");
	system_or_bail(@new, '-subj', '/CN=localhost', '-keyout', "$dir/server.key", '-out', "$dir/server.csr");
	system_or_bail(
		'openssl', 'x509', '-req', '-days', '2', '-CAcreateserial',
		'-in', "$dir/server.csr", '-CA', "$dir/ca.crt", '-CAkey', "$dir/ca.key",
		'-extfile', "$dir/san", '-out', "$dir/server.crt");
	append_to_file("$dir/server.pem", slurp_file("$dir/server.key") . slurp_file("$dir/server.crt"));
	chmod(0600, "$dir/server.key", "$dir/server.pem") or die $!;
	return;
}

1;
