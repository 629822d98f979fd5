# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# SAN sockets by queue pairs of soft RoCE: the tests of any SAN socket, those of queue pairs that don't steer the NIC, and
# who is killed at every step.   san-verbs.sh PROXY
proxy=$1
[ "$proxy" != kmod ] || [ -f /modules/holdfast.ko ] || {
	echo "there is no module"
	exit 77
}
. /t/rxe.sh
rxe_up || exit 1
trap 'rxe_down; [ "$proxy" != kmod ] || rmmod holdfast' EXIT
[ "$proxy" != kmod ] || modprobe holdfast || exit 1
export HF_TEST_NIC=verbs:rxe0 HF_TEST_PROXY="$proxy"

# cases NAME LEAST: a test program with as many cases that ran and were good, and those that were left out named
cases() {
	out=/out/$1-$proxy.txt
	"$1" >"$out" 2>&1
	rc=$?
	good=$(grep -c '^\[       OK \]' "$out")
	left=$(awk '/^\[  SKIPPED \]/ { if ($4 !~ /^test/) next; print " " $4 }' "$out" | sort -u | tr -d '\n')
	if [ "$rc" = 0 ] && [ "$good" -ge "$2" ]; then
		echo "ok - $1: verbs:rxe0, $proxy: $good cases${left:+; left out:$left}"
	else
		echo "not ok - $1: verbs:rxe0, $proxy: $good cases, $2 are due; exit status $rc"
		grep -v '^\[       OK \]\|^\[ RUN ' "$out"
	fi
}

cases test_san_over_qp 25
cases test_san_qp 6
# The kernel cleans up behind who is killed, and that is another's matter with kmod: kmod_test. So one side of it is enough there.
if [ "$proxy" = kmod ]; then
	HF_TEST_FILTER=test_the_server_is_killed cases test_san_kill 1
else
	cases test_san_kill 2
fi

# The controls: another NIC or proxy than what is there isn't passed over in silence.
HF_TEST_NIC=verbs:rxe7 test_san_over_qp >other 2>&1
[ "$?" != 0 ] && grep -q rxe7 other && echo "ok - the NIC that was asked for" || echo "not ok - another NIC"
HF_TEST_PROXY=other test_san_over_qp >other 2>&1
[ "$?" != 0 ] && grep -q "'other'" other && echo "ok - the proxy that was asked for" || echo "not ok - another proxy"
