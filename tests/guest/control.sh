# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# shellcheck shell=sh disable=SC2154,SC2034
# For run.sh --control: what must be noticed, is. First complaints of a kernel as judge.sh reads them, then guests in
# which things go wrong. $here, $dir and $series are set.
set +e
. "$here/control-lib.sh"

sample
judged "$dir/sample"
grep -qx 0 "$dir/sample/judged" && grep -qx 'control: 1 passed, 0 failed, 0 skipped' "$dir/sample/verdict"
noticed "a good run is good"
while read -r complaint; do
	sample
	printf '[    2.000000] %s\r\n' "$complaint" >>"$dir/sample/console"
	judged "$dir/sample"
	says "$dir/sample" 'not ok - control: the kernel complained: \[    2.000000\]'
	noticed "the log: $complaint"
done <<'EOF'
WARNING: CPU: 1 PID: 140 at mm/gup.c:1234 try_grab_page+0x1/0x2
BUG: KASAN: slab-use-after-free in hf_event+0x10/0x20 [holdfast]
BUG: KFENCE: out-of-bounds read in hf_event+0x10/0x20 [holdfast]
BUG kmalloc-64 (Tainted: G           O      ): Right Redzone overwritten
BUG hf_range (Not tainted): Objects remaining in hf_range on __kmem_cache_shutdown()
BUG: Bad page state in process test_uring  pfn:12345
BUG: unable to handle page fault for address: ffffffffc0402000
BUG: sleeping function called from invalid context at kernel/locking/rwsem.c:1526
UBSAN: array-index-out-of-bounds in kmod/range.c:10:2
refcount_t: underflow; use-after-free.
general protection fault, probably for non-canonical address 0xdead000000000122: 0000 [#1] PREEMPT SMP
INFO: task rmmod:321 blocked for more than 90 seconds.
rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:
watchdog: BUG: soft lockup - CPU#0 stuck for 61s! [kmod_test:200]
list_del corruption. next->prev should be ffff888003b2a000, but was ffff888003b2a100
Kernel panic - not syncing: kernel: panic_on_warn set ...
unregister_netdevice: waiting for veth0 to become free. Usage count = 2
Out of memory: Killed process 140 (test_api) total-vm:1000kB
EOF

# worse WHAT PATTERN SED-COMMAND: change the results, and the judge sees it
worse() {
	sample
	sed -i "$3" "$dir/sample/results"
	judged "$dir/sample"
	says "$dir/sample" "$2"
	noticed "the results: $1"
}
worse "no end line" 'there is no end line' '/^# end/d'
worse "a lost line" 'ended with .*the lines say' '/^ok 1/d'
worse "a wrong number" 'result 2 came as number 1' 's/^ok 1/ok 2/'
worse "another count" 'ended with .*the lines say' 's/# end: 1/# end: 2/'
worse "an end inside of a test" 'the guest ended in the test b' '$a # run b'
worse "nothing" 'said nothing' d
worse "none passed" 'control: 0 passed' 's/(0.1 s)/# SKIP why/; s/1 passed, 0 failed, 0/0 passed, 0 failed, 1/'
worse "a failure, and the guest's own status says good" "status is 33, not 35" 's/^ok/not ok/; s/1 passed, 0/0 passed, 1/'
for status in 0 1 35 124 134 ""; do
	sample
	echo "$status" >"$dir/sample/status"
	judged "$dir/sample"
	says "$dir/sample" "time is over|switched itself off|QEMU's status is"
	noticed "QEMU's status '$status'"
done

# What is the emulator's own fault (boot.sh), and what isn't.
int3='[    3.968772] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI'
emulator() {
	(accel=tcg && emulator_failed "$dir/sample")
}
sample
: >"$dir/sample/results"
echo "$int3" >>"$dir/sample/console"
emulator
noticed "an int3 before the first process is QEMU's"
sample
echo "$int3" >>"$dir/sample/console"
! emulator
noticed "an int3 later is not"
sample
: >"$dir/sample/results"
echo '[    3.968772] Oops: general protection fault: 0000 [#1] PREEMPT SMP NOPTI' >>"$dir/sample/console"
! emulator
noticed "nor is anything else"

# A driver's own fault, and what isn't.
. "$here/foreign.sh"
splat='[    9.1] WARNING: CPU: 1 PID: 140 at drivers/infiniband/sw/rxe/rxe_pool.c:212 __rxe_cleanup+0x1/0x2 [rdma_rxe]'
# warned LINE...: the sample's log with these lines, judged
warned() {
	sample
	printf '%s\r\n' "$@" >>"$dir/sample/console"
	judged "$dir/sample"
}
warned "$splat" '[    9.1] Modules linked in: holdfast(O) rdma_rxe' '[    9.1] CPU: 1 PID: 140 Comm: holdfast Tainted: G O' \
	'[    9.1]  rxe_dereg_mr+0x1/0x2 [rdma_rxe]'
foreign_fault "$dir/sample" && grep -qx 1 "$dir/sample/judged"
noticed "a WARN of soft RoCE's own is a foreign one, and is a failure until it was run again"
warned "$splat" '[    9.1]  ? hf_event+0x10/0x20 [holdfast]'
! foreign_fault "$dir/sample"
noticed "with holdfast in its stack it is ours"
warned '[    9.1] WARNING: CPU: 1 PID: 140 at kmod/range.c:10 hf_event+0x1/0x2 [holdfast]' "$splat"
! foreign_fault "$dir/sample"
noticed "behind a complaint of ours it is no excuse"
warned '[    9.1] BUG: KFENCE: use-after-free read in rxe_dereg_mr+0x1/0x2 [rdma_rxe]'
! foreign_fault "$dir/sample"
noticed "another fault of that driver is none that is known"
printf '# kernel 6\n# run a\nok 1 - a (0.1 s)\n# run b\nok 2 - b: part\n' >"$dir/sample/results"
[ "$(ended_in "$dir/sample")" = b ] && [ "$(told_before "$dir/sample" b | counts_of)" = 1,1,0,0 ]
noticed "only the test in which it ended runs again"

# boot() as a guest would leave it: soft RoCE warns in b, in the first $splats guests.
played() (
	boot() {
		rm -rf "$1" && mkdir -p "$1/files" && echo 33 >"$1/status"
		n=$((n + 1)) console=
		case ${4:-} in
		"") printf '# run a\nok 1 - a (0.1 s)\n# run b\nok 2 - b: part\n' >"$1/results" ;;
		*)
			[ "$4 $5" = "from=b told=1,1,0,0" ] || return 1
			printf '# run b\nok 2 - b: part\nok 3 - b\n1..3\n# end: 3 passed, 0 failed, 0 skipped\n' >"$1/results"
			;;
		esac
		[ "$n" -gt "$splats" ] || console=$splat
		[ -z "$console" ] || {
			echo 0 >"$1/status"
			sed -i '/^ok 3/,$d' "$1/results"
		}
		echo "$console" >"$1/console"
	}
	n=0 splats=$1
	boot_tests "$dir/again" played.list 1 >"$dir/again.text"
	judged "$dir/again"
)
played 2
grep -qx 0 "$dir/again/judged" && grep -qx 'control: 3 passed, 0 failed, 0 skipped' "$dir/again/verdict" &&
	[ "$(grep -c 'runs again in a fresh guest' "$dir/again.text")" = 2 ]
