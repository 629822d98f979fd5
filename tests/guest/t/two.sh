# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# shellcheck shell=sh disable=SC2154
# One of two guests with an Ethernet between them; $node is 1 or 2. Node 1 serves, node 2 asks.
set -eu
. /t/net.sh
net_up
echo "ok - node $node hears the other one"
rxe_up
if [ "$node" = 1 ]; then
	ibv_rc_pingpong -e -d rxe0 -g "$gid" -n 100 >pingpong 2>&1
else
	until ibv_rc_pingpong -e -d rxe0 -g "$gid" -n 100 10.2.0.1 >pingpong 2>&1; do sleep 0.5; done
fi
grep -q '^819200 bytes' pingpong
echo "ok - ibv_rc_pingpong over rxe, as node $node"

meet 4000
if [ "$node" = 1 ]; then
	rping -s -a 10.2.0.1 -C 20 -S 4096 -v >rping 2>&1
else
	until rping -c -a 10.2.0.1 -C 20 -S 4096 -v >rping 2>&1; do sleep 0.5; done
	[ "$(grep -c '^ping data: ' rping)" -ge 20 ]
fi
echo "ok - rping: RDMA read and write of 4096 bytes, 20 times, as node $node"
