# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# Look through every slab cache that this kernel watches: red zones, poison, free lists. What is wrong taints the
# kernel, which init sees, and is on the console.
n=0
for cache in /sys/kernel/slab/*; do
	[ ! -L "$cache" ] || continue # another name of one
	if [ "$(cat "$cache/poison")$(cat "$cache/red_zone")" = 11 ]; then
		n=$((n + 1))
		echo 1 >"$cache/validate"
	fi
done
echo "$n caches"
[ "$n" -gt 50 ]
