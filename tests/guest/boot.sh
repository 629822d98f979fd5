# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# shellcheck shell=sh disable=SC2154
# For run.sh and its like: how the guest is started. $here, $dir and $series are set.

accel=${ACCEL:-}

# KVM where it is and works, which is tried once: some machines have the device, and no guest starts with it. Else
# software emulation of two processors by two threads. ACCEL=kvm or tcg: that.
choose_accel() {
	[ -z "$accel" ] || return 0
	accel=tcg
	[ -r /dev/kvm ] && [ -w /dev/kvm ] || return 0
	if [ ! -f "$dir/accel" ]; then
		accel=kvm
		(quiet=1 && boot "$dir/probe" probe.list 20) 2>"$dir/kvm.log" || true
		grep -q '^# end: 1 passed' "$dir/probe/results" || accel=tcg
		echo "$accel" >"$dir/accel"
	fi
	accel=$(cat "$dir/accel")
	[ "$accel" = kvm ] || echo "# /dev/kvm is there, but no guest starts with it"
}

# All the checking that Debian's kernels have in them. A warning is a panic, a panic restarts, and QEMU doesn't: it
# ends with 0. Lockups are looked for with patience: two busy processors may be late by many seconds here.
#   slab_debug: F consistency, Z red zones, P poison, U who allocated; page_poison: what is written to freed pages
slab=slab_debug
[ "$series" != 6.1 ] || slab=slub_debug
debug="panic=-1 oops=panic panic_on_warn=1 $slab=FZPU page_poison=1 kfence.sample_interval=100
	sysctl.kernel.hung_task_timeout_secs=300 sysctl.kernel.hung_task_panic=1
	watchdog_thresh=60 softlockup_panic=1 rcupdate.rcu_cpu_stall_timeout=240 sysctl.kernel.panic_on_rcu_stall=1"

# boot_once OUT LIST SECONDS [WORD-FOR-THE-KERNEL | -QEMU-OPTION]...: results are shown as they come, if $quiet is empty.
# $memory: MiB, which all are touched, for freed pages are poisoned.
boot_once() {
	out=$1 words="list=$2" seconds=$3
	shift 3
	rm -rf "$out" && mkdir -p "$out/files"
	while [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; do
		words="$words $1"
		shift
	done
	case $accel in
	tcg) emulator=tcg,thread=multi words="$words tsc_early_khz=$("$dir/tsc_khz")" ;; # tsc_khz.c: why
	*) emulator=$accel words="$words kvm=1" ;;
	esac
	{
		rc=0
		# its process is known: `exec`
		sh -c 'echo "$$" >"$0/pid" && exec timeout -k 5 "$@"' "$out" "$seconds" qemu-system-x86_64 -accel "$emulator" -cpu max -M q35 -smp 2 -m "${memory:-1024}" \
			-nodefaults -display none -no-reboot -monitor none \
			-serial "file:$out/console" -serial stdio -device isa-debug-exit,iobase=0xf4,iosize=1 \
			-kernel "$dir/vmlinux" -initrd "$dir/initrd" -append "console=ttyS0 loglevel=5 nokaslr \
			mitigations=off tsc=reliable hugepages=16 cryptomgr.notests $(echo $debug) $words" "$@" </dev/null || rc=$?
		echo "$rc" >"$out/status"
	} | tee "$out/results" | sed -un '/^# run /d; /^#file /d; /^#end /d; /^|/!p' |
		if [ -n "${quiet:-}" ]; then cat >/dev/null; else cat; fi
	awk -v files="$out/files" '
		/^#file / { file = files "/" $2; printf "" >file; next }
		/^#end / { close(file); file = ""; next }
		/^\|/ && file != "" { print substr($0, 2) >file }' "$out/results"
}

# emulator_failed OUT: it ended while the kernel started, before there was a process, by what is a fault of the emulator's.
# The kernel changes its own instructions, with an int3 in their place meanwhile. QEMU, up to 8.0, may translate that int3 when
# another processor is just taking it away, and who then runs into it finds nobody who has put it there. That is once
# in some hundred times. What comes when the guest has said a word is not this, whatever it looks like.
emulator_failed() {
	[ "$accel" = tcg ] && ! grep -q '^# kernel' "$1/results" && grep -q 'int3: 0000 \[#1\]' "$1/console" 2>/dev/null
}

# boot ...: boot_once, and once more where the emulator has failed
boot() {
	for try in 1 2 3; do
		boot_once "$@"
		emulator_failed "$1" || return 0
		echo "# QEMU: an int3 that nobody has put there, before the first process; attempt $try of 3"
	done
}
