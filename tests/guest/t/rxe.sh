# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# For others: soft RoCE that comes and goes. rxe0 over a pair of Ethernets, 10.1.0.1.

# busybox takes a command of its own before one of PATH: /bin/ip is the real one.
rxe_up() {
	rxe_down 2>/dev/null # a test that was ended has left it
	modprobe veth && modprobe rdma_rxe && modprobe ib_uverbs || return 1
	/bin/ip link add veth0 type veth peer name veth1
	/bin/ip link set veth0 mtu 4500
	/bin/ip link set veth1 mtu 4500
	/bin/ip addr add 10.1.0.1/24 dev veth0
	/bin/ip link set veth0 up
	/bin/ip link set veth1 up
	rdma link add rxe0 type rxe netdev veth0
}

# Is there a NIC for it in this build?
have_verbs() {
	grep -q ibv_reg_mr /lib/libholdfast.so*
}

rxe_down() {
	rdma link delete rxe0
	/bin/ip link delete veth0
}
