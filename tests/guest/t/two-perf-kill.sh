# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# shellcheck shell=sh disable=SC2154
# `holdfast perf --op write` from one guest to the other, and one is killed in the middle (kill -9): the other one has to end
# by itself, with an error, and neither keeps a page pinned. First one side, then the other. Before, the control of it: a
# run that nobody disturbs ends well.   two-perf-kill.sh [NIC] [PORT]
# $node is 1 (listens) or 2 (connects).
. /t/net.sh
nic=${1:-${NIC:-uring}}
port=${2:-4100} # and the nine behind it
net_up
case $nic in verbs*) rxe_up ;; esac
secret

perf() {
	if [ "$node" = 1 ]; then
		exec holdfast perf --nic "$nic" --listen "tcp:10.2.0.1:$1" --secret-file secret --once
	fi
	tries=0
	while
		holdfast perf --nic "$nic" --connect "tcp:10.2.0.1:$1" --secret-file secret --op write --sizes 256K --seconds "$2" &
		echo "$!" >perf.pid
		wait "$!"
		rc=$?
		tries=$((tries + 1))
		[ "$rc" != 0 ] && [ "$tries" -lt 600 ] && tail -n 1 perf.out | grep -q "can't connect" # it doesn't listen yet
	do sleep 0.5; done
	return "$rc"
}

# Bytes that have come and gone by the Ethernet
moved() {
	cat /sys/class/net/eth0/statistics/rx_bytes /sys/class/net/eth0/statistics/tx_bytes | awk '{ n += $1 } END { printf "%d\n", n }'
}

# at_work SINCE: until transfers are under way: several batches of 2 MB have been moved. 60 s at most.
at_work() {
	tries=0
	until_pinned -ge 64 || return 1
	until [ "$(moved)" -gt $(($1 + 8000000)) ]; do
		tries=$((tries + 1))
		[ "$tries" -lt 600 ] || return 1
		sleep 0.1
	done
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
	since=$(moved)
	start "$2" 600
	at_work "$since"
	told "both are at work" perf.out
	meet $(($2 + 1))
	if [ "$node" = "$1" ]; then
		[ "$node" = 1 ] || pid=$(cat perf.pid)
		kill -9 "$pid"
		told "is killed" perf.out
		wait "$job"
	else
		wait "$job"
		rc=$?
		why=$(grep '^holdfast perf: ' perf.out | tail -n 1) # what was measured until then may come behind it
		[ "$rc" = 3 ] && echo "$why" | grep . | grep -qv "can't connect"
		told "node $1 was killed: ended with $rc: $why" perf.out
	fi
	until_pinned -eq 0
	told "node $1 was killed: no page stays pinned" perf.out
	meet $(($2 + 2))
}

start "$port" 3
wait "$job"
told "an undisturbed one ends well" perf.out
meet $((port + 1))
kill_one 1 $((port + 2))
kill_one 2 $((port + 6))
