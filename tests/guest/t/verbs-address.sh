# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# The NIC verbs by an address of its interface: the right device and GID, also on a VLAN of it; each refusal; a connection.
# Part of verbs.sh, where soft RoCE is set up. A VLAN is given the link-local address of its Ethernet here, as most have
# it: two GIDs are the same then but for the interface.
set -eu
modprobe 8021q
/bin/ip link add link veth0 name veth0.5 type vlan id 5
/bin/ip addr add 10.5.0.1/24 dev veth0.5
/bin/ip link set veth0.5 up
for dev in veth0 veth0.5; do
	/bin/ip addr add fe80::5/64 dev "$dev" nodad
done
/bin/ip addr add fd00:1::1/64 dev veth0 nodad
export HF_TEST_DEVICE=rxe0 HF_TEST_OTHER=10.9.0.1
export HF_TEST_ADDRESSES="10.1.0.1 [fd00:1::1] [fe80::5%veth0] [fe80::5%veth0.5] 10.5.0.1"
set +e

# told NAME: by the exit status of what ran before, which has written to the file `out`
told() {
	[ "$?" = 0 ] && echo "ok - $1" || {
		echo "not ok - $1"
		cat out
	}
}

# Nobody has loaded rdma_ucm here: the kernel does, as it is asked for.
test_verbs_address >out 2>&1 && [ "$(grep -c '^\[       OK \] test_\(found\|other_interface\)' out)" = 2 ]
told "devices by address: $HF_TEST_ADDRESSES"

# refused ERRNO:WORDS
refused() {
	HF_TEST_FILTER=test_not_permitted HF_TEST_REFUSED=$1 test_verbs_address >out 2>&1 && grep -q '^\[       OK ' out
	told "refused: $1"
}
chmod 0666 /dev/infiniband/uverbs0
chmod 0600 /dev/infiniband/rdma_cm
refused "13:no permission to ask rdma_cm whose address 10.1.0.1 is"
mv /dev/infiniband/rdma_cm /dev/away
refused "2:there is no /dev/infiniband/rdma_cm here, which says whose address 10.1.0.1 is: modprobe rdma_ucm"
mv /dev/away /dev/infiniband/rdma_cm
chmod 0666 /dev/infiniband/rdma_cm
chmod 0600 /dev/infiniband/uverbs0
refused "13:no permission to open the RDMA device of 10.1.0.1"

# Two processes that name the device by two addresses, over a TCP connection by the second. Port 4500 is 1194 in the list.
echo "a secret of this guest and nobody else's" >secret
chmod 600 secret
where="tcp:[fe80::5%veth0]:4500"
holdfast perf --nic verbs:10.1.0.1 --listen "$where" --secret-file secret --once >out 2>&1 &
until grep -q ':1194 .* 0A ' /proc/net/tcp6; do
	kill -0 "$!" && sleep 0.1 || break
done
holdfast perf --nic "verbs:[fe80::5%veth0]" --connect "$where" --secret-file secret --op write --sizes 4K --seconds 0.05 >table 2>&1
rc=$?
wait "$!"
rc=$((rc + $?))
cat table >>out
[ "$rc" = 0 ] && grep -q '^0 wrong bytes in [1-9]' table
told "perf --op write, --nic verbs:10.1.0.1 and verbs:[fe80::5%veth0]"
