#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# `holdfast perf` from outside: what it reports, what it refuses, and that it ends when its other half is killed.
# Usage: test_perf.sh PATH-OF-HOLDFAST. Exit 77: this machine can't run it.
set -u
tool=$1
out=$(mktemp) || exit 99
log=$(mktemp) || exit 99
plot=$(mktemp -u).txt
trap 'rm -f "$out" "$log" "$plot"' EXIT
failures=0

fail() {
	echo "FAIL: $*"
	sed 's/^/    /' "$out" "$log"
	failures=$((failures + 1))
}

# Runs the tool; its output is in $out, its messages in $log, its exit code in $code.
run() {
	timeout 900 "$tool" "$@" >"$out" 2>"$log"
	code=$?
}

# expect CODE WORDS...
expect() {
	wanted=$1
	shift
	run "$@"
	[ "$code" -eq "$wanted" ] || fail "exit $code instead of $wanted: $*"
}

says() {
	grep -q -e "$1" "$out" "$log" || fail "no '$1' in the output of: $2"
}

# Until COMMAND... is good, ten minutes at most.
until_good() {
	for i in $(seq 1 6000); do
		"$@" && return 0
		sleep 0.1
	done
	fail "never: $*"
	return 1
}

# has_child PID: and $child is the first of them
has_child() {
	child=$(pgrep -P "$1" | head -n 1)
	[ -n "$child" ]
}

# is_at_it PID: it has the sockets by which it moves data
is_at_it() {
	[ "$(find "/proc/$1/fd" -lname 'socket:*' 2>/dev/null | wc -l)" -ge 3 ]
}

# the lines that match, counted
counted() {
	n=$(grep -c -e "$1" "$out")
	[ "$n" -eq "$2" ] || fail "$n lines '$1' instead of $2: $3"
}

run perf --sizes 4K --seconds 0.1
if [ $code -eq 3 ]; then
	cat "$log"
	exit 77
fi

# Every row, no wrong byte: in the table and in JSON.
expect 0 perf --sizes 4K,64K,100000 --seconds 0.6
counted 'x *[0-9.]*x .* 0$' 3 "the table"
says '^0 wrong bytes in' "the table"
expect 0 perf --sizes=4K,64K --seconds=0.4 --json
counted '"size": ' 2 "JSON"
counted '"wrong_bytes": 0' 3 "JSON: the rows and the sum"
for key in nic proxy mode pattern seconds seed copy_MBps register_MBps cached_MBps hit_rate cached_vs_register \
	cached_vs_copy register_p50_ns register_p99_ns cached_p50_ns cached_p99_ns transfers; do
	says "\"$key\": " JSON
done

# Recycled memory, with each proxy that this machine has.
for proxy in auto uffd manual; do
	for mode in exact fast; do
		[ "$proxy,$mode" = manual,fast ] && continue
		run perf --pattern recycle --proxy $proxy --mode $mode --sizes 1,4K,65537,1M --seconds 0.8 --json
		if [ $code -eq 3 ]; then
			echo "not here: $proxy $mode: $(cat "$log")"
			continue
		fi
		[ $code -eq 0 ] || fail "exit $code: recycle, $proxy $mode"
		counted '"wrong_bytes": 0' 5 "recycle, $proxy $mode"
	done
done

# The comparison finds a single byte.
expect 1 perf --sizes 64K --seconds 0.1 --corrupt 5
says '^[1-9][0-9]* wrong bytes in' "--corrupt"

# ... and a registration that went stale because nobody told.
expect 1 perf --sizes 64K,1M --seconds 0.4 --pattern recycle --proxy manual --untold
says '^[1-9][0-9]* wrong bytes in' "--untold"

# By SAN sockets: every op, every way, no wrong byte. The last of the keys is what the others are compared with.
for op in send write read; do
	expect 0 perf --op $op --sizes 4K,64K --seconds 0.3
	counted 'x *[0-9.]*x .* 0$' 2 "--op $op"
	says '^0 wrong bytes in' "--op $op"
	expect 0 perf --op $op --sizes 1,65537 --pattern recycle --depth 2 --seconds 0.3 --json
	counted '"wrong_bytes": 0' 3 "--op $op, recycled"
	for key in op peer depth plain_MBps register_MBps cached_MBps cached_vs_register cached_vs_plain; do
		says "\"$key\": " "--op $op"
	done
done
expect 0 perf --op write --seconds 0.4 --json
counted '"size": 65536' 1 "--op: the sizes that it has unless given"
counted '"size": 1048576' 1 "--op: the sizes that it has unless given"
for proxy in uffd supervise manual; do
	run perf --op write --pattern recycle --proxy $proxy --sizes 4K,65537 --seconds 0.3 --json
	[ $code -eq 3 ] && continue
	[ $code -eq 0 ] || fail "exit $code: --op write, recycle, $proxy"
	counted '"wrong_bytes": 0' 3 "--op write, recycle, $proxy"
done

# A single wrong byte is found on the side where it is written to, and so is a stale registration.
for op in send write read; do
	expect 1 perf --op $op --sizes 64K --seconds 0.1 --corrupt 5
	says '^[1-9][0-9]* wrong bytes in' "--op $op --corrupt"
done
expect 1 perf --op write --sizes 64K,1M --seconds 0.4 --pattern recycle --proxy manual --untold
says "^[1-9][0-9]* wrong bytes in" "--op write --untold"

