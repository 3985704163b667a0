#!/bin/bash
#
# release.sh
#	Run the tests as another release of Debian would: in a system of its own,
#	made by debootstrap and kept for the next time.  What "test/run --release"
#	does.
#
# Usage: release.sh name [argument of test/run ...]
#
#	The system is /var/cache/queue-test/NAME (or $XDG_CACHE_HOME/queue-test/NAME);
#	remove that directory to have it made anew.  Everything runs in namespaces
#	of its own, which end with it: no process, mount or shared memory stays.
#
#	The status is that of test/run, or 77 if the system could not be made.

set -euo pipefail

# shellcheck source=scripts/setup.sh
. "$(dirname "$0")/setup.sh"
# shellcheck source=scripts/kafka.sh
. "$root/scripts/kafka.sh"

not_made=77
kept=(HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)
for variable in http_proxy https_proxy no_proxy QUEUE_TEST_TIMEOUT; do
	[ -z "${!variable:-}" ] || kept+=("$variable=${!variable}")
done

cannot()
{
	say "$0: $*"
	exit $not_made
}

apt_settings()
{
	apt-config dump Acquire | grep -E '^Acquire::(https?::Proxy|Check-|Force|Retries)' || true
}

# In namespaces of our own from here on: /proc is theirs, and mounts are ours.
make_system()
{
	local system=$1 new=$1.new script=() packages

	if [ ! -d "$system" ]; then
		step "Making a system of the release $release in $system"
		packages=$(mirror)
		rm -rf --one-file-system "$new"
		# One that this debootstrap has not heard of is like the newest.
		[ -e "/usr/share/debootstrap/scripts/$release" ] || script=(/usr/share/debootstrap/scripts/sid)
		debootstrap --variant=minbase --include=ca-certificates,netbase \
			"$release" "$new" "$packages" "${script[@]}" >"$new.log" 2>&1 ||
			{ tail -n 5 "$new.log"; return 1; }
		rm -f "$new.log"
		mv "$new" "$system" || return
	fi
	if [ -d "${QUEUE_KAFKA:-}" ]; then
		mkdir -p "$system/var/cache/queue-test"
		cp -rn "$QUEUE_KAFKA" "$system/var/cache/queue-test/" || return
	fi
	apt_settings >"$system/etc/apt/apt.conf.d/90queue-test" &&
		cp -L /etc/resolv.conf /etc/hosts "$system/etc/" &&
		mkdir -p "$system/queue" &&
		mount --bind "$root" "$system/queue" &&
		mount -o remount,bind,ro "$system/queue" &&
		mount -t proc proc "$system/proc" &&
		mkdir -p "$system/dev/shm" &&
		mount -t tmpfs -o mode=1777 shm "$system/dev/shm" &&
		mount -t tmpfs -o mode=1777 tmp "$system/tmp" &&
		within "$system" /queue/test/run --prepare "${@:2}"
}

within()
{
	chroot "$1" /usr/bin/env -i "${kept[@]}" "${@:2}"
}

# Called again, by ourselves below.
if [ "${1:-}" = --inside ]; then
	system=$2
	release=$(basename "$system")
	shift 2
	make_system "$system" "$@" || exit $not_made
	within "$system" /queue/test/run "$@"
	exit
fi

inside=
counted=
finish()
{
	local status=$?

	trap '' INT TERM HUP
	if [ -n "$inside" ]; then
		kill -KILL "$inside" 2>/dev/null || true
		wait "$inside" 2>/dev/null || true
	fi
	if [ -z "$counted" ]; then
		say '0 passed, 1 failed'
	fi
	exit "$status"
}
at_end finish

release=${1:-}
[[ $release =~ ^[a-z]+$ ]] || fail "there is no release \"$release\": bookworm, trixie and forky are some"
shift
if [ "$(id -u)" -ne 0 ]; then
	{ command -v sudo >/dev/null && sudo -v; } || cannot 'this needs root'
	exec sudo --preserve-env=XDG_CACHE_HOME,http_proxy,https_proxy,no_proxy,QUEUE_TEST_TIMEOUT \
		"$0" "$release" "$@"
fi

cache=$(cache_directory)
(install_packages debootstrap) || cannot 'there is no debootstrap'
mkdir -p "$cache" || cannot 'there is no place to keep it'
unshare --mount --pid --ipc --fork --mount-proc true || cannot 'namespaces are not allowed here'
exec 9>"$cache/$release.lock"
flock -n 9 || fail "another run is using $cache/$release"

# What Maven reaches here it need not reach in there.
get_kafka
export QUEUE_KAFKA=$kafka

# The end of unshare is that of all in its namespaces, and ours is that of unshare.
setpriv --pdeathsig KILL unshare --mount --pid --ipc --fork --kill-child --mount-proc \
	"$0" --inside "$cache/$release" "$@" &
inside=$!
status=0
wait "$inside" || status=$?
inside=
[ $status -ne $not_made ] || cannot "no system of the release $release could be made"
counted=yes
exit $status
