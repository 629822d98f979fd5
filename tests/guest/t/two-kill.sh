# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# shellcheck shell=sh disable=SC2154
# Two guests move memory through each other's, and one is killed in the middle (kill -9): the other one has to end by
# itself, with an error, and neither keeps a page pinned. First one side, then the other.   two-kill.sh [NIC] [PORT]
# $node is 1 (listens) or 2 (connects).
. /t/net.sh
nic=${1:-${NIC:-uring}}
port=${2:-4100} # and the nine behind it
net_up
case $nic in verbs*) rxe_up ;; esac
secret

# told WHAT: by the exit status of what ran before; what perf said is shown when it is bad
told() {
	[ "$?" = 0 ] && echo "ok - $nic, node $node: $1" || {
		echo "not ok - $nic, node $node: $1"
		cat perf.out
	}
}

perf() {
	if [ "$node" = 1 ]; then
		exec holdfast perf --nic "$nic" --listen "tcp:10.2.0.1:$1" --secret-file secret --once
	fi
	for try in 1 2 3 4 5 6 7 8 9 10; do # until it listens
		holdfast perf --nic "$nic" --connect "tcp:10.2.0.1:$1" --secret-file secret --op write --sizes 256K --seconds "$2" &
		echo "$!" >perf.pid
		wait "$!"
		rc=$?
		[ "$rc" != 0 ] && tail -n 1 perf.out | grep -q "can't connect" || return "$rc"
		sleep 0.5
	done
	return "$rc"
}

# start PORT SECONDS: in the background; its process is $pid
start() {
	: >perf.out
	rm -f perf.pid
	(perf "$@") >perf.out 2>&1 &
	job=$!
	pid=$job
	[ "$node" = 2 ] || return 0
	until [ -s perf.pid ]; do sleep 0.1; done
}

# kill_one VICTIM PORT
kill_one() {
	start "$2" 600
	until_pinned -ge 64
	told "both are at work"
	meet $(($2 + 1))
	if [ "$node" = "$1" ]; then
		[ "$node" = 1 ] || pid=$(cat perf.pid)
		kill -9 "$pid"
		told "is killed"
		wait "$job"
	else
		wait "$job"
		rc=$?
		why=$(grep '^holdfast perf: ' perf.out | tail -n 1) # what was measured until then may come behind it
		[ "$rc" -gt 0 ] && [ "$rc" -lt 126 ] && echo "$why" | grep . | grep -qv "can't connect"
		told "node $1 was killed: ended with $rc: $why"
	fi
	until_pinned -eq 0
	told "node $1 was killed: no page stays pinned"
	meet $(($2 + 2))
}

# The control of all that: one that nobody kills ends well.
start "$port" 3
wait "$job"
told "an undisturbed one ends well"
meet $((port + 1))
kill_one 1 $((port + 2))
kill_one 2 $((port + 6))
