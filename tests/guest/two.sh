# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# shellcheck shell=sh disable=SC2154,SC2034
# For run.sh --two: two guests with an Ethernet between them, which is a socket. $here, $dir, $series are set.

# ended NODE: QEMU has
ended() {
	[ -f "$dir/node$1/status" ]
}

# When one has ended, the other has nobody to meet: it gets $grace more seconds, 180 where nothing is said.
wait_for_both() {
	left=${grace:-180}
	until ended 1 && ended 2; do
		if ended 1 || ended 2; then left=$((left - 1)); fi
		for node in 1 2; do
			[ "$left" != 0 ] || ended $node || kill -ALRM "$(cat "$dir/node$node/pid")" # as if its time were over
		done
		sleep 1
	done
}

# two_guests LIST SECONDS: what they leave is in $dir/node1 and $dir/node2.
two_guests() {
	quiet=1
	memory=640 # of each
	wire=$(mktemp -d)
	rm -rf "$dir/node1" "$dir/node2"
	boot "$dir/node1" "$1" "$2" node=1 -netdev "stream,id=net,server=on,addr.type=unix,addr.path=$wire/socket" \
		-device virtio-net-pci,netdev=net,mac=52:54:00:00:00:01,romfile= &
	until [ -S "$wire/socket" ] || ended 1; do sleep 0.1; done
	boot "$dir/node2" "$1" "$2" node=2 -netdev "stream,id=net,server=off,addr.type=unix,addr.path=$wire/socket" \
		-device virtio-net-pci,netdev=net,mac=52:54:00:00:00:02,romfile= &
	wait_for_both
	wait
	rm -rf "$wire"
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
