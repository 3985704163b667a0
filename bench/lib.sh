# lib.sh - what the rows share: the server, rounds, medians, the report.
# shellcheck shell=bash

die()
{
	printf 'bench: %s\n' "$*" >&2
	exit 1
}

# Progress for whoever watches, kept with the raw lines.
say()
{
	printf '%s\n' "$*" | tee -a "$results" >&2
}

#
# Server
#

start_server()
{
	local preload=$1

	"$bindir/initdb" -D "$run/data" -U bench -A trust --no-sync \
		-E UTF8 --locale=C >"$run/initdb.log" || die "initdb failed, see $run/initdb.log"
	cat >>"$run/data/postgresql.conf" <<-CONF
		listen_addresses = ''
		unix_socket_directories = '$run'
		port = $port
		max_connections = 50
		shared_preload_libraries = '$preload'
		fsync = on
		full_page_writes = on
		shared_buffers = 2GB
		max_wal_size = 16GB
		min_wal_size = 4GB
		checkpoint_timeout = 1h
		autovacuum_naptime = 10s
		jit = off
	CONF
	"$bindir/pg_ctl" -D "$run/data" -l "$run/server.log" -w start >/dev/null ||
		die "the server does not start, see $run/server.log"
	trap stop_everything EXIT
	trap 'exit 1' INT TERM
}

stop_everything()
{
	local pid

	for pid in "${background[@]}"; do
		kill "$pid" 2>/dev/null
	done
	"$bindir/pg_ctl" -D "$run/data" -m fast -w stop >/dev/null 2>&1
	if [[ $keep == no ]]; then
		rm -rf "$run/data"
	fi
}

sql()
{
	"$bindir/psql" -X -q -A -t -v ON_ERROR_STOP=1 "$@"
}

# Run a file of SQL with variables, e.g. sql_file prefill.sql -v n=1000
sql_file()
{
	local file=$1

	shift
	sql -f "$here/sql/$file" "$@" || die "$file failed"
}

# build PROGRAM LIBRARY…
build()
{
	local program=$1

	shift
	cc -O2 -I"$("$pg_config" --includedir)" -L"$("$pg_config" --libdir)" \
		-o "$run/bin/$program" "$here/$program.c" "$@" || die "cannot build $program"
}

#
# pgbench
#

# CPU time of the backends that have ended, in ticks of 10 ms, once all have but
# the caller's held_backend, if it has one.
backend_ticks()
{
	local pid

	read -r pid <"$run/data/postmaster.pid"
	# shellcheck disable=SC2009 # one that is exiting has no arguments left
	while ps --ppid "$pid" -o pid=,args= | awk -v held="${held_backend:-0}" '
		$1 != held && (/\[local\]/ || $2 ~ /^\[/) { found = 1 } END { exit !found }'; do
		sleep 0.05
	done
	awk '{ sub(/.*\) /, ""); print $14 + $15 }' "/proc/$pid/stat"
}

# The caller's variables commit and clients are options of this call.
# Prints transactions per second, their number, and the microseconds of CPU the
# backends spent on each; fails if any client did.
run_pgbench()
{
	local script=$1 out before

	shift
	before=$(backend_ticks)
	out=$(PGOPTIONS="-c synchronous_commit=${commit:-off}" \
		"$bindir/pgbench" -n -M prepared -c "${clients:-8}" -j 2 \
		-D "payload=$payload" -f "$here/sql/$script" "$@" 2>&1) ||
		die "pgbench $script failed: $out"
	awk -F '[ /]' -v ticks=$(($(backend_ticks) - before)) '
		/^number of transactions actually/ { n = $6 }
		/^tps = / { printf "%.1f %d %.2f\n", $3, n, ticks * 10000 / n; found = 1 }
		END { exit !found }' <<<"$out" ||
		die "pgbench $script printed no tps: $out"
}

#
# Rounds
#

# Run each contestant once a round, in turn: rounds ROW LABEL=COMMAND…
# A command prints one line of numbers; all lines go to raw/ROW.LABEL, except
# those of round 0, which warms up.
rounds()
{
	local row=$1 n contestant label line

	shift
	for ((n = 0; n <= ${repeat:-$rounds}; n++)); do
		for contestant in "$@"; do
			label=${contestant%%=*}
			line=$(${contestant#*=}) || exit 1
			say "  $row, round $n, $label: $line"
			[[ $n -eq 0 ]] || printf '%s\n' "$line" >>"$run/raw/$row.$label"
		done
	done
}

# median ROW LABEL [COLUMN]
median()
{
	sort -g -k "${3:-1},${3:-1}" "$run/raw/$1.$2" | awk -v c="${3:-1}" '
		{ v[NR] = $c }
		END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}

#
# A pinned snapshot
#

# Open a REPEATABLE READ transaction that stays, and close it again.
hold_snapshot()
{
	exec {snapshot}> >(sql >/dev/null)
	printf 'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class;\n' >&"$snapshot"
	until [[ $(sql -c "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'") == 1 ]]; do
		sleep 0.1
	done
}

release_snapshot()
{
	exec {snapshot}>&-
}

#
# Report
#

divide()
{
	awk -v a="$1" -v b="$2" 'BEGIN { if (b == 0) print 0; else printf "%.3f\n", a / b }'
}

# verdict WHAT VALUE OPERATOR TARGET, e.g. verdict "send, async" 1.31 ">=" 1.2
verdict()
{
	local word

	if awk -v a="$2" -v b="$4" "BEGIN { exit !(a $3 b) }"; then
		word=reached
	else
		word=MISSED
		missed=$((missed + 1))
	fi
	printf '%-62s %14s  %-9s %s\n' "$1" "$2" "$3 $4" "$word" >>"$run/table"
	say "  => $1: $2 (wanted $3 $4): $word"
}

# note WHAT VALUE: a figure that has no target
note()
{
	printf '%-62s %14s\n' "$1" "$2" >>"$run/table"
	say "  => $1: $2"
}

# ratio WHAT ROW OURS PEER COLUMN OPERATOR TARGET
ratio()
{
	local ours peer

	ours=$(median "$2" "$3" "$5")
	peer=$(median "$2" "$4" "$5")
	say "  medians of $2: $3 $ours, $4 $peer"
	verdict "$1" "$(divide "$ours" "$peer")" "$6" "$7"
}

# The CPU time of the backends for each message, which a busy machine disturbs
# less than it does throughput: cpu WHAT ROW OURS PEER COLUMN
cpu()
{
	note "$1: CPU of backends" "$(divide "$(median "$2" "$3" "$5")" "$(median "$2" "$4" "$5")")"
}

machine()
{
	local model memory

	model=$(awk -F ': *' '/^model name/{print $2; exit}' /proc/cpuinfo)
	memory=$(awk '/^MemTotal/{printf "%.0f", $2 / 1048576}' /proc/meminfo)
	printf '%s cores (%s), %s GB of memory, Linux %s, %s' "$(nproc)" "${model:-unknown}" \
		"$memory" "$(uname -r | cut -d- -f1)" "$("$bindir/postgres" --version)"
}
