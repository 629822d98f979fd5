# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# shellcheck shell=sh disable=SC2154
# Two guests move memory through each other's by SAN sockets, and in the midst of it the process of one is killed (kill -9):
# kill_test.c has what is looked at. First who listens is killed, then who connects.   two-kill.sh NIC PORT
# $node is 1 (listens) or 2 (connects).
. /t/net.sh
nic=$1
port=$2 # and the next one
net_up
case $nic in verbs*) rxe_up ;; esac
secret

# Queue pairs, memory regions and the like of this guest's RDMA devices, as the kernel counts them
rdma_objects() {
	case $nic in verbs*) rdma resource show ;; esac
}

# until_objects WHAT: until it counts that, 60 s at most
until_objects() {
	tries=0
	until [ "$(rdma_objects)" = "$1" ]; do
		tries=$((tries + 1))
		[ "$tries" -lt 600 ] || return 1
		sleep 0.1
	done
}

before=$(rdma_objects)
for victim in 1 2; do
	[ "$node" = "$victim" ] && role=victim || role=survivor
	[ "$node" = 1 ] && does=listen || does=connect
	kill_test "$nic" "$role" "$does" "tcp:10.2.0.1:$port" secret
	told "$role of kill $victim"
	port=$((port + 1))
	until_pinned -eq 0 && until_objects "$before"
	told "after kill $victim: no page is pinned here, and of RDMA there is what there was: ${before:-nothing}"
done
