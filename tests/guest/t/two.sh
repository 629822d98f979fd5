# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# shellcheck shell=sh disable=SC2154
# One of two guests with an Ethernet between them; $node is 1 or 2. Node 1 serves, node 2 asks.
set -eu
modprobe virtio_net
modprobe rdma_rxe
modprobe ib_uverbs
until [ -e /sys/class/net/eth0 ]; do sleep 0.1; done # init ends us, should it never come up
/bin/ip addr add "10.2.0.$node/24" dev eth0
/bin/ip link set eth0 up
until ping -c 1 -W 1 "10.2.0.$((3 - node))" >/dev/null; do sleep 0.1; done
echo "ok - node $node hears the other one"
rdma link add rxe0 type rxe netdev eth0
ibv_devinfo -d rxe0 | grep -q 'state:.*PORT_ACTIVE'
for gid in 0 1 2 3 none; do
	grep -q "0a02:000$node" "/sys/class/infiniband/rxe0/ports/1/gids/$gid" 2>/dev/null && break
done
if [ "$node" = 1 ]; then
	ibv_rc_pingpong -e -d rxe0 -g "$gid" -n 100 >pingpong 2>&1
else
	until ibv_rc_pingpong -e -d rxe0 -g "$gid" -n 100 10.2.0.1 >pingpong 2>&1; do sleep 0.5; done
fi
grep -q '^819200 bytes' pingpong
echo "ok - ibv_rc_pingpong over rxe, as node $node"
