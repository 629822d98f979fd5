#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#
# Check the models beside it with Spin: run.sh [PATTERN]. With a pattern only the lines of the table
# below that match it. A proof must be an exhaustive search without an error; `ends`: one in which no run goes on for
# ever. A refutation must find a violation of the property named. A place must be reached. JOBS (2) run at once; CC (gcc).
# Exit status: 0 all as expected, 1 something was not, 77 there is no Spin here.
set -u

table='
uffd  proof  REMOVE_UNMAP
uffd  proof  REMOVE_UNMAP  NO_WAIT
uffd  proof  REMOVE
uffd  proof  NIC_FREES
uffd  proof  SIGNAL
uffd  proof  FAST
uffd  proof  UNMAP
uffd  proof  UNMAP         NO_WAIT
uffd  proof  UNMAP_TWICE
uffd  proof  MISS_TWICE
uffd  proof  EVICT
uffd  I1     UNMAP         NO_CHECK
uffd  I1     UNMAP         WORD_FIRST
uffd  I1     UNMAP         NO_ODD
uffd  I1     UNMAP         NO_PLACEHOLDER
uffd  I1     UNMAP         PIN_FIRST
uffd  I1     UNMAP         ARM_LATE
uffd  I1     REMOVE        NO_QUARANTINE
uffd  I1     REMOVE        QUARANTINE_LATE
uffd  I1     REMOVE        TICK_EARLY
uffd  I1     REMOVE_UNMAP  NO_QUARANTINE
uffd  I2     EVICT         REAP_HELD
uffd  I4     SIGNAL        BLOCKING_LOCK
uffd  I4     UNMAP         EVENT_DEREG
uffd  pins   UNMAP         LOST_PUT
uffd  place  UNMAP         PROBE=1
uffd  place  UNMAP         PROBE=2
uffd  place  UNMAP         PROBE=3
uffd  place  REMOVE        PROBE=4
uffd  place  REMOVE        PROBE=5
uffd  place  UNMAP         PROBE=6
uffd  place  SIGNAL        PROBE=7
uffd  place  NIC_FREES     PROBE=8
uffd  place  MISS_TWICE    PROBE=9
uffd  place  EVICT         PROBE=10
hold  proof  REUSE
hold  proof  PASS
hold  proof  RACE
hold  proof  REPLACE
hold  proof  EVICTION
hold  proof  TWO_HANDS
hold  proof  GATES
hold  proof  CLOSING
hold  proof  REUSE         READERS_FENCE
hold  I1     GATES         NOTE_ODD
hold  I1     GATES         GATE_FIRST
hold  I1     GATES         NO_TURN_ODD
hold  I2     RACE          NO_MEMBARRIER
hold  I2     RACE          CHECK_FIRST
hold  I2     RACE          NO_SECOND_COMPARE
hold  I2     RACE          NO_TURN
hold  I2     RACE          TURN_FIRST
hold  I2     RACE          TURN_LATE
hold  I2     PASS          NOTE_END
hold  I2     EVICTION      CENSUS_FIRST
hold  I2     EVICTION      NO_RECHECK
hold  I2     PASS          RETURN_FIRST
hold  I2     REPLACE       REPLACE_HELD
hold  I2     EVICTION      REMEMBER_DEAD
hold  I2     CLOSING       RETURNED_LAST
hold  I2     CLOSING       PUTS_LAST
hold  wake   RACE          NO_WAKE
hold  wake   RACE          NO_WAKE_BACK
hold  wake   REPLACE       NO_WAKE_UNUSED
hold  wake   RACE          NO_GATE_AT_PUT
hold  wake   RACE          LOOK_BEFORE_PUT
hold  wake   REPLACE       ENTRY_FIRST
hold  wake   REPLACE       COUNT_FIRST
hold  hit    REPLACE       NO_FORGET
hold  hit    EVICTION      NO_GENERATION
hold  hit    EVICTION      NO_COVERS
hold  place  RACE          PROBE=1
hold  place  PASS          PROBE=2
hold  place  REPLACE       PROBE=3
hold  place  GATES         PROBE=4
hold  place  REPLACE       PROBE=5
supervise  proof  REPLACE
supervise  proof  REMAP
supervise  proof  REMAP_TWICE
supervise  proof  OPEN
supervise  proof  DENY
supervise  proof  FIND
supervise  proof  SIGNAL
supervise  proof  CALLBACK
supervise  proof  FOREIGN
supervise  proof  EXEC
supervise  S1     REPLACE       NO_SECOND_TELLING
supervise  S1     REMAP         NO_QUARANTINE
supervise  S1     REMAP         QUARANTINE_LATE
supervise  S1     REMAP         ASK_IF_SECURED
supervise  S1     OPEN          QUARANTINE_FIRST
supervise  S1     SIGNAL        EVEN_TOO_EARLY
supervise  S2     REMAP         ANSWER_FIRST
supervise  S2     REMAP_TWICE   FREED_WHEN_GONE
supervise  S3     DENY          NOTE_LATE
supervise  S3     DENY          LOOK_FIRST
supervise  S3     DENY          NO_NOTES
supervise  S3     DENY          CHECK_FIRST
supervise  S3     DENY          CLEAR_REFUSED
supervise  S3     FIND          ASK_AGAIN
supervise  S4     CALLBACK      SYNC_WORKER
supervise  S4     CALLBACK      TELLER_ASKED
supervise  S4     REMAP         SLOT_LOST
supervise  S4     REMAP         SLOT_FREED_FIRST
supervise  S4     REMAP         NO_REMIND
supervise  S4     SIGNAL        BLOCKING_LOCK
supervise  S4     SIGNAL        HELPER_LOCKS
supervise  S4     EXEC          NO_OWNER_DEATH
supervise  S5     EXEC          BY_PID
supervise  S5     FOREIGN       NO_MM_CHECK
supervise  place  SIGNAL        PROBE=1
supervise  place  REMAP         PROBE=2
supervise  place  REMAP         PROBE=3
supervise  place  REMAP         PROBE=4
supervise  place  DENY          PROBE=5
supervise  place  DENY          PROBE=6
supervise  place  FIND          PROBE=7
supervise  place  EXEC          PROBE=8
supervise  place  REMAP_TWICE   PROBE=9
supervise  place  SIGNAL        PROBE=10
revoke  proof  REVOKE
revoke  proof  LEAVE
revoke  proof  FLOW
revoke  proof  NARROW
revoke  proof  CLOSE
revoke  R28    REVOKE        CHECK_ONCE
revoke  R28    REVOKE        LOCK_DROPPED
revoke  R28    REVOKE        PUT_FIRST
revoke  R28    REVOKE        SAME_BITS
revoke  R28    REVOKE        NO_LOCK
revoke  free   LEAVE         SEEN_FIRST
revoke  free   LEAVE         NO_PASS
revoke  I4     FLOW          TX_BLOCKS
revoke  I4     FLOW          RX_ANSWERS
revoke  I4     FLOW          NO_CREDIT
revoke  I4     FLOW          ONE_QUEUE
revoke  room   NARROW        NO_WINDOW
revoke  once   CLOSE         UNLOCKED
revoke  place  REVOKE        PROBE=1
revoke  place  REVOKE        PROBE=2
revoke  place  FLOW          PROBE=3
revoke  place  FLOW          PROBE=4
revoke  place  FLOW          PROBE=5
revoke  place  CLOSE         PROBE=6
revoke  place  LEAVE         PROBE=7
kmod  proof  UNMAP
kmod  proof  UNMAP         MOVES_FIRST
kmod  proof  HOLE
kmod  proof  TWICE
kmod  proof  BUSY
kmod  proof  LATER
kmod  proof  THRICE
kmod  proof  LOST
kmod  I1     HOLE          COUNT_LATE
kmod  I1     HOLE          GATE_FIRST
kmod  I1     HOLE          NO_CLOCKS
kmod  I1     HOLE          FILTERED
kmod  I1     HOLE          PIN_FIRST
kmod  I1     HOLE          NO_PLACEHOLDER
kmod  I1     HOLE          NO_TURN
kmod  I1     HOLE          TOLD_FIRST
kmod  I1     LATER         NUMBER_LATE
kmod  I1     LATER         READ_ONE
kmod  I1     LATER         COUNT_FIRST
kmod  I1     LOST          TOLD_FAILED
kmod  I1     LOST          LOST_NOTHING
kmod  flux   HOLE          NO_RETRY
kmod  flux   HOLE          NO_WAIT_FOR_END
kmod  flux   HOLE          RETRY_UNLOCKED
kmod  told   HOLE          NO_SECOND_LOOK
kmod  told   AGAIN         NO_WAKE
kmod  freed  AGAIN         DROP_FIRST
kmod  place  HOLE          PROBE=2
kmod  place  HOLE          PROBE=3
kmod  place  HOLE          PROBE=4
kmod  place  AGAIN         PROBE=5
kmod  place  AGAIN         PROBE=6
kmod  place  BUSY          PROBE=7
kmod  place  THRICE        PROBE=8
kmod  place  LOST          PROBE=9
qp  proof  CLOSE
qp  proof  KILL
qp  proof  REVOKE
qp  proof  READY
qp  proof  ORDERLY
qp  proof  WAKE
qp  ends   ORDERLY
qp  ends   WAKE
qp  once   CLOSE         UNLOCKED
qp  memory ORDERLY       BELIEVED_FIRST
qp  memory ORDERLY       NO_DESTROY
qp  memory CLOSE         RELEASE_FIRST
qp  R28    REVOKE        PUT_FIRST
qp  R28    REVOKE        WINDOW_ONLY
qp  R28    REVOKE        GOES_ON
qp  rnr    ORDERLY       NO_CREDIT
qp  rnr    ORDERLY       CREDIT_FIRST
qp  ready  READY         NO_READY
qp  ready  READY         READY_FIRST
qp  heard  ORDERLY       NO_LAST_WORDS
qp  heard  ORDERLY       NO_BELIEF
qp  heard  ORDERLY       NO_LOOK
qp  heard  ORDERLY       STOP_FIRST
qp  heard  ORDERLY       MESSAGES_ONLY
qp  heard  CLOSE         DONE_FIRST
qp  lost   ORDERLY       SWALLOWED
qp  lost   REVOKE        STOP_LOSES
qp  truth  ORDERLY       NO_FENCE
qp  truth  CLOSE         DONE_EARLY
qp  I4     REVOKE        NO_SHUTDOWN
qp  wake   WAKE          ASKED_LAST
qp  wake   WAKE          NO_LAST_KICK
qp  wake   WAKE          NO_FIRST_KICK
qp  place  ORDERLY       PROBE=1
qp  place  ORDERLY       PROBE=2
qp  place  ORDERLY       PROBE=3
qp  place  REVOKE        PROBE=4
qp  place  CLOSE         PROBE=5
qp  place  REVOKE        PROBE=6
qp  place  REVOKE        PROBE=7
qp  place  CLOSE         PROBE=8
qp  place  CLOSE         PROBE=9
qp  place  KILL          PROBE=10
qp  place  WAKE          PROBE=11
'

