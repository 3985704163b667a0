# A name whose look-up does not end, for servers that are started after hang(): in
# threads that no signal may reach, as those are where look-ups may wait.

package HungLookup;

use strict;
use warnings;

use PostgreSQL::Test::Utils;

sub name { return 'slow.example'; }

# From now on, for programs that are started.
sub hang
{
	my $library = PostgreSQL::Test::Utils::tempdir() . '/lookups';

	append_to_file(
		"$library.c", q{
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>
int
getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **result)
{
	int			(*next) (const char *, const char *, const struct addrinfo *, struct addrinfo **);
	sigset_t	blocked;

	next = (int (*) (const char *, const char *, const struct addrinfo *, struct addrinfo **))
		dlsym(RTLD_NEXT, "getaddrinfo");
	if (name == NULL || strcmp(name, "slow.example") != 0)
		return next(name, service, hints, result);
	pthread_sigmask(SIG_SETMASK, NULL, &blocked);
	while (sigismember(&blocked, SIGTERM) && sigismember(&blocked, SIGUSR1))
		sleep(3600);
	return EAI_FAIL;
}
});
	system_or_bail('cc', '-shared', '-fPIC', '-o', "$library.so", "$library.c", '-ldl');
	$ENV{LD_PRELOAD} = join(' ', grep { $_ } $ENV{LD_PRELOAD}, "$library.so");
	return;
}

1;
