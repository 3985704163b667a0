# shellcheck shell=bash
#
# setup.sh
#	What demo/run and test/run share: packages, an unprivileged user, one
#	directory for everything they start, and the build in it.
#
# Sets: root, the checkout; pg_config and bin, the PostgreSQL to use; user, who
# runs servers; dir, the directory; mark, which tells our processes from others,
# once the directory is ours.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# The oldest PostgreSQL that will do, and the caller's own choice.
oldest=15
chosen=${PG_CONFIG:-}

# A trap can run while the output is going to a file; it says what it has to
# say here.
exec 3>&1

# Nothing of the caller's may lead us to another server.
unset "${!PG@}"

say()
{
	printf '%s\n' "$*"
}

step()
{
	printf '\n[%4ds] %s\n' "$SECONDS" "$*"
}

fail()
{
	printf '%s: %s\n' "$0" "$*" >&2
	exit 1
}

# Call a function at the end, however it comes.
at_end()
{
	# shellcheck disable=SC2064 # its name is known now
	trap "$1" EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
}

as_root()
{
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		fail "this needs root, and there is no sudo: $*"
	fi
}

# Run a command as the unprivileged user, with an environment that keeps what
# it writes in our directory and lets end_processes recognise it.
as_user()
{
	local command=(env -u LANG QUEUE_RUN="$mark" HOME="$dir/tmp" TMPDIR="$dir/tmp" LC_ALL=C.UTF-8 PATH="$bin:$PATH" "$@")

	if [ "$(id -u)" -eq 0 ]; then
		command=(runuser -u "$user" -- "${command[@]}")
	fi
	(cd "$dir" && exec "${command[@]}" 3>&- 9>&-)
}

installed()
{
	dpkg-query -W -f '${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed
}

# Can the package be had from where this machine gets its packages?
available()
{
	LC_ALL=C apt-cache policy "$1" 2>/dev/null | grep -q '^  Candidate: [^(]'
}

update_package_lists()
{
	as_root env DEBIAN_FRONTEND=noninteractive apt-get -q update 2>&1 | show_apt || true
}

# How this machine reaches its mirror of Debian.
mirror()
{
	# shellcheck disable=SC2016 # apt-get fills it in
	apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
		grep -m 1 -E '^https?://.*/debian/?$' || say http://deb.debian.org/debian
}

