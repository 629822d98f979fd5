#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#
# Check uffd.pml with Spin: run.sh [PATTERN]. With a pattern only the lines of the table below that
# match it. A proof must be an exhaustive search without an error. A refutation must find a
# violation of the property named. A place must be reached. JOBS (2) run at once; CC (gcc).
# Exit status: 0 all as expected, 1 something was not, 77 there is no Spin here.
set -u

table='
proof  REMOVE_UNMAP
proof  REMOVE_UNMAP  NO_WAIT
proof  REMOVE
proof  NIC_FREES
proof  SIGNAL
proof  FAST
proof  UNMAP
proof  UNMAP         NO_WAIT
proof  UNMAP_TWICE
proof  MISS_TWICE
proof  EVICT
I1     UNMAP         NO_CHECK
I1     UNMAP         WORD_FIRST
I1     UNMAP         NO_ODD
I1     UNMAP         NO_PLACEHOLDER
I1     UNMAP         PIN_FIRST
I1     UNMAP         ARM_LATE
I1     REMOVE        NO_QUARANTINE
I1     REMOVE        QUARANTINE_LATE
I1     REMOVE        TICK_EARLY
I1     REMOVE_UNMAP  NO_QUARANTINE
I2     EVICT         REAP_HELD
I4     SIGNAL        BLOCKING_LOCK
I4     UNMAP         EVENT_DEREG
pins   UNMAP         LOST_PUT
place  UNMAP         PROBE=1
place  UNMAP         PROBE=2
place  UNMAP         PROBE=3
place  REMOVE        PROBE=4
place  REMOVE        PROBE=5
place  UNMAP         PROBE=6
place  SIGNAL        PROBE=7
place  NIC_FREES     PROBE=8
place  MISS_TWICE    PROBE=9
place  EVICT         PROBE=10
'

# What pan prints when this property is violated, and which others it is told to leave aside:
# -A assertions, -E invalid end states.
violation() {
	case $1 in
	I1)    echo '-E assertion violated .*>=need' ;;
	I2)    echo '-E assertion violated .*(holders\[|reg_page\[[a-z]+\]!=0)' ;;
	I4)    echo '-A invalid end state' ;;
	pins)  echo '-E assertion violated .*pins==0' ;;
	place) echo "-E assertion violated .*${2#PROBE=}!=${2#PROBE=}" ;;
	esac
}

# Compile and search in the current directory; the output goes to `out`.
search() { # optimisation, pan's option, -D...
	optimisation=$1 option=$2
	shift 2
	"${SPIN:-spin}" -a "$@" "$model" >out 2>&1 || return
	# pan.c is Spin's: its warnings are no news. MEMLIM: MiB, two at once.
	${CC:-gcc} -w "$optimisation" -DSAFETY -DMEMLIM=900 -o pan pan.c >>out 2>&1 || return
	./pan -m10000 -w22 ${option:+"$option"} >>out 2>&1
}

# A name that the model doesn't know would change nothing, and a proof would mean nothing.
known() {
	for name; do
		grep -qw "${name%=*}" "$model" || return
	done
}

# Exhaustive, and without an error?
proved() {
	grep -q '^Full statespace search' out && grep -q 'errors: 0$' out &&
		! grep -qiE 'search not completed|max search depth|out of memory|hash factor|error:' out
}

one() { # expectation, configuration, change
	dir=$work/$1-$2-${3:-}
	mkdir "$dir" && cd "$dir" || return
	verdict=FAILED
	: >out
	if ! known "$2" ${3:+"$3"}; then
		echo "uffd.pml has no $2 ${3:-}" >out
	elif [ "$1" = proof ]; then
		search -O1 '' "-D$2" ${3:+"-D$3"}
		proved && verdict=ok
	else
		violation=$(violation "$1" "${3:-}")
		search -O0 "${violation%% *}" "-D$2" ${3:+"-D$3"}
		grep -qE "^pan:1: ${violation#* }" out && verdict=ok
	fi
	found=$(sed -n 's/^pan:1: \(.*\) (at depth.*/\1/p' out)
	states=$(sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1/p' out)
	printf '%-6s %-5s %-12s %-15s %9s states  %s\n' "$verdict" "$1" "$2" "${3:--}" \
		"${states:-no}" "${found:-no error}" | tee verdict
	[ $verdict = ok ] || sed 's/^/    /' out
}

if [ "${1:-}" = --one ]; then # as xargs calls it below
	work=$2 model=$3
	shift 3
	one "$@"
	exit 0
fi

if ! command -v "${SPIN:-spin}" >/dev/null || ! command -v "${CC:-gcc}" >/dev/null; then
	echo "skipped: needs spin and ${CC:-gcc} (on Debian: apt-get install spin gcc)"
	exit 77
fi
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
wanted=$(echo "$table" | grep . | grep -e "${1:-.}")
echo "$wanted" | grep . | xargs -r -P "${JOBS:-2}" -L 1 "$here/run.sh" --one "$work" "$here/uffd.pml"
all=$(echo "$wanted" | grep -c .)
passed=$(cat "$work"/*/verdict 2>/dev/null | grep -c '^ok ')
echo "$passed passed, $((all - passed)) failed"
[ "$passed" -gt 0 ] && [ "$passed" -eq "$all" ]