# Revocation (R28), and descriptors that must be refused (R10, R15, R17); and what that looks like when it fails.
expect 0 perf --op revoke --seconds 0.4 --count 800
says ' 0 accepted of 800 (the connection has counted 800 refused); 0 bytes changed' "--op revoke"
says '^  0 bytes changed after it had returned; 0 accesses not refused' "--op revoke"
expect 1 perf --op revoke --seconds 0.2 --count 800 --corrupt 100
says ' 8 accepted of 800 (the connection has counted 792 refused)' "--op revoke --corrupt"
expect 1 perf --op revoke --seconds 0.2 --count 8 --untold --json
[ "$(sed -n 's/^ *"late_bytes": \([0-9]*\),$/\1/p' "$out")" -gt 0 ] || fail "nothing came late, though nothing was revoked"

# The two sides started by hand, one run after another; the names as they are said.
"$tool" perf --listen "unix:$plot.sock" >"$plot.server" 2>&1 &
server=$!
until_good grep -q '^listening at' "$plot.server"
expect 0 perf --op write --connect "unix:$plot.sock" --sizes 4K --seconds 0.1
timeout 900 "$tool" perf --op write --connect "unix:$plot.sock" --sizes 4K --seconds 800 >"$out" 2>"$log" &
watchdog=$!
until_good has_child $watchdog
client=$child
until_good is_at_it "$client"
kill -9 "$client" # a client that dies is that run's matter
wait $watchdog
expect 0 perf --op read --connect "unix:$plot.sock" --sizes 4K --seconds 0.1
kill -TERM $server
wait $server
code=$?
[ "$code" -eq 0 ] || fail "exit $code of --listen"
[ "$(grep -c '^run [0-9], .* 0 wrong bytes here$' "$plot.server")" -eq 2 ] || fail "--listen says: $(cat "$plot.server")"
[ -z "$(ls "$plot".sock* 2>/dev/null)" ] || fail "sockets are left: $(ls "$plot".sock*)"
rm -f "$plot.server"
expect 3 perf --op write --connect "unix:$plot.sock"

# Refused, by name.
expect 2 perf --op other
says 'send, write, read or revoke' "an unknown op"
expect 2 perf --op write --depth 0
expect 2 perf --op write --depth 65
expect 2 perf --connect unix:@nobody
expect 2 perf --once
expect 2 perf --listen unix:@here --op write
expect 2 perf --op write --connect nonsense
expect 2 perf --op revoke --plot picture.txt
expect 2
expect 2 perff
says 'perf' "a misspelt subcommand"
expect 2 perf --size 4K
says 'did you mean --sizes' "a misspelt option"
expect 2 perf --no-such-option
expect 2 perf --sizes 4X
expect 2 perf --sizes
expect 2 perf --seconds 0
expect 2 perf --json=1
expect 2 perf word
expect 2 perf --pattern other
expect 2 perf --mode other
expect 2 perf --proxy no_such_proxy
says no_such_proxy "an unknown proxy"
expect 2 perf --nic no_such_nic
says no_such_nic "an unknown NIC"
expect 2 perf --nic sim
says 'data path' "a NIC without one"
expect 2 perf --plot picture.xyz

# Help comes from the tables.
for name in perf walk torture doctor; do
	expect 0 --help
	says "^  $name " --help
	expect 0 "$name" --help
	says '^  --json' "$name --help"
done
expect 0 perf --help
for option in op listen connect secret-file once depth count nic proxy mode sizes pattern seconds plot seed json; do
	says "^  --$option" "perf --help"
done
expect 0 help options
says '^  proxy=' "help options"
expect 0 help options --json
expect 0 version
expect 0 --version
says "$(sed -n 's/^holdfast \([^ ]*\) .*/\1/p' "$out")" version

# A picture, where there is gnuplot; else a clear answer.
if command -v gnuplot >/dev/null; then
	expect 0 perf --op write --sizes 4K,64K --seconds 0.2 --plot "$plot"
	grep -q 'perf --op write:' "$plot" || fail "no picture in $plot"
	expect 0 perf --sizes 4K,64K --seconds 0.2 --plot "$plot"
	grep -q 'cached' "$plot" || fail "no picture in $plot"
else
	expect 3 perf --sizes 4K --seconds 0.1 --plot "$plot"
	says gnuplot "--plot without gnuplot"
fi

# A killed receiver ends the run, with its name, at once; whichever way the bytes go.
kill_receiver() {
	timeout 900 "$tool" perf --seconds 800 "$@" >"$out" 2>"$log" &
	watchdog=$!
	until_good has_child $watchdog && until_good has_child "$child" || {
		fail "no receiving process to kill: $*"
		kill $watchdog
		return
	}
	until_good is_at_it "$child"
	kill -9 "$child"
	wait $watchdog
	code=$? # 124: it has not seen it
	[ "$code" -eq 3 ] || fail "exit $code after the receiver was killed: $*"
	says 'killed by signal 9' "a killed receiver: $*"
}
kill_receiver --sizes 64K
kill_receiver --sizes 64K --op write
kill_receiver --op revoke

# A killed sender takes the receiver with it.
timeout 900 "$tool" perf --sizes 64K --seconds 800 >"$out" 2>"$log" &
watchdog=$!
until_good has_child $watchdog
sender=$child
until_good has_child "$sender"
receiver=$child
until_good is_at_it "$receiver"
kill -9 "$sender"
wait $watchdog
is_gone() {
	! kill -0 "$receiver" 2>/dev/null
}
until_good is_gone || fail "the receiver outlives its sender"

[ $failures -eq 0 ] || exit 1
echo "perf: all good"