noticed "that test passes in the third guest, and each line says so"
played 3
says "$dir/again" 'the kernel complained: .*rxe_pool.c' && [ "$(grep -c 'runs again' "$dir/again.text")" = 2 ]
noticed "three times is a failure"

# Four guests at once: most of the time they wait for each other's processor, not for one that would be free.
quiet=1
memory=640 # of each
choose_accel
echo "# four guests in which things go wrong"
boot "$dir/control" control.list 2400 panic_on_warn=0 & # else the first slab report ends it
boot "$dir/control-warn" control-warn.list 1200 &
boot "$dir/control-end" control-end.list 1200 panic_on_warn=0 &
boot "$dir/control-stuck" control-stuck.list 15 &
wait
for out in control control-warn control-end control-stuck; do
	judged "$dir/$out"
done

# Every line of the list by the beginning of its name, and no other.
grep -v '^#' "$here/control.list" | while read -r name rest; do
	case $name in
	*-in-part) part=": part" ;;
	*) part= ;;
	esac
	case $name in
	passes*) want="^ok [0-9]* - $name$part \\|^ok [0-9]* - $name$part\$" ;;
	fails*) want="^not ok [0-9]* - $name$part\\( \\|\$\\)" ;;
	skips*) want="^ok [0-9]* - $name # SKIP ." ;;
	esac
	grep -q "$want" "$dir/control/results" || echo "$name"
done >"$dir/control/wrong"
[ ! -s "$dir/control/wrong" ] || {
	sed 's/^/#   not as its name says: /' "$dir/control/wrong"
	sed 's/^/#   /' "$dir/control/results"
	false
}
noticed "every test ends as its name in control.list says"
grep -q '^not ok .*fails-no-events (exit 1)' "$dir/control/results" && says "$dir/control" 'not ok' &&
	[ "$(grep -c '^ok .*passes-drops: fails, as it should' "$dir/control/results")" = 4 ] &&
	! grep -q '^not ok .*passes-drops' "$dir/control/results"
noticed "a module that drops events fails kmod_test"
[ "$(grep -c '^ok .*passes-drops: torture finds stale bytes' "$dir/control/results")" = 3 ]
noticed "torture finds stale bytes under a module that drops events"
says "$dir/control" '^not ok .*the kernel complained' && says "$dir/control" 'BUG kmalloc-64' &&
	says "$dir/control-end" '^not ok .*the kernel complained' && says "$dir/control-end" 'BUG kmalloc-64' &&
	grep -q '^not ok .* - overrun (the kernel complained' "$dir/control-end/results"
noticed "a slab report is a failure"
grep -q '^not ok .*fails-pin (1 pages still pinned' "$dir/control/results"
noticed "a page that stays pinned is a failure of the test that left it"
[ "$(cat "$dir/control/status")" = 35 ]
noticed "the guest's own status says that tests failed"
[ "$(od -An -c "$dir/control/files/whole.txt" | tr -d ' \n')" = '#endwhole.txt\n|\nok1-noresult\n' ]
noticed "a file arrives as it was, whatever is in it"
says "$dir/control-warn" 'the kernel complained: .*guest_control|WARNING' && says "$dir/control-warn" 'in the test warns' &&
	says "$dir/control-warn" "restarted or switched itself off"
noticed "a kernel that warns ends at once, and where is told"
says "$dir/control-end" 'there is no end line' && says "$dir/control-end" 'in the test ends'
noticed "a guest that ends in the middle, as if all were good"
says "$dir/control-stuck" 'the time is over'
noticed "a guest that doesn't end"

echo "guest controls $series: $good passed, $bad failed"
[ "$bad" = 0 ]
