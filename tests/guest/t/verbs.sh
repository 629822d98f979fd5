# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# The NIC verbs on soft RoCE: its tests, and the tools with it.   verbs.sh [SECONDS-OF-TORTURE]
set -eu
. /t/rxe.sh
rxe_up || exit 1
modprobe dummy
/bin/ip link set lo up
/bin/ip link add other type dummy
/bin/ip addr add 10.9.0.1/24 dev other
/bin/ip link set other up
trap 'rxe_down; /bin/ip link delete other; rm -f /tmp/verbs-mode-0666' EXIT
export HF_TEST_NIC=verbs:rxe0 HF_TEST_OTHER=10.9.0.1
chmod 0600 /dev/infiniband/uverbs0
HF_TEST_FILTER=test_no_permission test_verbs
chmod 0666 /dev/infiniband/uverbs0
touch /tmp/verbs-mode-0666 # says so to the test
test_verbs >/out/verbs.txt 2>&1 || { cat /out/verbs.txt; exit 1; }
echo "ok - test_verbs"

# tool NAME COMMAND...: its output is left in /out
tool() {
	name=$1
	shift
	if "$@" >"/out/$name.txt" 2>&1; then
		echo "ok - $name"
	else
		cat "/out/$name.txt"
		echo "not ok - $name"
	fi
}
tool torture-verbs-uffd holdfast torture --nic verbs:rxe0 --proxy uffd --seconds "${1:-6}"
if [ -f /modules/holdfast.ko ]; then
	modprobe holdfast
	tool torture-verbs-kmod holdfast torture --nic verbs:rxe0 --proxy kmod --seconds "${1:-6}"
	tool walk-verbs-kmod holdfast walk --nic verbs:rxe0 --proxy kmod
	rmmod holdfast
fi
# The control: with changes that nobody tells of, the bytes are wrong, and it must say so.
holdfast torture --nic verbs:rxe0 --unsafe --seconds 2 >/out/torture-verbs-unsafe.txt 2>&1 && rc=0 || rc=$?
if [ "$rc" = 1 ] && grep -q 'STALE' /out/torture-verbs-unsafe.txt; then
	echo "ok - torture finds what is stale"
else
	echo "not ok - torture finds what is stale"
fi
tool walk-verbs holdfast walk --nic verbs:rxe0
# The control of that: a right that isn't taken back.
holdfast walk --nic verbs:rxe0 --sabotage revoke >/out/walk-verbs-revoke.txt 2>&1 && rc=0 || rc=$?
if [ "$rc" = 1 ] && grep -q 'the peer was answered 0, not -EACCES' /out/walk-verbs-revoke.txt; then
	echo "ok - walk finds what can be reached"
else
	cat /out/walk-verbs-revoke.txt
	echo "not ok - walk finds what can be reached"
fi
tool perf-verbs holdfast perf --nic verbs:rxe0 --proxy uffd --seconds 2 --sizes 4K,1M
[ ! -f /lib/holdfast-rdmacm ] || sh /t/verbs-address.sh
