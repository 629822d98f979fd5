# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# shellcheck shell=sh disable=SC2154
# `holdfast perf --op send|write|read` from one guest to the other: every byte compared, no wrong one. The tables are
# left in /out of node 2, which connects.
# Each size takes 192 transfers or more of each of three ways.   two-perf.sh [NIC] [PORT] [SIZES] [SECONDS]
. /t/net.sh
nic=${1:-verbs:rxe0}
port=${2:-4300} # and the eight behind it
sizes=${3:-20000}
net_up
case $nic in verbs*) rxe_up ;; esac
secret

# perf OUT OPTION...: node 1 serves one run, node 2 asks, as soon as that listens. In OUT what it said.
perf() {
	out=$1
	shift
	if [ "$node" = 1 ]; then
		holdfast perf --nic "$nic" --listen "tcp:10.2.0.1:$port" --secret-file secret --once >"$out" 2>&1
		rc=$?
	else
		tries=0 rc=0
		while holdfast perf --nic "$nic" --connect "tcp:10.2.0.1:$port" --secret-file secret "$@" >"$out" 2>&1 || rc=$?
			[ "$rc" != 0 ] && [ "$tries" -lt 600 ] && tail -n 1 "$out" | grep -q "can't connect"; do
			tries=$((tries + 1)) rc=0
			sleep 0.5
		done
	fi
	port=$((port + 2))
	return "$rc"
}

# A row of each size, none without a result or with a wrong byte.
whole() {
	[ "$(grep -c 'x *[0-9.]*x .* 0$' "$1")" = "$(echo "$sizes" | tr , '\n' | wc -l)" ] && grep -q '^0 wrong bytes in [1-9]' "$1"
}

for op in send write read; do
	table=/out/perf-$op-${nic%%:*}.txt
	[ "$node" = 2 ] || table=served
	perf "$table" --op "$op" --sizes "$sizes" --seconds "${4:-0.5}" && { [ "$node" = 1 ] || whole "$table"; }
	told "perf --op $op $sizes$([ "$node" = 1 ] || sed -n 's/^0 wrong/: 0 wrong/; s/: every.*//p' "$table" | tail -n 1)" "$table"
done
# The control: a byte that is made wrong is found.
perf corrupt --op write --sizes 64K --seconds 0.2 --corrupt 5
[ "$node" = 1 ] || { [ "$rc" = 1 ] && grep -q '^[1-9][0-9]* wrong bytes in' corrupt; }
told "a wrong byte is found" corrupt
until_pinned -eq 0
told "no page stays pinned" /proc/vmstat
