# idle.sh - what the workers do when there is nothing to do.
# shellcheck shell=bash

# Per worker: name, CPU ticks, voluntary context switches.
idle_sample()
{
	local pid name

	sql -F ' ' -c "SELECT pid, replace(backend_type, ' ', '_') FROM pg_stat_activity
		WHERE backend_type LIKE 'queue%' ORDER BY 2, 1" |
		while read -r pid name; do
			printf '%s %s %s\n' "$name" \
				"$(awk '{ sub(/.*\) /, ""); print $12 + $13 }' "/proc/$pid/stat")" \
				"$(awk '/^voluntary/{ print $2 }' "/proc/$pid/status")"
		done
}

row_idle()
{
	local length=60 name ticks switches before=() after=() i ticks_before switches_before

	for ((i = 1; i <= 10; i++)); do
		sql -c "SELECT queue.create('idle_$i')" >/dev/null || exit 1
	done
	sleep 15
	mapfile -t before < <(idle_sample)
	sleep "$length"
	mapfile -t after < <(idle_sample)
	[[ ${#before[@]} -gt 0 ]] || die 'no worker of queue is running'
	[[ ${#before[@]} -eq ${#after[@]} ]] || die 'workers came or went'
	for i in "${!after[@]}"; do
		read -r name ticks switches <<<"${after[i]}"
		read -r _ ticks_before switches_before <<<"${before[i]}"
		verdict "idle, ${name//_/ }: CPU ticks (10 ms) in $length s" $((ticks - ticks_before)) '<=' 1
		verdict "idle, ${name//_/ }: wake-ups a second" \
			"$(divide $((switches - switches_before)) "$length")" '<=' 1
	done
	for ((i = 1; i <= 10; i++)); do
		sql -c "SELECT queue.drop('idle_$i')" >/dev/null
	done
}
