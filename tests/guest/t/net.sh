# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# shellcheck shell=sh disable=SC2154
# For the tests of two guests, which source it: the Ethernet between them, soft RoCE over it, and how they wait for each
# other. $node is 1 or 2; $peer is the other one's address.
peer=10.2.0.$((3 - node))

net_up() {
	modprobe virtio_pci 2>/dev/null || true # in Linux 6.12 it is built in
	modprobe virtio_net
	until [ -e /sys/class/net/eth0 ]; do sleep 0.1; done # init ends us, should it never come up
	/bin/ip link set eth0 mtu 4200 # rxe: packets of 4096 bytes and what goes before them
	/bin/ip addr replace "10.2.0.$node/24" dev eth0
	/bin/ip link set eth0 up
	until ping -c 1 -W 1 "$peer" >/dev/null; do sleep 0.1; done
}

# rxe0, and in $gid the number of its GID that is made of the address
rxe_up() {
	modprobe rdma_rxe
	modprobe ib_uverbs
	modprobe rdma_ucm
	[ -e /sys/class/infiniband/rxe0 ] || rdma link add rxe0 type rxe netdev eth0
	until ibv_devinfo -d rxe0 | grep -q 'state:.*PORT_ACTIVE'; do sleep 0.1; done
	for gid in 0 1 2 3 none; do
		grep -q "0a02:000$node" "/sys/class/infiniband/rxe0/ports/1/gids/$gid" 2>/dev/null && break
	done
}

# meet PORT: both come here before one goes on. A port is used once.
meet() {
	if [ "$node" = 1 ]; then
		echo here | nc -l -p "$1" >/dev/null
	else
		until nc "$peer" "$1" </dev/null 2>/dev/null | grep -q here; do sleep 0.1; done
	fi
}

# told WHAT [FILE]: by the exit status of what ran before; FILE is shown when it is bad
told() {
	if [ "$?" = 0 ]; then
		echo "ok - $nic, node $node: $1"
	else
		echo "not ok - $nic, node $node: $1"
		[ -z "${2:-}" ] || cat "$2"
	fi
}

# What SAN sockets between hosts ask of both sides
secret() {
	echo "a secret of these two guests and nobody else's" >secret
	chmod 600 secret
}

# Pages that are pinned now in this guest: counts are kept per processor, so they are added up first.
pinned() {
	echo 1 >/proc/sys/vm/stat_refresh
	awk '$1 == "nr_foll_pin_acquired" { n += $2 } $1 == "nr_foll_pin_released" { n -= $2 } END { print n + 0 }' /proc/vmstat
}

# until_pinned TEST NUMBER: until as many pages are, 60 s at most
until_pinned() {
	tries=0
	until [ "$(pinned)" "$1" "$2" ]; do
		tries=$((tries + 1))
		[ "$tries" -lt 600 ] || return 1
		sleep 0.1
	done
}
