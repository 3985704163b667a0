# wakeup.sh - from COMMIT to a waiting consumer holding the message.
# shellcheck shell=bash

wakeup_round()
{
	local commit=$1 out

	out=$(PGOPTIONS="-c synchronous_commit=$commit" "$run/bin/wakeup" $((seconds * 50))) || exit 1
	awk '{ printf "%s ", $2 } END { print "" }' <<<"$out"
}

row_wakeup()
{
	local commit

	build wakeup -lpq -lpthread
	sql -c "SELECT queue.purge('bench')" -c 'TRUNCATE bench.handwritten' >/dev/null
	for commit in off on; do
		rounds "wakeup_$commit" both="wakeup_round $commit"
	done
	verdict 'wake-up / LISTEN + hand-written, async: median latency' \
		"$(divide "$(median wakeup_off both 1)" "$(median wakeup_off both 2)")" '<=' 0.7
	note 'wake-up / LISTEN + hand-written, sync: median latency' \
		"$(divide "$(median wakeup_on both 1)" "$(median wakeup_on both 2)")"
}