# What pan prints when this property is violated, and which others it is told to leave aside:
# -A assertions, -E invalid end states.
violation() {
	case $1 in
	I1)    echo '-E assertion violated .*(>=need|&&too_late)' ;;
	flux)  echo '-E assertion violated .*armed' ;;
	told)  echo '-E assertion violated .*told==moves' ;;
	freed) echo '-E assertion violated .*queue&' ;;
	I2)    echo '-E assertion violated .*(holders\[|reg_page\[[a-z]+\]!=0|nic\[|kept)' ;;
	I4)    echo '-A invalid end state' ;;
	pins)  echo '-E assertion violated .*pins==0' ;;
	wake)  echo '-E assertion violated .*(waiting==0|taken==4)' ;;
	hit)   echo '-E assertion violated .*(place_word>>|range\[e\]==wanted)' ;;
	S1)    echo '-E assertion violated .*>=need' ;;
	S2)    echo '-E assertion violated .*at_trap' ;;
	S3)    echo '-E assertion violated .*(promised|mapped)' ;;
	S4)    echo '-A invalid end state' ;;
	S5)    echo '-E assertion violated .*truly' ;;
	R28)   echo '-E assertion violated .*(returned|key\[|let_go)' ;;
	free)  echo '-E assertion violated .*freed' ;;
	room)  echo '-E assertion violated .*answers' ;;
	once)  echo '-E assertion violated .*completions\[.*==1' ;;
	memory) echo '-E assertion violated .*(begun|receives)\[.*qp\[' ;;
	rnr)   echo '-E assertion violated .*filled.*<receives' ;;
	ready) echo '-E assertion violated .*qp\[0\]!=0' ;;
	heard) echo '-E assertion violated .*(bye_was_said|<k)' ;;
	lost)  echo '-E assertion violated .*fine_then' ;;
	truth) echo '-E assertion violated .*carried' ;;
	place) echo "-E assertion violated .*${2#PROBE=}!=${2#PROBE=}" ;;
	esac
}

