#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# `holdfast torture` and `holdfast doctor` as a user sees them. $1: the path of holdfast.
set -u
tool=$1
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
failures=0

fault() {
	echo "not ok: $*"
	failures=$((failures + 1))
}

# expect CODE WHAT COMMAND...: run it with its output in $out/text
expect() {
	want=$1
	what=$2
	shift 2
	"$@" >"$out/text" 2>"$out/errors"
	got=$?
	if [ "$got" -ne "$want" ]; then
		fault "$what: exit $got, not $want"
		cat "$out/errors"
		grep -E 'STALE|FAILED' "$out/text"
	else
		echo "ok: $what"
	fi
}

# The same with ever more time until `condition` is true as well: how much is done in a second is the machine's affair. Exit 0
# where 1 is wanted is none but that it hasn't come about yet.   expect_in_time CODE WHAT CONDITION COMMAND...
expect_in_time() {
	want=$1
	what=$2
	condition=$3
	shift 3
	for seconds in 2 8 32 128; do
		"$@" --seconds $seconds >"$out/text" 2>"$out/errors"
		got=$?
		[ "$got" -ne "$want" ] && [ "$got" -ne 0 ] && break
		[ "$got" -eq "$want" ] && eval "$condition" && break
	done
	if [ "$got" -ne "$want" ]; then
		fault "$what: exit $got, not $want"
		cat "$out/errors"
		grep -E 'STALE|FAILED' "$out/text"
	elif ! eval "$condition"; then
		fault "$what: not even in $seconds seconds: $condition"
	else
		echo "ok: $what"
	fi
}

# The first number under a key of the report: the total.
total() {
	grep -o "\"$1\": *[0-9]*" "$out/text" | head -n 1 | grep -o '[0-9]*$'
}

has() {
	[ "$(total "$1")" "$2" "$3" ]
}

is() {
	[ "$(total "$1")" "$2" "$3" ] || fault "$1 is $(total "$1")"
}

"$tool" doctor >"$out/doctor" 2>&1
if [ $? -eq 3 ]; then
	cat "$out/doctor"
	echo "skipped: nothing can be cached on this machine"
	exit 77
fi

expect_in_time 0 "every case, exact" "has lookups -gt 1000" "$tool" torture --threads 4 --seed 1 --json
is stale_hits -eq 0
is wrong_bytes -eq 0

expect 0 "every case, announced by the program" "$tool" torture --seconds 2 --threads 4 --proxy manual --json
is stale_hits -eq 0
is wrong_bytes -eq 0

expect_in_time 1 "the negative control" "has stale_hits -gt 0 && has wrong_bytes -gt 0 && has not_refused -gt 0" \
	"$tool" torture --threads 4 --unsafe --json

expect_in_time 1 "the negative control, races only" "has wrong_bytes -gt 0" \
	"$tool" torture --threads 2 --unsafe --case 'race-*' --json

if nm -D "$tool" | grep -q __tsan_init; then
	echo "skipped: supervise: the sanitizer's runtime unmaps with locks held that the library needs to answer"
elif "$tool" doctor --json | grep -A3 '"supervise"' | grep -q '"available": *true'; then
	expect_in_time 0 "supervise: told before, and refused (R36, R37)" "has refused -gt 100" \
		"$tool" torture --threads 4 --proxy supervise --json
	is stale_hits -eq 0
	is wrong_bytes -eq 0
	is blind_stale_hits -eq 0
	is not_refused -eq 0
else
	echo "skipped: supervise is not available here"
fi

expect 0 "fast, one thread" "$tool" torture --seconds 1 --threads 1 --mode fast --case 'munmap-*,mremap-*' --json
expect 0 "a table for people" "$tool" torture --seconds 1 --case 'madv-*,race-recycle'
awk 'length > 100 { exit 1 }' "$out/text" || fault "the table is wider than 100 columns"
for name in madv-dontneed madv-guard race-recycle; do
	grep -q "^$name " "$out/text" || fault "the table leaves $name out"
done

expect 0 "the list" "$tool" torture --list
hazard=1
while [ "$hazard" -le 24 ]; do
	grep -q "hazard  *$hazard " "$out/text" || fault "no case for hazard $hazard"
	hazard=$((hazard + 1))
done

expect 2 "an unknown case" "$tool" torture --case munmap-whole,no-such-case
grep -q no-such-case "$out/errors" || fault "the error doesn't name the case"
expect 2 "no threads" "$tool" torture --threads 0
expect 2 "an unknown proxy" "$tool" torture --proxy no-such-proxy

expect 0 "doctor" "$tool" doctor
awk 'length > 100 { exit 1 }' "$out/text" || fault "doctor is wider than 100 columns"
expect 0 "doctor --json" "$tool" doctor --json
for word in '"uffd"' '"manual"' '"none"' '"uring"' '"auto"' '"munmap-whole"'; do
	grep -q "$word" "$out/text" || fault "doctor --json doesn't mention $word"
done

# verdict ROW PROXY: the cell of the table in JSON
verdict() {
	tr -d '\n' <"$out/text" | sed 's/{ *"name": *"/\n/g' | grep "^$1\"" | grep -o "\"proxy\": *\"$2\", *\"verdict\": *\"[^\"]*" |
		sed 's/.*"//'
}

for row in munmap-whole mremap-onto madv-dontneed raw-syscall; do
	[ "$(verdict $row manual)" = exact ] || fault "doctor: $row with manual is $(verdict $row manual)"
done
[ "$(verdict vfork manual)" = kept ] || fault "doctor: vfork is $(verdict vfork manual)"
expect 1 "doctor's control: events are dropped" "$tool" doctor --changes --proxy manual --unsafe --json
for row in munmap-whole mremap-onto madv-dontneed raw-syscall; do
	[ "$(verdict $row manual)" = exact ] || fault "doctor: $row with manual is $(verdict $row manual)"
	[ "$(verdict $row unsafe)" = STALE ] || fault "doctor: $row with every event dropped is $(verdict $row unsafe)"
done
[ "$(verdict vfork unsafe)" = kept ] || fault "doctor: vfork is $(verdict vfork unsafe)"
expect 0 "doctor: what can't be opened can't run" "$tool" doctor --changes --proxy manual --nic no-such-nic --json
[ "$(verdict munmap-whole manual)" = "can't run" ] || fault "doctor: an unknown NIC is $(verdict munmap-whole manual)"

[ "$failures" -eq 0 ] || echo "$failures faults"
[ "$failures" -eq 0 ]
