#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# Judge a run of the guest by what it left in OUT: results (what init told), console (what the kernel printed), status
# (QEMU's). Says what is wrong; the last line is "NAME: P passed, F failed, S skipped".   judge.sh NAME OUT
set -u
name=$1 out=$2
touch "$out/results" "$out/console" "$out/status"
status=$(cat "$out/status")
problems=0

problem() {
	echo "not ok - $name: $*"
	problems=$((problems + 1))
}

# What the results say of themselves: no line is lost, and the end is there.
awk '
	/^# run / { running = substr($0, 7) }
	/^(not )?ok [0-9]+ - / {
		n++
		at = $1 == "not" ? $3 : $2
		if (at != n) { print "result " at " came as number " n; n = at }
		if ($1 == "not") failed++
		else if (/ # SKIP /) skipped++
		else passed++
		if (index($0, " - " running " ") || $0 ~ " - " running "$") running = ""
	}
	/^#file / { file = $2 }
	/^#end / { file = "" }
	/^1\.\.[0-9]+$/ { plan = substr($0, 4) }
	/^# end: / { end = $0 }
	END {
		want = "# end: " passed + 0 " passed, " failed + 0 " failed, " skipped + 0 " skipped"
		if (!NR) print "the guest said nothing at all"
		else if (running != "") print "the guest ended in the test " running
		if (file != "") print "the file " file " is not whole"
		if (end == "") print "there is no end line"
		else if (end != want || plan != n) print "the guest ended with \"" end "\" and 1.." plan ", the lines say \"" want "\""
		print passed + 0, failed + 0, skipped + 0 >COUNTS
	}' COUNTS="$out/counts" "$out/results" >"$out/problems"
read -r passed failed skipped <"$out/counts"
while read -r line; do
	problem "$line"
done <"$out/problems"

# Whatever the kernel complains of, one line each; where the first is, the log is shown.
complaints='WARNING|BUG[: ]|Oops|Kernel panic|KASAN|KFENCE|KCSAN|UBSAN|general protection|Call Trace|refcount_t:'
complaints="$complaints|Objects remaining|Bad page|bad page|Poison overwritten|Redzone|pagealloc:|page dumped because"
complaints="$complaints|list_(add|del) corruption|usercopy: |blocked for more than|detected stall|rcu.*stall"
complaints="$complaints|soft lockup|hard LOCKUP|waiting for .* to become free|leaked|double free|NULL pointer"
complaints="$complaints|unable to handle|kernel stack overflow|scheduling while atomic|Out of memory|oom-kill"
tr -d '\r' <"$out/console" | sed 's/\x1b[^a-zA-Z]*[a-zA-Z]//g' >"$out/console.txt"
first=$(grep -nE "$complaints" "$out/console.txt" | head -n 1)
if [ -n "$first" ]; then
	problem "the kernel complained: ${first#*:}"
	tail -n +"${first%%:*}" "$out/console.txt" | head -n 60 | sed 's/^/#   /'
fi

want=33
[ "$failed" = 0 ] && [ "$passed" -gt 0 ] || want=35
case $status in
"$want") ;;
124 | 137) problem "QEMU was ended: the time is over" ;;
0) problem "the guest restarted or switched itself off (QEMU's status is 0, not $want)" ;;
*) problem "QEMU's status is ${status:-missing}, not $want" ;;
esac
if [ "$problems" -gt 0 ]; then
	echo "# the end of the kernel's log:"
	tail -n 15 "$out/console.txt" | sed 's/^/#   /'
fi

failed=$((failed + problems))
echo "$name: $passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