# Where what takes long to get is kept, from one run to the next.
cache_directory()
{
	local base=${HOME:-/var/tmp}/.cache

	if [ "$(id -u)" -eq 0 ]; then
		base=/var/cache
	fi
	base=$(realpath -m "${XDG_CACHE_HOME:-$base}")/queue-test
	[[ $base/ != "$root"/* ]] || fail "$base is inside the checkout (set XDG_CACHE_HOME)"
	say "$base"
}

# Install those of the packages that are missing, without letting Debian start
# the services some of them bring.
install_packages()
{
	local package missing=() policy=/usr/sbin/policy-rc.d ours='# Written by queue, and removed again.'

	for package; do
		installed "$package" || missing+=("$package")
	done
	if [ ${#missing[@]} -eq 0 ]; then
		return
	fi

	# Another run of ours may be installing, too.
	step "Installing ${missing[*]}"
	exec 8</var/lib/apt/lists
	flock 8
	if [ ! -e "$policy" ]; then
		printf '#!/bin/sh\n%s\nexit 101\n' "$ours" | as_root tee "$policy" >/dev/null
		as_root chmod 755 "$policy"
	fi
	(
		trap 'if grep -qxF "$ours" "$policy"; then as_root rm -f "$policy"; fi' EXIT
		update_package_lists
		as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0 \
			install --no-install-recommends "${missing[@]}" </dev/null 2>&1 | show_apt
	) || fail "apt-get could not install ${missing[*]}"
	exec 8<&-

	# A service that was not wanted before should not run after the next boot.
	for package in rabbitmq-server redis-server pgbouncer nginx; do
		if [[ " ${missing[*]} " == *" $package "* ]]; then
			as_root update-rc.d "$package" disable >/dev/null 2>&1 || true
		fi
	done
}

# The lines of apt-get's output that say how far it is.
show_apt()
{
	perl -ne 'BEGIN { $| = 1 }
		print "        $_" if /^(Need to get|Fetched|E:|W:)/;
		print "        $n packages set up\n" if /^Setting up/ && ++$n % 20 == 0'
}

# The major version of PostgreSQL to use: the newest that is installed and has
# its headers or can get them, else what the distribution offers.
major_version()
{
	local major

	for major in $(find /usr/lib/postgresql -path '*/bin/postgres' 2>/dev/null | cut -d/ -f5 | sort -rn); do
		if [ "$major" -ge "$oldest" ] &&
			{ installed "postgresql-server-dev-$major" || available "postgresql-server-dev-$major"; }; then
			say "$major"
			return
		fi
	done
	LC_ALL=C apt-cache depends postgresql 2>/dev/null | sed -n 's/^ *Depends: postgresql-\([0-9]*\)$/\1/p'
}

# Choose a PostgreSQL, unless PG_CONFIG names one of the caller's own.
choose_postgresql()
{
	if [ -n "$chosen" ]; then
		major=
		pg_config=$(command -v "$chosen") || fail "there is no $chosen"
		return
	fi
	major=$(major_version)
	if [ -z "$major" ]; then
		step 'Asking what packages there are'
		update_package_lists
		major=$(major_version)
	fi
	if [ "${major:-0}" -lt "$oldest" ]; then
		fail "the newest PostgreSQL to be had here is ${major:-none}, and $oldest is needed (set PG_CONFIG to use one of your own)"
	fi
	pg_config=/usr/lib/postgresql/$major/bin/pg_config
}

# Install the packages that build and run the extension, and those named.
install_postgresql()
{
	local packages=(gcc libc6-dev make)

	choose_postgresql
	if [ -n "$major" ]; then
		packages+=("postgresql-$major" "postgresql-server-dev-$major")
	fi
	install_packages "${packages[@]}" "$@"
	[ -x "$pg_config" ] || fail "there is no $pg_config (set PG_CONFIG to choose another PostgreSQL)"
	bin=$("$pg_config" --bindir)
}

# Choose the user and the directory, and make sure that nobody else's work is
# in the way.  The name is stable, so that a second run finds what the first
# left behind.
prepare_directory()
{
	local base

	if [ "$(id -u)" -ne 0 ]; then
		user=$(id -un)
	elif id postgres >/dev/null 2>&1; then
		user=postgres
	else
		user=nobody
	fi

	# The user must be able to get there, and a socket's path is short.
	base=${TMPDIR:-/var/tmp}
	if [ ${#base} -gt 60 ] ||
		{ [ "$(id -u)" -eq 0 ] && ! runuser -u "$user" -- test -x "$base/"; }; then
		base=/var/tmp
	fi
	dir=$(realpath "$base")/$1-$(id -u)

	if ! mkdir -m 755 "$dir" 2>/dev/null && { [ -L "$dir" ] || [ ! -d "$dir" ] || [ ! -O "$dir" ]; }; then
		fail "$dir is in the way: it is not a directory of $(id -un)"
	fi
	exec 9>"$dir/lock"
	flock -n 9 || fail "another run is using $dir (set TMPDIR to choose another place)"

	# Containers may have a directory of the same name.
	mark=$dir:$(stat -c %d:%i "$dir")
	own_directory tmp
}

# Make a directory of the unprivileged user's in ours: a new, empty one, or one
# that is there for the next run too.
own_directory()
{
	rm -rf "${dir:?}/$1"
	keep_directory "$1"
}

keep_directory()
{
	if [ ! -d "$dir/$1" ]; then
		mkdir -m 700 "$dir/$1"
	fi
	if [ "$(id -u)" -eq 0 ]; then
		chown "$user:" "$dir/$1"
	fi
}

# Build a copy of the checkout in our directory.
compile()
{
	step "Building with $("$pg_config" --version) in $dir/build"
	own_directory build
	tar -C "$root" --exclude=./.git --exclude='*.o' --exclude='*.bc' --exclude='*.so' \
		--exclude='./tmp_*' -cf - . | as_user tar -C "$dir/build" -xf -
	as_user make -s -C "$dir/build" -j"$(nproc)" PG_CONFIG="$pg_config" "$@" >"$dir/build.log" 2>&1 ||
		{ tail -n 40 "$dir/build.log"; fail "the build failed, see $dir/build.log"; }
}

# The same, and install it.
build()
{
	local installer=() target

	compile "$@"
	for target in "$("$pg_config" --pkglibdir)" "$("$pg_config" --sharedir)/extension"; do
		[ -w "$target" ] || installer=(as_root)
	done
	"${installer[@]}" make -s -C "$dir/build" PG_CONFIG="$pg_config" install >>"$dir/build.log" 2>&1 ||
		{ tail -n 20 "$dir/build.log"; fail "make install failed, see $dir/build.log"; }
	say "        installed in $("$pg_config" --pkglibdir)"
}

# Processes that as_user started, or that were started by those.
our_processes()
{
	local environ

	for environ in /proc/[0-9]*/environ; do
		if grep -zqsxF "QUEUE_RUN=$mark" "$environ"; then
			basename "${environ%/environ}"
		fi
	done
}

# End whatever is left of them: servers by an immediate shutdown.
end_processes()
{
	local pids signal i

	for signal in QUIT TERM KILL; do
		for ((i = 0; i < 100; i++)); do
			mapfile -t pids < <(our_processes)
			[ ${#pids[@]} -gt 0 ] || return 0
			[ $i -gt 0 ] || kill -s "$signal" "${pids[@]}" 2>/dev/null || true
			sleep 0.1
		done
	done
}
