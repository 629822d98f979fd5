# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# shellcheck shell=sh disable=SC2154,SC2034
# For run.sh --two --control: whatever goes wrong in one of two guests is noticed, in either.
set +e
. "$here/control-lib.sh"

# both WANT FIRST SECOND: two runs of the past, each good or as bad as its name says
both() {
	for run in "$2" "$3"; do
		sample
		case $run in
		unfinished) sed -i '/^# end/d' "$dir/sample/results" ;;
		warned) printf '[    2.0] WARNING: CPU: 1 PID: 140 at mm/gup.c:1234\r\n' >>"$dir/sample/console" ;;
		stopped) echo 124 >"$dir/sample/status" ;;
		missing) rm -r "$dir/sample" && mkdir "$dir/sample" ;;
		esac
		rm -rf "$dir/sample-$run"
		mv "$dir/sample" "$dir/sample-$run"
	done
	both_good "$dir/sample-$2" "$dir/sample-$3" >"$dir/sample-verdict" 2>&1
	[ "$?" = "$1" ]
	noticed "two guests, $2 and $3"
}
both 0 good good
for worse in unfinished warned stopped missing; do
	both 1 good $worse
	both 1 $worse good
done

echo "# two guests in which things go wrong"
grace=5
two_guests two-control.list 300
for node in 1 2; do
	judged "$dir/node$node"
done
says "$dir/node1" 'the time is over' && says "$dir/node1" 'in the test stays'
noticed "the first of two guests doesn't end"
says "$dir/node2" 'the kernel complained: .*guest_control|WARNING' && says "$dir/node2" 'in the test warns'
noticed "the kernel of the second one warns"
! both_good "$dir/node1" "$dir/node2" >"$dir/sample-verdict" 2>&1
noticed "such a run of two is a failure"

echo "guest controls of two, $series: $good passed, $bad failed"
[ "$bad" = 0 ]
