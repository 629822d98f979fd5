#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# Run one suite, or a whole command, many times, and say how often it failed.
#   check-often.sh [-n TIMES] [-b BUSY] [-o DIR] BUILD-DIR TEST       a test of Meson, by its name
#   check-often.sh [-n TIMES] [-b BUSY] [-o DIR] -- COMMAND...        any command: make check
#   check-often.sh --control                                          what it must notice, is noticed
# -n: 30. -b: busy processes for each processor (0). -o: where the logs and summary.json go (./often).
# A line for each run: number, seconds, passed, failed. Passed and failed are those of the last line "N passed, M failed", or
# else the exit status decides. Exit 0: no run failed.
set -u
times=30 busy=0 out=often

control() {
	dir=$(mktemp -d)
	rc=0
	sh "$0" -n 3 -o "$dir" -- true >"$dir/text" && grep -q '"runs": 3, "bad": 0' "$dir/summary.json" || rc=1
	# shellcheck disable=SC2016
	sh "$0" -n 4 -b 1 -o "$dir" -- sh -c "echo x >>$dir/n; [ \$(wc -l <$dir/n) != 2 ]" >"$dir/text" && rc=1
	grep -q '"runs": 4, "bad": 1' "$dir/summary.json" && grep -q '^2 .* failed 1' "$dir/text" || rc=1
	sh "$0" -n 1 -o "$dir" -- echo "7 passed, 2 failed" >"$dir/text" && rc=1 # whatever its status
	grep -q 'passed 7 failed 2' "$dir/text" || rc=1
	rm -rf "$dir"
	[ "$rc" = 0 ] && echo "1 passed, 0 failed" || echo "0 passed, 1 failed"
	exit "$rc"
}

while [ $# -gt 0 ]; do
	case $1 in
	-n) times=$2 && shift ;;
	-b) busy=$2 && shift ;;
	-o) out=$2 && shift ;;
	--control) control ;;
	*) break ;;
	esac
	shift
done
if [ "${1:-}" = -- ]; then
	shift
elif [ $# = 2 ]; then
	set -- meson test -C "$1" --no-rebuild --print-errorlogs "$2"
else
	sed -n 's/^# \{0,1\}//; 3,9p' "$0" >&2
	exit 2
fi
mkdir -p "$out"

spinners=
stop() {
	# shellcheck disable=SC2086
	[ -z "$spinners" ] || kill $spinners 2>/dev/null
}
trap stop EXIT
trap 'exit 130' INT TERM
i=0
while [ "$i" -lt $((busy * $(nproc))) ]; do
	(while :; do :; done) &
	spinners="$spinners $!"
	i=$((i + 1))
done

bad=0 lines= run=1
while [ "$run" -le "$times" ]; do
	began=$(date +%s) rc=0
	"$@" >"$out/$run.log" 2>&1 </dev/null || rc=$?
	took=$(($(date +%s) - began))
	counts=$(sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$out/$run.log" | tail -n 1)
	[ -n "$counts" ] || counts="$((rc == 0)) $((rc != 0))"
	passed=${counts% *} failed=${counts#* }
	[ "$rc" = 0 ] || [ "$failed" -gt 0 ] || failed=1
	[ "$failed" = 0 ] || bad=$((bad + 1))
	echo "$run seconds $took passed $passed failed $failed"
	lines="$lines${lines:+, }{\"run\": $run, \"seconds\": $took, \"passed\": $passed, \"failed\": $failed}"
	run=$((run + 1))
done
echo "{\"runs\": $times, \"bad\": $bad, \"busy\": $busy, \"results\": [$lines]}" >"$out/summary.json"
echo "$((times - bad)) runs passed, $bad failed"
[ "$bad" = 0 ]