# Compile and search in the current directory; the output goes to `out`.
search() { # optimisation, what pan looks for, pan's option, -D...
	optimisation=$1 what=$2 option=$3
	shift 3
	"${SPIN:-spin}" -a "$@" "$model" >out 2>&1 || return
	# pan.c is Spin's: its warnings are no news. MEMLIM: MiB, two at once.
	compiler=${CC:-gcc}
	# The most of a short search is compiling, and clang takes half the time for that.
	[ "$optimisation" = -O0 ] && command -v clang >/dev/null && compiler=${CC:-clang}
	$compiler -w "$optimisation" "$what" -DMEMLIM=900 -o pan pan.c >>out 2>&1 || return
	./pan -m10000 -w22 ${option:+"$option"} >>out 2>&1
}

# A name that the model doesn't know would change nothing, and a proof would mean nothing.
known() {
	for known; do
		grep -qw "${known%=*}" "$model" || return
	done
}

# Exhaustive, and without an error?
proved() {
	grep -q '^Full statespace search' out && grep -q 'errors: 0$' out &&
		! grep -qiE 'search not completed|max search depth|out of memory|hash factor|error:' out
}

one() { # model, expectation, configuration, change
	name=$1 model=$here/$1.pml dir=$work/$1-$2-$3-${4:-}
	shift
	mkdir "$dir" && cd "$dir" || return
	verdict=FAILED
	: >out
	if ! known "$2" ${3:+"$3"}; then
		echo "$name.pml has no $2 ${3:-}" >out
	elif [ "$1" = proof ]; then
		search -Og -DSAFETY '' "-D$2" ${3:+"-D$3"}
		proved && verdict=ok
	elif [ "$1" = ends ]; then # no step is marked as progress, so each cycle is one without
		search -Og -DNP -l "-D$2" ${3:+"-D$3"}
		proved && grep -q 'non-progress cycles.*+' out && verdict=ok
	else
		violation=$(violation "$1" "${3:-}")
		search -O0 -DSAFETY "${violation%% *}" "-DWANT_$1" "-D$2" ${3:+"-D$3"}
		grep -qE "^pan:1: ${violation#* }" out && verdict=ok
	fi
	found=$(sed -n 's/^pan:1: \(.*\) (at depth.*/\1/p' out)
	states=$(sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1/p' out)
	printf '%-6s %-9s %-5s %-12s %-17s %8s states  %s\n' "$verdict" "$name" "$1" "$2" "${3:--}" \
		"${states:-no}" "${found:-no error}" | tee verdict
	[ $verdict = ok ] || sed 's/^/    /' out
}

here=$(cd "$(dirname "$0")" && pwd)
if [ "${1:-}" = --one ]; then # as xargs calls it below
	work=$2
	shift 2
	one "$@"
	exit 0
fi

if ! command -v "${SPIN:-spin}" >/dev/null || ! command -v "${CC:-gcc}" >/dev/null; then
	echo "skipped: needs spin and ${CC:-gcc} (on Debian: apt-get install spin gcc)"
	exit 77
fi
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
wanted=$(echo "$table" | grep . | grep -e "${1:-.}")
echo "$wanted" | grep . | xargs -r -P "${JOBS:-2}" -L 1 "$here/run.sh" --one "$work"
all=$(echo "$wanted" | grep -c .)
passed=$(cat "$work"/*/verdict 2>/dev/null | grep -c '^ok ')
echo "$passed passed, $((all - passed)) failed"
[ "$passed" -gt 0 ] && [ "$passed" -eq "$all" ]
