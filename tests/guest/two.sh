# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# shellcheck shell=sh disable=SC2154,SC2034
# For run.sh --two: two guests with an Ethernet between them, which is a socket. $here, $dir, $series are set.

# ended NODE: QEMU has
ended() {
	[ -f "$dir/node$1/status" ]
}

# never_began NODE: see boot.sh
never_began() {
	ended "$1" && emulator_failed "$dir/node$1"
}

# When one has ended, the other has nobody to meet: it gets $grace more seconds, 180 where nothing is said.
wait_for_both() {
	left=${grace:-180}
	until ended 1 && ended 2; do
		if ended 1 || ended 2; then left=$((left - 1)); fi
		if never_began 1 || never_began 2; then left=0; fi
		for node in 1 2; do
			[ "$left" -gt 0 ] || ended $node || kill -ALRM "$(cat "$dir/node$node/pid")" 2>/dev/null || true # as if its time were over
		done
		sleep 1
	done
}

two_once() {
	quiet=1
	memory=640 # of each
	wire=$(mktemp -d)
	rm -rf "$dir/node1" "$dir/node2"
	boot_once "$dir/node1" "$1" "$2" node=1 -netdev "stream,id=net,server=on,addr.type=unix,addr.path=$wire/socket" \
		-device virtio-net-pci,netdev=net,mac=52:54:00:00:00:01,romfile= &
	until [ -S "$wire/socket" ] || ended 1; do sleep 0.1; done
	boot_once "$dir/node2" "$1" "$2" node=2 -netdev "stream,id=net,server=off,addr.type=unix,addr.path=$wire/socket" \
		-device virtio-net-pci,netdev=net,mac=52:54:00:00:00:02,romfile= &
	wait_for_both
	wait
	rm -rf "$wire"
}

# two_guests LIST SECONDS: what they leave is in $dir/node1 and $dir/node2. Who never began leaves the other one alone: so it is
# both that begin once more.
two_guests() {
	for try in 1 2 3; do
		two_once "$@"
		if ! never_began 1 && ! never_began 2; then return 0; fi
		echo "# QEMU: an int3 that nobody has put there, before the first process of one; attempt $try of 3"
	done
}

# both_good OUT1 OUT2: says how each of two runs was. One that isn't good is enough.
both_good() {
	both=0 node=1
	for run in "$1" "$2"; do
		grep -v '^# run\|^[|]\|^#end\|^#file' "$run/results" || true
		judge "guest $series, node $node" "$run" || both=1
		node=2
	done
	return "$both"
}
