#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# Build and test: gcc as you are, gcc unprivileged, clang with ASan and UBSan, clang with TSan.
# Warnings are errors. The last line is "N passed, M failed".
#   check.sh [BUILD-DIR]           all but what takes longest
#   check.sh --quick BUILD-DIR     the gcc build and the essential tests
#   check.sh --host BUILD-DIR      the part that needs no guest, whole
#   check.sh --full BUILD-DIR      everything, and the host part in a root of the other Debian
#   check.sh --guest BUILD-DIR [OPTIONS]   only the guest, with options for tests/guest/run.sh
#   check.sh --two BUILD-DIR [OPTIONS]     only the two guests that are joined
set -u
cd "$(dirname "$0")/.." || exit 1
PATH=$PATH:/usr/sbin:/sbin
only=
case ${1:-} in
--guest | --two | --quick | --full | --host)
	only=$1
	shift
	;;
esac
build=${1:-build}
[ $# = 0 ] || shift
passed=0
failed=0

# setup DIR CC OPTIONS...
setup() {
	dir=$1 cc=$2
	shift 2
	if [ -f "$dir/build.ninja" ]; then
		meson configure "$dir" -Dwerror=true -Dtests=enabled "$@" >/dev/null
	else
		CC=$cc meson setup "$dir" -Dwerror=true -Dtests=enabled "$@" >"$dir.log" 2>&1 || {
			cat "$dir.log"
			return 1
		}
		rm -f "$dir.log"
	fi && ninja -C "$dir" --quiet
}

# count NAME DIR LOGBASE: add up what meson wrote down, one JSON object a line
count() {
	log=$(ls "$2/meson-logs/$3"*.json) # a wrapper's name is appended
	ok=$(grep -c '"result": "\(OK\|EXPECTEDFAIL\)"' "$log" 2>/dev/null)
	skip=$(grep -c '"result": "SKIP"' "$log" 2>/dev/null)
	all=$(grep -c '"result":' "$log" 2>/dev/null)
	bad=$((${all:-0} - ${ok:-0} - ${skip:-0}))
	[ "${all:-0}" -gt 0 ] || bad=$((bad + 1))
	echo "== $1: ${ok:-0} passed, $bad failed, ${skip:-0} skipped"
	passed=$((passed + ${ok:-0}))
	failed=$((failed + bad))
}

# run NAME DIR LOGBASE OPTIONS...
run() {
	name=$1 dir=$2 base=$3
	shift 3
	echo "== $name"
	rm -f "$dir/meson-logs/$base"*.json
	meson test -C "$dir" --no-rebuild --print-errorlogs --num-processes 2 --logbase "$base" "$@"
	count "$name" "$dir" "$base"
}

broken() {
	echo "== $1: doesn't build"
	failed=$((failed + 1))
}

# no_guest WHY: a machine that tests every change must be able to
no_guest() {
	if [ "${CI:-}" = true ]; then
		echo "== $guest: FAILED: $1"
		failed=$((failed + 1))
	else
		echo "== $guest: left out: $1"
	fi
}

# guest OPTIONS...: of tests/guest/run.sh. $guest: what it is called
guest() {
	echo "== $guest"
	[ "$(uname -m)" = x86_64 ] || {
		no_guest "it is for x86_64"
		return
	}
	sh scripts/need.sh guest || {
		no_guest "what it needs isn't installed"
		return
	}
	for tool in qemu-system-x86_64 busybox cpio depmod apt-get; do
		command -v $tool >/dev/null || {
			no_guest "there is no $tool"
			return
		}
	done
	{
		sh tests/guest/run.sh "$@" "$build"
		echo "$?" >"$build/guest.rc"
	} 2>&1 | tee "$build/guest.out"
	rc=$(cat "$build/guest.rc")
	[ "$rc" != 3 ] || {
		no_guest "no kernel for it, or nothing built to run in it"
		return
	}
	good=$(sed -n 's/^guest .*: \([0-9]*\) passed, [0-9]* failed.*/\1/p' "$build/guest.out" | paste -sd+)
	bad=$(sed -n 's/^guest .*: [0-9]* passed, \([0-9]*\) failed.*/\1/p' "$build/guest.out" | paste -sd+)
	good=$((${good:-0})) bad=$((${bad:-0}))
	[ "$rc" = 0 ] || [ "$bad" -gt 0 ] || bad=1 # it ended before it could say so
	[ "$good" -gt 0 ] || [ "$bad" -gt 0 ] || bad=1
	echo "== $guest: $good passed, $bad failed"
	passed=$((passed + good))
	failed=$((failed + bad))
}

total() {
	echo "$passed passed, $failed failed"
	[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
	exit
}

# The controls and the tests
one_guest() {
	guest=guest
	guest --all "$@"
}

two_guests() {
	guest="two guests"
	guest --two --all "$@"
}

if [ "$only" = --quick ]; then
	if setup "$build" gcc; then
		run "gcc, quick" "$build" quick --suite quick
	else
		broken gcc
	fi
	total
fi

if [ "$only" = --guest ] || [ "$only" = --two ]; then
	if ! setup "$build" gcc; then
		broken gcc
	elif [ "$only" = --two ]; then
		two_guests "$@"
	else
		one_guest "$@"
	fi
	total
fi

# What a run of a few minutes leaves to --host and --full: the model, and the tools again as another user and under TSan.
case $only in
--host | --full) no_model= no_tools= fuzz_long=300 ;;
*) no_model="--no-suite model" no_tools="--no-suite tool" fuzz_long=60 ;;
esac

