# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# shellcheck shell=sh disable=SC2154,SC2034
# For run.sh --two: two guests with an Ethernet between them, which is a socket. $here, $dir, $series, $list, $limit are set.
wire=$(mktemp -d)
quiet=1
boot "$dir/node1" "$list" "$limit" node=1 -netdev "stream,id=net,server=on,addr.type=unix,addr.path=$wire/socket" \
	-device virtio-net-pci,netdev=net,mac=52:54:00:00:00:01,romfile= &
tries=0
until [ -S "$wire/socket" ] || [ "$tries" = 300 ]; do
	tries=$((tries + 1))
	sleep 0.1
done
boot "$dir/node2" "$list" "$limit" node=2 -netdev "stream,id=net,server=off,addr.type=unix,addr.path=$wire/socket" \
	-device virtio-net-pci,netdev=net,mac=52:54:00:00:00:02,romfile=
wait
rm -rf "$wire"
for node in 1 2; do
	grep -v '^# run\|^[|]\|^#end\|^#file' "$dir/node$node/results" || true
	judge "guest $series, node $node" "$dir/node$node" || bad=1
done
