# shellcheck shell=bash
#
# asserts.sh
#	A PostgreSQL with assertions: Debian's source package of the one in use,
#	built once and kept.  What "test/run --asserts" runs against; sourced after
#	setup.sh.
#
#	It is kept as asserts-VERSION in /var/cache/queue-test (~/.cache/queue-test,
#	or $XDG_CACHE_HOME/queue-test); remove that directory to have it made anew.

# The machine's own package sources that have this package, as sources of
# source packages.  They may be in the format of one line, or of a paragraph.
source_lists()
{
	local to=$1 package=$2 uri file

	mkdir -p "$to"
	for uri in $(apt-cache madison "$package" | awk -F '|' '{ split($3, part, " "); sub(/\/$/, "", part[1]); print part[1] }' | sort -u); do
		for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
			[ ! -e "$file" ] || awk -v uri="$uri" '$1 == "deb" && index($0 " ", uri) { $1 = "deb-src"; print }' "$file"
		done
	done | sort -u >"$to/ours.list"
	for file in /etc/apt/sources.list.d/*.sources; do
		[ ! -e "$file" ] || sed 's/^Types:.*/Types: deb-src/' "$file"
		say
	done | awk -v RS= -v ORS='\n\n' -v uris="$(apt-cache madison "$package")" '{
		if (match($0, /\nURIs:[^\n]*/)) {
			n = split(substr($0, RSTART + 7, RLENGTH - 7), uri, " ")
			for (i = 1; i <= n; i++) {
				sub(/\/$/, "", uri[i])
				if (index(uris, uri[i])) { print; break }
			}
		}
	}' >"$to/ours.sources"
}

# Get the source package and unpack it into a directory: of this version, or of
# the newest that the mirror still has.  Without Debian's patches, which set the
# directories of an installation, whatever configure is told.
get_source()
{
	local to=$1 package=$2 version=$3 settings other

	source_lists "$to/sources" "$package"
	mkdir -p "$to/lists/partial" "$to/cache/archives/partial" "$to/package"
	settings=(-o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$to/sources"
		-o Dir::State::Lists="$to/lists" -o Dir::Cache="$to/cache" -o APT::Sandbox::User=)
	apt-get -q "${settings[@]}" update || return
	for other in "$version" $(apt-cache "${settings[@]}" showsrc --only-source "$package" | sed -n 's/^Version: //p' | sort -urV); do
		if (cd "$to/package" && apt-get -q "${settings[@]}" --download-only source "$package=$other"); then
			as_user dpkg-source --skip-patches --extract "$to"/package/*.dsc "$to/source"
			return
		fi
		rm -rf "${to:?}/package"
		mkdir "$to/package"
	done
	return 1
}

# As the unprivileged user, whose it is: nothing can be overwritten but that.
build_postgresql()
{
	# shellcheck disable=SC2016 # expanded there
	as_user bash -ec 'cd "$1"
		./configure --prefix="$2" --enable-cassert --enable-debug --enable-tap-tests --with-openssl \
			--without-icu --without-readline CFLAGS="-O1 -fno-omit-frame-pointer"
		make -s -j"$(nproc)" world-bin
		make -s install-world-bin' - "$1" "$2"
}

# Have the tests run against it: pg_config and bin are its from here on.  After
# prepare_directory.
use_asserts()
{
	local reported version package cache prefix work

	reported=$("$pg_config" --version)
	package=${reported#PostgreSQL }
	package=postgresql-${package%%[!0-9]*}
	version=$(sed -n 's/.*(\(Debian\|Ubuntu\) \([^ )]*\).*/\2/p' <<<"$reported")
	[ -n "$version" ] || fail "there is no source package of $reported ($pg_config), which is not Debian's"

	cache=$(cache_directory)
	prefix=$cache/asserts-$version
	work=$prefix.new
	if [ ! -e "$prefix/complete" ]; then
		install_packages bison dpkg-dev flex libssl-dev patch perl xz-utils zlib1g-dev
		step "Getting the source package of $package $version, output in $prefix.log"
		mkdir -p "$cache"
		rm -rf --one-file-system "$work" "$prefix"
		mkdir "$work" "$prefix"
		if [ "$(id -u)" -eq 0 ]; then
			# shellcheck disable=SC2154 # setup.sh's
			chown "$user:" "$work" "$prefix"
		fi
		get_source "$work" "$package" "$version" >"$prefix.log" 2>&1 ||
			{ tail -n 5 "$prefix.log"; fail "the source package of $package cannot be had here"; }
		step "Building it with assertions in $prefix"
		build_postgresql "$work/source" "$prefix" >>"$prefix.log" 2>&1 ||
			{ tail -n 20 "$prefix.log"; fail "$package $version could not be built, see $prefix.log"; }
		rm -rf --one-file-system "$work"
		: >"$prefix/complete"
	fi
	pg_config=$prefix/bin/pg_config
	# shellcheck disable=SC2034 # setup.sh's
	bin=$("$pg_config" --bindir)
	[[ $("$pg_config" --pkglibdir)/ == "$prefix"/* ]] || fail "$pg_config would install elsewhere"
}