# shellcheck disable=SC2086
if setup "$build" gcc; then
	run "gcc" "$build" testlog
	as="setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all --bounding-set=-all"
	if [ "$(id -u)" = 0 ] && $as test -x "$build/tools/holdfast"; then
		run "gcc, unprivileged, 8 MiB of memlock" "$build" user --no-suite model --no-suite install $no_tools \
			--wrapper "prlimit --memlock=8388608:8388608 $as"
	else
		echo "== gcc, unprivileged: left out, it takes root and a folder that others may read"
	fi
else
	broken gcc
fi

if setup "$build-asan" clang -Db_sanitize=address,undefined -Db_lundef=false; then
	run "clang, ASan and UBSan" "$build-asan" testlog --no-suite model --timeout-multiplier 4
else
	broken "clang, ASan and UBSan"
fi

if setup "$build-tsan" clang -Db_sanitize=thread -Db_lundef=false; then
	# shellcheck disable=SC2086
	run "clang, TSan" "$build-tsan" testlog --no-suite model $no_tools --timeout-multiplier 4
else
	broken "clang, TSan"
fi

# fuzz SECONDS TARGET...
fuzz() {
	seconds=$1
	shift
	echo "== fuzz $*: $seconds s each"
	sh scripts/fuzz.sh "$seconds" "$build-fuzz" "$@" >"$build-fuzz.out" 2>&1
	rc=$?
	cat "$build-fuzz.out"
	passed=$((passed + $(grep -c '^fuzz .*: passed' "$build-fuzz.out")))
	bad=$(grep -c '^fuzz .*: FAILED' "$build-fuzz.out")
	[ "$rc" = 0 ] || [ "$bad" -gt 0 ] || bad=1 # it doesn't build
	failed=$((failed + bad))
	rm -f "$build-fuzz.out"
}

fuzz 20 index
fuzz $fuzz_long wire descriptor # what a peer sends
[ "$only" != --host ] || total

# The last: they are the longest. The gcc build is what runs in them, the second time as it was packed for the first.
if [ -x "$build/tools/holdfast" ]; then
	one_guest
	two_guests --packed
else
	for guest in guest "two guests"; do
		no_guest "nothing was built for it"
	done
fi

# guest_of NAME OPTIONS...: one more run of the guest; $guest is what it is called
guest_of() {
	guest=$1
	shift
	guest "$@"
}

# The host part in a root of the other Debian: its last line has the numbers.
other_debian() {
	echo "== the other Debian"
	{
		sh scripts/other-debian.sh "$build" sh -c 'sh scripts/need.sh check && sh scripts/check.sh --host /build/check'
		echo "$?" >"$build/other.rc"
	} 2>&1 | tee "$build/other.out"
	rc=$(cat "$build/other.rc")
	if [ "$rc" = 3 ]; then
		echo "== the other Debian: left out"
		return
	fi
	good=$(sed -n '$s/^\([0-9]*\) passed, [0-9]* failed$/\1/p' "$build/other.out")
	bad=$(sed -n '$s/^[0-9]* passed, \([0-9]*\) failed$/\1/p' "$build/other.out")
	[ -n "$bad" ] && { [ "$rc" = 0 ] || [ "$bad" -gt 0 ]; } || bad=1
	passed=$((passed + ${good:-0}))
	failed=$((failed + bad))
}

if [ "$only" = --full ]; then
	guest_of "two guests, more" --two -l two-more.list --packed
	guest_of "guest, Linux 6.1" -s 6.1
	other_debian
fi
total
